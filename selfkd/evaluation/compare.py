"""Evaluated runs -> one comparison on the same items: the written view, each run's spoken view, the cascade, and the
share of the gap that a run closes.

Reads the samples of evaluation runs; writes `scores.json` and `comparison.json` (where each system's samples lie).
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from selfkd.errors import InputError
from selfkd.evaluation.samples import read_samples, samples_path
from selfkd.evaluation.statistics import gap_closed, groups_in, paired, summarize, vision_audio_gap
from selfkd.files import write_json
from selfkd.runs import CONFIG, RESULT, name_and_path

TEXT, CASCADE = "text", "cascade"  # names that no run can have
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
    """Returns {benchmark: {"systems": {system: scores}, "gap": {system: ...}, "gap_closed": {system: ...}}}; raises
    InputError where the items are not the same. The written view comes first among the systems, the cascade last."""
    places = _places(config.runs)
    benchmarks = [b for b, views in _result(places[TEXT][0]).items() if TEXT in views]
    scores: dict[str, Any] = {}
    for benchmark in benchmarks:
        samples = {s: read_samples(samples_path(run, benchmark, view)) for s, (run, view) in places.items()}
        ids = {system: [s["id"] for s in items] for system, items in samples.items()}
        for system in places:
            if ids[system] != ids[TEXT]:
                raise InputError(f"runs: {places[system][0]}: {benchmark} has other items than {places[TEXT][0]}")
        spoken = [s for s in samples if s != TEXT]
        for system in spoken[1:]:
            if asked_in(samples[system]) != asked_in(samples[spoken[0]]):
                there = f"{benchmark} was spoken otherwise than in {places[spoken[0]][0]}"
                raise InputError(f"runs: {places[system][0]}: {there}: a gap closed would be that of the voices")
        scores[benchmark] = side_by_side(samples, config.seed)
    here = {s: {"run": os.path.relpath(run, config.output), "view": view} for s, (run, view) in places.items()}
    write_json(config.output / "comparison.json", here)
    write_json(config.output / "scores.json", scores)
    Console().print(comparison_table(scores))
    return scores


def asked_in(samples: Sequence[Mapping[str, Any]]) -> list[str]:
    """What makes two runs comparable: a hash of all that was shown and said, for each item."""
    return [s["prompt"] for s in samples]


def side_by_side(samples: Mapping[str, list[dict[str, Any]]], seed: int) -> dict[str, Any]:
    """Scores, gaps and shares of the gap closed of {system: its samples} on one benchmark. `TEXT` is what the others
    are measured against; where it is missing there is no gap. The first spoken system leaves the gap to be closed."""
    if TEXT not in samples:
        return {"systems": {s: summarize(items) for s, items in samples.items()}, "gap": {}, "gap_closed": {}}
    spoken = [s for s in samples if s not in (TEXT, CASCADE)]
    closed = {s: _closed(samples, spoken[0], s, seed) for s in spoken[1:]}
    return {
        "systems": {system: summarize(items) for system, items in samples.items()},
        "gap": {s: vision_audio_gap(samples[TEXT], samples[s], seed) for s in samples if s != TEXT},
        "gap_closed": {s: share for s, share in closed.items() if share is not None},
    }


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
    is_evaluation = (run / CONFIG).is_file() and json.loads((run / CONFIG).read_text()).get("stage") == "evaluate"
    if not is_evaluation or not path.is_file():
        raise InputError(f"runs: {run}: not a complete evaluation (selfkd evaluate writes {RESULT})")
    return json.loads(path.read_text())


def _closed(samples: Mapping[str, list[dict[str, Any]]], first: str, second: str, seed: int) -> dict[str, Any] | None:
    """On the items that have a reply everywhere; None where no item has."""
    text, one = paired(samples[TEXT], samples[first])
    text, two = paired(text, samples[second])
    one, _ = paired(one, two)
    if not one:
        return None
    written, left, right = ([s["score"] for s in items] for items in (text, one, two))
    return {"of": first, **gap_closed(written, left, right, seed, groups_in(text))}


def comparison_table(scores: Mapping[str, Any]) -> Table:
    """A row a system: its accuracy (standard error) on a benchmark, and the share that it closes of the gap left by the
    first spoken run."""
    table = Table(title="Accuracy in % (standard error)")
    for column in ("benchmark", "system", "accuracy", "gap closed"):
        table.add_column(column, justify="left" if column in ("benchmark", "system") else "right")
    for benchmark, score in scores.items():
        for i, (system, cell) in enumerate(zip(score["systems"], accuracy_cells(score), strict=True)):
            closed = score["gap_closed"].get(system) or {"share": None}
            share = "" if closed["share"] is None else f"{closed['share']:.0%}"
            table.add_row("" if i else benchmark, system, cell, share, end_section=i + 1 == len(score["systems"]))
    return table


def accuracy_cells(score: Mapping[str, Any]) -> list[str]:
    """Accuracy (standard error) of each system on a benchmark, in percent, for a table's row."""
    return [
        f"{100 * s['accuracy']:.1f} ({100 * s['stderr']:.1f})" if s["n"] and s["stderr"] is not None else "–"
        for s in score["systems"].values()
    ]
