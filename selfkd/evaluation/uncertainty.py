"""Confidence intervals, standard errors and p-values: every one of this package.

Items come in groups: several questions about one image, or copies of a question. The items of one group are right or
wrong together, so groups are resampled; a standard error over items would be too small.

The 95% interval of a mean over such items is
- None with fewer than two groups: how groups differ is not known;
- a bootstrap over groups (percentiles), where at least `_MIN_DIFFERING` groups differ from the commonest value;
- else, for bounded values, by Clopper and Pearson: with all right or all wrong, and for two systems that hardly ever
  differ, a bootstrap would exclude every other outcome. The effective number of items follows from their groups (Korn
  and Graubard 1998): it is the number of groups where no group differs from another;
- else by Student's t, and None where all values are equal.

No interval has zero width, and each contains its estimate.

Legend: B benchmarks, R resamples, G groups, n items, M metrics of an item.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import beta, norm, t

RESAMPLES = 10_000
LEVEL = 0.95
_CHUNK_NUMBERS = 2_000_000  # counts in memory at a time: all resamples of a large benchmark would fill it

Groups = Sequence[Hashable] | None  # the group of each item; None where each is its own
Seed = int | Sequence[int]


def resampled_means(values: ArrayLike, seed: Seed, groups: Groups = None, resamples: int = RESAMPLES) -> NDArray:
    """Means (R, M) over items (n, M) or (n,), each over as many groups as there are, sampled with replacement.

    The values of one item stay together, so a difference of means is that of pairs. A mean is the sum over the items of
    the sampled groups divided by their number: groups may differ in size.
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
    """(B, R, M): the resampled means of B benchmarks, sampled independently; the first as if it were the only one."""
    return np.stack(
        [
            resampled_means(items, (seed, at) if at else seed, its)
            for at, (items, its) in enumerate(zip(values, groups, strict=True))
        ]
    )


def percentile_interval(means_RM: NDArray) -> NDArray:
    """(2, M): the percentiles that enclose LEVEL of the resamples; (2,) for (R,)."""
    return np.percentile(means_RM, [50 - 50 * LEVEL, 50 + 50 * LEVEL], axis=0)


def clustered_stderr(values: ArrayLike, groups: Groups = None) -> float | None:
    """The standard error of the mean of items (n,) that may correlate within groups. None for a single group, and where
    no group differs from another: in the population they may.

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


def subset_stderr(values: ArrayLike, groups: Groups, of_groups: int) -> float | None:
    """The standard error of the mean of items (n,) of random whole groups as an estimate of the mean over all
    `of_groups` groups of a finite population: what a fast subset may differ from the whole by. None for a single group,
    and where no group differs from another; 0 for all groups.

    se^2 = (1 - g/G) * g/(g - 1) * sum over groups of (sum of x_i - m)^2 / n^2: the ratio estimator of a mean over
    clusters, sampled without replacement (Cochran 1977, Sampling Techniques, sections 2.6 and 9A.1).
    """
    items_n1 = flat(values)
    sums_G1, _ = group_sums(items_n1 - items_n1.mean(), groups)
    count, n = len(sums_G1), len(items_n1)
    if count >= of_groups:
        return 0.0
    squares = float((sums_G1**2).sum())
    if count < 2 or squares <= 1e-18 * float((items_n1**2).max()):
        return None
    return float(np.sqrt((1 - count / of_groups) * count / (count - 1) * squares)) / n


def flat(values: ArrayLike) -> NDArray[np.float64]:
    """(n, M) for items (n, M) or (n,); raises ValueError without items."""
    items = np.asarray(values, dtype=np.float64)
    if not len(items):
        raise ValueError("no items")
    return items.reshape(len(items), -1)


def group_sums(values_nM: NDArray[np.float64], groups: Groups) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Sums (G, M) and sizes (G,), groups in the order of their first items."""
    if groups is None:
        return values_nM, np.ones(len(values_nM), dtype=np.int64)
    number: dict[Hashable, int] = {}
    at_n = np.array([number.setdefault(group, len(number)) for group in groups])
    sums_GM = np.zeros((len(number), values_nM.shape[1]))
    np.add.at(sums_GM, at_n, values_nM)
    return sums_GM, np.bincount(at_n)


MIN_GROUPS = 10  # for a verdict
Bounds = tuple[float, float]
SCORE: Bounds = (0.0, 1.0)
DIFFERENCE: Bounds = (-1.0, 1.0)  # of two scores
_MIN_DIFFERING = 20
_TAIL = (1 - LEVEL) / 2
_PSEUDO = float(norm.ppf(1 - _TAIL)) ** 2 / 2  # pseudo-groups at each bound, as in Agresti and Coull 1998
_CLEAR = 0.99  # share of the resamples that must have a gap
_MAX_SHARE = 64.0  # an end beyond it counts as infinite


