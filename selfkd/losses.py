"""The losses, over response rows alone, in fp32; each returns a sum, to be divided by a global count.

Self-KD (arXiv 2503.00059):  L = alpha * KL(p_T || p_S) + (1 - alpha) * SFT,  SFT = -log p_S(y).

Legend: N response rows, D width, V vocabulary.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

CHUNK_ROWS = 1024


@dataclass(frozen=True)
class SelfKDLoss:
    """Sums over `count` response tokens; `total` = alpha * kl + (1 - alpha) * sft carries the gradient."""

    total: Tensor
    kl: Tensor
    sft: Tensor
    count: int


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
) -> SelfKDLoss:
    """The paper's loss from hidden states of the response rows and the weight of the language-model head.

    `teacher_ND` may be None where alpha is 0 (plain SFT needs no teacher). Logits exist for `chunk_rows` rows at a
    time and are made again in the backward pass, so memory does not grow with the number of rows.
    """
    if teacher_ND is None and alpha > 0:
        raise ValueError("alpha > 0 needs the teacher's hidden states")
    if teacher_ND is not None and teacher_ND.shape != student_ND.shape:
        raise ValueError(f"teacher rows {tuple(teacher_ND.shape)} do not line up with {tuple(student_ND.shape)}")
    if len(labels_N) != len(student_ND):
        raise ValueError(f"{len(labels_N)} labels for {len(student_ND)} response rows")

    def chunk(student: Tensor, teacher: Tensor | None, labels: Tensor) -> tuple[Tensor, Tensor]:
        logits = F.linear(student, head_VD)
        sft = cross_entropy(logits, labels)
        if teacher is None:
            return torch.zeros_like(sft), sft
        with torch.no_grad():
            teacher_logits = F.linear(teacher, head_VD)
        return kl_teacher_student(teacher_logits, logits, temperature), sft

    kl, sft = student_ND.new_zeros((), dtype=torch.float32), student_ND.new_zeros((), dtype=torch.float32)
    for start in range(0, len(labels_N), chunk_rows):
        rows = slice(start, start + chunk_rows)
        teacher = None if teacher_ND is None else teacher_ND[rows]
        chunk_kl, chunk_sft = checkpoint(chunk, student_ND[rows], teacher, labels_N[rows], use_reentrant=False)
        kl, sft = kl + chunk_kl, sft + chunk_sft
    return SelfKDLoss(alpha * kl + (1 - alpha) * sft, kl.detach(), sft.detach(), len(labels_N))
