"""The per-sample records of an evaluation run, a JSON-lines file for each benchmark and view; written by `records.py`.

`pandas.read_json(path, lines=True)` reads one.
"""

import json
from pathlib import Path
from typing import Any

from selfkd.errors import InputError

QUESTIONS = "questions.json"  # of an evaluation run: {benchmark: folder of its spoken questions, seen from the run}


def samples_path(folder: Path, benchmark: str, view: str) -> Path:
    return folder / "samples" / f"{benchmark}.{view}.jsonl"


def read_samples(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise InputError(f"{path}: not found (selfkd evaluate writes it)")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
