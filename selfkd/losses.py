"""The losses, over response rows alone, in fp32; each returns a sum, to be divided by a global count.

Self-KD (arXiv 2503.00059):  L = alpha * KL(p_T || p_S) + (1 - alpha) * SFT,  SFT = -log p_S(y).

`docs/method.md` has the equations, the other terms of an `LossConfig`, and what each was worth.

Legend: N response rows, D width, V vocabulary.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

CHUNK_ROWS = 1024


Divergence = Literal["forward", "reverse", "jensen_shannon"]


@dataclass(frozen=True)
class LossConfig:
    """What is minimised: response * (alpha * KD + (1 - alpha) * SFT) + the weighted terms. The paper's is
    Objective(alpha).

    Args:
        alpha: Weight of distillation from the text view; 0 is plain SFT.
        temperature: Of teacher and student in the divergence.
        divergence: KL(teacher || student), as the paper's; KL(student || teacher); or the Jensen-Shannon divergence.
        hidden: Weight of the squared distance of last hidden states under the frozen head (DiVA, arXiv 2410.02678).
        transcript: Weight of CTC on the question, for ears that hear tokens.
        characters: Weight of CTC on the question's characters, beside that on its tokens while their head is new.
        alignment: Weight of soft-DTW between what is heard and the question's embeddings (Lyra, arXiv 2412.09501).
        response: Weight of what is learnt from responses; at 0, and without `hidden`, the LLM is not run.
    """

    alpha: float = 1.0
    temperature: float = 1.0
    divergence: Divergence = "forward"
    hidden: float = 0.0
    transcript: float = 0.0
    alignment: float = 0.0
    response: float = 1.0
    characters: float = 0.0


class LossOutput(NamedTuple):
    """Sums over `tokens` response tokens; `total` carries the gradient of all that the objective weighs, `kd` is the
    divergence from the teacher, `sft` the cross-entropy to the labels, `terms` the others by name, unweighted."""

    total: Tensor
    kd: Tensor
    sft: Tensor
    tokens: int
    terms: dict[str, Tensor]

    def plus(self, name: str, weight: float, value: Tensor) -> "LossOutput":
        return self._replace(total=self.total + weight * value, terms=self.terms | {name: value.detach()})


def divergence(
    teacher_logits_NV: Tensor, student_logits_NV: Tensor, temperature: float = 1.0, kind: Divergence = "forward"
) -> Tensor:
    """sum_n of the divergence between softmax(teacher_n / T) and softmax(student_n / T), times T^2, in nats.

    A true divergence: zero where the two are equal. T^2 keeps the size of the gradient independent of the temperature.
    """
    teacher = F.log_softmax(teacher_logits_NV.float() / temperature, dim=-1)
    student = F.log_softmax(student_logits_NV.float() / temperature, dim=-1)
    if kind == "forward":
        found = _kl(teacher, student)
    elif kind == "reverse":
        found = _kl(student, teacher)
    else:
        middle = torch.logaddexp(teacher, student) - math.log(2)
        found = (_kl(teacher, middle) + _kl(student, middle)) / 2
    return found * temperature**2


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
    objective: LossConfig,
    chunk_rows: int = CHUNK_ROWS,
    softcap: float | None = None,
    teacher_head_VD: Tensor | None = None,
) -> LossOutput:
    """The loss of `objective` over response rows, from their hidden states and the weight of the language-model head;
    what asks about the ears (transcript, alignment) is added by who has heard.

    `softcap` c makes c * tanh(logits / c) of the logits, as Gemma's models do. The teacher has the student's head
    unless it brings one of its own.

    `teacher_ND` may be None where alpha is 0 (plain SFT needs no teacher). Logits exist for `chunk_rows` rows at a
    time, in the forward pass alone; the gradient of the head is made only where the head trains.
    """
    if teacher_ND is None and needs_teacher(objective):
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
        kd = divergence(teacher_logits, logits, objective.temperature, objective.divergence)
        return objective.alpha * kd + (1 - objective.alpha) * sft, kd, sft

    total, kd, sft = _SumOverChunks.apply(student_ND, head_VD, chunk, chunk_rows)
    loss = LossOutput(objective.response * total, kd, sft, len(labels_N), {})
    if objective.hidden and teacher_ND is not None:
        distance = (student_ND.float() - teacher_ND.float()).square().mean(-1).sum()
        loss = loss.plus("hidden", objective.hidden, distance)
    return loss


def needs_responses(objective: LossConfig) -> bool:
    """Whether the LLM is run; else the ears learn from what is said alone."""
    return objective.response > 0 or objective.hidden > 0


def needs_teacher(objective: LossConfig) -> bool:
    return needs_responses(objective) and (objective.alpha > 0 or objective.hidden > 0)


def head_logits(rows_ND: Tensor, head_VD: Tensor, softcap: float | None) -> Tensor:
    """Logits (N, V) of hidden states; `softcap` c makes c * tanh(logits / c) of them."""
    logits = F.linear(rows_ND, head_VD)
    return logits if softcap is None else softcap * torch.tanh(logits / softcap)


_Chunk = Callable[[Tensor, Tensor, slice], tuple[Tensor, Tensor, Tensor]]


class _SumOverChunks(torch.autograd.Function):
    """Sums of a loss over chunks of rows, with the gradient made in the forward pass.

    The product with the head is the costly part. To make it again in the backward pass, as checkpointing would, costs
    it twice; to keep its logits costs (N, V) of memory; here each chunk's gradient is taken while its logits are there,
    and what stays is (N, D).
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
            wanted = [t for t in (student, head) if t.requires_grad]
            gradients = list(torch.autograd.grad(parts[0], wanted)) if wanted else []
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
