"""Every command that writes is killed and run again: it ends in the bytes of a run that nothing disturbed.

Killed before its Nth change of a file (see `kill_points`) and, in `make fuzz`, at random moments too. After a kill a
half-written checkpoint is no model for the next command."""

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from chat_server import chat_server
from examples import training_start
from fuzzing import KillTally
from internvl2 import write_original
from kill_points import KILLED, changes, watch
from processes import Command
from recordings import speech, wav
from report_runs import audio_data, evaluation, training

from selfkd.errors import InputError
from selfkd.model.checkpoint import inspect_checkpoint
from selfkd.synthesis.sources.toy import ToyWorld

pytestmark = pytest.mark.slow

POINTS_IN_CI, POINTS, MOMENTS = 1, 10, 20  # kills of a command; POINTS and MOMENTS with `--fuzz-seconds`
TIMES = {"seconds", "train_runtime", "train_samples_per_second", "train_steps_per_second"}
LEFT_OUT = {
    "provenance.json": "has versions and the command",
    "usage.json": "counts the requests of the killed run too",
    "training_args.bin": "has the folder of the logs, with the time",
}


@dataclass
class Scenario:
    """A command with its arguments, in a folder of its own; `prepare` makes what it changes in place."""

    arguments: list[Any]
    output: str = "out"
    prepare: Callable[[Path], object] = lambda folder: None
    is_model: bool = False  # the output is a checkpoint


@pytest.fixture(scope="module")
def scenarios(parts, tmp_path_factory):
    """{command: Scenario}, each as small as it may be."""
    start = training_start(parts, tmp_path_factory.mktemp("start"))
    world = audio_data(start / "world", count=4)
    evaluation(start / "eval", world, text="1110", audio="1000")
    runs = [start / "eval", training(start / "sft", 0.0), training(start / "selfkd", 1.0), world]
    write_original(start / "original", "Hermes-2")
    few = ["--batch_size", 2, "--steps", 2, "--save_steps", 1, "--warmup_steps", 1]
    with chat_server() as server:
        server.prediction = lambda request: json.dumps({"on_topic": len(request.pair) % 2 == 0, "reason": "r"})
        judged = ["judge", "run", "--model", "m", "--url", server.url, "--endpoint", '{"concurrency": 1}']
        yield {
            "synthesize": Scenario(
                [
                    "synthesize",
                    "--source",
                    "world",
                    "--count",
                    4,
                    "--shard_rows",
                    2,
                    "--processes",
                    1,
                    "--output",
                    "out",
                ]
            ),
            "record": Scenario(["record", "--source", "world", "--count", 3, "--output", "out", *phone(start)]),
            "align": Scenario(["align", "--data", start / "data", "--projector", "stack", *few, "--output", "out"]),
            "distill": Scenario(
                ["distill", "--data", start / "data", "--model", start / "model", *few, "--output", "out"]
            ),
            "evaluate": Scenario(
                [
                    "evaluate",
                    start / "model",
                    "--data",
                    world,
                    "--max_new_tokens",
                    2,
                    "--batch_size",
                    1,
                    "--output",
                    "out",
                ]
            ),
            "convert": Scenario(["convert", "--source", start / "original", "--output", "out"], is_model=True),
            "merge": Scenario(["merge", "--model", start / "model", "--output", "out"], is_model=True),
            "judge": Scenario(judged, "run", lambda folder: shutil.copytree(start / "eval", folder / "run")),
            "report": Scenario(["report", *runs, "--output", "out/report.html"]),
        }


def phone(folder: Path) -> list[Any]:
    """Arguments of `selfkd record` that take two recordings of the first three questions of the toy world."""
    (folder / "phone").mkdir()
    rows = ["id,file,speaker,consent_date"]
    for number in range(2):
        example = ToyWorld("test", 0).example(number)
        (folder / "phone" / f"{number}.wav").write_bytes(wav(0.5 * speech(example.question)))
        rows.append(f"{example.id},{number}.wav,anna,2026-01-31")
    (folder / "mapping.csv").write_text("\n".join(rows) + "\n")
    return ["--files", folder / "phone", "--mapping", folder / "mapping.csv"]


def run(scenario: Scenario, folder: Path, log: Path | None = None, kill_at: int = 0, seconds: float = 0) -> Command:
    """The command in `folder`, which ended or was killed: before a change of a file, or after some seconds."""
    begin = partial(watch, folder, log, kill_at) if log else None
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with Command(scenario.arguments, cwd=folder, env=environment, begin=begin) as command:
        if seconds:
            end = time.monotonic() + seconds
            while command.poll() is None and time.monotonic() < end:
                time.sleep(0.01)
            command.kill()
        command.wait()
        return command


