"""The average over public benchmarks, each counting the same: how the paper states a model's vision-audio gap."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from selfkd.evaluation.uncertainty import LEVEL, averaged_interval
from selfkd.evaluation.verdicts import gap_verdict, no_verdict_reason

MODALITIES = ("text", "audio", "cascade")
VOICE_MARK = "@"  # a benchmark that several voices spoke is there once for each: "mme@anna"


def averaged(scores_of: Mapping[str, Iterable[Mapping[str, Any]]]) -> dict[str, list[str]]:
    """{"average": benchmarks}, or {"average@voice": those that it spoke}, of {benchmark: scores of each system};
    of the public ones, which have figures of their own, and none of fewer than two."""
    found: dict[str, list[str]] = {}
    for name, all_scores in scores_of.items():
        metrics = [scores.get("figures") for scores in all_scores]
        if metrics and all(metrics):
            _, mark, voice = name.partition(VOICE_MARK)
            found.setdefault(f"average{mark}{voice}", []).append(name)
    return {average: names for average, names in found.items() if len(names) > 1}


def averages(result: Mapping[str, Any]) -> dict[str, Any]:
    """{"average": {"over_benchmarks": ...}}, or {"average@voice": ...} where there are several voices, of the public
    benchmarks in an evaluation's result; none of fewer than two. Of each view `average_scores`, of the gap
    `average_gap`."""
    of_modalities = {name: [scores[v] for v in MODALITIES if v in scores] for name, scores in result.items()}
    return {
        average: {"over_benchmarks": _average({name: result[name] for name in names})}
        for average, names in averaged(of_modalities).items()
    }


def _average(of: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    scores = list(of.values())
    average: dict[str, Any] = {"benchmarks": [name.partition(VOICE_MARK)[0] for name in of]}
    for modality in MODALITIES:
        asked = [s[modality] for s in scores if modality in s]
        if len(asked) == len(scores):
            average[modality] = average_scores(asked)
    gaps = [s["gap"] for s in scores if s.get("gap", {}).get("n")]
    if len(gaps) == len(scores):
        average["gap"] = average_gap(gaps, average["text"])
    return average


def average_scores(of_each: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean score (0 to 1) with its standard error and interval, the mean of the floors of chance, `groups`, those of
    the benchmark that has fewest, and `headline`, the mean of the benchmarks' own first figures in percent, which has
    no error: MME's counts pairs."""
    return {
        "n": sum(s["n"] for s in of_each),
        "failed": sum(s["failed"] for s in of_each),
        "accuracy": fmean(s["accuracy"] for s in of_each),
        "stderr": _stderr([s["stderr"] for s in of_each]),
        "groups": min(s["groups"] for s in of_each),
        "interval": averaged_interval([s["accuracy"] for s in of_each], [s["interval"] for s in of_each]),
        "chance": fmean(s["chance"] for s in of_each),
        "headline": fmean(next(iter(s["figures"].values())) for s in of_each),
    }


def average_gap(of_each: Sequence[Mapping[str, Any]], text: Mapping[str, Any]) -> dict[str, Any]:
    """Of the gaps on each benchmark, with the average scores of the text modality; the headline's is between first
    figures on the same items, which those of the averages are not where a view lacks replies."""
    headlines = [g["headline"] for g in of_each]
    groups = min(g["groups"] for g in of_each)
    interval = averaged_interval([g["gap"] for g in of_each], [g["gap_interval"] for g in of_each])
    return {
        "n": sum(g["n"] for g in of_each),
        "groups": groups,
        "gap": fmean(g["gap"] for g in of_each),
        "stderr": _stderr([g["stderr"] for g in of_each]),
        "gap_interval": interval,
        "verdict": gap_verdict(no_verdict_reason(groups, text["accuracy"], text["interval"], text["chance"]), interval),
        "headline": None if None in headlines else fmean(headlines),
        "level": LEVEL,
    }


def _stderr(of_each: Sequence[float | None]) -> float | None:
    """Of the mean of independent means; None where one of them is not known."""
    known = [e for e in of_each if e is not None]
    return sum(e**2 for e in known) ** 0.5 / len(of_each) if len(known) == len(of_each) else None
