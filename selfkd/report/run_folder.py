"""Folders given to the report: what each is, read from its files alone; raises InputError for what is none of them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfkd.data.example import MANIFEST, read_manifest
from selfkd.errors import InputError
from selfkd.evaluation.compare import run_name
from selfkd.evaluation.side_by_side import CASCADE, TEXT
from selfkd.files import read_json
from selfkd.runs import CONFIG, PROVENANCE, RESULT, name_and_path

DATA = "data"  # the kind of a folder of spoken questions; the others are stages
STAGES = ("evaluate", "align", "distill", "attention", "agreement")


@dataclass(frozen=True)
class RunFolder:
    name: str
    folder: Path
    kind: str  # one of `STAGES`, or `DATA`
    config: dict[str, Any]  # of spoken questions the manifest
    result: dict[str, Any]
    provenance: dict[str, Any]


def read_runs(entries: Sequence[str]) -> list[RunFolder]:
    """Of RUN or NAME=RUN, in their order. Runs of different stages may have one name: a model's training and its
    evaluation."""
    if not entries:
        raise InputError("runs: give at least one (a run directory, or a folder of selfkd synthesize)")
    found: dict[tuple[str, str], RunFolder] = {}
    for entry in entries:
        name, path = name_and_path(entry)
        folder = Path(path)
        run = _read(name or run_name(folder), folder)
        if run.kind == "evaluate" and run.name in (TEXT, CASCADE):
            raise InputError(f"runs: {entry}: {run.name!r} is the name of a view; write NAME={path}")
        if (run.kind, run.name) in found:
            raise InputError(f"runs: {entry}: a second {run.name!r} ({run.kind}); write NAME={path}")
        found[run.kind, run.name] = run
    return list(found.values())


def _read(name: str, folder: Path) -> RunFolder:
    if not folder.is_dir():
        raise InputError(f"runs: {folder}: no such folder")
    config = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    if not config:
        if not any((folder / file).is_file() for file in (MANIFEST, "plan.json")):
            raise InputError(f"runs: {folder}: neither a run directory ({CONFIG}) nor spoken questions ({MANIFEST})")
        return RunFolder(name, folder, DATA, read_manifest(folder), {}, {})
    stage = config.get("stage")
    if stage not in STAGES:
        hint = "" if stage else " (a model's folder? give the run that it is in)"
        raise InputError(f"runs: {folder / CONFIG}: stage: {stage!r} is not one of {', '.join(STAGES)}{hint}")
    if not (folder / RESULT).is_file():
        raise InputError(f"runs: {folder}: not complete, no {RESULT} (the command that began it goes on with it)")
    provenance = read_json(folder / PROVENANCE) if (folder / PROVENANCE).is_file() else {}
    return RunFolder(name, folder, stage, config, read_json(folder / RESULT), provenance)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a JSON-lines file; raises InputError where it was cut short."""
    if not path.is_file():
        raise InputError(f"{path}: not found; the run has lost it")
    records = []
    with path.open("rb") as file:  # of bytes: a text has other ends of lines too, and a model may have said one
        for number, line in enumerate(file, 1):
            try:
                records.append(json.loads(line))
            except ValueError as error:
                raise InputError(f"{path}: line {number} is cut short or damaged ({error})") from error
    return records


def groups_stated(found: Mapping[str, Any], run: RunFolder) -> int:
    """Of how many groups an analysis' figures are."""
    if "groups" not in found:
        raise InputError(f"{run.folder / RESULT}: field groups: missing; an older selfkd made this run, analyze again")
    return found["groups"]


def data_folder(run: RunFolder, path: str) -> Path | None:
    """A folder that a run's configuration names, seen from where the run was made: here, or above the run. None where
    it has been deleted since."""
    places = [Path(), *run.folder.resolve().parents]
    return next((place / path for place in places if (place / path / MANIFEST).is_file()), None)
