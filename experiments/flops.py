"""Counts FLOPs of attention where keys have fewer heads than queries, which torch's own counter refuses on a GPU."""

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

Shape = tuple[int, ...]
_IMPLEMENTATIONS = ("flash", "efficient", "cudnn")


def attention_flops(query_BHSE: Shape, key_BKTE: Shape, value_BKTV: Shape, *_: Any, **__: Any) -> int:
    """FLOPs of softmax(query key) value, all T keys for each of S queries, as torch counts them."""
    *rows, width = query_BHSE
    return 2 * prod(rows) * key_BKTE[-2] * (width + value_BKTV[-1])


def attention_backward_flops(_: Shape, query_BHSE: Shape, key_BKTE: Shape, value_BKTV: Shape, *__: Any, **___: Any):
    """Recomputed scores, and the gradients of scores, queries, keys and values, as torch counts them."""
    *rows, width = query_BHSE
    return 2 * prod(rows) * key_BKTE[-2] * (3 * width + 2 * value_BKTV[-1])


def flop_counter() -> FlopCounterMode:
    ours: dict[Any, Callable[..., int]] = {}
    for implementation in _IMPLEMENTATIONS:
        for name, count in (("", attention_flops), ("_backward", attention_backward_flops)):
            ours[getattr(torch.ops.aten, f"_scaled_dot_product_{implementation}_attention{name}")] = count
    return FlopCounterMode(display=False, custom_mapping=ours)
