"""Evaluated runs -> one comparison on the same items: the written view, each run's spoken view, the cascade, and the
share of the gap that a run closes.

Reads the samples of evaluation runs; writes `scores.json` and `comparison.json` (where each system's samples lie).
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from selfkd.errors import InputError
from selfkd.evaluation.comparable import Asked, check_fields, difference
from selfkd.evaluation.gap_table import accuracy_cell, chance_cell, official_note, scoring_in, verdict_notes
from selfkd.evaluation.samples import read_samples, samples_path
from selfkd.evaluation.side_by_side import CASCADE, TEXT, averages_side_by_side, side_by_side
from selfkd.files import read_json, write_json
from selfkd.runs import CONFIG, RESULT, name_and_path

Places = dict[str, tuple[Path, str]]  # {system: (run, view)}


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


def compare(config: CompareConfig) -> dict[str, Any]:
    """Returns {benchmark: {"systems": {system: scores}, "gap": {system: ...}, "gap_closed": {system: ...}}}, and of two
    public benchmarks and more the same under "average"; raises InputError where the items are not the same. The written
    view comes first among the systems, the cascade last."""
    places = _places(config.runs)
    benchmarks = [b for b, views in _result(places[TEXT][0]).items() if TEXT in views]
    samples = {
        b: {system: _samples(samples_path(run, b, view)) for system, (run, view) in places.items()} for b in benchmarks
    }
    for benchmark, of in samples.items():
        _check_comparable(benchmark, of, places)
    scores = {benchmark: side_by_side(of, config.seed) for benchmark, of in samples.items()}
    scores |= averages_side_by_side(scores, samples, config.seed)
    for benchmark in benchmarks:
        scores[benchmark]["scoring"] = scoring_in(_result(places[TEXT][0]), benchmark)
    here = {s: {"run": os.path.relpath(run, config.output), "view": view} for s, (run, view) in places.items()}
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


def _check_comparable(benchmark: str, samples: Mapping[str, Sequence[Mapping[str, Any]]], places: Places) -> None:
    """Each system against the written view, and what was spoken against the first that was."""
    asked = {
        system: Asked(str(run), view, read_json(run / CONFIG), samples[system])
        for system, (run, view) in places.items()
    }
    spoken = [of for system, of in asked.items() if system != TEXT]
    for first in (asked[TEXT], *spoken[:1]):
        for other in spoken:
            if told := difference(first, other):
                hint = ": a gap closed would be that of the voices" if "spoken otherwise" in told else ""
                raise InputError(f"runs: {other.run}: {benchmark} {told}{hint}")


def _places(runs: list[str]) -> Places:
    named = {}
    for entry in runs:
        name, path = name_and_path(entry)
        run = Path(path)
        name = name or run_name(run)
        if name in named or name in (TEXT, CASCADE):
            raise InputError(f"runs: {entry}: a second {name!r}; write NAME={path}")
        named[name] = run
    views = {name: {v for of in _result(run).values() for v in of} for name, run in named.items()}
    written = next((name for name in named if TEXT in views[name]), None)
    if written is None:
        raise InputError(f"runs: {', '.join(runs)}: none has the written view (selfkd evaluate --views text ...)")
    places: Places = {TEXT: (named[written], TEXT)}
    places |= {name: (run, "speech") for name, run in named.items() if "speech" in views[name]}
    cascaded = next((name for name in named if CASCADE in views[name]), None)
    return places if cascaded is None else places | {CASCADE: (named[cascaded], CASCADE)}


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
