"""The metrics in result.json and scores.json: scores with their uncertainty, and the gap between two modalities.

To add a metric of one modality's samples, add it to `METRICS`. Items of one `group` (see `grading.py`) are held to be
right or wrong together: standard errors and intervals are over groups.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from selfkd.evaluation.benchmarks.answer_parsing import LETTERS
from selfkd.evaluation.cascade import FORMS, in_form
from selfkd.evaluation.chance import chance_accuracy
from selfkd.evaluation.grading import YES_NO_TYPES, benchmark_metrics, headline_metrics
from selfkd.evaluation.response import count_outcomes, outcome_warnings
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
    subset_stderr,
)
from selfkd.evaluation.verdicts import gap_verdict, no_verdict_reason, share_verdict

Sample = Mapping[str, Any]
Metric = Callable[[Sequence[Sample]], Any]
TURN_METRICS = ("n", "failed", "accuracy", "gap", "stderr", "interval", "gap_interval")  # of each turn
OVERLAP_COUNTS = ("both_correct", "only_text_correct", "only_audio_correct", "neither_correct")  # of a gap, in items


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return fmean(found) if found else None


def _minus(rate: float | None, target: float | None) -> float | None:
    return None if rate is None or target is None else rate - target


def _scores(samples: Sequence[Sample]) -> list[float]:
    return [float(s["score"]) for s in samples]


def _yes_no(samples: Sequence[Sample]) -> list[Sample]:
    return [s for s in samples if s["question_type"] in (*YES_NO_TYPES, "yes_no")]


def _chosen_letters(samples: Sequence[Sample]) -> list[Sample]:
    """Multiple choice with a parsed letter; RealWorldQA has questions for words and numbers too."""
    choices = [s for s in samples if s["question_type"] in ("choice", "multiple_choice") and s["target"] in LETTERS]
    return [s for s in choices if s["parsed"] is not None]


def _yes_rate(samples: Sequence[Sample], field: str = "parsed") -> float | None:
    return _mean(s[field] == "yes" for s in _yes_no(samples))


def _first_rate(samples: Sequence[Sample], field: str = "parsed") -> float | None:
    return _mean(s[field] == "A" for s in _chosen_letters(samples))


def _likeliest_is_target(sample: Sample) -> bool:
    nats = sample["log_likelihoods"]
    return LETTERS[nats.index(max(nats))] == sample["target"]


# of the samples with a response, of which there is at least one; None where no sample has what the metric needs
METRICS: dict[str, Metric] = {
    "groups": lambda samples: len(set(groups_in(samples))),
    "correct": lambda samples: sum(s["correct"] for s in samples),
    "accuracy": lambda samples: fmean(_scores(samples)),  # the mean score
    "stderr": lambda samples: clustered_stderr(_scores(samples), groups_in(samples)),
    "interval": lambda samples: score_interval(_scores(samples), groups_in(samples)),
    "parse_rate": lambda samples: fmean(s["parsed"] is not None for s in samples),
    "yes_rate": _yes_rate,  # of yes/no questions
    "target_yes_rate": lambda samples: _yes_rate(samples, "target"),
    "yes_bias": lambda samples: _minus(_yes_rate(samples), _yes_rate(samples, "target")),
    "first_rate": _first_rate,  # of multiple choice: how often the first option is chosen
    "target_first_rate": lambda samples: _first_rate(samples, "target"),
    "first_bias": lambda samples: _minus(_first_rate(samples), _first_rate(samples, "target")),
    "likelihood_accuracy": lambda samples: _mean(_likeliest_is_target(s) for s in samples if s["log_likelihoods"]),
    # of the cascade's transcripts; in the audio modality, of the quality filter's
    "transcript_wer": lambda samples: _mean(s["word_error_rate"] for s in samples if s["word_error_rate"] is not None),
    "seconds": lambda samples: fmean(s["seconds"] for s in samples),
}


def summarize(samples: Sequence[Sample], chance: float | None = None) -> dict[str, Any]:
    """`METRICS` of the samples with a response, their number `n`, `chance` (computed unless it is given), and
    `metrics`, the benchmark's own. `failed` samples have no response and count nowhere else; nor do the other items of
    their group in metrics that count groups. A response that cannot be parsed counts as wrong."""
    answered = [s for s in samples if not s["error"]]
    result: dict[str, Any] = {"n": len(answered), "failed": len(samples) - len(answered)}
    if not answered:
        return result
    result |= {name: metric(answered) for name, metric in METRICS.items()}
    result["chance"] = chance_accuracy(samples) if chance is None else chance
    return result | {"metrics": benchmark_metrics(samples)[0]}


def summarize_modality(samples: Sequence[Sample], chance: float | None) -> dict[str, Any]:
    """`summarize` with the `outcomes` of the responses; of a cascade also `form`, the one of these scores, and `forms`,
    {form: scores} of both."""
    outcomes = {"outcomes": count_outcomes(samples)}
    if not samples or "form" not in samples[0]:
        return summarize(samples, chance) | outcomes
    form = samples[0]["form"]
    forms = {f: summarize([in_form(s, f) for s in samples], chance) for f in FORMS}
    return forms[form] | outcomes | {"form": form, "forms": forms}


def score(samples: Mapping[str, Sequence[Sample]], seed: int) -> dict[str, Any]:
    """{modality: scores} of one benchmark, and "gap" and "cascade_gap", text minus the other on the same items. With
    the `outcomes` of each modality's responses, and `warnings` next to a gap where they differ between its two."""
    chance = chance_accuracy(next(iter(samples.values()), ()))  # the items of all modalities are the same
    scores: dict[str, Any] = {modality: summarize_modality(some, chance) for modality, some in samples.items()}
    for modality, key in (("audio", "gap"), ("cascade", "cascade_gap")):
        if "text" in samples and modality in samples:
            warnings = outcome_warnings(samples["text"], samples[modality], modality)
            scores[key] = vision_audio_gap(samples["text"], samples[modality], seed, chance) | {"warnings": warnings}
    _add_turns(scores, samples, seed, chance)
    return scores


