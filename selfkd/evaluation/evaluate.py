"""Asks a model the questions of finished data folders, written and spoken, and scores its replies.

Writes into a run directory one JSON-lines file for each benchmark and view (`samples/BENCHMARK.VIEW.jsonl`, one item a
line) and the scores (`result.json`). A run that was cut short goes on with the files that are missing.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm
from transformers.utils import logging as transformers_logging

from selfkd.data.example import Example, read_manifest
from selfkd.data.folder import ExampleFolder
from selfkd.errors import InputError
from selfkd.evaluation.answerers import Answerer, CascadeAnswerer, SpeechAnswerer, TextAnswerer
from selfkd.evaluation.samples import read_samples, samples_path
from selfkd.evaluation.scorers import SCORED_KINDS, is_right, parse
from selfkd.evaluation.statistics import summarize
from selfkd.files import write_text
from selfkd.model.checkpoint import is_ours, load_omni
from selfkd.model.embedded import recognizer_path
from selfkd.model.load import load_recognizer
from selfkd.runs import Run

View = Literal["text", "speech", "cascade"]


@dataclass
class EvaluateConfig:
    """Written against spoken: asks a model the same questions in several views.

    Args:
        model: The output of selfkd align or distill (with /model), or a native omni model, a hub id or a path.
        data: Folders of spoken questions, one a benchmark.
        output: Run directory.
        views: Views to ask in: text, speech, cascade (the recogniser, then text).
        recognizer: Checkpoint of the cascade's recogniser, Whisper's or ours; the embedded one by default.
        limit: At most so many items of each benchmark; 0 takes all.
        batch_size: Items that are asked together.
    """

    model: str
    data: list[str]
    output: Path
    views: list[View] = field(default_factory=lambda: ["text", "speech"])
    recognizer: str = ""
    limit: int = 0
    batch_size: int = 50


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Returns {benchmark: {view: scores}}."""
    is_ours(config.model)  # before anything is made
    if config.batch_size < 1 or config.limit < 0:
        raise InputError("batch_size, limit: must not be negative, and batch_size not 0")
    benchmarks = {benchmark_name(folder): list(ExampleFolder(folder)) for folder in map(Path, config.data)}
    for name, examples in benchmarks.items():
        without = sorted({e.kind for e in examples} - SCORED_KINDS)
        if without:
            raise InputError(f"data: {name}: questions of kind {without[0]!r} have no rule to be scored by")
    with Run.open(config.output, "evaluate", config) as run:
        answerers = _answerers(config)
        result: dict[str, Any] = {}
        for name, all_examples in benchmarks.items():
            examples = all_examples[: config.limit or None]
            for view, answerer in answerers.items():
                path = samples_path(run.folder, name, view)
                if not path.is_file():
                    samples = _ask_all(answerer, examples, config.batch_size, f"{name}, {view}")
                    write_text(path, "".join(json.dumps(s, ensure_ascii=False) + "\n" for s in samples))
                result.setdefault(name, {})[view] = summarize(read_samples(path))
        run.finish(**result)
        return result


def benchmark_name(folder: Path) -> str:
    """The source of a data folder names the benchmark."""
    return read_manifest(folder)["source"]


def _answerers(config: EvaluateConfig) -> dict[str, Answerer]:
    transformers_logging.disable_progress_bar()
    model, processor = load_omni(config.model)
    model.eval()
    made: dict[str, Answerer] = {}
    for view in config.views:
        if view == "text":
            made[view] = TextAnswerer(model, processor)
        elif view == "speech":
            made[view] = SpeechAnswerer(model, processor)
        else:
            recognizer, extractor = load_recognizer(config.recognizer or recognizer_path())
            made[view] = CascadeAnswerer(recognizer, extractor, TextAnswerer(model, processor))
    return made


def _ask_all(answerer: Answerer, examples: list[Example], batch_size: int, title: str) -> list[dict[str, Any]]:
    # alike lengths together, so that little is padding; the samples keep the order of the data
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].question))
    samples: list[dict[str, Any]] = [{}] * len(examples)
    with tqdm(total=len(examples), desc=title, unit="item") as progress:
        for start in range(0, len(order), batch_size):
            at = order[start : start + batch_size]
            for i, reply in zip(at, answerer.answer([examples[i] for i in at]), strict=True):
                samples[i] = score(examples[i], asdict(reply))
            progress.update(len(at))
    return samples


def score(example: Example, reply: dict[str, str]) -> dict[str, Any]:
    parsed = parse(example.kind, example.question, reply["text"])
    return {
        "id": example.id,
        "kind": example.kind,
        "category": example.category,
        "question": example.question,
        "truth": example.truth,
        "reply": reply["text"],
        "heard": reply["heard"],
        "parsed": parsed,
        "correct": is_right(example.kind, example.truth, parsed),
        "voice": example.voice,
    }
