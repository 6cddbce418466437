"""Hidden states of teacher and student on the response rows of a batch (`training/data.py` collates it), and the loss.

The teacher is the text modality of the very same weights, without gradient. The shared prefix is encoded once, without
gradient, for both: nothing that trains stands before the query. Where the LLM itself trains that no longer holds: the
teacher is then a frozen copy, and gradient flows through the student's prefix too. Audio embeddings may also be aligned
to the query's text embeddings by soft-DTW, after Lyra (arXiv 2412.09501).

Legend: B examples, T tokens (query tokens in soft-DTW), R response tokens, N response rows (all examples' R, one after
another), U audio embeddings, D width.
"""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from selfkd.losses import LossConfig, LossOutput, needs_responses, needs_teacher, self_kd_loss
from selfkd.model.lora import adapters_on
from selfkd.model.modeling_omni import OmniModel
from selfkd.model.prefix_cache import Prefix, continue_prefix, encode_prefix
from selfkd.model.projectors import AudioEmbeddings, CTCProjector, ctc_loss

TEMPERATURE = 0.06  # Lyra's


def soft_dtw_loss(audio: AudioEmbeddings, transcript_ids_BT: Tensor, embed: nn.Module) -> Tensor:
    """sum over clips of the soft-DTW of 1 - cosine between audio and token embeddings, divided by the number of query
    tokens; a clip without audio embeddings counts as 0. `transcript_ids_BT` are the query's ids, -100 pads."""
    mask_BT = transcript_ids_BT != -100
    valid_B = audio.mask.any(-1) & mask_BT.any(-1)
    if not valid_B.any():
        return audio.vectors.sum() * 0
    with torch.autocast(audio.vectors.device.type, enabled=False):  # bf16 is too coarse for a temperature of 0.06
        vectors = F.normalize(audio.vectors[valid_B].float(), dim=-1)
        with torch.no_grad():
            tokens = F.normalize(embed(transcript_ids_BT[valid_B].clamp(min=0)).float(), dim=-1)
        costs_BUT = 1 - vectors @ tokens.transpose(1, 2)
        lengths = audio.mask[valid_B].sum(-1), mask_BT[valid_B].sum(-1)
        return (soft_dtw(costs_BUT, *lengths, TEMPERATURE) / lengths[1]).sum()


def soft_dtw(costs_BUT: Tensor, rows_B: Tensor, columns_B: Tensor, temperature: float) -> Tensor:
    """(B,): the soft minimum, over monotone paths from the first cell to (rows, columns), of the cost of a path (Cuturi
    & Blondel 2017): r(i, j) = c(i, j) + softmin(r(i-1, j), r(i, j-1), r(i-1, j-1)). Computed diagonal by diagonal."""
    clips, rows, columns = costs_BUT.shape
    far = costs_BUT.new_full((clips, rows + 1), 1e6)  # finite, or the gradient of a soft minimum of nothing is NaN
    start = far.clone()
    start[:, 0] = 0
    before, last = start, far  # r on the last two diagonals; index i is cell (i, d - i)
    end_B = rows_B + columns_B
    total = costs_BUT.new_zeros(clips)
    for d in range(2, rows + columns + 1):
        i = torch.arange(max(1, d - columns), min(rows, d - 1) + 1, device=costs_BUT.device)
        neighbours = torch.stack([last[:, i - 1], last[:, i], before[:, i - 1]])
        value = costs_BUT[:, i - 1, d - i - 1] - temperature * torch.logsumexp(-neighbours / temperature, 0)
        current = far.index_copy(1, i, value)
        total = torch.where(end_B == d, current.gather(1, rows_B[:, None])[:, 0], total)
        before, last = last, current
    return total


class Teacher(NamedTuple):
    """The teacher's hidden states (N, D) of the response rows, and the head (V, D) that gives their logits."""

    rows: Tensor
    head: Tensor


class PairedRows(NamedTuple):
    """Hidden states (N, D) of student and teacher (None without one), the labels (N,) of the same rows, and the clips'
    audio embeddings (None of a native model)."""

    student: Tensor
    teacher: Tensor | None
    labels: Tensor
    audio: AudioEmbeddings | None


class FrozenTeacher:
    """A copy of the VLM before training: the teacher of a student whose LLM trains."""

    def __init__(self, model: OmniModel):
        self.vlm = deepcopy(model.vlm).requires_grad_(False).eval()
        for parameter in self.vlm.parameters():  # the student's trainable weights are fp32
            parameter.data = parameter.data.to(model.dtype)

    @torch.no_grad()
    def __call__(self, batch: Mapping[str, Any]) -> Teacher:
        self.vlm.to(batch["labels"].device)
        rows = _text_rows(self.vlm, _prefix(self.vlm, batch), batch)
        return Teacher(rows, self.vlm.get_output_embeddings().weight)


def response_positions(mask_BT: Tensor, labels_BR: Tensor) -> Tensor:
    """Mask (B, T) of the tokens that predict the response: the last of each row, as many as its labels."""
    ends_B1 = mask_BT.sum(-1, keepdim=True)
    starts_B1 = ends_B1 - (labels_BR != -100).sum(-1, keepdim=True)
    columns = torch.arange(mask_BT.shape[1], device=mask_BT.device)
    return (columns >= starts_B1) & (columns < ends_B1)


