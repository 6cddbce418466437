"""Items a second and responses of lmms-eval's wrappers and of `selfkd evaluate`, on questions in POPE's layout: the
part of `peers.py` that evaluates."""

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from peers_runs import in_turn, ratios, run, spread

from selfkd.evaluation.benchmarks.answer_parsing import yes_or_no
from selfkd.evaluation.benchmarks.official_scoring import pope

NEW_TOKENS = {"tiny": 128, "middle": 16}  # POPE's own limit; a model with random weights never ends a response
POPE = """
include: {pope}
task: pope_{size}
dataset_path: parquet
dataset_kwargs: {{data_files: {{test: {copy}}}}}
generation_kwargs: {{max_new_tokens: {tokens}, temperature: 0, do_sample: false}}
"""
WRAPPERS = {
    "lmms-eval, internvl_hf": ("internvl_hf", "vlm", 1),  # its wrapper asserts a batch of 1
    "lmms-eval, selfkd's adapter": ("selfkd", "model", 50),
}
BATCHES = {"selfkd evaluate": 50, "selfkd evaluate, batch of 1": 1}
SIDES = (*WRAPPERS, *BATCHES)


class Response(NamedTuple):
    text: str
    target: str
    score: float  # as the side graded it


def rate(few: tuple[int, float], many: tuple[int, float]) -> float:
    """Items a second of (items, seconds) of two runs: what does not depend on the items cancels. Raises ValueError
    where the longer run took no longer."""
    if many[1] <= few[1]:
        raise ValueError(f"{many[0]} items took {many[1]:.1f} s, {few[0]} items {few[1]:.1f} s: too few to measure")
    return (many[0] - few[0]) / (many[1] - few[1])


def write_tasks(python: Path, folder: Path, sizes: Sequence[str]) -> None:
    """lmms-eval's own task pope with our questions and limit of tokens."""
    inside = subprocess.run(
        [python, "-c", "import lmms_eval; print(lmms_eval.__path__[0])"], check=True, capture_output=True, text=True
    )
    pope = Path(inside.stdout.strip()) / "tasks" / "pope" / "pope.yaml"
    (folder / "tasks").mkdir(exist_ok=True)
    for size in sizes:
        task = POPE.format(pope=pope, copy=folder / "pope.parquet", size=size, tokens=NEW_TOKENS[size])
        (folder / "tasks" / f"{size}.yaml").write_text(task)


def evaluate(python: Path, folder: Path, size: str, side: str, limit: int) -> tuple[float, Path]:
    """CPU seconds of one evaluation, the start included, and its output."""
    here = folder / size / "evaluated"
    output = here / f"{side.replace(', ', '-').replace(' ', '-')}-{limit}-{time.time_ns()}"
    if side in WRAPPERS:
        wrapper, model, batch = WRAPPERS[side]
        device = ",device=cpu,device_map=cpu" if wrapper != "selfkd" else ""
        seconds = run(
            python, "-m", "lmms_eval", "eval", "--model", wrapper, "--model_args",
            f"pretrained={here / model}{device}", "--tasks", f"pope_{size}", "--include_path", folder / "tasks",
            "--batch_size", batch, "--limit", limit, "--output_path", output, "--log_samples",
        )  # fmt: skip
        if not list(output.rglob("*results.json")):  # its exit code is 0 where it ends with an error
            sys.exit(f"{side}: no results in {output}")
        return seconds, output
    return run(
        python, "-m", "selfkd.cli", "evaluate", "--model", here / "model", "--benchmarks", "pope",
        "--local_datasets.pope", folder / "pope.parquet", "--modalities", "text", "--limit", limit, "--max_new_tokens",
        NEW_TOKENS[size], "--batch_size", BATCHES[side], "--cache", folder / "cache", "--output", output,
    ), output  # fmt: skip


def responses(output: Path) -> dict[str, Response]:
    """By question, of either side's samples."""
    found: dict[str, Response] = {}
    (file,) = (*output.rglob("*_samples_*.jsonl"), *output.glob("samples/pope.text.jsonl"))
    for line in file.read_text().splitlines():
        row = json.loads(line)
        if "pope_accuracy" in row:  # lmms-eval's
            graded = row["pope_accuracy"]
            found[graded["question_id"]] = Response(row["filtered_resps"].strip(), row["target"], graded["score"])
        else:
            id_ = row["id"].removeprefix(f"pope-{row['category']}-")
            found[id_] = Response(row["prediction"].strip(), row["target"], row["score"])
    return found


def compared(sides: Mapping[str, Mapping[str, Response]]) -> dict[str, dict[str, Any]]:
    """Of each side: accuracy in % as it graded itself, by lmms-eval's rule (the response is the target), by selfkd's
    parser and by POPE's own script, and the responses that differ from the first side's: [question, the first side's,
    this one's]."""
    first = next(iter(sides.values()))
    found: dict[str, dict[str, Any]] = {}
    for side, of in sides.items():
        graded: dict[str, list[float]] = {
            "own grading": [one.score for one in of.values()],
            "lmms-eval's rule": [one.text.lower() == one.target for one in of.values()],
            "selfkd's parser": [yes_or_no(one.text) == one.target for one in of.values()],
            "POPE's script": [pope(one.text) == one.target for one in of.values()],
        }
        other = [[id_, first[id_].text, one.text] for id_, one in sorted(of.items()) if first[id_].text != one.text]
        found[side] = {name: 100 * sum(scores) / len(scores) for name, scores in graded.items()}
        found[side] |= {"items": len(of), "other responses": other}
    return found


def measure_items(python: Path, folder: Path, size: str, repeats: int, many: int) -> dict[str, Any]:
    """Items a CPU second of each side in each repeat, and what their responses to all items are worth."""
    few, rates = many // 10, []
    outputs: dict[str, Path] = {}
    for limit in (few, many):  # imports are compiled, the questions are in the cache
        evaluate(python, folder, size, "selfkd evaluate", limit)
    for number in range(repeats):
        by_side = {}
        for side in in_turn(SIDES, number):
            (few_seconds, _), (many_seconds, outputs[side]) = (
                evaluate(python, folder, size, side, limit) for limit in (few, many)
            )
            by_side[side] = rate((few, few_seconds), (many, many_seconds))
        rates.append(by_side)
    graded = compared({side: responses(outputs[side]) for side in SIDES})
    print(f"{size}: {many} items less {few}, {repeats} repeats: items a CPU second, median (range); accuracy in %")
    for side in SIDES:
        ratio = spread(ratios(rates, side, SIDES[0]))
        print(f"  {side:28} {spread([by[side] for by in rates])}  ratio by repeat {ratio}")
        *accuracies, items, other = graded[side].items()
        print("  ".ljust(31), *(f"{name} {value:.1f}" for name, value in accuracies), sep="  ", end="  ")
        print(f"{len(other[1])} of {items[1]} responses are not those of {SIDES[0]}", flush=True)
    return {"rates": rates, "responses": graded}
