"""A rehearsal at small dimensions from the stand-ins to the table; killed and resumed to the same bytes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from examples import interrupted_at

from selfkd.cli import main
from selfkd.errors import InputError
from selfkd.files import sha256
from selfkd.reproduce import reproduce as runner
from selfkd.reproduce.config import ReproduceConfig
from selfkd.reproduce.process_tree import Finished, run_process
from selfkd.reproduce.stage_process import run_function

PAPER = Path(__file__).parents[2] / "recipes" / "paper"
STAGES = ["download", "convert", "questions", "check", "asr-data", "align", "sft", "selfkd", "ctc"]
STAGES += ["evaluate-text", "evaluate-sft", "evaluate-selfkd", "evaluate-ctc", "table"]
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]
BYTES = ("table.json", "table.md")
MODELS = ("align", "sft", "selfkd", "ctc")


def run_here(arguments):
    """A stage in this process: starting one imports torch for seconds."""
    _, module, *rest = arguments
    code = main(rest) if module == "selfkd.cli" else run_function(rest[0], Path(rest[1]))
    if code == 130:
        raise KeyboardInterrupt
    return Finished(code, 1.0, 10**9)


def rehearse(output, name="internvl2_1b", **changes):
    return runner.reproduce(ReproduceConfig(PAPER / f"{name}.yaml", output, "tiny", rehearse=True, **changes))


def content(folder):
    """Hashes of all that a rerun must repeat."""
    models = [path for name in MODELS for path in (folder / name / "model").glob("*.safetensors")]
    paths = [*models, *(folder / name for name in BYTES), *(folder / "data").rglob("*.parquet")]
    assert len(paths) > len(MODELS) + len(BYTES)
    return {str(path.relative_to(folder)): sha256(path) for path in paths}


@pytest.fixture
def here(monkeypatch):
    monkeypatch.setattr(runner, "run_process", run_here)


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "run_process", run_here)
        return rehearse(tmp_path_factory.mktemp("rehearsed"))


def test_it_ends_in_the_table_and_a_record_of_each_stage(rehearsed):
    table = json.loads((rehearsed / "table.json").read_text())
    names = [row["name"] for row in table["rows"]]
    assert names[:5] == ["text", "SFT", "Self-KD", "CTC projector", "cascade"] and "random" in table["note"]
    paper = {row["name"]: row["paper"] for row in table["rows"]}
    assert paper["Self-KD"] == 33.84 and paper["cascade"] is None
    assert paper["share of the gap closed, Self-KD"] == 44.5
    assert len(table["benchmarks"]) == 8 and (rehearsed / "report.html").is_file()
    assert "| cascade | not known |" in (rehearsed / "table.md").read_text()
    records = {p.stem: json.loads(p.read_text()) for p in (rehearsed / "stages").glob("*.json")}
    assert list(records["table"]["inputs"]) == [f"evaluate-{n}" for n in ("text", "sft", "selfkd", "ctc")]
    assert set(records) == set(STAGES)
    for name in MODELS:
        assert json.loads((rehearsed / name / "result.json").read_text())["steps"] == 2


def test_complete_stages_are_skipped(rehearsed, monkeypatch, capsys):
    monkeypatch.setattr(runner, "run_process", lambda arguments: pytest.fail("a stage ran"))
    rehearse(rehearsed.parent)
    printed = capsys.readouterr().out
    assert printed.count(": complete") == len(STAGES) and "peak memory, GB" in printed


def test_another_product_or_input_is_refused(rehearsed, tmp_path):
    copy = Path(shutil.copytree(rehearsed, tmp_path / rehearsed.name))
    # its settings name the folder, which is another now
    for path in (copy / "stages").glob("*.yaml"):
        path.write_text(path.read_text().replace(str(rehearsed), str(copy)))
    result = copy / "sft" / "result.json"
    result.write_text(result.read_text().replace('"steps": 2', '"steps": 3'))
    with pytest.raises(InputError, match=r"sft/result.json has changed since stage sft wrote it"):
        rehearse(tmp_path)
    (copy / "stages" / "sft.json").unlink()
    with pytest.raises(InputError, match=r"inputs of stage evaluate-sft have changed \(sft: "):
        rehearse(tmp_path)


def test_a_run_that_is_interrupted_twice_ends_in_the_same_bytes(rehearsed, tmp_path, monkeypatch):
    def killed_after_the_command(arguments):
        finished = run_here(arguments)
        if "questions.yaml" in arguments[-1]:  # between the command's product and the record
            raise KeyboardInterrupt
        return finished

    monkeypatch.setattr(runner, "run_process", killed_after_the_command)
    with pytest.raises(KeyboardInterrupt):
        rehearse(tmp_path)
    monkeypatch.setattr(runner, "run_process", run_here)
    with pytest.raises(KeyboardInterrupt), interrupted_at(4):  # the second step of SFT
        rehearse(tmp_path)
    out = tmp_path / rehearsed.name
    assert (out / "stages/align.json").is_file() and not (out / "sft/result.json").exists()
    rehearse(tmp_path)
    assert content(out) == content(rehearsed)


@pytest.mark.parametrize("name", ["internvl2_2b", "internvl2_4b", "qwen2_vl_2b"])
def test_other_language_models_reach_stage_one(name, here, tmp_path):
    """InternLM2, Phi-3, and Qwen2-VL, which needs no conversion."""
    out = rehearse(tmp_path, name, until="align")
    assert (out / "align/model/config.json").is_file()


def test_an_error_of_a_stage_is_named_and_the_rest_does_not_run(here, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "run_process", lambda arguments: Finished(-9, 1.0, 1))
    with pytest.raises(InputError, match=r"stage download ended with code -9 \(killed, perhaps for memory\)"):
        rehearse(tmp_path)
    assert not list(tmp_path.rglob("stages/*.json"))


def test_a_process_is_measured_with_its_children():
    child = "x = b'x' * 200_000_000; import time; time.sleep(2)"
    finished = run_process(["-c", f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"])
    assert finished.code == 0 and 2.0 <= finished.seconds < 60
    assert 200_000_000 < finished.peak_bytes < 400_000_000


def test_a_killed_run_leaves_no_process_and_resumes(tmp_path):
    """The processes are real here."""
    command = [sys.executable, "-m", "selfkd.cli", "reproduce", str(PAPER / "internvl2_1b.yaml"), "--rehearse"]
    command += ["--scale", "tiny", "--output", str(tmp_path), "--until", "convert"]
    begun = tmp_path / "internvl2_1b-rehearsal" / "stages" / "download.yaml"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 240
        while not begun.is_file() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)  # its process has started
        process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while _stage_processes(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _stage_processes(tmp_path)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert begun.with_name("convert.json").is_file()


def _stage_processes(folder):
    """Processes whose command line names a file of the folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if b"stage_process" in line and str(folder).encode() in line:
                found.append(entry.name)
    return found
