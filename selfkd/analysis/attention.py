"""Attention of query and response to the image, in text and in audio: the paper's attention analysis.

For each layer, in both modalities of the same items with the same teacher-forced response: the share of attention from
query rows to image keys, from response rows to image keys and from response rows to query keys. The paper says that the
query tokens of an audio query attend less to the image in the middle and late layers; it does not define its measure
(mean or sum over query tokens), so both are given, next to what uniform attention would give: the later a row stands,
the more keys share its attention, and an audio query has several times more tokens than a text query.

The attention function of each layer runs unchanged, eager or SDPA. The softmax of the query and response rows is
computed again from the same queries, keys, mask, scaling and cap, a chunk of rows at a time, and reduced at once:
(B, H, CHUNK_ROWS, T) is in memory, never (B, H, T, T).

Legend: B items, H heads, S rows after the prefix, C rows of a chunk, T keys, E head width, G groups of rows, K
groups of keys, L layers, W words, I image tokens.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from selfkd.analysis.forward import (
    KEYS,
    Continuation,
    Outcome,
    TokenPositions,
    encode_shared_prefix,
    forward_modality,
    modality_of,
    response_outcomes,
)
from selfkd.errors import InputError
from selfkd.model.modeling_omni import OmniModel
from selfkd.training.data import MODALITIES, Modality, PairedItem

CHUNK_ROWS = 16
ROWS = ("query", "response")


@dataclass
class AttentionSums:
    """Attention of the rows of one modality, by groups of keys.

    `sums[layer]` (B, H, G, K) is summed over the rows of each of `ROWS`, fp32. `maps[layer]` (B, T), for `map_layers`
    only, is the attention of query rows to each key, summed over rows, mean over heads. `word_maps[layer]` (B, W, T) is
    the same of the rows of each word, with the weights `words_BSW` where there are any, in every layer.
    """

    positions: TokenPositions
    map_layers: tuple[int, ...] = ()
    words_BSW: Tensor | None = None  # noqa: N815
    sums: dict[int, Tensor] = field(default_factory=dict)
    maps: dict[int, Tensor] = field(default_factory=dict)
    word_maps: dict[int, Tensor] = field(default_factory=dict)

    @torch.no_grad()
    def add(self, layer: int, query_BHSE: Tensor, key_BHTE: Tensor, mask: Tensor | None, **options: Any) -> None:
        """Adds a layer, from the arguments of its attention function; of `options` it uses `scaling` and `softcap`.

        `mask` (B or 1, H or 1, S, T or more) is added to the scores, or is True where a row may attend to a key; None
        is plain causal attention."""
        if mask is not None and mask.ndim != 4:
            raise InputError("model: its attention takes a mask of lengths; load it with sdpa or eager attention")
        positions = self.positions
        rows_BSG = torch.stack([positions.query_BS, positions.response_BS], dim=-1)
        keys_BTK = F.one_hot(positions.keys_BT.clamp(min=0), len(KEYS)) * (positions.keys_BT >= 0)[..., None]
        keys_BTK = keys_BTK.float()
        wanted = [row.nonzero().flatten() for row in rows_BSG.any(-1)]
        at_BQ = pad_sequence(wanted, batch_first=True)
        is_there_BQ = pad_sequence([torch.ones_like(w) for w in wanted], batch_first=True)
        item_B1 = torch.arange(len(at_BQ), device=at_BQ.device)[:, None]
        weight_BQG = (rows_BSG[item_B1, at_BQ] & is_there_BQ[..., None].bool()).float()

        sums_BHGK: Tensor | float = 0.0
        map_BT: Tensor | float = 0.0
        words_BWT: Tensor | float = 0.0
        words_BQW = None if self.words_BSW is None else self.words_BSW[item_B1, at_BQ] * is_there_BQ[..., None]
        for start in range(0, at_BQ.shape[1], CHUNK_ROWS):
            at_BC, weight_BCG = at_BQ[:, start : start + CHUNK_ROWS], weight_BQG[:, start : start + CHUNK_ROWS]
            share_BHCT = attention_rows(query_BHSE, key_BHTE, mask, at_BC, **options)
            sums_BHGK = sums_BHGK + torch.einsum("bhck,bcg->bhgk", share_BHCT @ keys_BTK[:, None], weight_BCG)
            by_row_BCT = share_BHCT.mean(1) if layer in self.map_layers or words_BQW is not None else share_BHCT
            if layer in self.map_layers:
                map_BT = map_BT + torch.einsum("bct,bc->bt", by_row_BCT, weight_BCG[..., ROWS.index("query")])
            if words_BQW is not None:
                words_BCW = words_BQW[:, start : start + CHUNK_ROWS]
                words_BWT = words_BWT + torch.einsum("bct,bcw->bwt", by_row_BCT, words_BCW)
        assert isinstance(sums_BHGK, Tensor), "there are no rows"  # noqa: S101 an invariant of this code, no check of input
        self.sums[layer] = sums_BHGK
        if isinstance(map_BT, Tensor):
            self.maps[layer] = map_BT
        if isinstance(words_BWT, Tensor):
            self.word_maps[layer] = words_BWT

    def stacked(self) -> Tensor:
        """(B, L, H, G, K) of all layers."""
        return torch.stack([self.sums[layer] for layer in sorted(self.sums)], dim=1)

    def words_of(self, item: int, is_image_T: Tensor) -> Tensor | None:
        """(L, W, I) of an item, on the CPU; None where no words were given."""
        if not self.word_maps:
            return None
        return torch.stack([self.word_maps[layer][item][:, is_image_T] for layer in sorted(self.word_maps)]).cpu()


def attention_rows(
    query_BHSE: Tensor,
    key_BHTE: Tensor,
    mask: Tensor | None,
    at_BC: Tensor,
    scaling: float | None = None,
    softcap: float | None = None,
    **_: Any,
) -> Tensor:
    """softmax(scaling * q k + mask) (B, H, C, T) of the rows `at_BC`, in fp32; scores are capped first if there is a
    `softcap`. Keys may have fewer heads than queries (grouped-query attention)."""
    item_B1 = torch.arange(len(at_BC), device=at_BC.device)[:, None]
    rows_BHCE = query_BHSE[item_B1, :, at_BC].transpose(1, 2).float()
    batch, heads, count, width = rows_BHCE.shape
    key_heads, length = key_BHTE.shape[1:3]
    # one product for all heads that share keys, so that keys are not repeated
    grouped = rows_BHCE.reshape(batch, key_heads, heads // key_heads * count, width)
    scores = (grouped @ key_BHTE.float().transpose(2, 3)).view(batch, heads, count, length)
    scores = scores * (width**-0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if mask is None:
        last_BC = at_BC + length - query_BHSE.shape[2]
        is_later_BCT = torch.arange(length, device=at_BC.device) > last_BC[..., None]
        return scores.masked_fill(is_later_BCT[:, None], -torch.inf).softmax(-1)
    mask_BHCT = mask.expand(batch, -1, -1, -1)[item_B1, :, at_BC].transpose(1, 2)[..., :length]
    if mask.dtype == torch.bool:
        return scores.masked_fill(~mask_BHCT, torch.finfo(scores.dtype).min).softmax(-1)
    return (scores + mask_BHCT.float()).softmax(-1)


Attend = Callable[..., tuple[Tensor, Any]]  # (module, query, key, value, mask, **options) -> ((B, S, H, E), weights)


@contextmanager
def wrapped_attention(vlm: Any, wrap: Callable[[int, Attend], Attend]) -> Iterator[None]:
    """Within the context `wrap(layer, attend)` takes the place of the attention function of each LLM layer of the VLM.

    The functions are wrapped where transformers looks them up, so that no setting of the model changes: it keeps its
    own eager function (with the caps of some models) and its own masks. Not thread-safe. Raises InputError for a layer
    whose attention does not go through the `AttentionInterface` of transformers.
    """
    layers = vlm.get_decoder().layers
    layer_of = {module: i for i, layer in enumerate(layers) for module in layer.modules()}
    look_up = ALL_ATTENTION_FUNCTIONS.get_interface
    called: set[int] = set()

    def get_interface(name: str, default: Attend) -> Attend:
        attend = look_up(name, default)

        def attend_in_layer(module: Any, *inputs: Any, **options: Any) -> tuple[Tensor, Any]:
            if module not in layer_of:
                return attend(module, *inputs, **options)
            called.add(layer_of[module])
            return wrap(layer_of[module], attend)(module, *inputs, **options)

        return attend_in_layer

    vars(ALL_ATTENTION_FUNCTIONS)["get_interface"] = get_interface  # shadows the method of its class
    try:
        yield
    finally:
        del vars(ALL_ATTENTION_FUNCTIONS)["get_interface"]
    missing = [i for i in range(len(layers)) if i not in called]
    if missing:
        raise InputError(f"model: the attention of layer {missing[0]} cannot be recorded: it has a function of its own")


@contextmanager
def recording(vlm: Any, sums: AttentionSums) -> Iterator[None]:
    """Within the context, `sums` records the attention of each LLM layer of the VLM; the model computes as usual.
    Raises InputError as `wrapped_attention` does."""

    def add_first(layer: int, attend: Attend) -> Attend:
        def attend_and_add(
            module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **options: Any
        ) -> tuple[Tensor, Any]:
            sums.add(layer, query, key, attention_mask, **options)
            return attend(module, query, key, value, attention_mask, **options)

        return attend_and_add

    with wrapped_attention(vlm, add_first):
        yield


MEASURES = {
    "query_to_image": "mean over query rows of the attention to all image keys",
    "query_to_query": "mean over query rows, to the query itself",
    "query_to_first": "mean over query rows, to the first token of the sequence, an attention sink",
    "query_to_other": "mean over query rows, to chat template, instruction and answer format",
    "response_to_image": "mean over response rows, to all image keys",
    "response_to_query": "mean over response rows, to all query keys",
    "response_to_response": "mean over response rows, to the response itself",
    "response_to_first": "mean over response rows, to the first token of the sequence",
    "response_to_other": "mean over response rows, to chat template, instruction and answer format",
    "query_to_image_sum": "query_to_image, summed over query rows",
    "response_to_image_sum": "response_to_image, summed over response rows",
    "response_to_query_sum": "response_to_query, summed over response rows",
    "response_to_query_per_token": "response_to_query divided by the number of query keys",
    "query_to_image_over_uniform": "query_to_image divided by the value for uniform attention",
    "query_to_image_of_context": "query_to_image divided by the attention to all keys but the query and the first",
}
BY_HEAD = ("query_to_image", "response_to_image", "response_to_query")


@dataclass(frozen=True)
class ModalityAttention:
    """One item in one modality. `share_LHGK` is the attention to each of `KEYS`, mean over the rows of each of `ROWS`;
    the shares of a row sum to 1. `uniform` is query_to_image for uniform attention over all keys before each row;
    sliding windows are not taken into account. `maps` holds for each of the map layers the attention to each image
    token, mean over query rows and heads; `word_maps_LWI` that of the rows of each word, where words were given."""

    share_LHGK: Tensor  # noqa: N815
    query_tokens: int
    response_rows: int
    image_tokens: int
    uniform: float
    maps: dict[int, list[float]]
    outcome: Outcome
    word_maps_LWI: Tensor | None = None  # noqa: N815

    def by_layer(self) -> dict[str, list[float]]:
        """Each of `MEASURES` by layer, mean over heads."""
        share_LGK = self.share_LHGK.mean(1)
        by_name = {f"{row}_to_{key}": share_LGK[:, g, k] for g, row in enumerate(ROWS) for k, key in enumerate(KEYS)}
        by_name["query_to_image_sum"] = by_name["query_to_image"] * self.query_tokens
        for key in ("image", "query"):
            by_name[f"response_to_{key}_sum"] = by_name[f"response_to_{key}"] * self.response_rows
        by_name["response_to_query_per_token"] = by_name["response_to_query"] / self.query_tokens
        by_name["query_to_image_over_uniform"] = by_name["query_to_image"] / max(self.uniform, 1e-12)
        context_L = by_name["query_to_image"] + by_name["query_to_other"]
        by_name["query_to_image_of_context"] = by_name["query_to_image"] / context_L.clamp(min=1e-12)
        return {name: by_name[name].tolist() for name in MEASURES}

    def by_head(self) -> dict[str, Tensor]:
        """Each of `BY_HEAD` (L, H)."""
        pairs = ((name, *name.split("_to_")) for name in BY_HEAD)
        return {name: self.share_LHGK[:, :, ROWS.index(row), KEYS.index(key)] for name, row, key in pairs}


@torch.no_grad()
def attention_of_batch(
    model: OmniModel,
    batch: Mapping[str, Any],
    questions: list[slice],
    map_layers: Sequence[int] = (),
    word_rows: Callable[[Modality, Continuation], Tensor] | None = None,
) -> dict[Modality, list[ModalityAttention]]:
    """Both modalities of a batch of `PairedCollator`; `questions` are the slices of the questions in `text_ids`,
    `word_rows` gives the rows of each word (B, S, W) of a modality."""
    prefix = encode_shared_prefix(model, batch)
    attention: dict[Modality, list[ModalityAttention]] = {}
    for modality in MODALITIES:
        continuation = modality_of(model, batch, modality, questions)
        words_BSW = None if word_rows is None else word_rows(modality, continuation).to(model.device)
        sums = AttentionSums(continuation.positions, tuple(map_layers), words_BSW)
        with recording(model.vlm, sums):
            hidden_BSD = forward_modality(model, prefix, modality, continuation)
        rows_ND = hidden_BSD[continuation.positions.response_BS]
        attention[modality] = _attention_by_item(sums, response_outcomes(model, rows_ND, batch["labels"]))
    return attention


def _attention_by_item(sums: AttentionSums, outcomes: Sequence[Outcome]) -> list[ModalityAttention]:
    query_BS, response_BS, keys_BT = sums.positions
    summed_BLHGK = sums.stacked().cpu()
    rows_BG = torch.stack([query_BS.sum(-1), response_BS.sum(-1)], dim=-1).cpu()
    share_BLHGK = summed_BLHGK / rows_BG[:, None, None, :, None].clamp(min=1)
    is_image_BT = keys_BT == KEYS.index("image")
    allowed_BS = (keys_BT >= 0).cumsum(-1)[:, -query_BS.shape[1] :]
    uniform_BS = is_image_BT.sum(-1, keepdim=True) / allowed_BS
    uniform_B = (uniform_BS * query_BS).sum(-1) / query_BS.sum(-1).clamp(min=1)
    return [
        ModalityAttention(
            share,
            query_tokens=int(rows[0]),
            response_rows=int(rows[1]),
            image_tokens=int(is_image_BT[i].sum()),
            uniform=float(uniform_B[i]),
            maps={layer: (m[i, is_image_BT[i]] / rows[0].to(m)).tolist() for layer, m in sums.maps.items()},
            outcome=outcomes[i],
            word_maps_LWI=sums.words_of(i, is_image_BT[i]),
        )
        for i, (share, rows) in enumerate(zip(share_BLHGK, rows_BG, strict=True))
    ]


def image_map(model: OmniModel, item: PairedItem, attention: ModalityAttention, layer: int) -> list[list[float]]:
    """Mean attention of query rows to each image token, in the grid of the tokens on the image (rows from the top,
    columns from the left). Raises InputError where a layer has no map, or the tokens are not one grid."""
    if layer not in attention.maps:
        raise InputError(f"map_layers: {layer}: was not recorded")
    height, width = image_grid(model, item, attention.image_tokens)
    values = attention.maps[layer]
    return [values[row * width : (row + 1) * width] for row in range(height)]


def image_grid(model: OmniModel, item: PairedItem, tokens: int) -> tuple[int, int]:
    """(height, width) in tokens of an image of one tile; raises InputError for several tiles, and for a model with
    an unknown token layout."""
    inputs = item.image_inputs
    if "image_grid_thw" in inputs:
        merged = model.config.vlm_config.vision_config.spatial_merge_size
        _, height, width = (inputs["image_grid_thw"][0]).tolist()
        return height // merged, width // merged
    pixels, side = inputs.get("pixel_values"), math.isqrt(tokens)
    # (..., channels, height, width): a single image is a square of tokens
    if pixels is None or pixels.ndim < 4 or math.prod(pixels.shape[:-3]) != 1 or side * side != tokens or not tokens:
        raise InputError(f"example {item.id}: its {tokens} image tokens are not one grid; give the image as one tile")
    return side, side
