"""Run directories that a command resumes: of training with a checkpoint, and of an evaluation with half of its samples.

A file has a field replaced or removed, or is cut or changed; then the same command is run."""

import json
import shutil
import tempfile
from functools import partial
from pathlib import Path

import pytest
from examples import interrupted_at, training_start
from fuzzing import Malformed
from hypothesis import strategies as st
from malformed import as_json, damaged_bytes, edited_documents

from selfkd.evaluation.config import EvaluateConfig
from selfkd.evaluation.evaluate import evaluate
from selfkd.evaluation.samples import samples_path
from selfkd.run_dir import LOG, RESULT
from selfkd.training.config import DistillConfig
from selfkd.training.distill import distill

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(parts, data_folder, tmp_path_factory):
    """A folder with the runs `distill`, interrupted in its second step, and `evaluate`, with two of four samples."""
    folder = training_start(parts, tmp_path_factory.mktemp("resumed"))
    shutil.copytree(data_folder, folder / "test")
    with interrupted_at(2), pytest.raises(KeyboardInterrupt):
        distill(training(folder))
    evaluate(evaluation(folder))
    run = folder / "evaluate"
    path = samples_path(run, "world", "audio")
    first = path.read_bytes().splitlines(keepends=True)[:2]
    path.unlink()
    path.with_name(f"{path.name}.partial-0").write_bytes(b"".join(first))
    (run / RESULT).unlink()
    return folder


def training(folder: Path) -> DistillConfig:
    few = {"steps": 2, "batch_size": 2, "save_steps": 1, "warmup_steps": 1}
    return DistillConfig([str(folder / "data")], folder / "distill", model=str(folder / "model"), **few)


def evaluation(folder: Path) -> EvaluateConfig:
    return EvaluateConfig(str(folder / "model"), [str(folder / "test")], folder / "evaluate", max_new_tokens=2)


@st.composite
def damaged_files(draw: st.DrawFn, folder: Path) -> Malformed:
    run = draw(st.sampled_from(["distill", "evaluate"]))
    files = [p for p in sorted((folder / run).rglob("*")) if p.is_file() and not p.name.startswith(".")]
    path = draw(st.sampled_from(files))
    name, content = path.relative_to(folder).as_posix(), path.read_bytes()
    if path.suffix == ".json" and draw(st.booleans()):
        document, label = draw(edited_documents(json.loads(content)))
        content = as_json(document)
    elif ".jsonl" in path.name and path.name != LOG and draw(st.booleans()):
        lines = content.splitlines()
        document, label = draw(edited_documents(json.loads(lines[-1])))
        content = b"\n".join([*lines[:-1], as_json(document)]) + b"\n"
    else:
        content, label = draw(damaged_bytes(content))
    return Malformed((name, content), f"{name}: {label}")


def resume(base: Path, output: Path, given: tuple[str, bytes]) -> None:
    name, content = given
    with tempfile.TemporaryDirectory(dir=output) as made:
        folder, run = Path(made), name.partition("/")[0]
        for shared in ("model", "data", "test"):
            (folder / shared).symlink_to(base / shared)
        shutil.copytree(base / run, folder / run)
        # the paths of the command are those of its configuration
        for path in (folder / run).glob("*.json"):
            path.write_bytes(path.read_bytes().replace(str(base).encode(), str(folder).encode()))
        (folder / name).write_bytes(content.replace(str(base).encode(), str(folder).encode()))
        distill(training(folder)) if run == "distill" else evaluate(evaluation(folder))
        assert (folder / run / RESULT).is_file()


def test_resumed_runs(fuzzer, runs, tmp_path, one_thread):
    resume(runs, tmp_path, ("distill/config.json", (runs / "distill/config.json").read_bytes()))
    resume(runs, tmp_path, ("evaluate/config.json", (runs / "evaluate/config.json").read_bytes()))
    fuzzer.run("resumed runs", damaged_files(runs), partial(resume, runs, tmp_path), examples=8)
