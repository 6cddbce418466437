"""The losses over response rows, in fp32. Each returns a sum, to be divided by a global count.

Self-KD (arXiv 2503.00059):  L = alpha * KL(p_T || p_S) + (1 - alpha) * SFT,  SFT = -log p_S(y).

`LossConfig` has the weights of all terms; `training/self_kd.py` adds those on the audio (CTC, soft-DTW, contrastive).
`docs/method.md` has the equations and measurements.

Legend: N response rows, D width, V vocabulary.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from selfkd.loss_config import Divergence, LossConfig, needs_responses, needs_teacher

__all__ = [
    "CHUNK_ROWS",
    "Divergence",
    "LossConfig",
    "LossOutput",
    "cross_entropy",
    "divergence",
    "head_logits",
    "needs_responses",
    "needs_teacher",
    "self_kd_loss",
]

CHUNK_ROWS = 1024


class LossOutput(NamedTuple):
    """Sums over `tokens` response tokens: `total`, the weighted loss with its gradient; `kd`, the divergence from the
    teacher; `sft`, the cross-entropy to the labels; `terms`, the further terms by name, unweighted."""

    total: Tensor
    kd: Tensor
    sft: Tensor
    tokens: int
    terms: dict[str, Tensor]

    def plus(self, name: str, weight: float, value: Tensor) -> "LossOutput":
        """The loss with a further term."""
        return self._replace(total=self.total + weight * value, terms=self.terms | {name: value.detach()})


def divergence(
    teacher_logits_NV: Tensor, student_logits_NV: Tensor, temperature: float = 1.0, kind: Divergence = "forward"
) -> Tensor:
    """T^2 * sum_n D(softmax(teacher_n / T), softmax(student_n / T)) in nats, with D by `kind`:

        forward         KL(p_T || p_S) = sum_v p_T(v) log(p_T(v) / p_S(v))
        reverse         KL(p_S || p_T)
        jensen_shannon  (KL(p_T || m) + KL(p_S || m)) / 2,  m = (p_T + p_S) / 2

    Zero where the two are equal. T^2 keeps the scale of the gradient independent of the temperature.
    """
    teacher = F.log_softmax(teacher_logits_NV.float() / temperature, dim=-1)
    student = F.log_softmax(student_logits_NV.float() / temperature, dim=-1)
    if kind == "forward":
        value = _kl(teacher, student)
    elif kind == "reverse":
        value = _kl(student, teacher)
    else:
        mixture = torch.logaddexp(teacher, student) - math.log(2)
        value = (_kl(teacher, mixture) + _kl(student, mixture)) / 2
    return value * temperature**2


def _kl(p_NV: Tensor, q_NV: Tensor) -> Tensor:
    """sum_n KL(p_n || q_n) of log-probabilities."""
    return F.kl_div(q_NV, p_NV, log_target=True, reduction="sum")


def cross_entropy(student_logits_NV: Tensor, labels_N: Tensor) -> Tensor:
    """sum_n -log softmax(student_n)[label_n], in nats: the paper's L_SFT before averaging."""
    return F.cross_entropy(student_logits_NV.float(), labels_N, reduction="sum")


