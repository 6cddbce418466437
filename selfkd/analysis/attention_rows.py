"""The attention of chosen rows, summed over groups of keys while the model runs as it is.

The attention function of each layer of the LLM is called as ever, eager or SDPA. Beside it the softmax of the wanted
rows alone is made again from the very queries, keys, mask, scaling and cap that the function was given, a chunk of rows
at a time, and reduced at once. What exists at a time is (B, H, CHUNK_ROWS, T), never (B, H, T, T).

Legend: B items, H heads, S rows after the prefix, C rows of a chunk, T keys, E width of a head, G groups of rows,
K groups of keys, L layers.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from selfkd.analysis.views import KEYS, Places
from selfkd.errors import InputError

CHUNK_ROWS = 16
ROWS = ("query", "response")


@dataclass
class AttentionSums:
    """What the rows of a view give to each group of keys.

    `sums[layer]` (B, H, G, K) is summed over the rows of each of `ROWS`, fp32; `maps[layer]` (B, T), for the layers in
    `map_layers` alone, is what the query rows give to each key, summed over rows, mean over heads.
    """

    places: Places
    map_layers: tuple[int, ...] = ()
    sums: dict[int, Tensor] = field(default_factory=dict)
    maps: dict[int, Tensor] = field(default_factory=dict)

    @torch.no_grad()
    def add(self, layer: int, query_BHSE: Tensor, key_BHTE: Tensor, mask: Tensor | None, **how: Any) -> None:
        """Takes what the layer's attention function was given; of `how` it reads `scaling` and `softcap`.

        `mask` (B or 1, H or 1, S, T or more) is added to the scores, or says with True which keys a row may see; None
        is plain causal attention."""
        if mask is not None and mask.ndim != 4:
            raise InputError("model: its attention takes a mask by length; load it with sdpa or eager attention")
        places = self.places
        rows_BSG = torch.stack([places.query_BS, places.response_BS], dim=-1)
        keys_BTK = F.one_hot(places.keys_BT.clamp(min=0), len(KEYS)) * (places.keys_BT >= 0)[..., None]
        keys_BTK = keys_BTK.float()
        wanted = [row.nonzero().flatten() for row in rows_BSG.any(-1)]
        at_BQ = pad_sequence(wanted, batch_first=True)
        is_there_BQ = pad_sequence([torch.ones_like(w) for w in wanted], batch_first=True)
        item_B1 = torch.arange(len(at_BQ), device=at_BQ.device)[:, None]
        weight_BQG = (rows_BSG[item_B1, at_BQ] & is_there_BQ[..., None].bool()).float()

        sums_BHGK: Tensor | float = 0.0
        map_BT: Tensor | float = 0.0
        for start in range(0, at_BQ.shape[1], CHUNK_ROWS):
            at_BC, weight_BCG = at_BQ[:, start : start + CHUNK_ROWS], weight_BQG[:, start : start + CHUNK_ROWS]
            share_BHCT = attention_rows(query_BHSE, key_BHTE, mask, at_BC, **how)
            sums_BHGK = sums_BHGK + torch.einsum("bhck,bcg->bhgk", share_BHCT @ keys_BTK[:, None], weight_BCG)
            if layer in self.map_layers:
                by_row_BCT = share_BHCT.mean(1)
                map_BT = map_BT + torch.einsum("bct,bc->bt", by_row_BCT, weight_BCG[..., ROWS.index("query")])
        assert isinstance(sums_BHGK, Tensor), "no row is wanted"
        self.sums[layer] = sums_BHGK
        if isinstance(map_BT, Tensor):
            self.maps[layer] = map_BT

    def stacked(self) -> Tensor:
        """(B, L, H, G, K) of all layers."""
        return torch.stack([self.sums[layer] for layer in sorted(self.sums)], dim=1)


def attention_rows(
    query_BHSE: Tensor,
    key_BHTE: Tensor,
    mask: Tensor | None,
    at_BC: Tensor,
    scaling: float | None = None,
    softcap: float | None = None,
    **_: Any,
) -> Tensor:
    """softmax(scaling * q k + mask) (B, H, C, T) of the rows `at_BC`, in fp32; scores are capped first where `softcap`
    is there. Keys may have fewer heads than queries, each then serves several."""
    item_B1 = torch.arange(len(at_BC), device=at_BC.device)[:, None]
    rows_BHCE = query_BHSE[item_B1, :, at_BC].transpose(1, 2).float()
    batch, heads, count, width = rows_BHCE.shape
    key_heads, length = key_BHTE.shape[1:3]
    # the rows of all heads that share keys go through one product, so that keys are not repeated
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


@contextmanager
def recording(vlm: Any, sums: AttentionSums) -> Iterator[None]:
    """Within it each layer of the VLM's LLM gives `sums` what its attention is given, and goes on as it would.

    The functions are caught where transformers hands them out, so that no setting of the model changes: it keeps its
    own eager function (with the caps of some models) and its own masks. Not for two threads at once. Raises InputError
    where a layer went by unseen: its attention does not go through transformers' `AttentionInterface`.
    """
    layers = vlm.get_decoder().layers
    layer_of = {module: i for i, layer in enumerate(layers) for module in layer.modules()}
    hand_out = ALL_ATTENTION_FUNCTIONS.get_interface

    def get_interface(name: str, default: Callable[..., Any]) -> Callable[..., Any]:
        attend = hand_out(name, default)

        def attend_and_add(
            module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **how: Any
        ) -> Any:
            if module in layer_of:
                sums.add(layer_of[module], query, key, attention_mask, **how)
            return attend(module, query, key, value, attention_mask, **how)

        return attend_and_add

    vars(ALL_ATTENTION_FUNCTIONS)["get_interface"] = get_interface  # before the method of its class
    try:
        yield
    finally:
        del vars(ALL_ATTENTION_FUNCTIONS)["get_interface"]
    missed = [i for i in range(len(layers)) if i not in sums.sums]
    if missed:
        raise InputError(f"model: the attention of layer {missed[0]} cannot be seen: it has a function of its own")
