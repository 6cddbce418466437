"""Intervals and verdicts: against closed forms, against the truth that data were drawn from, and by their properties.
Holds what eval_10_one_picture_is_certain expects: of one image there is no interval and no verdict."""

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
)
from selfkd.evaluation.verdicts import format_interval, gap_verdict, no_verdict_reason, share_verdict

PROPERTY = settings(deadline=None, max_examples=60, derandomize=True)
SCORES = st.sampled_from([0.0, 1.0]) | st.floats(0, 1).map(lambda x: round(x, 3))


@st.composite
def grouped(draw, values=SCORES, least=1):
    """Scores with the group of each: one group, groups of one, and all between; all alike, and all different."""
    alike = draw(st.booleans())
    n = draw(st.integers(least, 60))
    scores = [draw(values)] * n if alike else draw(st.lists(values, min_size=n, max_size=n))
    most = draw(st.integers(1, n))
    return scores, draw(st.lists(st.integers(1, most), min_size=n, max_size=n))


@PROPERTY
@given(grouped())
def test_an_interval_holds_its_estimate_and_is_never_of_zero_width(data):
    scores, groups = data
    difference = [2 * s - 1 for s in scores]
    found = [
        (np.mean(scores), score_interval(scores, groups), SCORE),
        (np.mean(scores), mean_interval(scores, groups, SCORE), SCORE),
        (np.mean(difference), mean_interval(difference, groups, DIFFERENCE), DIFFERENCE),
    ]
    for mean, interval, (least, most) in found:
        assert (interval is None) == (len(set(groups)) < 2)
        if interval is not None:
            low, high = interval
            assert least - 1e-9 <= low <= mean + 1e-12 and mean - 1e-12 <= high <= most + 1e-9 and high - low > 1e-6
    free = mean_interval(scores, groups)
    assert free is None or free[0] < np.mean(scores) < free[1] or free[1] - free[0] > 0


@PROPERTY
@given(grouped(), st.randoms(use_true_random=False))
def test_the_order_of_items_and_the_names_of_groups_do_not_matter(data, random):
    scores, groups = data
    order = random.sample(range(len(scores)), len(scores))
    moved = [scores[i] for i in order], [f"image {groups[i]}" for i in order]
    gap, moved_gap = (mean_interval([s - 0.5 for s in of], its, DIFFERENCE) for of, its in ((scores, groups), moved))
    # resamples are drawn by place: the same to what 10,000 of them leave open
    for one, other in ((score_interval(scores, groups), score_interval(*moved)), (gap, moved_gap)):
        assert one == other or one == pytest.approx(other, abs=0.02)
    signs = [int(s > 0.5) - int(s < 0.2) for s in scores]
    assert sign_flip_p(signs, groups) == pytest.approx(sign_flip_p([signs[i] for i in order], moved[1]))


@PROPERTY
@given(st.lists(SCORES, min_size=2, max_size=30), st.integers(2, 6))
def test_answers_that_go_together_count_once(scores, local_datasets):
    """Copies of an item in a group of its own leave the interval as it is; as items alone they make it narrower. All in
    one group leave none."""
    copied, groups = np.repeat(scores, local_datasets), np.repeat(np.arange(len(scores)), local_datasets).tolist()
    once, together = score_interval(scores, None), score_interval(copied, groups)
    assert together == pytest.approx(once, abs=1e-9)
    apart = score_interval(copied, None)
    assert apart[1] - apart[0] < together[1] - together[0]
    assert score_interval(copied, [0] * len(copied)) is None


