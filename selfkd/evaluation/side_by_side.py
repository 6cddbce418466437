"""Systems on the same items: scores, gaps against the written view, the share closed of the gap that the first spoken
system leaves. On one benchmark, and on average over public benchmarks, each counting the same: how the paper states its
results."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from selfkd.evaluation.chance import chance_floor
from selfkd.evaluation.grading import headlines
from selfkd.evaluation.outcomes import count_outcomes, outcome_warnings
from selfkd.evaluation.statistics import (
    gap_closed,
    gap_closed_on_average,
    groups_in,
    paired,
    summarize,
    vision_audio_gap,
)
from selfkd.evaluation.suite import average_gap, average_scores, averaged

TEXT, CASCADE = "text", "cascade"  # names of systems that no run can have
Samples = list[dict[str, Any]]


def side_by_side(samples: Mapping[str, Samples], seed: int) -> dict[str, Any]:
    """{"systems": {system: scores}, "gap": {system: ...}, "gap_closed": {system: ...}} of {system: its samples} on one
    benchmark. `TEXT` is what the others are measured against; where it is missing there is no gap."""
    chance = chance_floor(next(iter(samples.values())))  # the items of all systems are the same
    closed = {s: _closed(samples, spoken, s, seed, chance) for spoken, s in _after_the_first(samples)}
    return {
        "systems": {s: summarize(items, chance) | {"outcomes": count_outcomes(items)} for s, items in samples.items()},
        "gap": {s: _gap(samples[TEXT], s, samples[s], seed, chance) for s in _against_text(samples)},
        "gap_closed": {s: share for s, share in closed.items() if share is not None},
    }


def _gap(text: Samples, system: str, samples: Samples, seed: int, chance: float | None) -> dict[str, Any]:
    warnings = outcome_warnings(text, samples, CASCADE if system == CASCADE else "audio")
    return vision_audio_gap(text, samples, seed, chance) | {"warnings": warnings}


def items_in(samples: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """What was asked, in whatever view: id, question, right answer, group and image."""
    return [(s["id"], s["question"], s["truth"], s["group"], s["image"]) for s in samples]


def averages_side_by_side(
    scores: Mapping[str, Mapping[str, Any]], samples: Mapping[str, Mapping[str, Samples]], seed: int
) -> dict[str, Any]:
    """{"average": ...}, or {"average@voice": ...} for each voice, in the form of `side_by_side`, with the names of the
    `benchmarks`; of the public benchmarks among those in `scores` and `samples`, where there are two or more. All have
    the same systems. Resamples are drawn within each benchmark."""
    of_systems = {benchmark: of["systems"].values() for benchmark, of in scores.items()}
    return {
        average: _average({b: scores[b] for b in names}, [samples[b] for b in names], seed)
        for average, names in averaged(of_systems).items()
    }


def _average(scores: Mapping[str, Mapping[str, Any]], samples: Sequence[Mapping[str, Samples]], seed: int) -> dict:
    systems = {s: average_scores([of["systems"][s] for of in scores.values()]) for s in samples[0]}
    gaps, closed = {}, {}
    for system in _against_text(systems):
        each = [of["gap"][system] for of in scores.values()]
        if all(gap["n"] for gap in each):
            gaps[system] = average_gap(each, systems[TEXT])
    for first, system in _after_the_first(systems):
        items = [_answered(of, first, system) for of in samples]
        if all(groups for *_, groups in items):
            own = [headlines(of[TEXT], of[first], of[system]) for of in samples]
            share = gap_closed_on_average(items, seed, systems[TEXT]["chance"])
            headline = None if share["share"] is None or None in own else _share(*map(fmean, zip(*own, strict=True)))
            closed[system] = {"of": first, **share, "headline": headline}
    return {"benchmarks": list(scores), "systems": systems, "gap": gaps, "gap_closed": closed}


def _against_text(systems: Mapping[str, Any]) -> list[str]:
    return [s for s in systems if s != TEXT] if TEXT in systems else []


def _after_the_first(systems: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The first spoken system with each that comes after it; none without the written view."""
    spoken = [s for s in _against_text(systems) if s != CASCADE]
    return [(spoken[0], s) for s in spoken[1:]]


def _closed(
    samples: Mapping[str, Samples], first: str, second: str, seed: int, chance: float | None
) -> dict[str, Any] | None:
    """On the items that have a reply everywhere; None where no item has."""
    written, left, right, groups = _answered(samples, first, second)
    return {"of": first, **gap_closed(written, left, right, seed, groups, chance)} if groups else None


def _answered(samples: Mapping[str, Samples], first: str, second: str) -> tuple[list, list, list, list[str]]:
    """Scores of the written view, of the first and of the second on the items that all three answered, and groups."""
    text, one = paired(samples[TEXT], samples[first])
    text, two = paired(text, samples[second])
    one, _ = paired(one, two)
    written, left, right = ([s["score"] for s in items] for items in (text, one, two))
    return written, left, right, groups_in(text)


def _share(text: float, first: float, second: float) -> float | None:
    return (second - first) / (text - first) if text > first else None