def self_kd_loss(
    student_ND: Tensor,
    teacher_ND: Tensor | None,
    head_VD: Tensor,
    labels_N: Tensor,
    loss_config: LossConfig,
    chunk_rows: int = CHUNK_ROWS,
    softcap: float | None = None,
    teacher_head_VD: Tensor | None = None,
    earlier_layers: Sequence[tuple[Tensor, Tensor]] = (),
) -> LossOutput:
    """The response terms of `loss_config`, from hidden states of the response rows and the weight of the language-model
    head: response_weight * (alpha * KD + (1 - alpha) * SFT) + hidden_mse_weight * MSE.

    MSE is a mean over layers: the last one, whose norm the rows have passed, and `earlier_layers`, whose rows are
    divided by their root mean square.

    Logits exist for `chunk_rows` rows at a time, in the forward pass only. The head has a gradient only where it
    trains.

    Args:
        student_ND, teacher_ND: Last hidden states; no teacher (None) where the loss has no term that needs one.
        head_VD: Weight of the student's head.
        labels_N: The response tokens.
        loss_config: Weights of the terms.
        chunk_rows: Rows whose logits exist at once.
        softcap: The c in c * tanh(logits / c), of Gemma models.
        teacher_head_VD: Weight of the teacher's head where it differs from the student's.
        earlier_layers: (student, teacher) hidden states (N, D) after earlier layers.

    Raises ValueError for a missing teacher and for rows that do not match.
    """
    if teacher_ND is None and needs_teacher(loss_config):
        raise ValueError("distillation needs the teacher's hidden states")
    if teacher_ND is not None and teacher_ND.shape != student_ND.shape:
        raise ValueError(f"teacher rows {tuple(teacher_ND.shape)} do not line up with {tuple(student_ND.shape)}")
    if len(labels_N) != len(student_ND):
        raise ValueError(f"{len(labels_N)} labels for {len(student_ND)} response rows")

    def chunk(student: Tensor, head: Tensor, rows: slice) -> tuple[Tensor, Tensor, Tensor]:
        logits = head_logits(student, head, softcap)
        sft = cross_entropy(logits, labels_N[rows])
        if teacher_ND is None:
            return sft, torch.zeros_like(sft), sft
        with torch.no_grad():
            teacher_logits = head_logits(
                teacher_ND[rows], head if teacher_head_VD is None else teacher_head_VD, softcap
            )
        kd = divergence(teacher_logits, logits, loss_config.temperature, loss_config.divergence)
        return loss_config.alpha * kd + (1 - loss_config.alpha) * sft, kd, sft

    total, kd, sft = _SumOverChunks.apply(student_ND, head_VD, chunk, chunk_rows)
    loss = LossOutput(loss_config.response_weight * total, kd, sft, len(labels_N), {})
    if loss_config.hidden_mse_weight and teacher_ND is not None:
        scaled = [(_unit_rms(student), _unit_rms(teacher)) for student, teacher in earlier_layers]
        distances = [_squared_distance(*pair) for pair in ((student_ND, teacher_ND), *scaled)]
        loss = loss.plus("hidden_mse", loss_config.hidden_mse_weight, torch.stack(distances).mean())
    return loss


def _squared_distance(student_ND: Tensor, teacher_ND: Tensor) -> Tensor:
    """sum over rows of the mean squared difference."""
    return (student_ND.float() - teacher_ND.float()).square().mean(-1).sum()


def _unit_rms(rows_ND: Tensor) -> Tensor:
    return F.rms_norm(rows_ND.float(), rows_ND.shape[-1:])


def head_logits(rows_ND: Tensor, head_VD: Tensor, softcap: float | None) -> Tensor:
    """Logits (N, V) of hidden states; `softcap` c makes c * tanh(logits / c) of them."""
    logits = F.linear(rows_ND, head_VD)
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


_Chunk = Callable[[Tensor, Tensor, slice], tuple[Tensor, Tensor, Tensor]]


class _SumOverChunks(torch.autograd.Function):
    """Sums of a loss over chunks of rows, with the gradient computed in the forward pass.

    The product with the head is the costly part. Activation checkpointing would compute it twice, and keeping the
    logits needs (N, V) of memory. Here each chunk's gradient is computed while its logits exist, and (N, D) is kept.
    """

    @staticmethod
    def forward(ctx, student_ND: Tensor, head_VD: Tensor, chunk: _Chunk, chunk_rows: int):
        rows_train, head_trains = ctx.needs_input_grad[:2]
        rows_gradient = torch.empty_like(student_ND) if rows_train else None
        head_gradient = torch.zeros_like(head_VD, dtype=torch.float32) if head_trains else None
        sums = [student_ND.new_zeros((), dtype=torch.float32) for _ in range(3)]
        for start in range(0, len(student_ND), chunk_rows):
            rows = slice(start, start + chunk_rows)
            student = student_ND[rows].detach().requires_grad_(rows_train)
            head = head_VD.detach().requires_grad_(head_trains)
            with torch.enable_grad():
                parts = chunk(student, head, rows)
            inputs = [t for t in (student, head) if t.requires_grad]
            gradients = list(torch.autograd.grad(parts[0], inputs)) if inputs else []
            if rows_gradient is not None:
                rows_gradient[rows] = gradients.pop(0)
            if head_gradient is not None:
                head_gradient += gradients.pop(0)
            sums = [s + p.detach() for s, p in zip(sums, parts, strict=True)]
        ctx.save_for_backward(rows_gradient, None if head_gradient is None else head_gradient.to(head_VD.dtype))
        ctx.mark_non_differentiable(*sums[1:])
        return tuple(sums)

    @staticmethod
    @once_differentiable
    def backward(ctx, total_gradient: Tensor, *_):
        rows, head = ctx.saved_tensors
        return (
            None if rows is None else rows * total_gradient,
            None if head is None else head * total_gradient,
            None,
            None,
        )
