"""Scores and gaps against sums by hand."""

import numpy as np
import pytest
from scipy.stats import binomtest

from selfkd.evaluation.average import average_over_benchmarks
from selfkd.evaluation.compare import compare_averages, compare_samples
from selfkd.evaluation.metrics import (
    OVERLAP_COUNTS,
    gap_closed,
    gap_closed_on_average,
    pair_samples,
    summarize,
    vision_audio_gap,
)
from selfkd.evaluation.uncertainty import clustered_stderr, percentile_interval, resampled_means


def sample(number, score, question_type="exists", target="yes", parsed="yes", error="", group=""):
    return {
        "id": str(number), "group": group or str(number), "source": "world", "question_type": question_type,
        "question": "",
        "target": target, "parsed": parsed, "error": error, "voice": "a",
        "score": None if error else score, "correct": None if error else score >= 0.5, "seconds": 0.5,
        "log_likelihoods": [], "word_error_rate": None, "category": "", "details": {},
    }  # fmt: skip


def test_summary_of_known_samples():
    scores = summarize(
        [
            sample(0, 1.0),
            sample(1, 0.0, parsed=None),
            sample(2, 0.0, target="no"),
            sample(3, 1.0, "color", "red", "red"),
            sample(4, None, error="the server fell over"),
        ]
    )
    assert scores == {
        "n": 4,
        "failed": 1,
        "groups": 4,
        "correct": 2,
        "accuracy": 0.5,
        "stderr": pytest.approx((1 / 3 / 4) ** 0.5),  # variance of 1, 0, 0, 1 is 1/3
        "interval": pytest.approx(list(binomtest(2, 4).proportion_ci(method="exact"))),
        "chance": pytest.approx(
            3 / 5
        ),  # "yes" is right for two of three, and nothing for a single question about color
        "parse_rate": 0.75,
        "yes_rate": pytest.approx(2 / 3),
        "target_yes_rate": pytest.approx(2 / 3),
        "yes_bias": pytest.approx(0.0),
        "first_rate": None,
        "target_first_rate": None,
        "first_bias": None,
        "likelihood_accuracy": None,
        "transcript_wer": None,
        "seconds": 0.5,
        "metrics": {},
    }
    assert summarize([sample(0, None, error="x")]) == {"n": 0, "failed": 1}


def test_gap_is_over_items_with_a_response_in_both_modalities():
    text = [sample(i, float(i < 80)) for i in range(100)]
    audio = [sample(i, float(i < 50 or i >= 95), error="lost" if i == 99 else "") for i in range(100)]
    gap = vision_audio_gap(text, audio, seed=3)
    # of 99 items: 50 correct in both, 30 only as text, 4 only as audio (95 to 98)
    counts = [gap[k] for k in ("n", *OVERLAP_COUNTS)]
    assert counts == [99, 50, 30, 4, 15]
    assert gap["gap"] == pytest.approx(26 / 99) and gap["mcnemar_p"] == pytest.approx(binomtest(30, 34).pvalue)
    low, high = gap["gap_interval"]
    assert low < 26 / 99 < high and high - low == pytest.approx(2 * 1.96 * np.sqrt((34 - 26**2 / 99) / 99**2), rel=0.1)
    assert gap == vision_audio_gap(text, audio, seed=3)
    assert pair_samples(text, audio)[1][-1]["id"] == "98"


def test_equal_modalities_have_no_gap():
    same = [sample(i, 1.0) for i in range(9)]
    gap = vision_audio_gap(same, same)
    assert (gap["gap"], gap["mcnemar_p"]) == (0.0, 1.0)
    # no image of nine differs: up to 1 - .025^(1/9) of them may (Clopper and Pearson), one way or the other
    assert gap["gap_interval"] == pytest.approx([-0.34, 0.34], abs=0.02)
    assert vision_audio_gap(same, [sample(i, None, error="x") for i in range(9)]) == {"n": 0}


def width(values, groups=None, seed=0):
    low, high = percentile_interval(resampled_means(values, seed, groups)[:, 0])
    return high - low


