"""What `experiments/peers.py` computes and writes itself; no peer is installed and nothing is downloaded."""

import importlib
import json
import mmap
import sys
from pathlib import Path
from typing import Any

import pytest
from benchmark_datasets import LAYOUTS
from datasets import load_dataset

from selfkd.evaluation.benchmarks.registry import open_benchmark

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
MIB = 2**20


@pytest.fixture(scope="module")
def script() -> Any:
    sys.path.insert(0, str(EXPERIMENTS))  # it imports its neighbours
    try:
        return importlib.import_module("peers")
    finally:
        sys.path.remove(str(EXPERIMENTS))


def test_every_version_of_an_environment_is_pinned(script):
    assert {"trl", "ms-swift", "lmms-eval"} == set(script.ENVIRONMENTS)
    for wanted in script.ENVIRONMENTS.values():
        assert all(len(requirement.split("==")) == 2 for requirement in wanted)


def test_order_of_the_sides_alternates(script):
    assert [script.in_turn(["a", "b"], number) for number in range(3)] == [["a", "b"], ["b", "a"], ["a", "b"]]


def test_ratio_is_taken_within_a_round(script):
    repeats = [{"a": 2.0, "b": 1.0}, {"a": 30.0, "b": 10.0}]
    assert script.ratios(repeats, "a", "b") == [2, 3]
    assert script.spread([3.0, 1.0, 20.0]) == "3 (1 to 20)"


def test_rate_leaves_the_start_out(script):
    start, each = 7.0, 0.25
    rate = sys.modules["peers_items"].rate
    assert rate((10, start + 10 * each), (110, start + 110 * each)) == pytest.approx(1 / each)
    with pytest.raises(ValueError, match=r"20 items took 3\.0 s, 2 items 3\.0 s"):
        rate((2, 3.0), (20, 3.0))


def test_peak_of_a_step_is_that_steps_own(script):
    meter = sys.modules["peers_steps"].StepMeter()
    meter.on_train_begin()
    filled = mmap.mmap(-1, 64 * MIB)  # new pages: an allocator may have some from earlier tests
    for start in range(0, len(filled), mmap.PAGESIZE):
        filled[start] = 1
    meter.on_step_end()
    filled.close()
    meter._restart()
    meter.on_step_end()
    large, small = (step["peak_mib"] - meter.resting for step in meter.steps)
    assert large > 60 and large - small > 50
    assert all(step["seconds"] > 0 for step in meter.steps)


def write_samples(folder: Path, texts: dict[str, str], target: str) -> tuple[Path, Path]:
    """The samples of lmms-eval and of `selfkd evaluate` with the same responses, each as the side grades them."""
    theirs, ours = folder / "lmms-eval", folder / "selfkd"
    file = theirs / "evaluated__vlm" / "20261130_120000_samples_pope_tiny.jsonl"
    file.parent.mkdir(parents=True)
    rows = [
        {
            "target": target,
            "filtered_resps": text,
            "pope_accuracy": {"question_id": id_, "score": float(text == target)},
        }
        for id_, text in texts.items()
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = ours / "samples" / "pope.text.jsonl"
    file.parent.mkdir(parents=True)
    rows = [
        {"id": f"pope-random-{id_}", "category": "random", "target": target, "prediction": text, "score": 1.0}
        for id_, text in texts.items()
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return theirs, ours


def test_same_responses_get_the_same_score_by_each_rule(script, tmp_path):
    items = sys.modules["peers_items"]
    texts = {"a": "no", "b": "no, there a gray object.", "c": "the star is small.", "d": "yes"}
    theirs, ours = map(items.responses, write_samples(tmp_path, texts, "no"))
    graded = items.compared({"lmms-eval": theirs, "selfkd": ours})
    rules = {"lmms-eval's rule": 25.0, "selfkd's parser": 50.0, "POPE's script": 50.0, "items": 4}
    assert graded["lmms-eval"] == {"own grading": 25.0, **rules, "other responses": []}
    assert graded["selfkd"] == {"own grading": 100.0, **rules, "other responses": []}
    other = items.compared({"selfkd": ours, "changed": ours | {"d": items.Response("no", "no", 1.0)}})["changed"]
    assert other["other responses"] == [["d", "yes", "no"]]


def test_items_are_in_popes_layout(script, tmp_path):
    file = tmp_path / "pope.parquet"
    script.make_pope(file, 5)
    (written,) = load_dataset("parquet", data_files=str(file), cache_dir=str(tmp_path / "cache")).values()
    assert dict(written.features) == LAYOUTS["pope"]
    source = open_benchmark("pope", str(file))
    assert [source.example(i).target for i in range(len(source))] == written["answer"][:]
    assert set(written["answer"]) <= {"yes", "no"}
