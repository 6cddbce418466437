"""Intervals and verdicts: against closed forms, against the true mean of sampled data, and by their properties. One
image gives no interval and no verdict."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from scipy.stats import t as student

from selfkd.analysis.runner import intervals
from selfkd.evaluation.metrics import gap_closed
from selfkd.evaluation.uncertainty import (
    DIFFERENCE,
    MIN_GROUPS,
    SCORE,
    average_interval,
    averaged_interval,
    clustered_stderr,
    enough,
    mean_interval,
    score_interval,
    share_of_gap,
    sign_flip_p,
    subset_stderr,
)
from selfkd.evaluation.verdicts import format_interval, gap_verdict, no_verdict_reason, share_verdict

PROPERTY = settings(deadline=None, max_examples=25, derandomize=True)
SCORES = st.sampled_from([0.0, 1.0]) | st.floats(0, 1).map(lambda x: round(x, 3))


@st.composite
def grouped(draw, values=SCORES, min_size=1):
    """Scores with the group of each: one group, groups of one, and all between; all equal, and all different."""
    alike = draw(st.booleans())
    n = draw(st.integers(min_size, 60))
    scores = [draw(values)] * n if alike else draw(st.lists(values, min_size=n, max_size=n))
    groups = draw(st.integers(1, n))
    return scores, draw(st.lists(st.integers(1, groups), min_size=n, max_size=n))


@PROPERTY
@given(grouped())
def test_interval_contains_its_estimate_and_never_has_zero_width(data):
    scores, groups = data
    difference = [2 * s - 1 for s in scores]
    found = [
        (np.mean(scores), score_interval(scores, groups), SCORE),
        (np.mean(scores), mean_interval(scores, groups, SCORE), SCORE),
        (np.mean(difference), mean_interval(difference, groups, DIFFERENCE), DIFFERENCE),
    ]
    for mean, interval, (lower, upper) in found:
        assert (interval is None) == (len(set(groups)) < 2)
        if interval is not None:
            low, high = interval
            assert lower - 1e-9 <= low <= mean + 1e-12 and mean - 1e-12 <= high <= upper + 1e-9 and high - low > 1e-6
    free = mean_interval(scores, groups)
    assert free is None or free[0] < np.mean(scores) < free[1] or free[1] - free[0] > 0


@PROPERTY
@given(grouped(), st.randoms(use_true_random=False))
def test_order_of_items_and_names_of_groups_do_not_matter(data, random):
    scores, groups = data
    order = random.sample(range(len(scores)), len(scores))
    moved = [scores[i] for i in order], [f"image {groups[i]}" for i in order]
    both = ((scores, groups), moved)
    gap, moved_gap = (mean_interval([s - 0.5 for s in values], its, DIFFERENCE) for values, its in both)
    # groups are resampled by position: equal up to the noise of 10,000 resamples
    for one, other in ((score_interval(scores, groups), score_interval(*moved)), (gap, moved_gap)):
        assert one == other or one == pytest.approx(other, abs=0.02)
    signs = [int(s > 0.5) - int(s < 0.2) for s in scores]
    assert sign_flip_p(signs, groups) == pytest.approx(sign_flip_p([signs[i] for i in order], moved[1]))


@PROPERTY
@given(st.lists(SCORES, min_size=2, max_size=30), st.integers(2, 6))
def test_copies_in_one_group_count_once(scores, copies):
    """Copies of an item in a group of its own leave the interval unchanged; without groups they make it narrower. All
    in one group leave none."""
    copied, groups = np.repeat(scores, copies), np.repeat(np.arange(len(scores)), copies).tolist()
    once, together = score_interval(scores, None), score_interval(copied, groups)
    assert together == pytest.approx(once, abs=1e-9)
    apart = score_interval(copied, None)
    assert apart[1] - apart[0] < together[1] - together[0]
    assert score_interval(copied, [0] * len(copied)) is None


@PROPERTY
@given(st.integers(1, 40), st.integers(0, 40))
def test_interval_widens_as_groups_are_merged(right, wrong):
    """Equal scores with each other: two, four, and so on; last all items in one group, without an interval."""
    scores, widths = [1.0] * right + [0.0] * wrong, []
    for size in (1, 2, 4, 8, 16, 32, 64):
        groups = [(bool(score), i // size) for i, score in enumerate(scores)]
        interval = score_interval(scores, groups)
        widths.append(np.inf if interval is None else interval[1] - interval[0])
    assert all(b >= 0.98 * a for a, b in pairwise(widths)), widths
    assert score_interval(scores, [0] * len(scores)) is None


@PROPERTY
@given(st.lists(grouped(min_size=2), min_size=1, max_size=4))
def test_average_has_an_interval_where_all_benchmarks_have(benchmarks):
    scores, groups = [s for s, _ in benchmarks], [g for _, g in benchmarks]
    own = [score_interval(*benchmark) for benchmark in benchmarks]
    mean = np.mean([np.mean(s) for s in scores])
    for interval in (averaged_interval([np.mean(s) for s in scores], own), average_interval(scores, groups, SCORE)):
        assert (interval is None) == (None in own)
        assert interval is None or (interval[0] <= mean + 1e-12 <= interval[1] + 2e-12 and interval[0] < interval[1])


@PROPERTY
@given(grouped(), st.sampled_from([0.0, 0.3, 1.0]), st.sampled_from([0.0, 0.6, 1.0]))
def test_share_of_a_gap_needs_enough_groups(data, first, second):
    text, groups = data
    closed = gap_closed(text, [first] * len(text), [second] * len(text), groups=groups)
    few = len(set(groups)) < MIN_GROUPS
    share, interval = closed["share"], closed["interval"]
    assert (closed["verdict"] == "too few") == few and (share is None) == (interval is None)
    assert share is None or (not few and interval[0] <= share <= interval[1] and interval[1] - interval[0] > 1e-6)


@pytest.mark.parametrize(("right", "n"), [(0, 5), (5, 5), (1, 12), (12, 12), (7, 30), (398, 400)])
def test_score_interval_of_single_items_is_clopper_and_pearsons(right, n):
    scores = [float(i < right) for i in range(n)]
    exact = list(binomtest(right, n).proportion_ci(method="exact"))
    assert score_interval(scores, None) == pytest.approx(exact, abs=1e-6)
    together = score_interval(np.repeat(scores, 3), np.repeat(np.arange(n), 3).tolist())
    assert together == pytest.approx(exact, abs=1e-6)


def test_interval_where_no_group_differs():
    """If none of 12 images has a difference, up to 1 - .025^(1/12) = 26% of the population may, of either sign; if all
    12 have one sign, as many may have none or the other."""
    bound = 1 - 0.025 ** (1 / 12)
    assert mean_interval([0.0] * 12, None, DIFFERENCE) == pytest.approx([-bound, bound], abs=0.03)
    low, high = mean_interval([1.0] * 12, None, DIFFERENCE)
    assert (low, high) == (pytest.approx(1 - 2 * bound), 1.0)
    assert mean_interval([0.3] * 12) is None, "without bounds there is no interval of equal values"


def test_interval_without_bounds_is_students_t():
    values = [1.0, 2.0, 4.0, 7.0]
    half = student.ppf(0.975, 3) * clustered_stderr(values)
    assert mean_interval(values) == pytest.approx([3.5 - half, 3.5 + half])
    found = intervals(np.array([[1.0, 5.0], [2.0, 5.0]]), 0)
    assert found["groups"] == 2 and found["low"][1] is found["high"][1] is None and found["low"][0] < 1.5
    assert intervals(np.array([[1.0], [2.0]]), 0, ["a", "a"])["low"] == [None]


def coverage(draw, target, interval, times=300):
    """The share of intervals of sampled data that contain the true mean."""
    return sum(low - 1e-9 <= target <= high + 1e-9 for low, high in (interval(*draw()) for _ in range(times))) / times


@pytest.mark.parametrize("n", [5, 10, 15, 40])
@pytest.mark.parametrize("p", [0.5, 0.9, 0.97])
def test_coverage_of_a_score_at_small_n_and_extreme_p(n, p):
    rng = np.random.default_rng(n)
    ungrouped = coverage(lambda: (rng.binomial(1, p, n).astype(float), None), p, score_interval)
    assert ungrouped >= 0.93

    def in_groups():  # of one to eight items, which share most of their variance
        sizes, means = rng.integers(1, 9, n), rng.beta(2 * p, 2 * (1 - p), n)
        items = [rng.binomial(1, mean, size).astype(float) for mean, size in zip(means, sizes, strict=True)]
        return np.concatenate(items), np.repeat(np.arange(n), sizes).tolist()

    assert coverage(in_groups, p, score_interval) >= 0.93


@pytest.mark.parametrize("n", [10, 20, 40])
@pytest.mark.parametrize(("loses", "gains"), [(0.04, 0.0), (0.15, 0.05), (0.4, 0.1), (0.95, 0.0)])
def test_coverage_of_a_gap_at_small_n(n, loses, gains):
    rng = np.random.default_rng(n)
    draw = lambda: (rng.choice([1.0, -1.0, 0.0], n, p=[loses, gains, 1 - loses - gains]),)  # noqa: E731
    assert coverage(draw, loses - gains, lambda d: mean_interval(d, None, DIFFERENCE), 150) >= 0.91


@pytest.mark.parametrize("n", [15, 60])
def test_coverage_of_the_share_of_a_gap(n):
    """Text is correct for 95%, the first system for 30%, the second also for half of the others."""
    rng = np.random.default_rng(n)

    def draw():
        text, first = rng.random(n) < 0.95, rng.random(n) < 0.3
        return (np.array([text, first, first | (rng.random(n) < 0.5)], dtype=float).T,)

    target = (0.3 + 0.7 * 0.5 - 0.3) / (0.95 - 0.3)
    found = [share_of_gap(one, [None]) for one in (draw() for _ in range(40))]
    inside = [low <= target <= high for _, (low, high) in filter(None, found)]
    assert len(inside) > 33 and np.mean(inside) >= 0.9


@pytest.mark.parametrize("closes_all", [True, False])
def test_share_of_systems_that_hardly_ever_differ(closes_all):
    """A second system that differs from the text path, or from the first system, in 2 of 400 items: a bootstrap over
    these would exclude the true share in a fifth of the runs."""
    rng = np.random.default_rng(5)

    def draw():
        text = rng.random(400) < 0.97
        first = text & (rng.random(400) < 0.64)
        second = (text if closes_all else first) ^ (rng.random(400) < 0.005)
        return (np.array([text, first, second], dtype=float).T,)

    text, first = 0.97, 0.97 * 0.64
    second = (text if closes_all else first) * 0.99 + 0.005
    target = (second - first) / (text - first)
    found = [share_of_gap(draw(), [None], seed) for seed in range(60)]
    inside = [low <= target <= high for _, (low, high) in filter(None, found)]
    assert len(inside) == 60 and np.mean(inside) >= 0.93


def test_sign_flip_p_is_over_images():
    """McNemar's test over groups: eight items of one image that all differ are one that differs."""
    assert sign_flip_p([1] * 8, ["one"] * 8) is None
    assert sign_flip_p([1] * 8, ["one"] * 7 + ["other"]) == 0.5
    assert sign_flip_p([1] * 8, None) == pytest.approx(binomtest(8, 8).pvalue)
    assert sign_flip_p([1] * 30 + [-1] * 4 + [0] * 60, None) == pytest.approx(binomtest(30, 34).pvalue)
    assert sign_flip_p([0] * 8, None) == sign_flip_p([1, -1], ["a", "b"]) == 1.0
    # sums 2, 1 and -1: of the eight ways 2+1+1 and its opposite reach 4, and 2 is reached by 2+1-1, 2-1+1 as well
    assert sign_flip_p([1, 1, 1, -1], ["a", "a", "b", "c"]) == pytest.approx(6 / 8)


