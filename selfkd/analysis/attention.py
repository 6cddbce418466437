"""How much question and response look at the image, in writing and in speech: the paper's attention analysis.

For each layer, in both views of the same items with the same teacher-forced response, the share of attention that goes
from query rows to image keys, from response rows to image keys and from response rows to query keys. The paper says
that a spoken question looks less at the image in the middle and late layers; it does not define its measure (mean or
sum over query tokens), so both are here, and what uniform attention would give stands beside them: the later a row
stands, the more keys share its attention, and a spoken question has several times more tokens.

Legend: B items, H heads, S rows after the prefix, T keys, G groups of rows, K groups of keys, L layers.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from selfkd.analysis.attention_rows import ROWS, AttentionSums, recording
from selfkd.analysis.views import KEYS, read_shared_prefix, read_view, view_of
from selfkd.data.views import VIEWS, PairedItem, View
from selfkd.errors import InputError
from selfkd.model.omni import OmniModel

MEASURES = {
    "query_to_image": "mean over query rows of the attention that goes to all image keys",
    "query_to_query": "mean over query rows, to the query itself",
    "query_to_other": "mean over query rows, to template, instruction and format",
    "response_to_image": "mean over response rows, to all image keys",
    "response_to_query": "mean over response rows, to all query keys",
    "response_to_response": "mean over response rows, to the response itself",
    "response_to_other": "mean over response rows, to template, instruction and format",
    "query_to_image_sum": "query_to_image, summed over query rows",
    "response_to_image_sum": "response_to_image, summed over response rows",
    "response_to_query_sum": "response_to_query, summed over response rows",
    "response_to_query_per_token": "response_to_query divided by the number of query keys",
    "query_to_image_over_uniform": "query_to_image divided by what uniform attention would give to image keys",
}
BY_HEAD = ("query_to_image", "response_to_image", "response_to_query")


@dataclass(frozen=True)
class ViewAttention:
    """One item, one view. `share_LHGK` is the mean over the rows of `ROWS` of what goes to each of `KEYS`: those of a
    row sum to 1. `uniform` is what uniform attention over the keys that stand before a row would give from query to
    image; windows that slide are not counted in. `maps` holds for each chosen layer the mean attention of a query row
    to each image token, in the order of the tokens, mean over heads."""

    share_LHGK: Tensor  # noqa: N815
    query_tokens: int
    response_rows: int
    image_tokens: int
    uniform: float
    maps: dict[int, list[float]]

    def of_layers(self) -> dict[str, list[float]]:
        """Each of `MEASURES` by layer, mean over heads."""
        share_LGK = self.share_LHGK.mean(1)
        by_name = {f"{row}_to_{key}": share_LGK[:, g, k] for g, row in enumerate(ROWS) for k, key in enumerate(KEYS)}
        by_name["query_to_image_sum"] = by_name["query_to_image"] * self.query_tokens
        for key in ("image", "query"):
            by_name[f"response_to_{key}_sum"] = by_name[f"response_to_{key}"] * self.response_rows
        by_name["response_to_query_per_token"] = by_name["response_to_query"] / self.query_tokens
        by_name["query_to_image_over_uniform"] = by_name["query_to_image"] / max(self.uniform, 1e-12)
        return {name: by_name[name].tolist() for name in MEASURES}

    def of_heads(self) -> dict[str, Tensor]:
        """Each of `BY_HEAD` (L, H)."""
        pairs = ((name, *name.split("_to_")) for name in BY_HEAD)
        return {name: self.share_LHGK[:, :, ROWS.index(row), KEYS.index(key)] for name, row, key in pairs}


@torch.no_grad()
def attention_of_batch(
    model: OmniModel, batch: Mapping[str, Any], questions: list[slice], map_layers: Sequence[int] = ()
) -> dict[View, list[ViewAttention]]:
    """Both views of a batch of `PairedCollator`; `questions` are the places of the written questions in `text_ids`."""
    prefix = read_shared_prefix(model, batch)
    found: dict[View, list[ViewAttention]] = {}
    for view in VIEWS:
        after = view_of(model, batch, view, questions)
        sums = AttentionSums(after.places, tuple(map_layers))
        with recording(model.vlm, sums):
            read_view(model, prefix, view, after)
        found[view] = _items(sums)
    return found


def _items(sums: AttentionSums) -> list[ViewAttention]:
    query_BS, response_BS, keys_BT = sums.places
    summed_BLHGK = sums.stacked().cpu()
    rows_BG = torch.stack([query_BS.sum(-1), response_BS.sum(-1)], dim=-1).cpu()
    share_BLHGK = summed_BLHGK / rows_BG[:, None, None, :, None].clamp(min=1)
    is_image_BT = keys_BT == KEYS.index("image")
    allowed_BS = (keys_BT >= 0).cumsum(-1)[:, -query_BS.shape[1] :]
    uniform_BS = is_image_BT.sum(-1, keepdim=True) / allowed_BS
    uniform_B = (uniform_BS * query_BS).sum(-1) / query_BS.sum(-1).clamp(min=1)
    return [
        ViewAttention(
            share,
            query_tokens=int(rows[0]),
            response_rows=int(rows[1]),
            image_tokens=int(is_image_BT[i].sum()),
            uniform=float(uniform_B[i]),
            maps={layer: (m[i, is_image_BT[i]] / rows[0].to(m)).tolist() for layer, m in sums.maps.items()},
        )
        for i, (share, rows) in enumerate(zip(share_BLHGK, rows_BG, strict=True))
    ]


def image_map(model: OmniModel, item: PairedItem, attention: ViewAttention, layer: int) -> list[list[float]]:
    """What a query row gives to each image token on average, as the grid (rows from the top, columns from the left)
    that the tokens make on the picture. Raises InputError where a layer has no map, or the tokens are not one grid."""
    if layer not in attention.maps:
        raise InputError(f"map_layers: {layer}: was not recorded")
    height, width = image_grid(model, item, attention.image_tokens)
    values = attention.maps[layer]
    return [values[row * width : (row + 1) * width] for row in range(height)]


def image_grid(model: OmniModel, item: PairedItem, tokens: int) -> tuple[int, int]:
    """(height, width) in tokens of a picture that is one tile; raises InputError for several, and where a model does
    not say how its tokens lie."""
    inputs = item.image_inputs
    if "image_grid_thw" in inputs:
        merged = model.config.vlm_config.vision_config.spatial_merge_size
        _, height, width = (inputs["image_grid_thw"][0]).tolist()
        return height // merged, width // merged
    pixels, side = inputs.get("pixel_values"), math.isqrt(tokens)
    # pictures as (..., colours, height, width): one alone is a square of tokens
    if pixels is None or pixels.ndim < 4 or math.prod(pixels.shape[:-3]) != 1 or side * side != tokens or not tokens:
        raise InputError(f"example {item.id}: its {tokens} image tokens are not one grid; give the picture as one tile")
    return side, side