def _add_turns(
    scores: dict[str, Any], samples: Mapping[str, Sequence[Sample]], seed: int, chance: float | None
) -> None:
    """Adds, where the items are turns of conversations, `turns`, {number: scores}, to each modality and gap."""
    numbers = sorted({s.get("turn", 1) for some in samples.values() for s in some})
    if len(numbers) < 2:
        return
    for number in numbers:
        own = {modality: [s for s in some if s.get("turn", 1) == number] for modality, some in samples.items()}
        of_turn: dict[str, Any] = {modality: summarize(some, chance) for modality, some in own.items()}
        for modality, key in (("audio", "gap"), ("cascade", "cascade_gap")):
            if "text" in own and modality in own:
                of_turn[key] = vision_audio_gap(own["text"], own[modality], seed, chance)
        for name, found in of_turn.items():
            kept = {metric: found[metric] for metric in TURN_METRICS if metric in found}
            scores[name].setdefault("turns", {})[str(number)] = kept


def add_subset_errors(
    scores: dict[str, Any], samples: Mapping[str, Sequence[Sample]], whole: Mapping[str, int]
) -> None:
    """Adds `subset` to the scores of each modality, and to the gap, of a benchmark of which only random whole groups
    were run: {"of_items", "of_groups", "stderr"}, the standard error against the whole of `whole` items and groups."""
    sizes = {"of_items": whole["items"], "of_groups": whole["groups"]}

    def add(to: dict[str, Any], values: Sequence[float], of: Sequence[Sample]) -> None:
        if values:
            to["subset"] = sizes | {"stderr": subset_stderr(values, groups_in(of), whole["groups"])}

    for modality, some in samples.items():
        answered = [s for s in some if not s["error"]]
        add(scores[modality], _scores(answered), answered)
    if scores.get("gap", {}).get("n"):
        text, audio = pair_samples(samples["text"], samples["audio"])
        add(scores["gap"], [a["score"] - b["score"] for a, b in zip(text, audio, strict=True)], text)


def groups_in(samples: Sequence[Sample]) -> list[str]:
    return [s["group"] for s in samples]


