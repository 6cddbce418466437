"""What processors give for pictures and sound, joined to a batch.

Their tensors differ from base to base and are passed on by name.
"""

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def shared_by(keys: Sequence[Hashable]) -> tuple[Tensor, list[int]]:
    """(number of each item's group (B,), index of the first item of each group): items with one key share a prefix."""
    first: dict[Hashable, int] = {}
    for i, key in enumerate(keys):
        first.setdefault(key, i)
    number = {key: g for g, key in enumerate(first)}
    return torch.tensor([number[key] for key in keys]), list(first.values())


def join_inputs(items: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Inputs of several pictures or clips as one batch: joined along the first dimension, zeros where others are larger
    (an Idefics-like base takes a tile of zeros for no tile; sound comes with a mask)."""
    with_any = [item for item in items if item]
    return {name: _join([item[name] for item in with_any]) for name in (with_any[0] if with_any else {})}


def _join(tensors: Sequence[Tensor]) -> Tensor:
    sizes = [max(t.shape[d] for t in tensors) for d in range(1, tensors[0].ndim)]
    return torch.cat([_padded(t, sizes) for t in tensors])


def _padded(tensor: Tensor, sizes: Sequence[int]) -> Tensor:
    padding = [p for size, wanted in zip(tensor.shape[:0:-1], sizes[::-1], strict=True) for p in (0, wanted - size)]
    return F.pad(tensor, padding) if any(padding) else tensor
