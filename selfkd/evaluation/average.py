"""The average over public benchmarks, each with the same weight: how the paper states a model's vision-audio gap."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any, TypeVar

from selfkd.evaluation.uncertainty import LEVEL, averaged_interval
from selfkd.evaluation.verdicts import gap_verdict, no_verdict_reason

T = TypeVar("T")
MODALITIES = ("text", "audio", "cascade")
VOICE_MARK = "@"  # a benchmark synthesized in several voices has a name for each: "mme@anna"


def by_voice(items: Iterable[tuple[str, T]]) -> dict[str, list[tuple[str, T]]]:
    """{benchmark: [(voice, item), ...]} of the items under names with a voice, ("mme@anna", item)."""
    found: dict[str, list[tuple[str, T]]] = {}
    for name, item in items:
        benchmark, mark, voice = name.partition(VOICE_MARK)
        if mark:
            found.setdefault(benchmark, []).append((voice, item))
    return found


def benchmarks_to_average(scores_of: Mapping[str, Iterable[Mapping[str, Any]]]) -> dict[str, list[str]]:
    """{"average": benchmarks}, or {"average@voice": benchmarks in that voice}, for {benchmark: scores of each system}.
    Public benchmarks only, which have metrics of their own; no average over fewer than two."""
    found: dict[str, list[str]] = {}
    for name, all_scores in scores_of.items():
        metrics = [scores.get("metrics") for scores in all_scores]
        if metrics and all(metrics):
            _, mark, voice = name.partition(VOICE_MARK)
            found.setdefault(f"average{mark}{voice}", []).append(name)
    return {average: names for average, names in found.items() if len(names) > 1}


def average_over_benchmarks(result: Mapping[str, Any]) -> dict[str, Any]:
    """{"average": {"over_benchmarks": ...}}, or {"average@voice": ...} for several voices, over the public benchmarks
    in an evaluation's result; no average over fewer than two. `average_scores` for each modality, `average_gap` for the
    gap."""
    by_modality = {name: [scores[m] for m in MODALITIES if m in scores] for name, scores in result.items()}
    return {
        average: {"over_benchmarks": _average({name: result[name] for name in names})}
        for average, names in benchmarks_to_average(by_modality).items()
    }


def _average(result: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    scores = list(result.values())
    average: dict[str, Any] = {"benchmarks": [name.partition(VOICE_MARK)[0] for name in result]}
    for modality in MODALITIES:
        present = [s[modality] for s in scores if modality in s]
        if len(present) == len(scores):
            average[modality] = average_scores(present)
    gaps = [s["gap"] for s in scores if s.get("gap", {}).get("n")]
    if len(gaps) == len(scores):
        average["gap"] = average_gap(gaps, average["text"])
    return average


def average_scores(each: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean score (0 to 1) with its standard error and interval, the mean chance accuracy, `groups` (the minimum over
    the benchmarks), and `headline`, the mean of the benchmarks' own first metrics in percent, which has no standard
    error: MME's counts pairs."""
    return {
        "n": sum(s["n"] for s in each),
        "failed": sum(s["failed"] for s in each),
        "accuracy": fmean(s["accuracy"] for s in each),
        "stderr": _stderr([s["stderr"] for s in each]),
        "groups": min(s["groups"] for s in each),
        "interval": averaged_interval([s["accuracy"] for s in each], [s["interval"] for s in each]),
        "chance": fmean(s["chance"] for s in each),
        "headline": fmean(next(iter(s["metrics"].values())) for s in each),
        **_subset(each),
    }


def average_gap(each: Sequence[Mapping[str, Any]], text: Mapping[str, Any]) -> dict[str, Any]:
    """The mean of the gaps on each benchmark, with the average scores of the text modality. `headline` is the mean gap
    of first metrics on the same items; the difference of the averages' headlines is not, where a modality lacks
    responses."""
    headlines = [g["headline"] for g in each]
    groups = min(g["groups"] for g in each)
    interval = averaged_interval([g["gap"] for g in each], [g["gap_interval"] for g in each])
    return {
        "n": sum(g["n"] for g in each),
        "groups": groups,
        "gap": fmean(g["gap"] for g in each),
        "stderr": _stderr([g["stderr"] for g in each]),
        "gap_interval": interval,
        "verdict": gap_verdict(no_verdict_reason(groups, text["accuracy"], text["interval"], text["chance"]), interval),
        "headline": None if None in headlines else fmean(headlines),
        "level": LEVEL,
        **_subset(each),
    }


def _subset(each: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """`subset` of the mean of scores, some of which are of a part of their benchmark; {} where none is."""
    if not any("subset" in s for s in each):
        return {}
    return {"subset": {"stderr": _stderr([s.get("subset", {"stderr": 0.0})["stderr"] for s in each])}}


def _stderr(each: Sequence[float | None]) -> float | None:
    """The standard error of the mean of independent means; None where one of them is not known."""
    known = [e for e in each if e is not None]
    return sum(e**2 for e in known) ** 0.5 / len(each) if len(known) == len(each) else None
