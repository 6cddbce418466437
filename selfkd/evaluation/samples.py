"""The per-sample records of an evaluation run, a JSON-lines file for each benchmark and view; written by `records.py`.

`pandas.read_json(path, lines=True)` reads one.
"""

import json
from pathlib import Path
from typing import Any

from selfkd.errors import InputError
from selfkd.files import path_within

QUESTIONS = "questions.json"  # of an evaluation run: {benchmark: folder of its spoken questions, seen from the run}


def samples_path(folder: Path, benchmark: str, view: str) -> Path:
    return path_within(folder / "samples", f"{benchmark}.{view}.jsonl")


def whole_lines(path: Path) -> list[bytes]:
    """The lines of a file that records are appended to; what stands after the last newline was cut short."""
    return path.read_bytes().split(b"\n")[:-1]


def keep_whole_lines(path: Path) -> None:
    """So that the next record does not go on in the middle of one that was cut short."""
    path.write_bytes(b"".join(line + b"\n" for line in whole_lines(path)))


def read_samples(path: Path) -> list[dict[str, Any]]:
    """Raises InputError where there are none, or those of a run that did not yet tell answers from what is none."""
    if not path.is_file():
        raise InputError(f"{path}: not found (selfkd evaluate writes it)")
    samples = []
    with path.open("rb") as file:  # of bytes: a text has other ends of lines too, and a model may have said one
        for number, line in enumerate(file, 1):
            try:
                samples.append(dict(json.loads(line)))
            except (ValueError, TypeError) as error:
                raise InputError(f"{path}: line {number} is cut short or damaged ({error})") from error
    return [checked(sample, path) for sample in samples]


def checked(record: dict[str, Any], path: Path) -> dict[str, Any]:
    if "outcome" not in record:
        raise InputError(f"{path}: field outcome: missing; an older selfkd wrote this run, evaluate again")
    return record