def enough(groups: int) -> bool:
    """Whether this number of groups allows a verdict."""
    return groups >= MIN_GROUPS


def mean_interval(values: ArrayLike, groups: Groups = None, bounds: Bounds | None = None, seed: int = 0) -> list | None:
    """[low, high] of the mean of items (n,); None where there is no interval."""
    return average_interval([values], [groups], bounds, seed)


def average_interval(
    values: Sequence[ArrayLike], groups: Sequence[Groups], bounds: Bounds | None = None, seed: int = 0
) -> list[float] | None:
    """[low, high] of the mean of B benchmarks' means over items (n,); None where one has no interval. Where one of them
    cannot be resampled, the intervals' half-widths are added in squares (Zou and Donner 2008)."""
    items = [flat(of) for of in values]
    if all(_differing(*group_sums(of, its))[0] >= _MIN_DIFFERING for of, its in zip(items, groups, strict=True)):
        means = resampled_means_of_each(items, seed, groups).mean(0)
        low, high = percentile_interval(means)[:, 0]
        return _around(low, high, float(np.mean([of.mean() for of in items])))
    found = [mean_intervals(of, its, [bounds], seed) for of, its in zip(items, groups, strict=True)]
    return _added([of.mean() for of in items], [(of[0, 0], of[1, 0]) for of in found])


def mean_intervals(
    values: ArrayLike, groups: Groups = None, bounds: Sequence[Bounds | None] = (None,), seed: int = 0
) -> NDArray[np.float64]:
    """(2, M): the intervals of the means of M values of items (n, M) or (n,), NaN where there is none. `bounds` are
    those of each value, or one for all. All values are resampled with the same groups."""
    items_nM = flat(values)
    sums_GM, sizes_G = group_sums(items_nM, groups)
    found_2M = np.full((2, items_nM.shape[1]), np.nan)
    if len(sizes_G) < 2:
        return found_2M
    is_resampled_M = _differing(sums_GM, sizes_G) >= _MIN_DIFFERING
    if is_resampled_M.any():
        found_2M[:, is_resampled_M] = percentile_interval(resampled_means(items_nM[:, is_resampled_M], seed, groups))
    for at in np.flatnonzero(~is_resampled_M):
        of = bounds[int(at) % len(bounds)]
        found_2M[:, at] = _exact(sums_GM[:, at], sizes_G, of) if of else _student(items_nM[:, at], groups)
    means_M = items_nM.mean(0)
    return np.stack([np.minimum(found_2M[0], means_M), np.maximum(found_2M[1], means_M)])


def correlations(
    values: ArrayLike, with_n: ArrayLike, seed: int, groups: Groups = None
) -> list[dict[str, float | None]]:
    """{"r", "low", "high"} for each column of `values` (n, M): Pearson's correlation with `with_n` (n,) over items, and
    the percentiles of its resamples. r is None where either does not vary; the ends where groups are few, and where
    either does not vary in a resample."""
    x_nM, y_n1 = flat(values), flat(with_n)
    x_nM, y_n1 = x_nM - x_nM.mean(0), y_n1 - y_n1.mean(0)
    columns = np.concatenate([x_nM, x_nM**2, x_nM * y_n1, y_n1, y_n1**2], 1)

    def r(means_RK: NDArray) -> NDArray:
        x, xx, xy, rest = np.split(means_RK, [len(x_nM.T), 2 * len(x_nM.T), 3 * len(x_nM.T)], axis=1)
        y, yy = rest[:, :1], rest[:, 1:]
        spread = np.sqrt(np.maximum(xx - x**2, 0) * np.maximum(yy - y**2, 0))
        return np.divide(xy - x * y, spread, out=np.full_like(xy, np.nan), where=spread > 1e-12)

    r_M = r(columns.mean(0, keepdims=True))[0]
    ends_2M = np.full((2, len(r_M)), np.nan)
    if enough(len(group_sums(x_nM, groups)[1])):
        resampled_RM = r(resampled_means(columns, seed, groups))
        varies_M = ~np.isnan(resampled_RM).any(0)
        ends_2M[:, varies_M] = percentile_interval(resampled_RM[:, varies_M])
    plain = [None if np.isnan(value) else float(value) for value in np.stack([r_M, *ends_2M], 1).ravel()]
    return [dict(zip(("r", "low", "high"), plain[i : i + 3], strict=True)) for i in range(0, len(plain), 3)]


