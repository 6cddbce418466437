"""The losses, over response rows alone, in fp32; each returns a sum, to be divided by a global count.

Self-KD (arXiv 2503.00059):  L = alpha * KL(p_T || p_S) + (1 - alpha) * SFT,  SFT = -log p_S(y).

Legend: N response rows, D width, V vocabulary.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

CHUNK_ROWS = 1024


class SelfKDLoss(NamedTuple):
    """Sums over `tokens` response tokens; `total` = alpha * kl + (1 - alpha) * sft carries the gradient."""

    total: Tensor
    kl: Tensor
    sft: Tensor
    tokens: int


def kl_teacher_student(teacher_logits_NV: Tensor, student_logits_NV: Tensor, temperature: float = 1.0) -> Tensor:
    """sum_n KL(softmax(teacher_n / T) || softmax(student_n / T)) * T^2, in nats.

    A true KL: zero where the two are equal. T^2 keeps the size of the gradient independent of the temperature.
    """
    teacher = F.log_softmax(teacher_logits_NV.float() / temperature, dim=-1)
    student = F.log_softmax(student_logits_NV.float() / temperature, dim=-1)
    return F.kl_div(student, teacher, log_target=True, reduction="sum") * temperature**2


def cross_entropy(student_logits_NV: Tensor, labels_N: Tensor) -> Tensor:
    """sum_n -log softmax(student_n)[label_n], in nats: the paper's L_SFT before averaging."""
    return F.cross_entropy(student_logits_NV.float(), labels_N, reduction="sum")


def self_kd_loss(
    student_ND: Tensor,
    teacher_ND: Tensor | None,
    head_VD: Tensor,
    labels_N: Tensor,
    alpha: float,
    temperature: float = 1.0,
    chunk_rows: int = CHUNK_ROWS,
    softcap: float | None = None,
    teacher_head_VD: Tensor | None = None,
) -> SelfKDLoss:
    """The paper's loss from hidden states of the response rows and the weight of the language-model head.

    `softcap` c makes c * tanh(logits / c) of the logits, as Gemma's models do. The teacher has the student's head
    unless it brings one of its own.

    `teacher_ND` may be None where alpha is 0 (plain SFT needs no teacher). Logits exist for `chunk_rows` rows at a
    time, in the forward pass alone; the gradient of the head is made only where the head trains.
    """
    if teacher_ND is None and alpha > 0:
        raise ValueError("alpha > 0 needs the teacher's hidden states")
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
        kl = kl_teacher_student(teacher_logits, logits, temperature)
        return alpha * kl + (1 - alpha) * sft, kl, sft

    total, kl, sft = _SumOverChunks.apply(student_ND, head_VD, chunk, chunk_rows)
    return SelfKDLoss(total, kl, sft, len(labels_N))


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
