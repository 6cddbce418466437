"""The average over public benchmarks, each counting the same: how the paper states a model's vision-audio gap."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

VIEWS = ("text", "speech", "cascade")


def averages(result: Mapping[str, Any], mark: str) -> dict[str, Any]:
    """{"average": {"over_benchmarks": ...}}, or {"average@voice": ...} where benchmarks are called "name@voice", of the
    public benchmarks in an evaluation's result; none of fewer than two.

    Of each view `accuracy` (mean score, 0 to 1) with its standard error, and `headline`, the mean of the benchmarks'
    own first figures in percent, which has none: MME's counts pairs. Of the gap the same, written minus spoken.
    """
    by_voice: dict[str, dict[str, Mapping[str, Any]]] = {}
    for name, scores in result.items():
        benchmark, _, voice = name.partition(mark)
        views = [scores[v] for v in VIEWS if v in scores]
        if views and all(of.get("figures") for of in views):
            by_voice.setdefault(voice, {})[benchmark] = scores
    return {
        f"average{mark}{voice}" if voice else "average": {"over_benchmarks": _average(some)}
        for voice, some in by_voice.items()
        if len(some) > 1
    }


def _average(of: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    scores = list(of.values())
    average: dict[str, Any] = {"benchmarks": list(of)}
    for view in VIEWS:
        asked = [s[view] for s in scores if view in s]
        if len(asked) == len(scores):
            average[view] = {
                "n": sum(s["n"] for s in asked),
                "accuracy": fmean(s["accuracy"] for s in asked),
                "stderr": _stderr([s["stderr"] for s in asked]),
                "headline": fmean(next(iter(s["figures"].values())) for s in asked),
            }
    gaps = [s["gap"] for s in scores if s.get("gap", {}).get("n")]
    if len(gaps) == len(scores):
        average["gap"] = {
            "n": sum(g["n"] for g in gaps),
            "gap": fmean(g["gap"] for g in gaps),
            "stderr": _stderr([g["stderr"] for g in gaps]),
            "headline": average["text"]["headline"] - average["speech"]["headline"],
        }
    return average


def _stderr(of_each: Sequence[float | None]) -> float | None:
    """Of the mean of independent means; None where one of them is not known."""
    known = [e for e in of_each if e is not None]
    return sum(e**2 for e in known) ** 0.5 / len(of_each) if len(known) == len(of_each) else None
