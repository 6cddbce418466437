# SPDX-License-Identifier: Apache-2.0
"""Rows of token ids in which each placeholder of a clip becomes as many tokens as the clip has audio embeddings.

The VLM runs on token ids as it always does, so its image tokens, its position ids (M-RoPE) and its masks are its own
code. An ordinary token stands in for each audio embedding; where the VLM embeds its ids, the audio embeddings take the
place of the stand-ins.

Legend: B rows, T tokens, C clips, N audio embeddings of all clips, S tokens of one pass, D width.
"""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .input_error import InputError
from .lora import AdapterMask, masked_adapters

IGNORED = -100  # label of a token without a loss


@dataclass(frozen=True)
class WideRows:
    """`tokens` are tensors (B, T) by name: input_ids, attention_mask, and labels or token types where they were given.
    `audio_BT` is the number of the audio embedding at each position, -1 where there is none."""

    tokens: dict[str, Tensor]
    audio_BT: Tensor  # noqa: N815

    @property
    def width(self) -> int:
        return self.audio_BT.shape[1]


def widen(
    tokens: Mapping[str, Tensor], clips_BT: Tensor, lengths_C: Tensor, stand_in: int, pad_left: bool | None = None
) -> WideRows:
    """Rows in which the c-th position of `clips_BT`, row after row, is repeated `lengths_C[c]` times, with `stand_in`
    as its id. They are padded on the left with `pad_left`, or, without it, on the side on which the rows are."""
    if pad_left is None:
        pad_left = bool((tokens["attention_mask"][:, 0] == 0).any())
    widths_BT = torch.ones_like(clips_BT, dtype=torch.long)
    widths_BT[clips_BT] = lengths_C.to(widths_BT)
    width = int(widths_BT.sum(-1).max())
    fills = {"input_ids": stand_in, "labels": IGNORED}

    def widened(values_BT: Tensor, fill: int) -> Tensor:
        rows = [values.repeat_interleave(widths) for values, widths in zip(values_BT, widths_BT, strict=True)]
        missing = [width - len(row) for row in rows]
        pads = [(count, 0) if pad_left else (0, count) for count in missing]
        return torch.stack([F.pad(row, pad, value=fill) for row, pad in zip(rows, pads, strict=True)])

    is_audio_BT = widened(clips_BT.long(), 0).bool()
    wide = {name: widened(values, fills.get(name, 0)) for name, values in tokens.items()}
    wide |= {name: wide[name].masked_fill(is_audio_BT, fill) for name, fill in fills.items() if name in wide}
    is_used_T = wide["attention_mask"].any(0).long()  # the longest row may have had the most padding
    end = len(is_used_T) - 1
    kept = slice(int(is_used_T.argmax()), None) if pad_left else slice(end - int(is_used_T.flip(0).argmax()) + 1)
    numbers = is_audio_BT.flatten().cumsum(0).view_as(is_audio_BT) - 1
    return WideRows({n: v[:, kept] for n, v in wide.items()}, torch.where(is_audio_BT, numbers, -1)[:, kept])


def moved_left(tokens: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same rows with their padding on the left; `tokens` are tensors (B, T) by name."""
    columns_BT = (tokens["attention_mask"] != 0).int().argsort(dim=1, stable=True)
    return {name: values.gather(1, columns_BT) for name, values in tokens.items()}


def is_padded_right(mask_BT: Tensor) -> bool:
    """Whether a row ends in padding, so that it cannot be continued as it is."""
    return bool((mask_BT[:, -1] == 0).any())


@contextmanager
def audio_in(
    vlm: nn.Module, audio_BT: Tensor | None, vectors_ND: Tensor | None, adapted_BT: Tensor | None, first: int = 0
) -> Iterator[None]:
    """Within the context each pass of `vlm` over the rows, or a part of their columns, has the audio embeddings of
    `audio_BT` in place of its own, and its adapters are active where `adapted_BT` is true: beyond the rows' end as in
    their last column. Rows may be repeated (beams); the columns of a pass come after those that its cache holds, and
    column 0 of the rows comes after `first` of them."""
    at = _Pass(audio_BT, adapted_BT, first)

    def before(_module: nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
        at.move_to(kwargs["input_ids"], kwargs.get("past_key_values"))

    def replaced(_module: nn.Module, args: tuple[Tensor, ...], output_BSD: Tensor) -> Tensor | None:
        if at.audio_BS is None or vectors_ND is None or args[0].shape != at.audio_BS.shape:
            return None
        is_audio_BS = at.audio_BS >= 0
        vectors = vectors_ND[at.audio_BS[is_audio_BS]].to(output_BSD.dtype)
        return output_BSD.masked_scatter(is_audio_BS[..., None], vectors)

    with ExitStack() as stack:
        stack.enter_context(_removed(vlm.register_forward_pre_hook(before, with_kwargs=True)))
        if audio_BT is not None:
            embed = vlm.get_input_embeddings()  # type: ignore[operator]  # of a model of transformers
            stack.enter_context(_removed(embed.register_forward_hook(replaced)))
        if adapted_BT is not None:
            stack.enter_context(masked_adapters(vlm, at.adapters))
        yield


@contextmanager
def _removed(handle: Any) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()


class _Pass:
    """The columns of the rows that the current pass runs over."""

    def __init__(self, audio_BT: Tensor | None, adapted_BT: Tensor | None, first: int):
        self._audio_BT, self._adapted_BT, self._first = audio_BT, adapted_BT, first
        self.audio_BS: Tensor | None = None
        self.adapters = AdapterMask()

    def move_to(self, ids_BS: Tensor, cache: Any) -> None:
        rows = next(rows for rows in (self._audio_BT, self._adapted_BT) if rows is not None)
        repeats = len(ids_BS) // len(rows)
        width, count = rows.shape[1], ids_BS.shape[1]
        start = width  # of a token that follows the rows, without a call that a compiler could not trace
        if count > 1 or width == 1:
            start = 0 if cache is None else int(cache.get_seq_length()) - self._first
        columns = slice(min(start, width), min(start + count, width))
        beyond = count - (columns.stop - columns.start)
        self.audio_BS = None
        if self._audio_BT is not None and beyond < count:
            part = F.pad(self._audio_BT[:, columns], (0, beyond), value=-1)
            self.audio_BS = part.repeat_interleave(repeats, 0) if repeats > 1 else part
        if self._adapted_BT is not None:
            part = torch.cat([self._adapted_BT[:, columns], self._adapted_BT[:, -1:].expand(-1, beyond)], dim=1)
            self.adapters.rows = part.repeat_interleave(repeats, 0) if repeats > 1 else part


def adapted_positions(clip_BT: Tensor) -> Tensor:
    """Positions (B, T) from the first of `clip_BT` on in each row: where adapters for audio queries are active. The
    last column holds for what follows the row."""
    return clip_BT.long().cumsum(-1) > 0


def check_clips(placeholders: int, clips: int, token_id: int) -> None:
    """Raises InputError where the numbers of placeholders and clips differ."""
    if placeholders != clips:
        raise InputError(
            f"input_features: {clips} clips for {placeholders} placeholders (token {token_id}) in input_ids; each "
            "placeholder stands for one clip"
        )


def check_context(length: int, context: int) -> None:
    """Raises InputError for rows longer than the LLM's context, audio embeddings counted as tokens."""
    if length > context:
        raise InputError(
            f"input_ids: {length} tokens, audio embeddings included, exceed the model's context of {context}"
        )
