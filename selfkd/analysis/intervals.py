"""Means over items with 95% intervals of a seeded bootstrap over items.

Items are drawn, not rows or layers: what belongs to one item stays together, and a difference of the same items (of two
views, of two models) is that of pairs.

Legend: R resamples, n items, M figures of an item.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfkd.evaluation.statistics import RESAMPLES

LEVEL = 0.95
_CHUNK_NUMBERS = 2_000_000  # counts that are there at a time


def intervals(values: NDArray[np.float64], seed: int, resamples: int = RESAMPLES) -> dict[str, Any]:
    """{"n", "mean", "low", "high"} of items (n, M) or (n,): the percentile interval of the mean, by figure."""
    n = len(values)
    if not n:
        raise ValueError("no items to take a mean of")
    flat_nM = np.asarray(values, dtype=np.float64).reshape(n, -1)
    rng, means, chunk = np.random.default_rng(seed), [], max(1, _CHUNK_NUMBERS // n)
    for start in range(0, resamples, chunk):
        count = min(chunk, resamples - start)
        picks_Rn = rng.integers(0, n, (count, n)) + n * np.arange(count)[:, None]
        times_Rn = np.bincount(picks_Rn.ravel(), minlength=count * n).reshape(count, n)
        means.append(times_Rn @ flat_nM / n)
    low, high = np.percentile(np.concatenate(means), [50 - 50 * LEVEL, 50 + 50 * LEVEL], axis=0)
    shape = np.shape(values)[1:]
    figures = {"mean": flat_nM.mean(0), "low": low, "high": high}
    return {"n": n, **{name: figure.reshape(shape).tolist() for name, figure in figures.items()}}


def layer_intervals(values: Mapping[str, NDArray[np.float64]], seed: int) -> dict[str, Any]:
    """Of items (n, L) by measure: the means by layer, and those over the early, middle and late third of the layers.

    All of them with the same resamples, drawn once."""
    columns = []
    for items_nL in values.values():
        thirds = thirds_of(items_nL.shape[1])
        columns.append(
            np.concatenate([items_nL, *(items_nL[:, at].mean(1, keepdims=True) for at in thirds.values())], 1)
        )
    found = intervals(np.concatenate(columns, 1), seed)
    result, start = {}, 0
    for name, items_nL in values.items():
        layers, thirds = items_nL.shape[1], thirds_of(items_nL.shape[1])
        by_third = {third: _some(found, start + layers + i) for i, third in enumerate(thirds)}
        result[name] = {"layers": _some(found, slice(start, start + layers)), "thirds": by_third}
        start += layers + len(thirds)
    return result


def _some(found: Mapping[str, Any], at: int | slice) -> dict[str, Any]:
    return {"n": found["n"], **{figure: found[figure][at] for figure in ("mean", "low", "high")}}


def thirds_of(layers: int) -> dict[str, list[int]]:
    """Layers by depth; where fewer than three, some thirds are not there."""
    parts = np.array_split(np.arange(layers), 3)
    return {name: p.tolist() for name, p in zip(("early", "middle", "late"), parts, strict=True) if len(p)}


def pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """(earlier, later) of each two models, in the order in which they were given."""
    return [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
