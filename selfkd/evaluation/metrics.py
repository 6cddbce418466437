"""Scores with their uncertainty, and two views of the same items side by side. Items of one `group` (see `grading.py`)
are held to be right and wrong together: standard errors and intervals are over groups."""

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

import numpy as np

from selfkd.evaluation.benchmarks.answer_parsing import LETTERS
from selfkd.evaluation.chance import chance_floor
from selfkd.evaluation.grading import YES_NO_TYPES, headlines, official_metrics
from selfkd.evaluation.uncertainty import (
    DIFFERENCE,
    LEVEL,
    RESAMPLES,
    Groups,
    average_interval,
    averaged_interval,
    clustered_stderr,
    mean_interval,
    score_interval,
    share_of_gap,
    sign_flip_p,
)
from selfkd.evaluation.verdicts import gap_verdict, no_verdict_reason, share_verdict

Sample = Mapping[str, Any]


def summarize(samples: Sequence[Sample], chance: float | None = None) -> dict[str, Any]:
    """Of the items with a reply: n, how many groups they make, correct, accuracy (the mean score), its standard error
    and interval, the floor of chance under it (`chance` where it is known already), parse rate; the rate of "yes" among
    yes/no questions, the true one, and the bias between them; of multiple choice how often the first option is taken,
    how often it is right and the bias between them, and the accuracy of the likeliest option; the benchmark's own
    figures. `failed` items have no reply and count nowhere else, nor do the
    other items of their group in figures that count groups. A reply that cannot be parsed counts as wrong."""
    answered = [s for s in samples if not s["error"]]
    n = len(answered)
    result: dict[str, Any] = {"n": n, "failed": len(samples) - n}
    if not n:
        return result
    scores = [float(s["score"]) for s in answered]
    yes_no = [s for s in answered if s["question_type"] in (*YES_NO_TYPES, "yes_no")]
    said = fmean(s["parsed"] == "yes" for s in yes_no) if yes_no else None
    true = fmean(s["target"] == "yes" for s in yes_no) if yes_no else None
    lettered = [s for s in answered if s["question_type"] in ("choice", "multiple_choice") and s["target"] in LETTERS]
    chosen = [s for s in lettered if s["parsed"] is not None]  # RealWorldQA asks for words and numbers, too
    first = fmean(s["parsed"] == "A" for s in chosen) if chosen else None
    true_first = fmean(s["target"] == "A" for s in chosen) if chosen else None
    weighed = [s for s in answered if s["log_likelihoods"]]
    wers = [s["word_error_rate"] for s in answered if s["word_error_rate"] is not None]
    return result | {
        "groups": len(set(groups_in(answered))),
        "correct": sum(s["correct"] for s in answered),
        "accuracy": fmean(scores),
        "stderr": clustered_stderr(scores, groups_in(answered)),
        "interval": score_interval(scores, groups_in(answered)),
        "chance": chance_floor(samples) if chance is None else chance,
        "parse_rate": fmean(s["parsed"] is not None for s in answered),
        "yes_rate": said,
        "true_yes_rate": true,
        "yes_bias": None if said is None or true is None else said - true,
        "first_rate": first,
        "true_first_rate": true_first,
        "first_bias": None if first is None or true_first is None else first - true_first,
        "likelihood_accuracy": fmean(map(_likeliest_is_true, weighed)) if weighed else None,
        "heard_wer": fmean(wers) if wers else None,  # as the cascade's recogniser, else the data stage's, heard it
        "seconds": fmean(s["seconds"] for s in answered),
        "figures": official_metrics(samples)[0],
    }


def groups_in(samples: Sequence[Sample]) -> list[str]:
    return [s["group"] for s in samples]


def _likeliest_is_true(sample: Sample) -> bool:
    nats = sample["log_likelihoods"]
    return LETTERS[nats.index(max(nats))] == sample["target"]


