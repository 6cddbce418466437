"""Hidden states of teacher and student on the response rows of a batch (`training/data.py` collates it), and the loss.

The teacher is the text modality of the very same weights, without gradient. The shared prefix is encoded once, without
gradient, for both: nothing that trains stands before the query. Where the LLM itself trains that no longer holds: the
teacher is then a frozen copy, and gradient flows through the student's prefix too. Audio embeddings may also be aligned
to the query's text embeddings (`training/alignment.py`).

A conversation is one example: its rows are those of all responses that train, which teacher and student each read
after their own modality of the queries before.

Legend: B examples, S tokens of a continuation, T tokens, R response tokens, N response rows (all examples' R, one after
another), D width.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from selfkd.losses import LossConfig, LossOutput, needs_responses, needs_teacher, self_kd_loss
from selfkd.model.layer_states import states_after
from selfkd.model.lora import adapters_on
from selfkd.model.modeling_omni import OmniModel
from selfkd.model.prefix_cache import Prefix, continue_prefix, encode_prefix
from selfkd.model.projectors import AudioEmbeddings, CTCProjector, ctc_loss
from selfkd.training.alignment import contrastive_loss, soft_dtw_loss


class Rows(NamedTuple):
    """Hidden states (N, D) of the response rows: after the last layer and its norm, and after earlier layers."""

    last: Tensor
    earlier: tuple[Tensor, ...] = ()


class Teacher(NamedTuple):
    """The teacher's response rows, and the head (V, D) that gives the logits of the last ones."""

    rows: Rows
    head: Tensor


class PairedRows(NamedTuple):
    """Hidden states (N, D) of student and teacher (None without one) on the response rows, the labels (N,) of the same
    rows, the clips' audio embeddings (None of a native model), and the rows after earlier layers."""

    student: Tensor
    teacher: Tensor | None
    labels: Tensor
    audio: AudioEmbeddings | None
    student_earlier: tuple[Tensor, ...] = ()
    teacher_earlier: tuple[Tensor, ...] = ()


class FrozenTeacher:
    """A copy of the VLM before training: the teacher of a student whose LLM trains."""

    def __init__(self, model: OmniModel, hidden_layers: int = 1):
        self.hidden_layers = hidden_layers
        self.vlm = deepcopy(model.vlm).requires_grad_(False).eval()
        for parameter in self.vlm.parameters():  # the student's trainable weights are fp32
            parameter.data = parameter.data.to(model.dtype)

    @torch.no_grad()
    def __call__(self, batch: Mapping[str, Any]) -> Teacher:
        self.vlm.to(batch["labels"].device)
        rows = _text_rows(self.vlm, _prefix(self.vlm, batch), batch, self.hidden_layers)
        return Teacher(rows, self.vlm.get_output_embeddings().weight)


def response_positions(mask_BT: Tensor, labels_BR: Tensor) -> Tensor:
    """Mask (B, T) of the tokens that predict the response: the last of each row, as many as its labels."""
    ends_B1 = mask_BT.sum(-1, keepdim=True)
    starts_B1 = ends_B1 - (labels_BR != -100).sum(-1, keepdim=True)
    columns = torch.arange(mask_BT.shape[1], device=mask_BT.device)
    return (columns >= starts_B1) & (columns < ends_B1)


def widened_positions(predicts_BT: Tensor, clips_BT: Tensor, lengths_C: Tensor, width: int) -> Tensor:
    """Mask (B, S) of the same tokens as `predicts_BT` in rows of `width` S in which the c-th placeholder of `clips_BT`,
    row after row, has become `lengths_C[c]` audio embeddings; the placeholder itself becomes the last of them."""
    further_BT = torch.zeros_like(clips_BT, dtype=torch.long)
    further_BT[clips_BT] = lengths_C.to(further_BT) - 1
    rows, columns = predicts_BT.nonzero(as_tuple=True)
    mask_BS = predicts_BT.new_zeros(len(predicts_BT), width)
    mask_BS[rows, columns + further_BT.cumsum(-1)[rows, columns]] = True
    return mask_BS