def test_verdicts():
    assert [enough(groups) for groups in (0, 1, 9, 10)] == [False, False, False, True]
    clear, unclear = [0.8, 0.9], [0.4, 0.9]
    reasons = [
        no_verdict_reason(12, 0.85, clear, 0.5),
        no_verdict_reason(12, 0.6, unclear, 0.5),
        no_verdict_reason(9, 0.85, clear, 0.5),
    ]
    assert reasons == ["", "at chance", "too few"]
    # with few groups it is at chance by its accuracy, not by its interval
    assert [no_verdict_reason(3, 0.5, None, 0.5), no_verdict_reason(3, 0.6, unclear, 0.5)] == ["at chance", "too few"]
    verdicts = [gap_verdict("", i) for i in ([0.1, 0.2], [-0.2, -0.1], [-0.1, 0.1])]
    assert verdicts == ["loses", "gains", "no clear gap"] and gap_verdict("at chance", [0.1, 0.2]) == "at chance"
    assert [share_verdict("", i) for i in ([0.1, 0.2], [-0.1, 0.2], None)] == [
        "closed", "no clear share", "no clear gap",
    ]  # fmt: skip
    pairs = ((None, 1), ([0.1, 0.9], 3), ([0.1, 0.9], 10))
    assert [format_interval(*pair, "{:.1f}".format) for pair in pairs] == ["–", "too few (0.1 to 0.9)", "0.1 to 0.9"]