def paired(first: Sequence[Sample], second: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    """The items that have a reply in both, in the order of the first."""
    others = {s["id"]: s for s in second if not s["error"]}
    both = [s for s in first if not s["error"] and s["id"] in others]
    return both, [others[s["id"]] for s in both]


def vision_audio_gap(
    text: Sequence[Sample], audio: Sequence[Sample], seed: int = 0, chance: float | None = None
) -> dict[str, Any]:
    """Written minus spoken on the same items: the gap in mean score with a 95% interval over groups (None for a single
    one) and what may be said of it (`verdicts.py`), McNemar's exact test over groups of the items that are right in one
    view alone, and where the two views agree. An item is right where its score is one half or more. `headline` is the
    difference of the benchmark's own first figures, on the items, or groups, that are whole in both; None without such
    figures. `chance` is the floor under the accuracies, where it is known already."""
    written, spoken = paired(text, audio)
    if not written:
        return {"n": 0}
    groups = groups_in(written)
    scores = [float(s["score"]) for s in written]
    difference = [a["score"] - b["score"] for a, b in zip(written, spoken, strict=True)]
    interval = mean_interval(difference, groups, DIFFERENCE, seed)
    chance = chance_floor(text) if chance is None else chance
    silent = no_verdict_reason(len(set(groups)), fmean(scores), score_interval(scores, groups), chance)
    right = [(bool(a["correct"]), bool(b["correct"])) for a, b in zip(written, spoken, strict=True)]
    own = headlines(text, audio)
    return {
        "n": len(written),
        "groups": len(set(groups)),
        "gap": fmean(difference),
        "stderr": clustered_stderr(difference, groups),
        "gap_interval": interval,
        "verdict": gap_verdict(silent, interval),
        "headline": own[0] - own[1] if own else None,
        "both_right": right.count((True, True)),
        "only_written": right.count((True, False)),
        "only_spoken": right.count((False, True)),
        "neither": right.count((False, False)),
        "mcnemar_p": sign_flip_p([a - b for a, b in right], groups),
        "level": LEVEL,
        "resamples": RESAMPLES,
    }


def spread_over_voices(result: Mapping[str, Any], mark: str) -> dict[str, Any]:
    """{benchmark: {"over_voices": ...}} of the results "benchmark@voice": mean, standard deviation, least and most of
    the spoken accuracies and of the gaps over the voices."""
    by_benchmark: dict[str, list[Mapping[str, Any]]] = {}
    for name, scores in result.items():
        benchmark, found, _ = name.partition(mark)
        if found and scores.get("audio", {}).get("n"):
            by_benchmark.setdefault(benchmark, []).append(scores)
    return {b: {"over_voices": _over_voices(some)} for b, some in by_benchmark.items()}


def _over_voices(scores: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    metrics = {
        "accuracy": [s["audio"]["accuracy"] for s in scores],
        "gap": [s["gap"]["gap"] for s in scores if s.get("gap", {}).get("n")],
    }
    return {"voices": len(scores)} | {
        name: {"mean": fmean(v), "sd": stdev(v) if len(v) > 1 else None, "least": min(v), "most": max(v)}
        for name, v in metrics.items()
        if v
    }


def gap_closed(
    text: Sequence[float],
    first: Sequence[float],
    second: Sequence[float],
    seed: int = 0,
    groups: Groups = None,
    chance: float | None = None,
) -> dict[str, Any]:
    """Share of the gap left by `first` that `second` closes, (second - first) / (text - first), on the same items.

    With a 95% interval over groups (`uncertainty.share_of_gap`) and what may be said of it. Share and interval are None
    of few groups, where the gap is not clear (more than 1 in 100 resamples have none), and where text is not above
    `chance`.
    """
    return gap_closed_on_average([(text, first, second, groups)], seed, chance)


def gap_closed_on_average(
    benchmarks: Sequence[tuple[Sequence[float], Sequence[float], Sequence[float], Groups]],
    seed: int = 0,
    chance: float | None = None,
) -> dict[str, Any]:
    """The same of mean scores over benchmarks, each of which counts the same: (text, first, second, groups) of each,
    and the mean of their floors of chance. Groups are drawn again within their benchmark."""
    scores = [np.array([text, first, second], dtype=float).T for text, first, second, _ in benchmarks]
    groups = [its for *_, its in benchmarks]
    fewest = min(len(of) if its is None else len(set(its)) for of, its in zip(scores, groups, strict=True))
    text_means = [float(of[:, 0].mean()) for of in scores]
    text_interval = averaged_interval(
        text_means, [score_interval(of[:, 0], its) for of, its in zip(scores, groups, strict=True)]
    )
    silent = no_verdict_reason(fewest, fmean(text_means), text_interval, chance)
    found = None if silent else share_of_gap(scores, groups, seed)
    share, interval = found or (None, None)
    differences = [of[:, 2] - of[:, 1] for of in scores]
    return {
        "share": share,
        "interval": interval,
        "verdict": share_verdict(silent, interval),
        "groups": fewest,
        "difference": fmean(float(of.mean()) for of in differences),
        "difference_interval": average_interval(differences, groups, DIFFERENCE, seed),
        "level": LEVEL,
        "resamples": RESAMPLES,
    }
