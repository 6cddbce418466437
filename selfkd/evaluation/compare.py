"""Evaluated runs -> one comparison on the same items: text, audio and cascade scores, gaps, share of the gap closed.

On one benchmark, and on average over public benchmarks, each with the same weight, as the paper states its results. The
share is of the gap that the first audio system leaves. Reads the samples of evaluation runs; writes `scores.json` and
`comparison.json` (the folder of each system's samples).
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.table import Table

from selfkd.errors import InputError
from selfkd.evaluation.average import average_gap, average_scores, averaged
from selfkd.evaluation.chance import chance_floor
from selfkd.evaluation.comparable import Query, check_fields, difference
from selfkd.evaluation.gap_table import accuracy_cell, chance_cell, official_note, scoring_in, verdict_notes
from selfkd.evaluation.grading import headlines
from selfkd.evaluation.metrics import gap_closed, gap_closed_on_average, groups_in, paired, summarize, vision_audio_gap
from selfkd.evaluation.response import count_outcomes, outcome_warnings
from selfkd.evaluation.samples import read_samples, samples_path
from selfkd.files import read_json, write_json
from selfkd.run_dir import CONFIG, RESULT, name_and_path
from selfkd.stage_function import stage_function

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
    return [(s["id"], s["question"], s["target"], s["group"], s["image"]) for s in samples]


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


TokenPositions = dict[str, tuple[Path, str]]  # {system: (run, view)}


@dataclass
class CompareConfig:
    """Puts evaluated runs side by side and states the share of the gap closed.

    The written view, and the cascade, are those of the first run that has them. The first run with a spoken view is
    what the others are measured against: SFT, if they are to close the gap that it leaves.

    Args:
        runs: Evaluation runs, RUN or NAME=RUN; a folder eval-sft is called sft.
        output: Folder for scores.json.
        seed: Seed of the bootstrap.
    """

    runs: list[str]
    output: Path
    seed: int = 0


@stage_function(CompareConfig)
def compare(config: CompareConfig) -> dict[str, Any]:
    """Returns {benchmark: {"systems": {system: scores}, "gap": {system: ...}, "gap_closed": {system: ...}}}, and of two
    public benchmarks and more the same under "average"; raises InputError where the items are not the same. The written
    view comes first among the systems, the cascade last."""
    positions = _places(config.runs)
    benchmarks = [b for b, modalities in _result(positions[TEXT][0]).items() if TEXT in modalities]
    samples = {
        b: {system: _samples(samples_path(run, b, modality)) for system, (run, modality) in positions.items()}
        for b in benchmarks
    }
    for benchmark, of in samples.items():
        _check_comparable(benchmark, of, positions)
    scores = {benchmark: side_by_side(of, config.seed) for benchmark, of in samples.items()}
    scores |= averages_side_by_side(scores, samples, config.seed)
    for benchmark in benchmarks:
        scores[benchmark]["scoring"] = scoring_in(_result(positions[TEXT][0]), benchmark)
    here = {
        s: {"run": os.path.relpath(run, config.output), "modality": modality}
        for s, (run, modality) in positions.items()
    }
    write_json(config.output / "comparison.json", here)
    write_json(config.output / "scores.json", scores)
    console = Console()
    console.print(comparison_table(scores))
    for note in comparison_notes(scores):
        print(note)
    for benchmark, score in scores.items():
        for system, gap in score["gap"].items():
            for line in gap.get("warnings", ()):
                console.print(f"{benchmark}, {system}: {line}", style="yellow", markup=False)
    return scores


def _samples(path: Path) -> list[dict[str, Any]]:
    samples = read_samples(path)
    check_fields(path, samples)
    return samples


def _check_comparable(
    benchmark: str, samples: Mapping[str, Sequence[Mapping[str, Any]]], positions: TokenPositions
) -> None:
    """Each system against the written view, and what was spoken against the first that was."""
    asked = {
        system: Query(str(run), modality, read_json(run / CONFIG), samples[system])
        for system, (run, modality) in positions.items()
    }
    spoken = [of for system, of in asked.items() if system != TEXT]
    for first in (asked[TEXT], *spoken[:1]):
        for other in spoken:
            if told := difference(first, other):
                hint = ": a gap closed would be that of the voices" if "spoken otherwise" in told else ""
                raise InputError(f"runs: {other.run}: {benchmark} {told}{hint}")


def _places(runs: list[str]) -> TokenPositions:
    named = {}
    for entry in runs:
        name, path = name_and_path(entry)
        run = Path(path)
        name = name or run_name(run)
        if name in named or name in (TEXT, CASCADE):
            raise InputError(f"runs: {entry}: a second {name!r}; write NAME={path}")
        named[name] = run
    modalities = {name: {v for of in _result(run).values() for v in of} for name, run in named.items()}
    written = next((name for name in named if TEXT in modalities[name]), None)
    if written is None:
        raise InputError(f"runs: {', '.join(runs)}: none has the written view (selfkd evaluate --modalities text ...)")
    positions: TokenPositions = {TEXT: (named[written], TEXT)}
    positions |= {name: (run, "audio") for name, run in named.items() if "audio" in modalities[name]}
    cascaded = next((name for name in named if CASCADE in modalities[name]), None)
    return positions if cascaded is None else positions | {CASCADE: (named[cascaded], CASCADE)}


def run_name(run: Path) -> str:
    """What a run is called without NAME=: the folder eval-sft is "sft"."""
    return (run.name or run.resolve().name).removeprefix("eval-")


def _result(run: Path) -> dict[str, Any]:
    path = run / RESULT
    is_evaluation = (run / CONFIG).is_file() and read_json(run / CONFIG).get("stage") == "evaluate"
    if not is_evaluation or not path.is_file():
        raise InputError(f"runs: {run}: not a complete evaluation (selfkd evaluate writes {RESULT})")
    return read_json(path)


def comparison_table(scores: Mapping[str, Any]) -> Table:
    """A row a system: its accuracy (standard error) on a benchmark, and the share that it closes of the gap left by the
    first spoken run. Last the average over public benchmarks, of mean scores and of their own first figures."""
    official = [benchmark for benchmark, score in scores.items() if score.get("scoring") == "official"]
    table = Table(title="Accuracy in % (standard error)", caption=official_note(official))
    for column in ("benchmark", "system", "chance", "accuracy", "gap closed"):
        table.add_column(column, justify="left" if column in ("benchmark", "system") else "right")
    for benchmark, score in scores.items():
        closed, chance = score["gap_closed"], chance_cell(score["systems"].values())
        shares = {system: closed_cell(of) for system, of in closed.items()}
        _add_rows(table, titled_benchmark(benchmark, score), chance, accuracy_cells(score), shares)
        if "benchmarks" in score:
            headlines = {system: f"{of['headline']:.1f}" for system, of in score["systems"].items()}
            own = {s: f"{c['headline']:.0%}" for s, c in closed.items() if c["headline"] is not None}
            _add_rows(table, "own figures", "", headlines, own)
    return table


def comparison_notes(scores: Mapping[str, Any]) -> list[str]:
    """Lines beneath the table: why nothing is said of some benchmarks' gaps."""
    gaps = {benchmark: list(score["gap"].values())[:1] for benchmark, score in scores.items()}
    return verdict_notes({benchmark: gap["verdict"] for benchmark, of in gaps.items() for gap in of if gap["n"]})


def _add_rows(table: Table, title: str, chance: str, cells: Mapping[str, str], closed: Mapping[str, str]) -> None:
    for i, (system, cell) in enumerate(cells.items()):
        table.add_row("" if i else title, system, "" if i else chance, cell, closed.get(system, ""))
    table.add_section()


def closed_cell(closed: Mapping[str, Any]) -> str:
    """The share of the gap that is closed with its interval, or why there is none."""
    if closed["share"] is None:
        return closed["verdict"]
    low, high = closed["interval"]
    return f"{closed['share']:.0%} ({low:.0%} to {high:.0%})"


def accuracy_cells(score: Mapping[str, Any]) -> dict[str, str]:
    """{system: its accuracy on a benchmark}, for a table's row."""
    return {system: accuracy_cell(of) for system, of in score["systems"].items()}


def titled_benchmark(name: str, score: Mapping[str, Any]) -> str:
    """ "average of 8"."""
    return f"{name} of {len(score['benchmarks'])}" if "benchmarks" in score else name
