"""Uncertainty of means over items that come in groups: several questions about a picture, copies of a question.

Groups are what was drawn from the world, so groups are drawn again: items of one are right and wrong together, and an
interval over items as if each were drawn alone is too narrow. With one item a group both are the plain form.

Legend: R resamples, G groups, n items, M figures of an item.
"""

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 10_000
LEVEL = 0.95
_CHUNK_NUMBERS = 2_000_000  # counts that are there at a time: a large benchmark's resamples would fill the memory

Groups = Sequence[Hashable] | None  # the group of each item; None where each stands for itself
Seed = int | Sequence[int]


def resampled_means(values: ArrayLike, seed: Seed, groups: Groups = None, resamples: int = RESAMPLES) -> NDArray:
    """Means (R, M) over items (n, M) or (n,), of as many groups as there are, drawn with replacement.

    What belongs to one item stays together, so that a difference of means is that of pairs. A mean is the sum over the
    items of the drawn groups divided by their number: groups need not be of one size.
    """
    sums_GM, sizes_G = group_sums(flat(values), groups)
    count_G, means = len(sizes_G), []
    rng, chunk = np.random.default_rng(seed), max(1, _CHUNK_NUMBERS // len(sizes_G))
    for start in range(0, resamples, chunk):
        count = min(chunk, resamples - start)
        picks_RG = rng.integers(0, count_G, (count, count_G)) + count_G * np.arange(count)[:, None]
        times_RG = np.bincount(picks_RG.ravel(), minlength=count * count_G).reshape(count, count_G)
        means.append((times_RG @ sums_GM) / (times_RG @ sizes_G)[:, None])
    return np.concatenate(means)


def resampled_means_of_each(values: Sequence[ArrayLike], seed: int, groups: Sequence[Groups]) -> NDArray:
    """(B, R, M): the resampled means of B benchmarks, which are drawn independently; one alone as by its own seed."""
    return np.stack(
        [
            resampled_means(of, (seed, place) if place else seed, its)
            for place, (of, its) in enumerate(zip(values, groups, strict=True))
        ]
    )


def percentile_interval(means_RM: NDArray) -> NDArray:
    """(2, M): between the percentiles that hold LEVEL of the resamples; (2,) of (R,)."""
    return np.percentile(means_RM, [50 - 50 * LEVEL, 50 + 50 * LEVEL], axis=0)


def clustered_stderr(values: ArrayLike, groups: Groups = None) -> float | None:
    """The standard error of the mean of items (n,), which within a group may go together; None for a single group,
    and where no group differs from another: that they do not in a sample is no knowledge that they never do.

    se^2 = s^2 / n + (sum over groups of sum over i != j of (x_i - m)(x_j - m)) / n^2, with s^2 the variance of the
    items (Miller 2024, "Adding error bars to evals", arXiv 2411.00640, section 2.2).
    """
    items_n1 = flat(values)
    off_n1 = items_n1 - items_n1.mean()
    n, squares = len(off_n1), float((off_n1**2).sum())
    sums_G1, _ = group_sums(off_n1, groups)
    if len(sums_G1) < 2:
        return None
    together = float((sums_G1**2).sum()) - squares
    variance = squares / (n - 1) / n + together / n**2
    return float(np.sqrt(variance)) if variance > 1e-18 * float((items_n1**2).max()) else None


def flat(values: ArrayLike) -> NDArray[np.float64]:
    """(n, M) of items (n, M) or (n,); raises ValueError where there are none."""
    items = np.asarray(values, dtype=np.float64)
    if not len(items):
        raise ValueError("no items to take a mean of")
    return items.reshape(len(items), -1)


def group_sums(values_nM: NDArray[np.float64], groups: Groups) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Sums (G, M) and sizes (G,), groups in the order in which they come first."""
    if groups is None:
        return values_nM, np.ones(len(values_nM), dtype=np.int64)
    number: dict[Hashable, int] = {}
    at_n = np.array([number.setdefault(group, len(number)) for group in groups])
    sums_GM = np.zeros((len(number), values_nM.shape[1]))
    np.add.at(sums_GM, at_n, values_nM)
    return sums_GM, np.bincount(at_n)
