"""Scores and gaps against sums done by hand."""

import numpy as np
import pytest
from scipy.stats import binomtest

from selfkd.evaluation.statistics import bootstrap, gap_closed, paired, spread_over_voices, summarize, vision_audio_gap


def sample(number, score, kind="exists", truth="yes", parsed="yes", error=""):
    return {
        "id": str(number), "source": "world", "kind": kind, "truth": truth, "parsed": parsed, "error": error,
        "score": None if error else score, "correct": None if error else score >= 0.5, "seconds": 0.5,
        "log_likelihoods": [], "word_error_rate": None, "category": "", "details": {},
    }  # fmt: skip


def test_summary_of_known_samples():
    scores = summarize(
        [
            sample(0, 1.0),
            sample(1, 0.0, parsed=None),
            sample(2, 0.0, truth="no"),
            sample(3, 1.0, "color", "red", "red"),
            sample(4, None, error="the server fell over"),
        ]
    )
    assert scores == {
        "n": 4,
        "failed": 1,
        "correct": 2,
        "accuracy": 0.5,
        "stderr": pytest.approx((1 / 3 / 4) ** 0.5),  # variance of 1, 0, 0, 1 is 1/3
        "parse_rate": 0.75,
        "yes_rate": pytest.approx(2 / 3),
        "true_yes_rate": pytest.approx(2 / 3),
        "yes_bias": pytest.approx(0.0),
        "first_rate": None,
        "true_first_rate": None,
        "likelihood_accuracy": None,
        "heard_wer": None,
        "seconds": 0.5,
        "figures": {},
    }
    assert summarize([sample(0, None, error="x")]) == {"n": 0, "failed": 1}


def test_the_gap_on_the_items_that_were_answered_in_both_views():
    text = [sample(i, float(i < 80)) for i in range(100)]
    speech = [sample(i, float(i < 50 or i >= 95), error="lost" if i == 99 else "") for i in range(100)]
    gap = vision_audio_gap(text, speech, seed=3)
    # of 99 items: right in both 50, written alone 30, spoken alone 95 to 98
    agreement = [gap[k] for k in ("n", "both_right", "only_written", "only_spoken", "neither")]
    assert agreement == [99, 50, 30, 4, 15]
    assert gap["gap"] == pytest.approx(26 / 99) and gap["mcnemar_p"] == pytest.approx(binomtest(30, 34).pvalue)
    low, high = gap["gap_interval"]
    assert low < 26 / 99 < high and high - low == pytest.approx(2 * 1.96 * np.sqrt((34 - 26**2 / 99) / 99**2), rel=0.1)
    assert gap == vision_audio_gap(text, speech, seed=3)
    assert paired(text, speech)[1][-1]["id"] == "98"


def test_views_that_agree_have_no_gap():
    same = [sample(i, 1.0) for i in range(9)]
    gap = vision_audio_gap(same, same)
    assert (gap["gap"], gap["mcnemar_p"], gap["gap_interval"]) == (0.0, 1.0, [0.0, 0.0])
    assert vision_audio_gap(same, [sample(i, None, error="x") for i in range(9)]) == {"n": 0}


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    inside = 0
    for seed in range(60):
        low, high = bootstrap(rng.normal(0.3, 1.0, 80), seed)
        inside += low <= 0.3 <= high
    assert 0.85 <= inside / 60 <= 1.0
    values = rng.normal(0.3, 1.0, 80)
    assert not np.array_equal(bootstrap(values, 1), bootstrap(values, 2))


def test_gap_closed_by_hand_and_its_interval():
    text, sft, selfkd = [1.0] * 90 + [0.0] * 10, [1.0] * 50 + [0.0] * 50, [1.0] * 70 + [0.0] * 30
    gap = gap_closed(text, sft, selfkd)
    assert gap["share"] == pytest.approx(0.5)
    low, high = gap["interval"]
    assert 0.3 < low < 0.5 < high < 0.7
    assert gap == gap_closed(text, sft, selfkd)
    assert gap["difference"] == pytest.approx(0.2)


def test_no_gap_no_share():
    gap = gap_closed([1.0, 0.0] * 20, [1.0, 0.0] * 20, [1.0, 0.0] * 20)
    assert gap["share"] is None and gap["interval"] is None


def test_multiple_choice_by_letter_and_by_likelihood():
    rows = [sample(i, 0.0, "choice", truth, parsed) for i, (truth, parsed) in enumerate(["AA", "BA", "AA", "BB"])]
    rows[1] |= {"log_likelihoods": [-2.0, -1.0]}
    rows[2] |= {"log_likelihoods": [-2.0, -1.0]}
    scores = summarize(rows)
    figures = [scores[k] for k in ("first_rate", "true_first_rate", "likelihood_accuracy")]
    assert figures == [0.75, 0.5, 0.5]


def test_the_spread_over_voices():
    def scores(accuracy):
        return {"speech": {"n": 4, "accuracy": accuracy}, "gap": {"n": 4, "gap": 0.9 - accuracy}}

    over = spread_over_voices({"mme@a": scores(0.5), "mme@b": scores(0.7), "pope": scores(0.1)}, "@")
    assert list(over) == ["mme"]
    accuracy = over["mme"]["over_voices"]["accuracy"]
    assert accuracy == pytest.approx({"mean": 0.6, "sd": 0.02**0.5, "least": 0.5, "most": 0.7})
    assert over["mme"]["over_voices"]["gap"]["mean"] == pytest.approx(0.3)