def compared_layers(vlm: Any, count: int) -> list[int]:
    """The layers, evenly spaced, whose hidden states are compared next to the last one's: `count` - 1 of them."""
    layers = len(vlm.get_decoder().layers)
    return [layers * number // count - 1 for number in range(1, count)]


@contextmanager
def recorded_layers(vlm: Any, layers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """Within the context, the hidden states (B, S, D) after these layers of the last forward pass, by layer."""
    found: dict[int, Tensor] = {}
    with ExitStack() as stack:
        for layer in layers:
            stack.enter_context(states_after(vlm, layer, partial(found.__setitem__, layer)))
        yield found


def paired_rows(model: OmniModel, batch: Mapping[str, Any], with_teacher: bool, hidden_layers: int = 1) -> PairedRows:
    """Runs student and teacher over a batch; gradient flows through the student's query and response. The rows have the
    hidden states of `hidden_layers` layers."""
    labels_BR = batch["labels"]
    _assert_same_response(batch)
    llm_trains = model.llm_trains and torch.is_grad_enabled()
    assert not (llm_trains and with_teacher), "a teacher with the same weights would train with its student"  # noqa: S101 an invariant of this code, no check of input
    with torch.set_grad_enabled(llm_trains):
        prefix = _prefix(model.vlm, batch)
    teacher = None
    if with_teacher:
        with torch.no_grad():
            teacher = _text_rows(model.vlm, prefix, batch, hidden_layers)
    ids_BT, given_BT, predicts = batch["audio_ids"], batch["audio_mask"], batch["audio_predicts"]
    inputs, mask, audio = model.merge_audio_embeddings(ids_BT, given_BT, batch["audio_inputs"])
    if audio is not None:
        is_clip_BT = (ids_BT == model.config.audio_token_id) & given_BT.bool()
        predicts = widened_positions(predicts, is_clip_BT, audio.mask.sum(-1), mask.shape[1])
    with adapters_on(model.vlm):
        student = _continued_rows(model.vlm, prefix, inputs, mask, predicts, hidden_layers)
    last, earlier = (None, ()) if teacher is None else teacher
    return PairedRows(student.last, last, labels_BR[labels_BR != -100], audio, student.earlier, earlier)


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
        if loss_config.soft_dtw_weight or loss_config.contrastive_weight:
            audio = model.encode_audio(**batch["audio_inputs"])
    if loss_config.ctc_weight:
        ctc = audio.ctc if audio else model.ctc_outputs(**batch["audio_inputs"])
        assert ctc is not None and isinstance(model.projector, CTCProjector), "the CTC loss needs a CTC projector"  # noqa: S101 an invariant of this code, no check of input
        labels = model.projector.labels(batch["transcript_ids"])
        loss = loss.plus("ctc", loss_config.ctc_weight, ctc_loss(ctc.tokens, labels).sum())
        if loss_config.character_ctc_weight:
            assert ctc.characters is not None, "the projector has no character-level CTC head"  # noqa: S101 an invariant of this code, no check of input
            character_labels = model.projector.character_labels(batch["transcripts"]).to(labels.device)
            loss = loss.plus(
                "character_ctc", loss_config.character_ctc_weight, ctc_loss(ctc.characters, character_labels).sum()
            )
    for name, weight, align in (
        ("soft_dtw", loss_config.soft_dtw_weight, soft_dtw_loss),
        ("contrastive", loss_config.contrastive_weight, contrastive_loss),
    ):
        if weight:
            assert audio is not None, "a native omni model gives no audio embeddings"  # noqa: S101 an invariant of this code, no check of input
            value = align(audio, batch["transcript_ids"], model.get_input_embeddings())
            loss = loss.plus(name, weight, value)
    return loss


def _response_loss(
    model: OmniModel, batch: Mapping[str, Any], loss_config: LossConfig, teacher: Teacher | None
) -> tuple[LossOutput, AudioEmbeddings | None]:
    """The loss over response rows, and the audio embeddings."""
    with_teacher = needs_teacher(loss_config) and teacher is None
    rows = paired_rows(model, batch, with_teacher, loss_config.hidden_mse_layers)
    last, earlier, head = rows.teacher, rows.teacher_earlier, None
    if teacher is not None:
        (last, earlier), head = teacher
    loss = self_kd_loss(
        rows.student,
        last,
        model.get_output_embeddings().weight,
        rows.labels,
        loss_config,
        softcap=model.logit_softcap,
        teacher_head_VD=head,
        earlier_layers=list(zip(rows.student_earlier, earlier, strict=True)) if last is not None else [],
    )
    return loss, rows.audio


def _prefix(vlm: Any, batch: Mapping[str, Any]) -> Prefix:
    prefix = batch.get("prefix")  # present where a rollout has encoded it
    if prefix is None:
        prefix = encode_prefix(vlm, batch["prefix_ids"], batch["prefix_mask"], **batch["image_inputs"])
    return prefix.rows(batch["group"])


def _text_rows(vlm: Any, prefix: Prefix, batch: Mapping[str, Any], hidden_layers: int = 1) -> Rows:
    inputs, mask = {"input_ids": batch["text_ids"]}, batch["text_mask"]
    return _continued_rows(vlm, prefix, inputs, mask, batch["text_predicts"], hidden_layers)


def _continued_rows(
    vlm: Any, prefix: Prefix, inputs: Mapping[str, Tensor], mask_BS: Tensor, predicts_BS: Tensor, hidden_layers: int
) -> Rows:
    layers = compared_layers(vlm, hidden_layers)
    with recorded_layers(vlm, layers) as found:
        last = continue_prefix(vlm, prefix, inputs, mask_BS)
    return Rows(last[predicts_BS], tuple(found[layer][predicts_BS] for layer in layers))


def _assert_same_response(batch: Mapping[str, Any]) -> None:
    """Both modalities must hold the responses of the labels, otherwise teacher and student rows differ: the token after
    each one that predicts is its label; that of the last is no input."""
    for i, labels in enumerate(batch["labels"]):
        responses = labels[labels != -100].tolist()
        if not responses:  # of a stand-in
            continue
        for modality in ("text", "audio"):
            ids, predicts = batch[f"{modality}_ids"][i], batch[f"{modality}_predicts"][i].nonzero().flatten()
            following = [*ids[predicts[:-1] + 1].tolist(), responses[-1]]
            end = int(batch[f"{modality}_mask"][i].sum()) - 1
            assert following == responses and int(predicts[-1]) == end, (  # noqa: S101 an invariant of this code, no check of input
                f"the {modality} modality has other responses: {following}, {responses}"
            )
