"""Evaluated runs -> one comparison: text view, SFT, Self-KD and the cascade on the same items, and the gap closed.

Reads the samples of evaluation runs; writes `scores.json` and `comparison.json` (where each system's samples lie).
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfkd.errors import InputError
from selfkd.evaluation.samples import read_samples, samples_path
from selfkd.evaluation.statistics import gap_closed, summarize
from selfkd.files import write_json
from selfkd.runs import RESULT

SYSTEMS = ("text", "sft", "selfkd", "cascade")


@dataclass
class CompareConfig:
    """Puts evaluated runs side by side and states the share of the gap closed.

    Args:
        base: Evaluation run with the views text and cascade.
        sft: Evaluation run of the SFT model with the view speech.
        selfkd: Evaluation run of the Self-KD model with the view speech.
        output: Folder for scores.json.
        seed: Seed of the bootstrap.
    """

    base: Path
    sft: Path
    selfkd: Path
    output: Path
    seed: int = 0


def compare(config: CompareConfig) -> dict[str, Any]:
    """Returns {benchmark: {system: scores, "gap_closed": ...}}; raises InputError where the items are not the same."""
    places = {
        "text": (config.base, "text"),
        "sft": (config.sft, "speech"),
        "selfkd": (config.selfkd, "speech"),
        "cascade": (config.base, "cascade"),
    }
    result = config.base / RESULT
    evaluated = json.loads(result.read_text()) if result.is_file() else {}
    benchmarks = [name for name, views in evaluated.items() if "text" in views]
    if not benchmarks:
        raise InputError(f"base: {config.base}: no samples of the text view there (selfkd evaluate --views text ...)")
    scores: dict[str, Any] = {}
    for benchmark in benchmarks:
        samples = {s: read_samples(samples_path(run, benchmark, view)) for s, (run, view) in places.items()}
        ids = {system: [s["id"] for s in items] for system, items in samples.items()}
        for system in SYSTEMS:
            if ids[system] != ids["text"]:
                raise InputError(f"{system}: {places[system][0]}: {benchmark} has other items than {config.base}")
        right = {system: [s["correct"] for s in items] for system, items in samples.items()}
        scores[benchmark] = {system: summarize(samples[system]) for system in SYSTEMS}
        scores[benchmark]["gap_closed"] = gap_closed(right["text"], right["sft"], right["selfkd"], config.seed)
    here = {s: {"run": os.path.relpath(run, config.output), "view": view} for s, (run, view) in places.items()}
    write_json(config.output / "comparison.json", here)
    write_json(config.output / "scores.json", scores)
    return scores


def accuracy_cells(scores: dict[str, Any]) -> list[str]:
    """Accuracy (standard error) of each of `SYSTEMS` on a benchmark, for a table's row."""
    return [f"{scores[s]['accuracy']:.1%} ({scores[s]['stderr']:.1%})" for s in SYSTEMS]
