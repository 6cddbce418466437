"""Causes, not correlations: what an answer to an audio query, and to a text query, loses or gains when attention to the
image is cut or raised, or when a part of the text query's computation takes the place of the audio query's.

Interventions are made in a band of layers, and measured by what becomes of the response (`Outcome`):

- `image_cut`, `image_doubled`: the attention weights of query rows, or of response rows, to image keys are multiplied
  by 0 or 2 before they are normalized (knock-out, after Geva et al. 2023, arXiv 2304.14767).
- `text_attention`: rows of the audio query, or of the response, get the attention to each image key that the text
  query's computation has: the mean over its query rows, and the same response row. What goes to other keys is scaled
  so that a row sums to 1.
- `text_states`: the hidden states of the response rows after the band are those of the text query's computation
  (activation patching, after Meng et al. 2022, arXiv 2202.05262). What the later layers read from earlier rows is not
  patched.

Legend as in `attention.py`; P keys of the prefix, Q rows of a group.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from selfkd.analysis.attention import CHUNK_ROWS, ROWS, Attend, attention_rows, wrapped_attention
from selfkd.analysis.config import InterventionKind
from selfkd.analysis.forward import (
    KEYS,
    Continuation,
    Outcome,
    encode_shared_prefix,
    forward_modality,
    modality_of,
    response_outcomes,
)
from selfkd.model.layer_states import states_after
from selfkd.model.modeling_omni import OmniModel
from selfkd.training.data import MODALITIES, Modality

FACTORS = {"image_cut": 0.0, "image_doubled": 2.0}


@dataclass(frozen=True)
class Intervention:
    """`rows` is a group of rows, one of `ROWS`; "response" for `text_states`."""

    kind: InterventionKind
    rows: str
    band: str
    layers: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"{self.kind}.{self.rows}.{self.band}"


@dataclass
class _TextRun:
    """What the text query's computation left in each layer: attention of its rows to the prefix, by group of rows
    ((B, H, Q, P); Q is 1 for the mean over query rows), and hidden states (N, D) of the response rows."""

    attention: dict[int, dict[str, Tensor]]
    states: dict[int, Tensor]


def interventions_of(
    kinds: Sequence[InterventionKind], bands: Mapping[str, Sequence[int]]
) -> dict[Modality, list[Intervention]]:
    """The interventions in each modality: `bands` are {name: layers}, to which all layers together are added. A text
    query gets none from itself, and states after the last layer would be the text query's answer."""
    whole = {**bands, "all": [layer for layers in bands.values() for layer in layers]}
    audio = []
    for kind in kinds:
        for rows in ROWS if kind != "text_states" else ("response",):
            for band, layers in whole.items():
                if kind != "text_states" or (band in bands and max(layers) < max(whole["all"])):
                    audio.append(Intervention(kind, rows, band, tuple(layers)))
    return {"text": [i for i in audio if i.kind in FACTORS], "audio": audio}


@torch.no_grad()
def outcomes_of_batch(
    model: OmniModel,
    batch: Mapping[str, Any],
    questions: list[slice],
    interventions: Mapping[Modality, Sequence[Intervention]],
) -> list[dict[Modality, dict[str, Outcome]]]:
    """{modality: {intervention: outcome}} of each item of a batch of `PairedCollator`."""
    prefix = encode_shared_prefix(model, batch)
    continuations = {modality: modality_of(model, batch, modality, questions) for modality in MODALITIES}
    text_run = _TextRun({}, {})
    with _keeping(model, continuations["text"], {one.kind for one in interventions["audio"]}, text_run):
        forward_modality(model, prefix, "text", continuations["text"])
    outcomes: dict[Modality, dict[str, list[Outcome]]] = {modality: {} for modality in MODALITIES}
    for modality, continuation in continuations.items():
        for intervention in interventions[modality]:
            with _intervening(model, continuation, intervention, text_run):
                hidden_BSD = forward_modality(model, prefix, modality, continuation)
            rows_ND = hidden_BSD[continuation.positions.response_BS]
            outcomes[modality][intervention.name] = response_outcomes(model, rows_ND, batch["labels"])
    return [
        {modality: {name: items[i] for name, items in by_name.items()} for modality, by_name in outcomes.items()}
        for i in range(len(batch["labels"]))
    ]


