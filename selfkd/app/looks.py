"""Where on the picture a view looks, and what the model makes of its answer: one reading of prompt and answer gives the
attention of every layer and the hidden states that predict the answer.

Legend: S rows after the prefix, T keys, N answer tokens, D width, L layers, I image tokens, Y x X their grid.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from selfkd.analysis.attention import image_grid
from selfkd.analysis.attention_rows import ROWS, AttentionSums, recording
from selfkd.analysis.views import KEYS, Places, read_shared_prefix, read_view, view_of
from selfkd.data.views import PairedCollator, PairedItem, View
from selfkd.errors import InputError
from selfkd.model.omni import OmniModel
from selfkd.model.processor import OmniProcessor


@dataclass(frozen=True)
class Looks:
    """`by_rows["query"]` is the attention of a question token to each place of the picture, `by_rows["response"]` that
    of the rows that predict the answer: means over rows and heads, each (L, Y, X)."""

    by_rows: dict[str, Tensor]

    @property
    def layers(self) -> int:
        return len(self.by_rows["query"])


class _BothRows(AttentionSums):
    """Maps of the response's rows beside those of the question's."""

    def __init__(self, places: Places, layers: tuple[int, ...]):
        super().__init__(places, layers)
        swapped = places._replace(query_BS=places.response_BS, response_BS=places.query_BS)
        self.of_response = AttentionSums(swapped, layers)

    def add(self, layer: int, query_BHSE: Tensor, key_BHTE: Tensor, mask: Tensor | None, **how: Any) -> None:
        super().add(layer, query_BHSE, key_BHTE, mask, **how)
        self.of_response.add(layer, query_BHSE, key_BHTE, mask, **how)

    def of_image(self, rows: str) -> Tensor:
        """(L, I), mean over the rows; of the one item that there is."""
        places = self.places
        is_image_T = places.keys_BT[0] == KEYS.index("image")
        sums = self if rows == "query" else self.of_response
        count = (places.query_BS if rows == "query" else places.response_BS).sum()
        return torch.stack([sums.maps[layer][0, is_image_T] for layer in sorted(sums.maps)]).cpu() / count.cpu()


@torch.no_grad()
def read_answer(
    model: OmniModel, processor: OmniProcessor, item: PairedItem, view: View, question: slice
) -> tuple[Tensor, Looks | str]:
    """Hidden states (N, D) that predict each token of `item.response_ids`, and where the view looked, or why that
    cannot be drawn; `question` is the place of a written question in the item's ids."""
    batch = {name: _moved(value, model.device) for name, value in PairedCollator(processor)([item]).items()}
    prefix, after = read_shared_prefix(model, batch), view_of(model, batch, view, [question])
    sums = _BothRows(after.places, tuple(range(len(model.vlm.get_decoder().layers))))
    try:
        with recording(model.vlm, sums):
            hidden_BSD = read_view(model, prefix, view, after)
    except InputError as error:  # attention of a kind that cannot be followed
        hidden_BSD, seen = read_view(model, prefix, view, after), str(error).removeprefix("model: ")
        return hidden_BSD[after.places.response_BS], seen
    return hidden_BSD[after.places.response_BS], _looks(model, item, sums)


def _looks(model: OmniModel, item: PairedItem, sums: _BothRows) -> Looks | str:
    if not bool(sums.places.query_BS.any()):
        return "the question gave the model no token"
    maps = {rows: sums.of_image(rows) for rows in ROWS}
    tokens = maps["query"].shape[1]
    try:
        height, width = image_grid(model, item, tokens)
    except InputError:
        return (
            f"its {tokens} image tokens make no one grid (the model cuts it into tiles, or does not say how they lie)"
        )
    return Looks({rows: maps_LI.view(-1, height, width) for rows, maps_LI in maps.items()})


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, dict):
        return {name: _moved(v, device) for name, v in value.items()}
    return value.to(device) if isinstance(value, Tensor) else value
