"""How far the spoken view's answers are from the written view's, response row by response row, and where in depth the
two part: the quantity that Self-KD makes small, and what the LLM's layers hold beside it.

Legend: B items, N response rows (all items', one after another), D width, V vocabulary, L layers.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from selfkd.analysis.forward import encode_shared_prefix, forward_modality, modality_of
from selfkd.losses import head_logits
from selfkd.model.modeling_omni import OmniModel
from selfkd.training.data import MODALITIES

CHUNK_ROWS = 256  # whose logits (rows, V) are there at a time


class RowAgreement(NamedTuple):
    """Of each response row: KL(p_T || p_S) in nats, whether both views have the same top token, and the place of the
    teacher's top token among the student's (1: the student's top)."""

    kl_N: Tensor  # noqa: N815
    same_top_N: Tensor  # noqa: N815
    rank_N: Tensor  # noqa: N815


class Agreement(NamedTuple):
    """One item. `kl`, `same_top` and `rank` by position in the response; by layer, mean over its rows: the cosine
    between the two views' hidden states, and the length of their difference relative to the teacher's."""

    kl: list[float]
    same_top: list[bool]
    rank: list[int]
    cosine: list[float]
    distance: list[float]


def row_agreement(teacher_logits_NV: Tensor, student_logits_NV: Tensor) -> RowAgreement:
    """The paper's KL(p_T || p_S) per row, not summed, and what the top tokens do. Of equal logits the first counts."""
    teacher_NV = F.log_softmax(teacher_logits_NV.float(), dim=-1)
    student_NV = F.log_softmax(student_logits_NV.float(), dim=-1)
    kl_N = F.kl_div(student_NV, teacher_NV, log_target=True, reduction="none").sum(-1)
    top_N1 = teacher_NV.argmax(-1, keepdim=True)
    above_N = (student_NV > student_NV.gather(-1, top_N1)).sum(-1)
    return RowAgreement(kl_N, student_NV.argmax(-1) == top_N1[:, 0], above_N + 1)


def hidden_distance(teacher_ND: Tensor, student_ND: Tensor) -> tuple[Tensor, Tensor]:
    """(cosine (N,), |student - teacher| / |teacher| (N,)), in fp32."""
    teacher_ND, student_ND = teacher_ND.float(), student_ND.float()
    relative_N = (student_ND - teacher_ND).norm(dim=-1) / teacher_ND.norm(dim=-1)
    return F.cosine_similarity(teacher_ND, student_ND, dim=-1), relative_N


@torch.no_grad()
def agreement_of_batch(model: OmniModel, batch: Mapping[str, Any], questions: list[slice]) -> list[Agreement]:
    """Items of a batch of `PairedCollator`; the teacher is the written view of the very same weights."""
    prefix = encode_shared_prefix(model, batch)
    last, layers = [], []
    for modality in MODALITIES:
        after = modality_of(model, batch, modality, questions)
        with _rows_of_layers(model, after.positions.response_BS) as rows_LND:
            last.append(forward_modality(model, prefix, modality, after)[after.positions.response_BS])
        layers.append(rows_LND)
    rows = _rows(model, *last)
    by_layer = [hidden_distance(teacher, student) for teacher, student in zip(*layers, strict=True)]
    cosine_LN, distance_LN = (torch.stack(part) for part in zip(*by_layer, strict=True))
    counts = (batch["labels"] != -100).sum(-1).tolist()
    split = [part.split(counts, dim=-1) for part in (*rows, cosine_LN, distance_LN)]
    return [
        Agreement(kl.tolist(), top.tolist(), rank.tolist(), cosine.mean(-1).tolist(), distance.mean(-1).tolist())
        for kl, top, rank, cosine, distance in zip(*split, strict=True)
    ]


def _rows(model: OmniModel, teacher_ND: Tensor, student_ND: Tensor) -> RowAgreement:
    head_VD, cap = model.get_output_embeddings().weight, model.logit_softcap
    chunks = [
        row_agreement(head_logits(teacher, head_VD, cap), head_logits(student, head_VD, cap))
        for teacher, student in zip(teacher_ND.split(CHUNK_ROWS), student_ND.split(CHUNK_ROWS), strict=True)
    ]
    return RowAgreement(*(torch.cat(part) for part in zip(*chunks, strict=True)))


@contextmanager
def _rows_of_layers(model: OmniModel, response_BS: Tensor) -> Iterator[list[Tensor]]:
    """Within it the list fills with what each layer of the LLM puts out at the response rows, (N, D) a layer."""
    found: list[Tensor] = []

    def keep(_module: Any, _inputs: Any, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        if hidden.ndim == 4:  # Gemma 3n's layers put out several streams; one of them is the active one
            hidden = hidden[model.config.get_text_config().altup_active_idx]
        found.append(hidden[response_BS])

    handles = [layer.register_forward_hook(keep) for layer in model.vlm.get_decoder().layers]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
