"""Means over items with 95% intervals, by figure and by layer (`evaluation/uncertainty.py` makes them).

Groups of items are drawn (those of a picture, see `evaluation/grading.py`), not rows or layers: what belongs together
stays together, and a difference of the same items (of two views, of two models) is that of pairs.

Legend: n items, M figures of an item, L layers.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfkd.evaluation.resampling import Groups
from selfkd.evaluation.uncertainty import Bounds, mean_intervals


def intervals(
    values: NDArray[np.float64], seed: int, groups: Groups = None, bounds: Sequence[Bounds | None] = (None,)
) -> dict[str, Any]:
    """{"n", "groups", "mean", "low", "high"} of items (n, M) or (n,): the interval of the mean, by figure; None for the
    ends of one of which nothing is known. `bounds` are those of each figure, or one for all."""
    low, high = mean_intervals(values, groups, bounds, seed)
    figures = {"mean": values.mean(0), "low": low, "high": high}
    count = len(values if groups is None else set(groups))
    shaped = {name: np.reshape(figure, values.shape[1:]) for name, figure in figures.items()}
    return {"n": len(values), "groups": count, **{name: _known(figure) for name, figure in shaped.items()}}


def _known(figures: NDArray[np.float64]) -> Any:
    """As lists, None for NaN."""
    known = np.array(figures, dtype=object)  # of a single figure too
    known[np.isnan(figures)] = None
    return known.tolist()


def layer_intervals(values: Mapping[str, NDArray[np.float64]], seed: int, groups: Groups = None) -> dict[str, Any]:
    """Of items (n, L) by measure: the means by layer, and those over the early, middle and late third of the layers.

    All of them with the same resamples, drawn once."""
    columns = []
    for items_nL in values.values():
        thirds = thirds_of(items_nL.shape[1])
        columns.append(
            np.concatenate([items_nL, *(items_nL[:, at].mean(1, keepdims=True) for at in thirds.values())], 1)
        )
    found = intervals(np.concatenate(columns, 1), seed, groups)
    result, start = {}, 0
    for name, items_nL in values.items():
        layers, thirds = items_nL.shape[1], thirds_of(items_nL.shape[1])
        by_third = {third: _some(found, start + layers + i) for i, third in enumerate(thirds)}
        result[name] = {"layers": _some(found, slice(start, start + layers)), "thirds": by_third}
        start += layers + len(thirds)
    return result


def _some(found: Mapping[str, Any], at: int | slice) -> dict[str, Any]:
    counts = {name: found[name] for name in ("n", "groups")}
    return counts | {figure: found[figure][at] for figure in ("mean", "low", "high")}


def thirds_of(layers: int) -> dict[str, list[int]]:
    """Layers by depth; where fewer than three, some thirds are not there."""
    parts = np.array_split(np.arange(layers), 3)
    return {name: p.tolist() for name, p in zip(("early", "middle", "late"), parts, strict=True) if len(p)}


def pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """(earlier, later) of each two models, in the order in which they were given."""
    return [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
