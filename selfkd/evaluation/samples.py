"""The per-sample records of an evaluation run: one JSON-lines file for each benchmark and view."""

import json
from pathlib import Path
from typing import Any

from selfkd.errors import InputError


def samples_path(folder: Path, benchmark: str, view: str) -> Path:
    return folder / "samples" / f"{benchmark}.{view}.jsonl"


def read_samples(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise InputError(f"{path}: not found (selfkd evaluate writes it)")
    return [json.loads(line) for line in path.read_text().splitlines()]