def population(seed):
    """500 scores in groups of one to four, alike within a group: (scores, groups)."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 5, 200)
    groups = np.repeat(np.arange(200), sizes)
    level = rng.beta(2, 2, 200)
    return (rng.random(len(groups)) < level[groups]).astype(float), groups


@pytest.mark.parametrize("count", [20, 60, 150])
def test_standard_error_of_a_subset_is_the_spread_of_subsets_around_the_whole(count):
    """4,000 random subsets of whole groups of a finite population: the root mean square of their errors against the
    whole is that of their standard errors, within 5% (10% for 20 of 200 groups, where the ratio estimator is rough)."""
    scores, groups = population(1)
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    sizes, sums = np.diff([*starts, len(groups)]), np.add.reduceat(scores, starts)
    rng, errors, squares = np.random.default_rng(2), [], []
    for number in range(4000):
        chosen = rng.permutation(200)[:count]
        errors.append(sums[chosen].sum() / sizes[chosen].sum() - scores.mean())
        if number < 400:
            inside = np.isin(groups, chosen)
            squares.append(subset_stderr(scores[inside], groups[inside], 200) ** 2)
    observed, stated = np.sqrt(np.mean(np.square(errors))), np.sqrt(np.mean(squares))
    assert stated == pytest.approx(observed, rel=0.1 if count == 20 else 0.05)
    # a standard error for an infinite population would be far too large for most of the whole
    assert (stated < 0.6 * clustered_stderr(scores[inside], groups[inside])) == (count == 150)


def test_standard_error_of_a_subset_in_closed_form():
    """Ten of 40 items, half of them right: sqrt((1 - 1/4) * 0.25 / 9)."""
    half = [1.0] * 5 + [0.0] * 5
    assert subset_stderr(half, None, 40) == pytest.approx((0.75 * 0.25 / 9) ** 0.5)
    assert subset_stderr(half, None, 10) == 0.0, "nothing is left out"
    assert subset_stderr([1.0] * 5, None, 40) is None and subset_stderr(half, ["a"] * 10, 40) is None
    pairs = [score for score in half for _ in range(2)]
    assert subset_stderr(pairs, np.repeat(range(10), 2), 40) == pytest.approx(subset_stderr(half, None, 40))