def response_rows(hidden_BTD: Tensor, mask_BT: Tensor, labels_BR: Tensor) -> Tensor:
    """Hidden states (N, D) that predict the response, in the order of `labels_BR`."""
    return hidden_BTD[response_positions(mask_BT, labels_BR)]


def paired_rows(model: OmniModel, batch: Mapping[str, Any], with_teacher: bool) -> PairedRows:
    """Runs student and teacher over a batch; gradient flows through the student's query and response."""
    labels_BR = batch["labels"]
    _assert_same_response(batch)
    llm_trains = model.llm_trains and torch.is_grad_enabled()
    assert not (llm_trains and with_teacher), "a teacher with the same weights would train with its student"
    with torch.set_grad_enabled(llm_trains):
        prefix = _prefix(model.vlm, batch)
    teacher_ND = None
    if with_teacher:
        with torch.no_grad():
            teacher_ND = _text_rows(model.vlm, prefix, batch)
    inputs, mask, audio = model.merge_audio_embeddings(batch["audio_ids"], batch["audio_mask"], batch["audio_inputs"])
    with adapters_on(model.vlm):
        hidden = continue_prefix(model.vlm, prefix, inputs, mask)
    student_ND = response_rows(hidden, mask, labels_BR)
    return PairedRows(student_ND, teacher_ND, labels_BR[labels_BR != -100], audio)


def paired_loss(
    model: OmniModel, batch: Mapping[str, Any], loss_config: LossConfig, teacher: Teacher | None = None
) -> LossOutput:
    """The loss of a batch of `PairedCollator`, of the model itself (`model.forward` runs it through DDP and FSDP).

    Where `loss_config` needs a teacher and none is given, the teacher is the text modality of the same weights. Where
    it has no response term, only speech encoder and projector run."""
    audio: AudioEmbeddings | None = None
    if needs_responses(loss_config):
        loss, audio = _response_loss(model, batch, loss_config, teacher)
    else:
        tokens, nothing = int((batch["labels"] != -100).sum()), torch.zeros((), device=batch["labels"].device)
        loss = LossOutput(nothing, nothing, nothing, tokens, {})
        if loss_config.soft_dtw_weight:
            audio = model.encode_audio(**batch["audio_inputs"])
    if loss_config.ctc_weight:
        ctc = audio.ctc if audio else model.ctc_outputs(**batch["audio_inputs"])
        assert ctc is not None and isinstance(model.projector, CTCProjector), "the CTC loss needs a CTC projector"
        labels = model.projector.labels(batch["transcript_ids"])
        loss = loss.plus("ctc", loss_config.ctc_weight, ctc_loss(ctc.tokens, labels).sum())
        if loss_config.character_ctc_weight:
            assert ctc.characters is not None, "the projector has no character-level CTC head"
            character_labels = model.projector.character_labels(batch["transcripts"]).to(labels.device)
            loss = loss.plus(
                "character_ctc", loss_config.character_ctc_weight, ctc_loss(ctc.characters, character_labels).sum()
            )
    if loss_config.soft_dtw_weight:
        assert audio is not None, "a native omni model gives no audio embeddings"
        value = soft_dtw_loss(audio, batch["transcript_ids"], model.get_input_embeddings())
        loss = loss.plus("soft_dtw", loss_config.soft_dtw_weight, value)
    return loss


def _response_loss(
    model: OmniModel, batch: Mapping[str, Any], loss_config: LossConfig, teacher: Teacher | None
) -> tuple[LossOutput, AudioEmbeddings | None]:
    """The loss over response rows, and the audio embeddings."""
    with_teacher = needs_teacher(loss_config) and teacher is None
    student, own_teacher, labels, audio = paired_rows(model, batch, with_teacher)
    rows, head = (own_teacher, None) if teacher is None else teacher
    own_head, softcap = model.get_output_embeddings().weight, model.logit_softcap
    return self_kd_loss(student, rows, own_head, labels, loss_config, softcap=softcap, teacher_head_VD=head), audio


def _prefix(vlm: Any, batch: Mapping[str, Any]) -> Prefix:
    prefix = batch.get("prefix")  # present where a rollout has encoded it
    if prefix is None:
        prefix = encode_prefix(vlm, batch["prefix_ids"], batch["prefix_mask"], **batch["image_inputs"])
    return prefix.rows(batch["group"])


def _text_rows(vlm: Any, prefix: Prefix, batch: Mapping[str, Any]) -> Tensor:
    hidden = continue_prefix(vlm, prefix, {"input_ids": batch["text_ids"]}, batch["text_mask"])
    return response_rows(hidden, batch["text_mask"], batch["labels"])


def _assert_same_response(batch: Mapping[str, Any]) -> None:
    """Both modalities must hold the response of the labels, otherwise teacher and student rows differ."""
    for i, labels in enumerate(batch["labels"]):
        response = labels[labels != -100][:-1].tolist()
        modalities = (
            batch[f"{modality}_ids"][i][batch[f"{modality}_mask"][i].bool()].tolist() for modality in ("text", "audio")
        )
        tails = tuple(ids[len(ids) - len(response) :] for ids in modalities)
        assert tails == (response, response), f"the two modalities have different responses: {tails}"
