"""Hidden states of teacher and student on the response rows of a batch (`training/data.py` makes it), and the loss.

The teacher is the text modality of the very same weights, without gradient. The shared prefix is encoded once, without
gradient, for both: nothing that trains stands before the query. Where the LLM itself trains that no longer holds: the
teacher is then a frozen copy, and gradient flows through the student's prefix too. Audio embeddings may also be aligned
to the query's text embeddings by soft-DTW, after Lyra (arXiv 2412.09501).

Legend: B examples, T tokens (query tokens in soft-DTW), R response tokens, N response rows (all examples' R, one after
another), U audio embeddings, D width.
"""

from collections.abc import Mapping
from copy import deepcopy
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from selfkd.losses import LossConfig, LossOutput, needs_responses, needs_teacher, self_kd_loss
from selfkd.model.lora import adapters_on
from selfkd.model.prefix_cache import Prefix, continue_prefix, encode_prefix
from selfkd.model.projectors import AudioEmbeddings, CTCProjector, ctc_loss

if TYPE_CHECKING:
    from selfkd.model.modeling_omni import OmniModel


TEMPERATURE = 0.06  # Lyra's


def soft_dtw_loss(heard: AudioEmbeddings, transcript_ids_BT: Tensor, embed: nn.Module) -> Tensor:
    """sum over clips of the soft-DTW of 1 - cosine, divided by the question's tokens; a clip that gave no vector counts
    for nothing. `transcript_ids_BT` are the question's ids, -100 pads."""
    written_BT = transcript_ids_BT != -100
    there_B = heard.mask.any(-1) & written_BT.any(-1)
    if not there_B.any():
        return heard.vectors.sum() * 0
    with torch.autocast(heard.vectors.device.type, enabled=False):  # a temperature of 0.06 leaves bf16 no digits
        vectors = F.normalize(heard.vectors[there_B].float(), dim=-1)
        with torch.no_grad():
            tokens = F.normalize(embed(transcript_ids_BT[there_B].clamp(min=0)).float(), dim=-1)
        costs_BUT = 1 - vectors @ tokens.transpose(1, 2)
        lengths = heard.mask[there_B].sum(-1), written_BT[there_B].sum(-1)
        return (soft_dtw(costs_BUT, *lengths, TEMPERATURE) / lengths[1]).sum()


def soft_dtw(costs_BUT: Tensor, rows_B: Tensor, columns_B: Tensor, temperature: float) -> Tensor:
    """(B,): the soft minimum over monotone paths from the first cell to (rows, columns) of the costs on them (Cuturi &
    Blondel 2017): r(i, j) = c(i, j) + softmin(r(i-1, j), r(i, j-1), r(i-1, j-1)). Diagonal by diagonal."""
    clips, rows, columns = costs_BUT.shape
    far = costs_BUT.new_full((clips, rows + 1), 1e6)  # finite, or the gradient of a soft minimum of nothing is NaN
    start = far.clone()
    start[:, 0] = 0
    before, last = start, far  # of two diagonals ago, of the last; cell (i, d - i) stands at i
    wanted_B = rows_B + columns_B
    total = costs_BUT.new_zeros(clips)
    for d in range(2, rows + columns + 1):
        i = torch.arange(max(1, d - columns), min(rows, d - 1) + 1, device=costs_BUT.device)
        around = torch.stack([last[:, i - 1], last[:, i], before[:, i - 1]])
        value = costs_BUT[:, i - 1, d - i - 1] - temperature * torch.logsumexp(-around / temperature, 0)
        now = far.index_copy(1, i, value)
        total = torch.where(wanted_B == d, now.gather(1, rows_B[:, None])[:, 0], total)
        before, last = last, now
    return total


class Teacher(NamedTuple):
    """The teacher's side of the response rows: hidden states (N, D) and the head (vocabulary, D) for their logits."""

    rows: Tensor
    head: Tensor


class PairedRows(NamedTuple):
    """Hidden states (N, D) of student and teacher (None where not asked) and the labels (N,) of the same rows; and
    what the student's ears made of the clips (None of a native model)."""

    student: Tensor
    teacher: Tensor | None
    labels: Tensor
    heard: AudioEmbeddings | None


class FrozenTeacher:
    """A copy of the LLM and of the eyes as they were, for a student whose LLM trains."""

    def __init__(self, model: "OmniModel"):
        self.vlm = deepcopy(model.vlm).requires_grad_(False).eval()
        for parameter in self.vlm.parameters():  # the student's were made fp32 to train; a copy need not be
            parameter.data = parameter.data.to(model.dtype)

    @torch.no_grad()
    def __call__(self, batch: Mapping[str, Any]) -> Teacher:
        self.vlm.to(batch["labels"].device)
        rows = _written_rows(self.vlm, _prefix(self.vlm, batch), batch)
        return Teacher(rows, self.vlm.get_output_embeddings().weight)