def pair_samples(first: Sequence[Sample], second: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    """The samples of the items that have a response in both, in the order of the first."""
    others = {s["id"]: s for s in second if not s["error"]}
    both = [s for s in first if not s["error"] and s["id"] in others]
    return both, [others[s["id"]] for s in both]


def vision_audio_gap(
    text: Sequence[Sample], audio: Sequence[Sample], seed: int = 0, chance: float | None = None
) -> dict[str, Any]:
    """Text minus audio on the same items: the gap in mean score with a 95% interval over groups (None for a single one)
    and its verdict (`verdicts.py`), McNemar's exact test over groups of the items that are correct in only one
    modality, and the counts behind it. An item is correct where its score is at least one half. `headline` is the
    difference of the benchmark's own first metrics, on the items, or groups, that are complete in both; None without
    such metrics. `chance` is computed unless it is given."""
    text_pairs, audio_pairs = pair_samples(text, audio)
    if not text_pairs:
        return {"n": 0}
    groups = groups_in(text_pairs)
    scores = _scores(text_pairs)
    difference = [a["score"] - b["score"] for a, b in zip(text_pairs, audio_pairs, strict=True)]
    interval = mean_interval(difference, groups, DIFFERENCE, seed)
    chance = chance_accuracy(text) if chance is None else chance
    reason = no_verdict_reason(len(set(groups)), fmean(scores), score_interval(scores, groups), chance)
    correct = [(bool(a["correct"]), bool(b["correct"])) for a, b in zip(text_pairs, audio_pairs, strict=True)]
    overlap = [correct.count(pair) for pair in ((True, True), (True, False), (False, True), (False, False))]
    headlines = headline_metrics(text, audio)
    return {
        "n": len(text_pairs),
        "groups": len(set(groups)),
        "gap": fmean(difference),
        "stderr": clustered_stderr(difference, groups),
        "gap_interval": interval,
        "verdict": gap_verdict(reason, interval),
        "headline": headlines[0] - headlines[1] if headlines else None,
        **dict(zip(OVERLAP_COUNTS, overlap, strict=True)),
        "mcnemar_p": sign_flip_p([a - b for a, b in correct], groups),
        "level": LEVEL,
        "resamples": RESAMPLES,
    }


def score_with_interval(samples: Sequence[Sample]) -> dict[str, Any]:
    """n, groups, accuracy, standard error and interval of samples with a response, of which there is at least one."""
    names = ("groups", "accuracy", "stderr", "interval")
    return {"n": len(samples)} | {name: METRICS[name](samples) for name in names}


def gap_closed(
    text: Sequence[float],
    first: Sequence[float],
    second: Sequence[float],
    seed: int = 0,
    groups: Groups = None,
    chance: float | None = None,
) -> dict[str, Any]:
    """Share of the gap left by `first` that `second` closes, (second - first) / (text - first), on the same items.

    With a 95% interval over groups (`uncertainty.share_of_gap`) and its verdict. Share and interval are None with few
    groups, where the gap is not clear (more than 1 in 100 resamples have none), and where text is not above `chance`.
    """
    return gap_closed_on_average([(text, first, second, groups)], seed, chance)


def gap_closed_on_average(
    benchmarks: Sequence[tuple[Sequence[float], Sequence[float], Sequence[float], Groups]],
    seed: int = 0,
    chance: float | None = None,
) -> dict[str, Any]:
    """`gap_closed` for mean scores over benchmarks of equal weight: (text, first, second, groups) of each, and their
    mean chance. Groups are resampled within their benchmark."""
    scores = [np.array([text, first, second], dtype=float).T for text, first, second, _ in benchmarks]
    groups = [its for *_, its in benchmarks]
    min_groups = min(len(of) if its is None else len(set(its)) for of, its in zip(scores, groups, strict=True))
    text_means = [float(of[:, 0].mean()) for of in scores]
    text_interval = averaged_interval(
        text_means, [score_interval(of[:, 0], its) for of, its in zip(scores, groups, strict=True)]
    )
    reason = no_verdict_reason(min_groups, fmean(text_means), text_interval, chance)
    found = None if reason else share_of_gap(scores, groups, seed)
    share, interval = found or (None, None)
    differences = [of[:, 2] - of[:, 1] for of in scores]
    return {
        "share": share,
        "interval": interval,
        "verdict": share_verdict(reason, interval),
        "groups": min_groups,
        "difference": fmean(float(of.mean()) for of in differences),
        "difference_interval": average_interval(differences, groups, DIFFERENCE, seed),
        "level": LEVEL,
        "resamples": RESAMPLES,
    }