def weighted_kappa(first: ArrayLike, second: ArrayLike, seed: int, groups: Groups = None) -> dict[str, Any]:
    """{"n", "agreement", "difference", "kappa", "low", "high"} of two ratings of the same items (n,): share of equal
    ones, the mean absolute difference, and Cohen's kappa with quadratic weights (Cohen 1968), 1 - E(a - b)^2 over what
    it would be were the ratings independent; of ratings that are 0 or 1 this is Cohen's kappa of 1960. The interval is
    that of the percentiles of its resamples. kappa is None where neither varies around one value; the ends where groups
    are few, and where a resample has no kappa."""
    a_n1, b_n1 = flat(first), flat(second)

    def kappa(means_RK: NDArray) -> NDArray:
        a, b, aa, bb, squares = means_RK.T
        by_chance = aa + bb - 2 * a * b
        return 1 - np.divide(squares, by_chance, out=np.full_like(squares, np.nan), where=by_chance > 1e-12)

    columns = np.concatenate([a_n1, b_n1, a_n1**2, b_n1**2, (a_n1 - b_n1) ** 2], 1)
    (found,) = kappa(columns.mean(0, keepdims=True))
    ends = [np.nan, np.nan]
    if enough(len(group_sums(a_n1, groups)[1])):
        resampled_R = kappa(resampled_means(columns, seed, groups))
        if not np.isnan(resampled_R).any():
            ends = percentile_interval(resampled_R).tolist()
    plain = [None if np.isnan(value) else float(value) for value in (found, *ends)]
    distance = np.abs(a_n1 - b_n1)
    shares = {"n": len(a_n1), "agreement": float((distance < 1e-9).mean()), "difference": float(distance.mean())}
    return shares | dict(zip(("kappa", "low", "high"), plain, strict=True))


def score_interval(scores: ArrayLike, groups: Groups) -> list[float] | None:
    """[low, high] of a mean score, 0 to 1, always by Clopper and Pearson: every modality of every benchmark has one,
    and it needs no resamples."""
    sums_G1, sizes_G = group_sums(flat(scores), groups)
    if len(sizes_G) < 2:
        return None
    return _around(*_exact(sums_G1[:, 0], sizes_G, SCORE), float(np.mean(flat(scores))))


def averaged_interval(means: Sequence[float], intervals: Sequence[Sequence[float] | None]) -> list[float] | None:
    """[low, high] of the mean of independent means, from their intervals; None where one has none."""
    return _added(means, [(np.nan, np.nan) if pair is None else pair for pair in intervals])


def share_of_gap(
    scores: Sequence[NDArray[np.float64]], groups: Sequence[Groups], seed: int = 0
) -> tuple[float, list[float]] | None:
    """The share of the first system's gap that the second closes, (second - first) / (text - first), with its interval,
    from the means over B benchmarks of scores (n, 3) of text, first and second. None where the gap is not clear.

    The interval contains each share r at which (second - first) - r * (text - first) may be 0 on average (Fieller);
    where groups are resampled, it is that of the percentiles of the resampled shares."""
    text, first, second = np.mean([of.mean(0) for of in scores], axis=0)
    gap = average_interval([of[:, 0] - of[:, 1] for of in scores], groups, DIFFERENCE, seed)
    if gap is None or gap[0] <= 0:
        return None
    share = float((second - first) / (text - first))

    def beyond(r: float) -> list[NDArray[np.float64]]:
        return [(of[:, 2] - of[:, 1]) - r * (of[:, 0] - of[:, 1]) for of in scores]

    # what is closed and what remains by themselves too: near 0 and 1 a small multiple of the gap would hide that two
    # systems hardly ever differ
    parts = beyond(share), beyond(0.0), beyond(1.0)
    if all(
        _differing(*group_sums(flat(of), its))[0] >= _MIN_DIFFERING
        for part in parts
        for of, its in zip(part, groups, strict=True)
    ):
        t_R, s_R, k_R = resampled_means_of_each(scores, seed, groups).mean(0).T
        has_gap = t_R > s_R
        if has_gap.mean() < _CLEAR:
            return None
        shares = (k_R[has_gap] - s_R[has_gap]) / (t_R[has_gap] - s_R[has_gap])
        low, high = percentile_interval(shares)
        return share, _around(low, high, share)

    def may_be(r: float) -> bool:
        reach = max(1.0, abs(r), abs(1 - r))
        parts = [_one_exact(of, its, (-reach, reach)) for of, its in zip(beyond(r), groups, strict=True)]
        low, high = _added([of.mean() for of in beyond(r)], parts) or (np.nan, np.nan)
        return low <= 0 <= high

    low_end, high_end = (_last(may_be, share, way) for way in (-1.0, 1.0))
    return None if low_end is None or high_end is None else (share, _around(low_end, high_end, share))


