"""Agreement between text and audio: the KL divergence that Self-KD minimizes and the top tokens, for each response row,
and the distance of hidden states, for each layer.

Legend: B items, N response rows (of all items, concatenated), D width, V vocabulary, L layers.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from selfkd.analysis.forward import HEAD_CHUNK_ROWS, encode_shared_prefix, forward_modality, modality_of
from selfkd.losses import head_logits
from selfkd.model.layer_states import states_after
from selfkd.model.modeling_omni import OmniModel
from selfkd.training.data import MODALITIES


class RowAgreement(NamedTuple):
    """For each response row: KL(p_T || p_S) in nats, whether teacher and student have the same top token, and the rank
    that the top token of the teacher has for the student (1 is the top)."""

    kl_N: Tensor  # noqa: N815
    same_top_N: Tensor  # noqa: N815
    rank_N: Tensor  # noqa: N815


class Agreement(NamedTuple):
    """One item. `kl`, `same_top` and `rank` by position in the response; `cosine` and `distance` by layer, mean over
    rows: between the hidden states of both modalities, the distance relative to the norm of the teacher."""

    kl: list[float]
    same_top: list[bool]
    rank: list[int]
    cosine: list[float]
    distance: list[float]


def row_agreement(teacher_logits_NV: Tensor, student_logits_NV: Tensor) -> RowAgreement:
    """KL(p_T || p_S) of the paper for each row, not summed, and top tokens; ties go to the first token."""
    teacher_NV = F.log_softmax(teacher_logits_NV.float(), dim=-1)
    student_NV = F.log_softmax(student_logits_NV.float(), dim=-1)
    kl_N = F.kl_div(student_NV, teacher_NV, log_target=True, reduction="none").sum(-1)
    top_N1 = teacher_NV.argmax(-1, keepdim=True)
    higher_N = (student_NV > student_NV.gather(-1, top_N1)).sum(-1)
    return RowAgreement(kl_N, student_NV.argmax(-1) == top_N1[:, 0], higher_N + 1)


def hidden_distance(teacher_ND: Tensor, student_ND: Tensor) -> tuple[Tensor, Tensor]:
    """(cosine (N,), |student - teacher| / |teacher| (N,)), in fp32."""
    teacher_ND, student_ND = teacher_ND.float(), student_ND.float()
    relative_N = (student_ND - teacher_ND).norm(dim=-1) / teacher_ND.norm(dim=-1)
    return F.cosine_similarity(teacher_ND, student_ND, dim=-1), relative_N


@torch.no_grad()
def agreement_of_batch(model: OmniModel, batch: Mapping[str, Any], questions: list[slice]) -> list[Agreement]:
    """Agreement of each item of a batch of `PairedCollator`. The teacher is the same model on the text query."""
    prefix = encode_shared_prefix(model, batch)
    last, layers = [], []
    for modality in MODALITIES:
        continuation = modality_of(model, batch, modality, questions)
        with _hidden_states_of_layers(model, continuation.positions.response_BS) as rows_LND:
            hidden_BSD = forward_modality(model, prefix, modality, continuation)
            last.append(hidden_BSD[continuation.positions.response_BS])
        layers.append(rows_LND)
    rows = _row_agreement_in_chunks(model, *last)
    by_layer = [hidden_distance(teacher, student) for teacher, student in zip(*layers, strict=True)]
    cosine_LN, distance_LN = (torch.stack(part) for part in zip(*by_layer, strict=True))
    counts = (batch["labels"] != -100).sum(-1).tolist()
    split = [part.split(counts, dim=-1) for part in (*rows, cosine_LN, distance_LN)]
    return [
        Agreement(kl.tolist(), top.tolist(), rank.tolist(), cosine.mean(-1).tolist(), distance.mean(-1).tolist())
        for kl, top, rank, cosine, distance in zip(*split, strict=True)
    ]


def _row_agreement_in_chunks(model: OmniModel, teacher_ND: Tensor, student_ND: Tensor) -> RowAgreement:
    head_VD, cap = model.get_output_embeddings().weight, model.logit_softcap
    chunks = [
        row_agreement(head_logits(teacher, head_VD, cap), head_logits(student, head_VD, cap))
        for teacher, student in zip(teacher_ND.split(HEAD_CHUNK_ROWS), student_ND.split(HEAD_CHUNK_ROWS), strict=True)
    ]
    return RowAgreement(*(torch.cat(part) for part in zip(*chunks, strict=True)))


@contextmanager
def _hidden_states_of_layers(model: OmniModel, response_BS: Tensor) -> Iterator[list[Tensor]]:
    """Within the context the list fills with the output of each LLM layer at the response rows, (N, D) per layer."""
    outputs: list[Tensor] = []

    def keep(states_BSD: Tensor) -> None:
        outputs.append(states_BSD[response_BS])

    with ExitStack() as stack:
        for layer in range(len(model.vlm.get_decoder().layers)):
            stack.enter_context(states_after(model.vlm, layer, keep))
        yield outputs
