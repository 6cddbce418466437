"""Damaged inputs: a file that is missing, cut short or of an unknown kind gives one line of error; without the data the
page lacks media only."""

import json
import re
import shutil
from dataclasses import replace

import pytest
from report_runs import attention, audio_data, evaluation, rendered

from selfkd.cli import main
from selfkd.data.dataset import ExampleFolder
from selfkd.data.example import MANIFEST, write_shard
from selfkd.errors import InputError
from selfkd.evaluation.samples import QUESTIONS
from selfkd.files import write_json
from selfkd.report.build import ReportConfig, report
from selfkd.report.inputs import read_runs


def test_deleted_data_leave_items_without_media(tmp_path, data):
    evaluation(tmp_path / "base", data, text="1" * 12, audio="1" * 12)
    attention(tmp_path / "attention", data, {"base": (0.4, 0.3)})
    shutil.rmtree(data)
    html = rendered([tmp_path / "base", tmp_path / "attention"], tmp_path)
    assert "world: its dataset folder cannot be read (" in html and "no such folder" in html
    assert html.count("<article") == 12 and "<audio" not in html and ">data</a>" not in html
    assert "its image cannot be found any more" in html and html.count('class="map"') == 4


def test_unreadable_media_are_left_out(tmp_path, data):
    examples, folder = ExampleFolder(data), audio_data(tmp_path / "bad")
    rows = [replace(examples[0], image=b"no image"), replace(examples[1], audio=b"no audio"), examples[2]]
    write_shard(folder / "test.parquet", rows, {"rows": 3})
    html = rendered([evaluation(tmp_path / "base", folder, text="111", audio="111")], tmp_path)
    assert html.count("<article") == 3 and html.count("<audio") == 2 and html.count("<img") == 2
    (folder / "test.parquet").write_bytes(b"cut short")
    assert "not a readable shard" in rendered([tmp_path / "base"], tmp_path)


def test_audio_of_data_written_again_is_left_out(tmp_path):
    """The responses were given to other audio."""
    rows = list(ExampleFolder(audio_data(tmp_path / "high")))
    folder = audio_data(tmp_path / "low", pitch_hz=110)
    evaluation(tmp_path / "base", tmp_path / "high", text="1" * 12, audio="1" * 12)
    write_json(tmp_path / "base" / QUESTIONS, {"world": "../low"})
    html = rendered([tmp_path / "base"], tmp_path)
    assert html.count("<article") == 12 and "<audio" not in html
    write_shard(folder / "again.parquet", rows, {"rows": 12})
    write_json(folder / MANIFEST, json.loads((folder / MANIFEST).read_text()) | {"shards": [{"file": "again.parquet"}]})
    assert rendered([tmp_path / "base"], tmp_path).count("<audio") == 12


def length_of_two_lines(path):
    return sum(map(len, path.read_bytes().splitlines(keepends=True)[:2]))


def damaged(runs, tmp_path, change):
    """A copy of the evaluation runs after `change`."""
    folder = tmp_path / "copy"
    for run in (*runs[:2], runs[-1]):
        shutil.copytree(run, folder / run.rpartition("/")[2])
    change(folder)
    return [str(folder / "eval-base"), str(folder / "eval-sft")]


def cut(path, keep):
    path.write_text(path.read_text()[:keep])


def remove_field(path, field):
    config = json.loads(path.read_text())
    del config[field]
    write_json(path, config)


SAMPLES = "eval-sft/samples/world.audio.jsonl"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: shutil.rmtree(f / "eval-sft"), "runs: .*eval-sft: no such folder"),
        (lambda f: (f / "eval-sft/result.json").unlink(), "runs: .*eval-sft: not complete, no result.json"),
        (lambda f: (f / "eval-sft/config.json").unlink(), "runs: .*eval-sft: neither a run directory"),
        (lambda f: write_json(f / "eval-sft/config.json", {"stage": "dance"}), "stage: 'dance' is not one of"),
        (lambda f: remove_field(f / "eval-sft/config.json", "stage"), "stage: None .* give the run directory"),
        (lambda f: cut(f / "eval-sft/result.json", 30), "eval-sft/result.json: not readable"),
        (lambda f: cut(f / SAMPLES, length_of_two_lines(f / SAMPLES) + 9), "audio.jsonl: line 3 is cut short or"),
        (lambda f: cut(f / SAMPLES, (f / SAMPLES).read_text().index("\n")), "cut short: 1 samples of 12"),
        (lambda f: (f / SAMPLES).unlink(), "world.audio.jsonl: not found"),
        (lambda f: (f / SAMPLES).write_text('{"id": "a"}\n' * 12), "audio.jsonl: line 1: field transcript: missing"),
    ],
)  # fmt: skip
def test_damaged_run_is_refused_in_one_line(runs, tmp_path, change, message, capsys):
    assert main(["report", *damaged(runs, tmp_path, change), "--output", str(tmp_path / "r.html")]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error) and len(error.splitlines()) == 1, error
    assert not (tmp_path / "r.html").exists()


def test_run_names(runs, tmp_path):
    assert [r.name for r in read_runs([runs[0], f"mine={runs[1]}", runs[5]])] == ["base", "mine", "sft"]
    with pytest.raises(InputError, match=r"runs: .*a second 'sft' \(evaluate\); write NAME="):
        read_runs([runs[1], f"sft={runs[2]}"])
    with pytest.raises(InputError, match="'text' is the name of a modality"):
        read_runs([f"text={runs[1]}"])
    with pytest.raises(InputError, match="runs: give at least one"):
        read_runs([])
    with pytest.raises(InputError, match="items, listed"):
        report(ReportConfig(runs, tmp_path / "r.html", items=-1))