def response_positions(mask_BT: Tensor, labels_BR: Tensor) -> Tensor:
    """Which tokens predict the response (B, T): the last of each row, as many as `labels_BR` has there."""
    ends_B1 = mask_BT.sum(-1, keepdim=True)
    starts_B1 = ends_B1 - (labels_BR != -100).sum(-1, keepdim=True)
    place = torch.arange(mask_BT.shape[1], device=mask_BT.device)
    return (place >= starts_B1) & (place < ends_B1)


def response_rows(hidden_BTD: Tensor, mask_BT: Tensor, labels_BR: Tensor) -> Tensor:
    """Hidden states (N, D) that predict the response, in the order of `labels_BR`."""
    return hidden_BTD[response_positions(mask_BT, labels_BR)]


def paired_rows(model: "OmniModel", batch: Mapping[str, Any], with_teacher: bool) -> PairedRows:
    """Gradient reaches the student's question and response."""
    labels_BR = batch["labels"]
    _assert_same_response(batch)
    llm_learns = model.llm_trains and torch.is_grad_enabled()
    assert not (llm_learns and with_teacher), "a teacher of the same weights would learn with its student"
    with torch.set_grad_enabled(llm_learns):
        prefix = _prefix(model.vlm, batch)
    teacher_ND = None
    if with_teacher:
        with torch.no_grad():
            teacher_ND = _written_rows(model.vlm, prefix, batch)
    inputs, mask, heard = model.merge_audio_embeddings(batch["audio_ids"], batch["audio_mask"], batch["audio_inputs"])
    with adapters_on(model.vlm):
        hidden = continue_prefix(model.vlm, prefix, inputs, mask)
    student_ND = response_rows(hidden, mask, labels_BR)
    return PairedRows(student_ND, teacher_ND, labels_BR[labels_BR != -100], heard)


def paired_loss(
    model: "OmniModel", batch: Mapping[str, Any], objective: LossConfig, teacher: Teacher | None
) -> LossOutput:
    """The loss of a batch. Where the objective asks a teacher and none is given, it is the text view of the weights
    themselves; where it asks no response, the ears alone are run."""
    heard: AudioEmbeddings | None = None
    if needs_responses(objective):
        loss, heard = _response_loss(model, batch, objective, teacher)
    else:
        tokens, nothing = int((batch["labels"] != -100).sum()), torch.zeros((), device=batch["labels"].device)
        loss = LossOutput(nothing, nothing, nothing, tokens, {})
        if objective.alignment:
            heard = model.encode_audio(**batch["audio_inputs"])
    if objective.transcript:
        transcript = heard.transcript if heard else model.transcribe(**batch["audio_inputs"])
        assert transcript is not None and isinstance(model.projector, CTCProjector), "these ears hear no tokens"
        said = model.projector.labels(batch["transcript_ids"])
        loss = loss.plus("transcript", objective.transcript, ctc_loss(transcript.tokens, said).sum())
        if objective.characters:
            assert transcript.characters is not None, "these ears do not spell"
            spelt = model.projector.spelling(batch["transcripts"]).to(said.device)
            loss = loss.plus("characters", objective.characters, ctc_loss(transcript.characters, spelt).sum())
    if objective.alignment:
        assert heard is not None, "a native omni model's ears are its own"
        value = soft_dtw_loss(heard, batch["transcript_ids"], model.get_input_embeddings())
        loss = loss.plus("alignment", objective.alignment, value)
    return loss


def _response_loss(
    model: "OmniModel", batch: Mapping[str, Any], objective: LossConfig, teacher: Teacher | None
) -> tuple[LossOutput, AudioEmbeddings | None]:
    """The part of the loss that is over response rows, and what was heard."""
    with_teacher = needs_teacher(objective) and teacher is None
    student, own_teacher, labels, heard = paired_rows(model, batch, with_teacher)
    rows, head = (own_teacher, None) if teacher is None else teacher
    own_head, softcap = model.get_output_embeddings().weight, model.logit_softcap
    return self_kd_loss(student, rows, own_head, labels, objective, softcap=softcap, teacher_head_VD=head), heard


def _prefix(vlm: Any, batch: Mapping[str, Any]) -> Prefix:
    prefix = batch.get("prefix")  # where a roll-out has read it already
    if prefix is None:
        prefix = encode_prefix(vlm, batch["prefix_ids"], batch["prefix_mask"], **batch["image_inputs"])
    return prefix.rows(batch["group"])


def _written_rows(vlm: Any, prefix: Prefix, batch: Mapping[str, Any]) -> Tensor:
    hidden = continue_prefix(vlm, prefix, {"input_ids": batch["text_ids"]}, batch["text_mask"])
    return response_rows(hidden, batch["text_mask"], batch["labels"])


def _assert_same_response(batch: Mapping[str, Any]) -> None:
    """Both views must read the very response that the labels hold, or their rows would not line up."""
    for i, labels in enumerate(batch["labels"]):
        read = labels[labels != -100][:-1].tolist()
        modalities = (
            batch[f"{modality}_ids"][i][batch[f"{modality}_mask"][i].bool()].tolist() for modality in ("text", "audio")
        )
        tails = tuple(ids[len(ids) - len(read) :] for ids in modalities)
        assert tails == (read, read), f"the two views read different responses: {tails}"