def sign_flip_p(differences: ArrayLike, groups: Groups) -> float | None:
    """Two-sided p of whole-number differences of items (n,): the exact sign-flip test over groups, with every group's
    sum under either sign. Where each item is its own group this is McNemar's exact test; None for one group."""
    sums_G = np.rint(group_sums(flat(differences), groups)[0][:, 0]).astype(np.int64)
    if len(sums_G) < 2:
        return None
    steps = np.abs(sums_G[sums_G != 0])
    reach = int(steps.sum())
    chances = np.zeros(2 * reach + 1)
    chances[reach] = 1.0
    for step in steps:
        chances = (np.roll(chances, step) + np.roll(chances, -step)) / 2  # entries that wrap around are 0
    tail = abs(int(sums_G.sum()))
    return float(min(1.0, 2 * chances[reach + tail :].sum())) if tail else 1.0


def _differing(sums_GM: NDArray, sizes_G: NDArray) -> NDArray[np.int64]:
    """(M,): the number of groups whose mean is not the commonest."""
    means_GM = (sums_GM / sizes_G[:, None]).round(12)
    return np.array([len(column) - np.unique(column, return_counts=True)[1].max() for column in means_GM.T])


def _exact(sums_G: NDArray, sizes_G: NDArray, bounds: Bounds) -> tuple[float, float]:
    """Clopper and Pearson, with the number of independent items that has the clustered standard error. Pseudo-groups at
    either bound, of the mean size of an item's group, keep it above 0 where no group differs."""
    low, high = bounds
    sums_G = (sums_G - low * sizes_G) / (high - low)
    n = float(sizes_G.sum())
    size = float((sizes_G**2).sum()) / n
    total = n + 2 * _PSEUDO * size
    middle = (sums_G.sum() + _PSEUDO * size) / total
    squares = ((sums_G - middle * sizes_G) ** 2).sum() + _PSEUDO * size**2 * (middle**2 + (1 - middle) ** 2)
    count = max(1.0, middle * (1 - middle) * total**2 / squares - 2 * _PSEUDO)
    mean = float(np.clip(sums_G.sum() / n, 0.0, 1.0))
    right, wrong = count * mean, count * (1 - mean)
    ends = (
        0.0 if right < 1e-9 else float(beta.ppf(_TAIL, right, wrong + 1)),
        1.0 if wrong < 1e-9 else float(beta.ppf(1 - _TAIL, right + 1, wrong)),
    )
    return low + (high - low) * ends[0], low + (high - low) * ends[1]


def _one_exact(values_n: NDArray, groups: Groups, bounds: Bounds) -> tuple[float, float]:
    sums_G1, sizes_G = group_sums(flat(values_n), groups)
    return _exact(sums_G1[:, 0], sizes_G, bounds)


def _student(values_n: NDArray, groups: Groups) -> tuple[float, float]:
    error = clustered_stderr(values_n, groups)
    if error is None or error <= 1e-12 * np.abs(values_n).max():
        return np.nan, np.nan
    count = len(values_n if groups is None else set(groups))
    half = float(t.ppf(1 - _TAIL, count - 1)) * error
    return values_n.mean() - half, values_n.mean() + half


def _added(means: Sequence[float], pairs: Sequence[Sequence[float]]) -> list[float] | None:
    below, above = ([(pair[end] - mean) ** 2 for mean, pair in zip(means, pairs, strict=True)] for end in (0, 1))
    mean, count = float(np.mean(means)), len(means)
    low, high = mean - sum(below) ** 0.5 / count, mean + sum(above) ** 0.5 / count
    return None if np.isnan(low) or np.isnan(high) else _around(low, high, mean)


def _around(low: float, high: float, mean: float) -> list[float]:
    return [float(min(low, mean)), float(max(high, mean))]


def _last(may_be: Callable[[float], bool], start: float, way: float) -> float | None:
    """The last number from `start` in direction `way` that `may_be`; None beyond `_MAX_SHARE`."""
    step = 0.25
    while may_be(start + way * step):
        step *= 2
        if step > _MAX_SHARE:
            return None
    inside, outside = 0.0, step
    for _ in range(40):
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if may_be(start + way * middle) else (inside, middle)
    return start + way * inside
