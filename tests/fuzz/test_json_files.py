"""JSON files that the product writes and reads again: manifests, and every file of a run directory.

A file has a field replaced, removed or renamed, or its text is damaged; then the commands that read it are run."""

import json
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from fuzzing import Malformed
from hypothesis import strategies as st
from malformed import as_json, damaged_bytes, edited_documents
from report_runs import agreement, attention, audio_data, evaluation, training

from selfkd.check_data import CheckConfig, check
from selfkd.data.dataset import ExampleFolder
from selfkd.errors import InputError
from selfkd.evaluation.compare import compare
from selfkd.evaluation.config import CompareConfig, EvaluateConfig, JudgeConfig
from selfkd.evaluation.evaluate import evaluate
from selfkd.evaluation.judge import judge_run
from selfkd.files import write_json
from selfkd.publish import PublishConfig, publish
from selfkd.report.build import ReportConfig, report
from selfkd.synthesis.config import SynthesizeConfig
from selfkd.synthesis.synthesize import synthesize
from selfkd.training.config import DistillConfig
from selfkd.training.distill import distill

pytestmark = pytest.mark.slow
_KAPPA = {"n": 12, "agreement": 0.9, "difference": 0.02, "kappa": 0.8, "low": 0.6, "high": 0.9}
CORRECTNESS = {
    "about": {"judge": "j", "prompt": "p", "prompt_version": "1"},
    "metrics": {
        "world.text": {
            "items": 12, "judged": 12, "score": 0.5, "stderr": 0.1, "interval": [0.3, 0.7],
            "by_category": {"ocr": 0.5}, "with_rule": _KAPPA, "with_itself": {},
        }
    },
    "gaps": {"world": {"n": 12, "gap": 0.1, "gap_interval": [0.0, 0.2], "verdict": "no clear gap"}, "b": {"n": 0}},
}  # fmt: skip


@pytest.fixture(scope="module")
def runs(data_folder, tmp_path_factory):
    """A run of each stage, and the data, in a folder."""
    folder = tmp_path_factory.mktemp("runs")
    shutil.copytree(data_folder, folder / "data")
    world = audio_data(folder / "world", count=6)
    evaluation(folder / "eval", world, text="111110", audio="110000", cascade="11110-")
    judge_run(JudgeConfig(folder / "eval"))
    write_json(folder / "eval" / "correctness.json", CORRECTNESS)
    attention(folder / "attention", world, {"sft": (0.4, 0.3), "selfkd": (0.4, 0.4)})
    agreement(folder / "agreement", world, {"sft": 6.5, "selfkd": 0.4})
    training(folder / "sft", 0.0)
    compare(CompareConfig([str(folder / "eval"), f"other={folder / 'eval'}"], folder / "comparison"))
    (folder / "sft" / "model").mkdir()
    write_json(folder / "sft" / "model" / "config.json", {})
    write_json(folder / "sft" / "unusable.json", [{"folder": "data", "position": 0, "id": "a", "reason": "too long"}])
    return folder


def readers(name: str, folder: Path) -> list[Callable[[], Any]]:
    """What reads the files of this run, as the commands do."""
    data, run, page = [str(folder / "world")], folder / name, folder / "page.html"
    evaluations = [str(folder / "eval"), f"other={folder / 'eval'}"]
    report_on = {"comparison": evaluations, "data": [str(run)], "world": [str(folder / "eval"), str(run)]}
    published = PublishConfig(folder / "sft", "me/m", "mit", comparison=str(folder / "comparison"), dry_run=True)
    found: dict[str, list[Callable[[], Any]]] = {
        "data": [
            lambda: check(CheckConfig([run])),
            lambda: [(e.load_image(), e.samples()) for e in ExampleFolder(run)],
            lambda: ExampleFolder(run, rejected=True).metadata(),
            lambda: synthesize(SynthesizeConfig(run, "world", split="test", count=4, processes=1)),
        ],
        "world": [lambda: ExampleFolder(run).metadata()],
        "eval": [
            lambda: compare(CompareConfig(evaluations, folder / "compared")),
            lambda: judge_run(JudgeConfig(run)),
            lambda: evaluate(EvaluateConfig("some/model", data, run, modalities=["text", "audio", "cascade"])),
        ],
        "sft": [lambda: distill(DistillConfig(["data"], run, model="start", alpha=0.0)), lambda: publish(published)],
        "comparison": [lambda: publish(published)],
    }
    return [*found.get(name, []), lambda: report(ReportConfig(report_on.get(name, [str(run)]), page))]


def json_files(folder: Path) -> list[str]:
    """Those of the runs, but not the configuration of the model, which is a checkpoint's."""
    names = (path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*.json*")))
    return [name for name in names if "/model/" not in name]


@st.composite
def damaged_files(draw: st.DrawFn, folder: Path) -> Malformed:
    name = draw(st.sampled_from(json_files(folder)))
    content = (folder / name).read_bytes()
    if draw(st.integers(0, 3)) == 0:
        content, label = draw(damaged_bytes(content))
    elif name.endswith(".json"):
        document, label = draw(edited_documents(json.loads(content)))
        content = as_json(document, 2)
    else:
        lines = content.splitlines()
        at = draw(st.integers(0, len(lines) - 1))
        document, label = draw(edited_documents(json.loads(lines[at])))
        lines[at] = as_json(document)
        content, label = b"\n".join(lines) + b"\n", f"line {at}: {label}"
    return Malformed((name, content), f"{name}: {label}")


def read(base: Path, output: Path, given: tuple[str, bytes]) -> None:
    name, content = given
    with tempfile.TemporaryDirectory(dir=output) as made:
        folder = shutil.copytree(base, Path(made) / "runs")
        (folder / name).write_bytes(content)
        refused: InputError | None = None
        for reader in readers(name.partition("/")[0], folder):
            try:
                reader()
            except InputError as error:
                refused = error
        if refused:
            raise refused


def test_json_files(fuzzer, runs, tmp_path):
    fuzzer.run("JSON files", damaged_files(runs), partial(read, runs, tmp_path), examples=50)