@PROPERTY
@given(st.integers(1, 40), st.integers(0, 40))
def test_an_interval_widens_as_groups_are_merged_until_there_is_none(right, wrong):
    """Like with like: two of each, four of each, and so on; last all items in one group."""
    scores, widths = [1.0] * right + [0.0] * wrong, []
    for size in (1, 2, 4, 8, 16, 32, 64):
        groups = [(bool(score), i // size) for i, score in enumerate(scores)]
        interval = score_interval(scores, groups)
        widths.append(np.inf if interval is None else interval[1] - interval[0])
    assert all(b >= 0.98 * a for a, b in pairwise(widths)), widths
    assert score_interval(scores, [0] * len(scores)) is None


@PROPERTY
@given(st.lists(grouped(least=2), min_size=1, max_size=4))
def test_the_average_of_benchmarks_has_an_interval_where_all_have(benchmarks):
    scores, groups = [s for s, _ in benchmarks], [g for _, g in benchmarks]
    own = [score_interval(*of) for of in benchmarks]
    mean = np.mean([np.mean(s) for s in scores])
    for interval in (averaged_interval([np.mean(s) for s in scores], own), average_interval(scores, groups, SCORE)):
        assert (interval is None) == (None in own)
        assert interval is None or (interval[0] <= mean + 1e-12 <= interval[1] + 2e-12 and interval[0] < interval[1])


@PROPERTY
@given(grouped(), st.sampled_from([0.0, 0.3, 1.0]), st.sampled_from([0.0, 0.6, 1.0]))
def test_no_share_of_a_gap_without_enough_groups(data, first, second):
    text, groups = data
    of = gap_closed(text, [first] * len(text), [second] * len(text), groups=groups)
    few = len(set(groups)) < MIN_GROUPS
    assert (of["verdict"] == "too few") == few and (of["share"] is None) == (of["interval"] is None)
    assert of["share"] is None or (not few and of["interval"][0] <= of["share"] <= of["interval"][1])
    assert of["share"] is None or of["interval"][1] - of["interval"][0] > 1e-6


@pytest.mark.parametrize(("right", "n"), [(0, 5), (5, 5), (1, 12), (12, 12), (7, 30), (398, 400)])
def test_single_items_are_clopper_and_pearsons(right, n):
    scores = [float(i < right) for i in range(n)]
    exact = list(binomtest(right, n).proportion_ci(method="exact"))
    assert score_interval(scores, None) == pytest.approx(exact, abs=1e-6)
    together = score_interval(np.repeat(scores, 3), np.repeat(np.arange(n), 3).tolist())
    assert together == pytest.approx(exact, abs=1e-6)


def test_where_nothing_differs_as_much_may_as_the_groups_leave_open():
    """Of 12 images without a difference a share of 1 - .025^(1/12) = 26% may have one, of either side; of 12 that all
    differ to one side as many may not, or differ to the other."""
    most = 1 - 0.025 ** (1 / 12)
    assert mean_interval([0.0] * 12, None, DIFFERENCE) == pytest.approx([-most, most], abs=0.03)
    low, high = mean_interval([1.0] * 12, None, DIFFERENCE)
    assert (low, high) == (pytest.approx(1 - 2 * most), 1.0)
    assert mean_interval([0.3] * 12) is None, "without bounds nothing is known of what has not been there"


def test_values_without_bounds_by_students_t():
    values = [1.0, 2.0, 4.0, 7.0]
    half = student.ppf(0.975, 3) * clustered_stderr(values)
    assert mean_interval(values) == pytest.approx([3.5 - half, 3.5 + half])
    found = intervals(np.array([[1.0, 5.0], [2.0, 5.0]]), 0)
    assert found["groups"] == 2 and found["low"][1] is found["high"][1] is None and found["low"][0] < 1.5
    assert intervals(np.array([[1.0], [2.0]]), 0, ["a", "a"])["low"] == [None]


def covered(draw, target, interval, times=300):
    return sum(low - 1e-9 <= target <= high + 1e-9 for low, high in (interval(*draw()) for _ in range(times))) / times


@pytest.mark.parametrize("n", [5, 10, 15, 40])
@pytest.mark.parametrize("p", [0.5, 0.9, 0.97])
def test_a_score_is_covered_at_small_n_and_extreme_p(n, p):
    rng = np.random.default_rng(n)
    alone = covered(lambda: (rng.binomial(1, p, n).astype(float), None), p, score_interval)
    assert alone >= 0.93

    def in_groups():  # of one to eight items, which share most of what moves them
        sizes, means = rng.integers(1, 9, n), rng.beta(2 * p, 2 * (1 - p), n)
        items = [rng.binomial(1, mean, size).astype(float) for mean, size in zip(means, sizes, strict=True)]
        return np.concatenate(items), np.repeat(np.arange(n), sizes).tolist()

    assert covered(in_groups, p, score_interval) >= 0.93


@pytest.mark.parametrize("n", [10, 20, 40])
@pytest.mark.parametrize(("loses", "gains"), [(0.04, 0.0), (0.15, 0.05), (0.4, 0.1), (0.95, 0.0)])
def test_a_gap_is_covered_at_small_n(n, loses, gains):
    rng = np.random.default_rng(n)
    draw = lambda: (rng.choice([1.0, -1.0, 0.0], n, p=[loses, gains, 1 - loses - gains]),)  # noqa: E731
    assert covered(draw, loses - gains, lambda d: mean_interval(d, None, DIFFERENCE), 150) >= 0.91


@pytest.mark.parametrize("n", [15, 60])
def test_a_share_of_the_gap_is_covered(n):
    """Text answers 95% right; the first 30%, the second half of what the first does not."""
    rng = np.random.default_rng(n)

    def draw():
        text, first = rng.random(n) < 0.95, rng.random(n) < 0.3
        return (np.array([text, first, first | (rng.random(n) < 0.5)], dtype=float).T,)

    target = (0.3 + 0.7 * 0.5 - 0.3) / (0.95 - 0.3)
    found = [share_of_gap(one, [None]) for one in (draw() for _ in range(60))]
    inside = [low <= target <= high for _, (low, high) in filter(None, found)]
    assert len(inside) > 50 and np.mean(inside) >= 0.9


def test_one_image_is_no_evidence():
    """McNemar's test over groups: eight items of one image that all differ are one that differs."""
    assert sign_flip_p([1] * 8, ["one"] * 8) is None
    assert sign_flip_p([1] * 8, ["one"] * 7 + ["other"]) == 0.5
    assert sign_flip_p([1] * 8, None) == pytest.approx(binomtest(8, 8).pvalue)
    assert sign_flip_p([1] * 30 + [-1] * 4 + [0] * 60, None) == pytest.approx(binomtest(30, 34).pvalue)
    assert sign_flip_p([0] * 8, None) == sign_flip_p([1, -1], ["a", "b"]) == 1.0
    # sums 2, 1 and -1: of the eight ways 2+1+1 and its opposite reach 4, and 2 is reached by 2+1-1, 2-1+1 as well
    assert sign_flip_p([1, 1, 1, -1], ["a", "a", "b", "c"]) == pytest.approx(6 / 8)


def test_what_may_be_said():
    assert [enough(groups) for groups in (0, 1, 9, 10)] == [False, False, False, True]
    clear, unclear = [0.8, 0.9], [0.4, 0.9]
    silent = [
        no_verdict_reason(12, 0.85, clear, 0.5),
        no_verdict_reason(12, 0.6, unclear, 0.5),
        no_verdict_reason(9, 0.85, clear, 0.5),
    ]
    assert silent == ["", "at chance", "too few"]
    # of few groups it is at chance where its accuracy is, and not for want of certainty
    assert [no_verdict_reason(3, 0.5, None, 0.5), no_verdict_reason(3, 0.6, unclear, 0.5)] == ["at chance", "too few"]
    verdicts = [gap_verdict("", i) for i in ([0.1, 0.2], [-0.2, -0.1], [-0.1, 0.1])]
    assert verdicts == ["loses", "gains", "no clear gap"] and gap_verdict("at chance", [0.1, 0.2]) == "at chance"
    assert [share_verdict("", i) for i in ([0.1, 0.2], [-0.1, 0.2], None)] == [
        "closed", "no clear share", "no clear gap",
    ]  # fmt: skip
    told = [format_interval(*of, "{:.1f}".format) for of in ((None, 1), ([0.1, 0.9], 3), ([0.1, 0.9], 10))]
    assert told == ["–", "too few (0.1 to 0.9)", "0.1 to 0.9"]