@contextmanager
def _keeping(
    model: OmniModel, continuation: Continuation, kinds: set[InterventionKind], text_run: _TextRun
) -> Iterator[None]:
    """Within the context `text_run` fills with what the interventions of these kinds take from the text query."""
    rows_BS = continuation.positions.response_BS

    def keep_attention(layer: int, attend: Attend) -> Attend:
        def attend_and_keep(
            module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **options: Any
        ) -> tuple[Tensor, Any]:
            width = key.shape[2] - query.shape[2]
            text_run.attention[layer] = {}
            for name in ROWS:
                at_BQ, is_there_BQ = _padded_rows(_rows(continuation, name))
                share_BHQP = attention_rows(query, key, mask, at_BQ, **options)[..., :width]
                if name == "query":
                    weight_BQ = is_there_BQ / is_there_BQ.sum(-1, keepdim=True).clamp(min=1)
                    share_BHQP = torch.einsum("bhqp,bq->bhp", share_BHQP, weight_BQ)[:, :, None]
                text_run.attention[layer][name] = share_BHQP
            return attend(module, query, key, value, mask, **options)

        return attend_and_keep

    def keep_states(layer: int, states_BSD: Tensor) -> None:
        text_run.states[layer] = states_BSD[rows_BS]

    with ExitStack() as stack:
        if "text_attention" in kinds:
            stack.enter_context(wrapped_attention(model.vlm, keep_attention))
        if "text_states" in kinds:
            for layer in range(len(model.vlm.get_decoder().layers)):
                stack.enter_context(states_after(model.vlm, layer, partial(keep_states, layer)))
        yield


def _intervening(model: OmniModel, continuation: Continuation, intervention: Intervention, text_run: _TextRun) -> Any:
    """The context in which the model's computation has the intervention."""
    if intervention.kind == "text_states":
        rows_BS, layer = continuation.positions.response_BS, max(intervention.layers)

        def patch(states_BSD: Tensor) -> Tensor:
            return states_BSD.masked_scatter(rows_BS[..., None], text_run.states[layer].to(states_BSD))

        return states_after(model.vlm, layer, patch)

    is_image_BT = continuation.positions.keys_BT == KEYS.index("image")
    at_BQ, is_there_BQ = _padded_rows(_rows(continuation, intervention.rows))
    item_BQ = torch.arange(len(at_BQ), device=at_BQ.device)[:, None].expand_as(at_BQ)

    def wrap(layer: int, attend: Attend) -> Attend:
        if layer not in intervention.layers:
            return attend

        def attend_otherwise(
            module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **options: Any
        ) -> tuple[Tensor, Any]:
            out_BSHE, weights = attend(module, query, key, value, mask, **options)
            out_BSHE = out_BSHE.clone()
            values_BHTE = value.float().repeat_interleave(query.shape[1] // value.shape[1], dim=1)
            for start in range(0, at_BQ.shape[1], CHUNK_ROWS):
                chunk = slice(start, start + CHUNK_ROWS)
                share_BHCT = attention_rows(query, key, mask, at_BQ[:, chunk], **options)
                if intervention.kind == "text_attention":
                    wanted = text_run.attention[layer][intervention.rows]
                    wanted = wanted if wanted.shape[2] == 1 else wanted[:, :, chunk]
                    share_BHCT = with_image_attention(share_BHCT, wanted, is_image_BT)
                else:
                    share_BHCT = scaled_to_image(share_BHCT, FACTORS[intervention.kind], is_image_BT)
                rows_BCHE = (share_BHCT @ values_BHTE).transpose(1, 2).to(out_BSHE)
                there = is_there_BQ[:, chunk]
                out_BSHE[item_BQ[:, chunk][there], at_BQ[:, chunk][there]] = rows_BCHE[there]
            return out_BSHE, weights

        return attend_otherwise

    return wrapped_attention(model.vlm, wrap)


def scaled_to_image(share_BHCT: Tensor, factor: float, is_image_BT: Tensor) -> Tensor:
    """Attention whose weights to image keys are multiplied by `factor`; rows sum to 1 again."""
    weights_B11T = torch.where(is_image_BT, factor, 1.0)[:, None, None]
    scaled_BHCT = share_BHCT * weights_B11T
    return scaled_BHCT / scaled_BHCT.sum(-1, keepdim=True).clamp(min=1e-12)


def with_image_attention(share_BHCT: Tensor, wanted_BHCP: Tensor, is_image_BT: Tensor) -> Tensor:
    """Attention that gives to each image key what `wanted_BHCP` gives to it, over the keys of the prefix; what goes to
    other keys is scaled so that rows sum to 1."""
    is_image_B11T = is_image_BT[:, None, None]
    later = share_BHCT.shape[-1] - wanted_BHCP.shape[-1]
    image_BHCT = F.pad(wanted_BHCP, (0, later)).expand_as(share_BHCT) * is_image_B11T
    other_BHCT = share_BHCT.masked_fill(is_image_B11T, 0.0)
    left_BHC1 = 1 - image_BHCT.sum(-1, keepdim=True)
    return image_BHCT + other_BHCT * (left_BHC1 / other_BHCT.sum(-1, keepdim=True).clamp(min=1e-12))


def _rows(continuation: Continuation, name: str) -> Tensor:
    return continuation.positions.query_BS if name == "query" else continuation.positions.response_BS


def _padded_rows(rows_BS: Tensor) -> tuple[Tensor, Tensor]:
    """(positions (B, Q) of the rows of each item, which of them are there)."""
    at = [row.nonzero().flatten() for row in rows_BS]
    there = [torch.ones_like(row, dtype=torch.bool) for row in at]
    return pad_sequence(at, batch_first=True), pad_sequence(there, batch_first=True)