def content(folder: Path) -> dict[str, bytes]:
    """{file: its bytes}, without times, and without hidden files, which are locks and what a kill has left."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and path.name not in LEFT_OUT and not any(part.startswith(".") for part in Path(name).parts):
            found[name] = _without_times(path)
    return found


def _without_times(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix == ".json":
        return json.dumps(_timeless(json.loads(data))).encode()
    if path.suffix == ".jsonl":
        return b"".join(json.dumps(_timeless(json.loads(line))).encode() + b"\n" for line in data.splitlines())
    return data


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _timeless(inner) for name, inner in value.items() if name not in TIMES}
    return list(map(_timeless, value)) if isinstance(value, list) else value


def rows(folder: Path) -> int:
    """Of all tables and logs."""
    logs = sum(path.read_bytes().count(b"\n") for path in folder.rglob("*.jsonl"))
    return logs + sum(pq.read_metadata(path).num_rows for path in folder.rglob("[!.]*.parquet"))


@pytest.mark.parametrize(
    "name", ["synthesize", "record", "align", "distill", "evaluate", "convert", "merge", "judge", "report"]
)
def test_killed_it_ends_in_the_same_bytes(scenarios, name, tmp_path, pytestconfig, kill_tallies):
    scenario, whole = scenarios[name], tmp_path / "whole"
    whole.mkdir()
    scenario.prepare(whole)
    began = time.monotonic()
    command = run(scenario, whole, tmp_path / "changes")
    assert command.poll() == 0, command.stderr
    duration, every = time.monotonic() - began, changes(tmp_path / "changes")
    expected, expected_rows = content(whole / scenario.output), rows(whole / scenario.output)
    is_long = bool(pytestconfig.getoption("--fuzz-seconds", 0))
    rng = random.Random(None if is_long else name)
    points = sorted(rng.sample(range(1, len(every) + 1), min(POINTS if is_long else POINTS_IN_CI, len(every))))
    kills: list[dict[str, Any]] = [{"kill_at": n} for n in points]
    kills += [{"seconds": rng.uniform(0, duration)} for _ in range(MOMENTS if is_long else 0)]
    tally = kill_tallies.setdefault(name, KillTally())
    for number, kill in enumerate(kills):
        folder = tmp_path / str(number)
        label = killed(scenario, folder, kill)
        output, problem = folder / scenario.output, ""
        if scenario.is_model and is_a_model(output) and content(output) != expected:
            problem = "a half-written folder looks like a model"
        again = run(scenario, folder)
        found = content(output)
        differing = [file for file in expected.keys() | found.keys() if expected.get(file) != found.get(file)]
        if again.poll() != 0 and differing:
            problem = problem or f"the same command does not resume: {again.stderr.strip().splitlines()[-1:]}"
        size = sum(max(len(expected.get(file, b"")), len(found.get(file, b""))) for file in differing)
        tally.add(label, problem, differing, size, expected_rows - rows(output))
        shutil.rmtree(folder)
    assert not tally.problems, "\n".join(tally.problems)


def killed(scenario: Scenario, folder: Path, kill: dict[str, Any]) -> str:
    """Kills the command in a new folder; returns when. A command that ends before the change, because it writes some
    files by the clock, is killed before an earlier one."""
    folder.mkdir()
    scenario.prepare(folder)
    if "seconds" in kill:
        run(scenario, folder, **kill)
        return f"after {kill['seconds']:.2f} s"
    log = folder.with_name(f"{folder.name}.changes")
    command = run(scenario, folder, log, **kill)
    if command.poll() == 0 and kill["kill_at"] > 1:
        shutil.rmtree(folder)
        log.unlink()
        return killed(scenario, folder, {"kill_at": kill["kill_at"] * 3 // 4})
    assert command.poll() in (KILLED, -signal.SIGKILL), command.stderr
    return f"before change {kill['kill_at']}, {changes(log)[-1]}"


def is_a_model(folder: Path) -> bool:
    if not (folder / "config.json").is_file():
        return False
    try:
        inspect_checkpoint(folder, weights=True)
    except InputError as error:
        return "takes no audio" in str(error)  # a whole checkpoint of another kind, as convert writes it
    return True