@pytest.mark.parametrize("items_a_group", [1, 4])
def test_interval_covers_the_true_mean_at_its_level(items_a_group):
    """Over groups whose items share most of their variance; an interval over items would cover little more than
    half."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), items_a_group).tolist()
    inside = plain_inside = 0
    for seed in range(100):
        shared = rng.normal(0.3, 1.0, 40)[groups] if items_a_group > 1 else 0.3
        values = shared + rng.normal(0.0, 0.3 if items_a_group > 1 else 1.0, len(groups))
        low, high = percentile_interval(resampled_means(values, seed, groups, 1000)[:, 0])
        inside += low <= 0.3 <= high
        low, high = percentile_interval(resampled_means(values, seed, None, 1000)[:, 0])
        plain_inside += low <= 0.3 <= high
    assert 0.87 <= inside / 100 <= 1.0
    assert (plain_inside < 75) == (items_a_group > 1)


def test_resampled_means_of_small_groups():
    """Groups (0, 0, 3) and (1,): two are sampled, so 3/3 twice, 1/1 twice, or (3 + 1) / (3 + 1): all of them 1."""
    assert resampled_means([0.0, 0.0, 3.0, 1.0], 0, ["a", "a", "a", "b"]).tolist() == [[1.0]] * 10_000
    # groups (0, 0, 2) and (2,): 2/3, 2, or 4/4, the last in half of the resamples
    means = resampled_means([0.0, 0.0, 2.0, 2.0], 0, ["a", "a", "a", "b"])[:, 0]
    values, counts = np.unique(means.round(6), return_counts=True)
    assert values.tolist() == [0.666667, 1.0, 2.0] and np.allclose(counts / 10_000, [0.25, 0.5, 0.25], atol=0.02)
    with pytest.raises(ValueError, match="no items"):
        resampled_means([], 0)


def test_clustered_stderr_of_small_groups():
    """0, 0, 1, 1 in two groups of two: s^2 = 1/3, so s^2 / n = 1/12; the covariance within a group is 2 * (1/4) in each
    of two, over n^2 = 16."""
    values, groups = [0.0, 0.0, 1.0, 1.0], ["a", "a", "b", "b"]
    assert clustered_stderr(values, groups) == pytest.approx((1 / 12 + 2 * 2 * 0.25 / 16) ** 0.5)
    # groups that each hold a right and a wrong item make the mean more certain: 2 * (-1/4) in each of two
    assert clustered_stderr(values, ["a", "b", "a", "b"]) == pytest.approx((1 / 12 - 2 * 2 * 0.25 / 16) ** 0.5)
    assert clustered_stderr(values, ["a"] * 4) is None and clustered_stderr([1.0]) is None
    assert clustered_stderr([1.0, 1.0]) is None, "two equal values do not show that all are equal"


def test_groups_of_one_item_give_the_plain_standard_error():
    values = np.random.default_rng(1).normal(size=50)
    single = [f"group {i}" for i in range(50)]
    assert np.array_equal(resampled_means(values, 7), resampled_means(values, 7, single))
    plain = np.std(values, ddof=1) / np.sqrt(50)
    assert clustered_stderr(values) == clustered_stderr(values, single) == pytest.approx(plain)
    assert not np.array_equal(resampled_means(values, 1), resampled_means(values, 2))


def test_duplicated_items_add_no_information():
    """Standard error and interval are those of the items once, sqrt(2) times those without groups."""
    once = np.random.default_rng(2).normal(size=400)
    twice, groups = np.repeat(once, 2), np.repeat(np.arange(400), 2).tolist()
    assert clustered_stderr(twice, groups) == pytest.approx(clustered_stderr(once), rel=0.002)
    assert clustered_stderr(twice, groups) / clustered_stderr(twice) == pytest.approx(2**0.5, rel=0.002)
    assert width(twice, groups) == pytest.approx(width(once))
    assert width(twice, groups) / width(twice) == pytest.approx(2**0.5, rel=0.05)


def test_scores_and_gaps_are_over_groups():
    """A hundred images with ten questions each, the answers about one image all correct or all wrong."""
    text = [sample(i, 1.0, group=f"image {i // 10}") for i in range(1000)]
    audio = [sample(i, float(i // 10 < 60), group=f"image {i // 10}") for i in range(1000)]
    scores = summarize(audio)
    # s^2 = 1000 * 0.24 / 999, and in each group 90 pairs of 0.4^2 or 0.6^2
    together = 90 * (60 * 0.16 + 40 * 0.36) / 1000**2
    assert (scores["n"], scores["groups"]) == (1000, 100)
    assert scores["stderr"] == pytest.approx((1000 * 0.24 / 999 / 1000 + together) ** 0.5)
    # ten answers about an image are one: the number of items is that of images
    assert scores["interval"] == pytest.approx(list(binomtest(60, 100).proportion_ci(method="exact")))
    grouped, single = (vision_audio_gap([s | {"group": of(s)} for s in text], audio)["gap_interval"]
                      for of in (lambda s: s["group"], lambda s: s["id"]))  # fmt: skip
    assert (grouped[1] - grouped[0]) / (single[1] - single[0]) == pytest.approx(10**0.5, rel=0.1)
    closed = [gap_closed([1.0] * 1000, [s["score"] for s in audio], [0.9] * 1000, groups=g)["difference_interval"]
              for g in ([s["group"] for s in text], None)]  # fmt: skip
    assert (closed[0][1] - closed[0][0]) / (closed[1][1] - closed[1][0]) == pytest.approx(10**0.5, rel=0.1)


def test_gap_closed_and_its_interval():
    text, sft, selfkd = [1.0] * 90 + [0.0] * 10, [1.0] * 50 + [0.0] * 50, [1.0] * 70 + [0.0] * 30
    gap = gap_closed(text, sft, selfkd)
    assert gap["share"] == pytest.approx(0.5)
    low, high = gap["interval"]
    assert 0.3 < low < 0.5 < high < 0.7
    assert gap == gap_closed(text, sft, selfkd)
    assert gap["difference"] == pytest.approx(0.2)


def test_no_gap_gives_no_share():
    gap = gap_closed([1.0, 0.0] * 20, [1.0, 0.0] * 20, [1.0, 0.0] * 20)
    assert gap["share"] is None and gap["interval"] is None


def test_metrics_of_multiple_choice():
    rows = [sample(i, 0.0, "choice", target, parsed) for i, (target, parsed) in enumerate(["AA", "BA", "AA", "BB"])]
    rows[1] |= {"log_likelihoods": [-2.0, -1.0]}
    rows[2] |= {"log_likelihoods": [-2.0, -1.0]}
    scores = summarize(rows)
    metrics = [scores[k] for k in ("first_rate", "target_first_rate", "first_bias", "likelihood_accuracy")]
    assert metrics == [0.75, 0.5, 0.25, 0.5]


def test_questions_without_letters_are_not_multiple_choice():
    """RealWorldQA has questions for words and numbers under the same question type."""
    rows = [sample(i, 1.0, "multiple_choice", "A", "A") for i in range(3)]
    rows += [sample(i, 1.0, "multiple_choice", "two", "two") for i in range(3, 6)]
    rows = [s | {"source": "realworldqa", "details": {"options": {"A": "x", "B": "y"} if i < 3 else {}}}
            for i, s in enumerate(rows)]  # fmt: skip
    scores = summarize(rows)
    assert (scores["first_rate"], scores["target_first_rate"]) == (1.0, 1.0)


def pairs_of_mme(marks):
    """Pairs of questions about an image: "1" correct, "0" wrong, "-" failed."""
    return [
        sample(
            i, float(m == "1"), "yes_no", ("yes", "no")[i % 2], error="lost" if m == "-" else "", group=f"OCR/{i // 2}"
        )
        | {"source": "mme", "category": "OCR", "details": {"image": f"OCR/{i // 2}"}}
        for i, m in enumerate(marks)
    ]


def pope(marks):
    return [s | {"source": "pope", "details": {}} for s in pairs_of_mme(marks)]


def test_pair_with_a_failed_item_is_left_out():
    """1- is left out: acc and acc+ are 1/2 and 0 of the other pair; POPE counts items, and keeps the three."""
    assert summarize(pairs_of_mme("1-10"))["metrics"]["OCR acc+"] == 0
    assert summarize(pairs_of_mme("1-10"))["metrics"]["score"] == 25
    assert summarize(pairs_of_mme("1-"))["metrics"] == {} and summarize(pairs_of_mme("1-"))["n"] == 1
    assert summarize(pope("1-10"))["metrics"]["accuracy"] == pytest.approx(200 / 3)


def test_headline_gap_is_over_complete_groups():
    """Text 11 11 00, audio 1- 10 00: the last two images give 50 (acc 50, acc+ 50) and 12.5 (acc 25, acc+ 0)."""
    text, audio = map(pairs_of_mme, ("111100", "1-1000"))
    assert vision_audio_gap(text, audio)["headline"] == 50 - 12.5
    assert vision_audio_gap(pairs_of_mme("11"), pairs_of_mme("1-"))["headline"] is None
    modalities = {"mme": {"text": text, "audio": audio}, "pope": {"text": pope("11"), "audio": pope("10")}}
    result = {b: {m: summarize(s) for m, s in some.items()} | {"gap": vision_audio_gap(some["text"], some["audio"])}
              for b, some in modalities.items()}  # fmt: skip
    assert average_over_benchmarks(result)["average"]["over_benchmarks"]["gap"]["headline"] == (37.5 + 50) / 2
    # the first image fails in one of three systems: b has 9 of the 19 others, and half of POPE's
    mme = {"text": "11" * 20, "a": "1-" + "00" * 19, "b": "11" * 10 + "00" * 10}
    marks = {"mme": mme, "pope": {"text": "1" * 20, "a": "0" * 20, "b": "10" * 10}}
    several = {b: {s: (pope if b == "pope" else pairs_of_mme)(m) for s, m in some.items()} for b, some in marks.items()}
    scores = {b: compare_samples(by_system, 0) for b, by_system in several.items()}
    closed = compare_averages(scores, several, 0)["average"]["gap_closed"]["b"]
    assert closed["headline"] == pytest.approx((9 / 19 + 1 / 2) / 2)


def test_average_over_benchmarks():
    def modality(accuracy, stderr, headline):
        counts = {"n": 10, "failed": 0, "groups": 10, "chance": 0.5, "metrics": {"first": headline, "second": 3.0}}
        interval = [accuracy - 2 * stderr, accuracy + 2 * stderr]
        return counts | {"accuracy": accuracy, "stderr": stderr, "interval": interval}

    def gap(mean, stderr, headline):
        interval = [mean - 2 * stderr, mean + 2 * stderr]
        return {"n": 9, "groups": 9, "gap": mean, "stderr": stderr, "gap_interval": interval, "headline": headline}

    mme = {"text": modality(0.9, 0.03, 85.0), "audio": modality(0.5, 0.04, 40.0), "gap": gap(0.4, 0.06, 45.0)}
    pope = {"text": modality(0.8, 0.04, 80.0), "audio": modality(0.7, 0.03, 70.0), "gap": gap(0.1, 0.08, 10.0)}
    world = {"text": {**modality(0.1, 0.1, 0.0), "metrics": {}}}  # no public benchmark
    over = average_over_benchmarks({"mme": mme, "pope": pope, "world": world})["average"]["over_benchmarks"]
    assert over["benchmarks"] == ["mme", "pope"] and "cascade" not in over
    # independent benchmarks: sqrt(0.03^2 + 0.04^2) / 2, sqrt(0.06^2 + 0.08^2) / 2
    mean = {"n": 20, "failed": 0, "stderr": 0.025, "groups": 10, "chance": 0.5}
    for modality, accuracy, headline in (("text", 0.85, 82.5), ("audio", 0.6, 55.0)):
        assert over[modality].pop("interval") == pytest.approx([accuracy - 0.05, accuracy + 0.05])
        assert over[modality] == pytest.approx(mean | {"accuracy": accuracy, "headline": headline})
    assert over["gap"].pop("gap_interval") == pytest.approx([0.15, 0.35]) and over["gap"].pop("verdict") == "too few"
    assert over["gap"] == pytest.approx(
        {"n": 18, "groups": 9, "gap": 0.25, "stderr": 0.05, "headline": 27.5, "level": 0.95}
    )
    over = average_over_benchmarks({"mme": mme, "pope": pope})["average"]["over_benchmarks"]
    assert average_over_benchmarks({"mme": mme, "world": world}) == {}
    voices = {f"{name}@{voice}": s for voice in "ab" for name, s in (("mme", mme), ("pope", pope))}
    assert average_over_benchmarks(voices) == {f"average@{voice}": {"over_benchmarks": over} for voice in "ab"}
    unsure = mme | {"text": mme["text"] | {"stderr": None}}
    assert (
        average_over_benchmarks({"mme": unsure, "pope": pope})["average"]["over_benchmarks"]["text"]["stderr"] is None
    )


def test_gap_closed_on_average():
    """The share over equal benchmarks is that of one; every benchmark has the same weight, whatever its size."""
    rng = np.random.default_rng(0)
    text, first, second = (rng.random(200) < chance for chance in (0.9, 0.5, 0.8))
    one = gap_closed(text, first, second, seed=3)
    thrice = gap_closed_on_average([(text, first, second, None)] * 3, seed=3)
    assert thrice["share"] == pytest.approx(one["share"]) and thrice["difference"] == pytest.approx(one["difference"])
    # three times the items: an interval of about 1 / sqrt(3)
    width = [np.ptp(share["difference_interval"]) for share in (one, thrice)]
    assert 0.5 < width[1] / width[0] < 0.66
    small = ([1.0] * 12, [0.0] * 12, [1.0] * 12, None)
    both = gap_closed_on_average([(text, first, second, None), small])
    gaps = np.mean([text.mean() - first.mean(), 1.0]), np.mean([second.mean() - first.mean(), 1.0])
    assert both["share"] == pytest.approx(gaps[1] / gaps[0])
