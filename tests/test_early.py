"""Nothing fails late: whatever is wrong with what a command is given is said before a model is loaded, in one line; and
the errors of a machine (a full disk, no home, a closed pipe) are lines too (data_23_disk_full_in_training,
data_24_no_home, sec_17_data_check_says_whole)."""

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from examples import toy_examples, training_start
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from selfkd import files
from selfkd.cli import main
from selfkd.data.check import CheckConfig, check
from selfkd.data.dataset import ExampleFolder
from selfkd.data.example import MANIFEST, SCHEMA, write_shard
from selfkd.errors import InputError
from selfkd.evaluation.evaluate import EvaluateConfig, evaluate
from selfkd.files import is_no_room, sha256, write_json
from selfkd.training.distill import DistillConfig, distill


@pytest.fixture(scope="module")
def start(parts, tmp_path_factory):
    folder = training_start(parts, tmp_path_factory.mktemp("start"))
    (folder / "file").write_bytes(b"a file")
    (folder / "other").mkdir()
    (folder / "other" / "thing").touch()
    return folder


# {command: its arguments, all of them right}, and {field: values that are wrong}
COMMANDS = {
    "align": {"data": "data", "output": "out"},
    "distill": {"data": "data", "model": "model", "output": "out"},
    "evaluate": {"model": "model", "data": "data", "output": "out"},
    "analyze attention": {"models": "model", "data": "data", "output": "out"},
    "analyze agreement": {"models": "model", "data": "data", "output": "out"},
    "serve": {"model": "model"},
    "app": {"models": "model"},
    "merge": {"model": "model", "output": "out"},
}
_FOLDERS = ("{}/none", "{}/file", "{}/other", "{}/data,{}/none", "https://example.org/data")
_MODELS = ("{}/none", "{}/file", "{}/other", "{}/data", "https://huggingface.co/a/b", "nobody/nothing")
_OUTPUTS = ("{}/other", "{}/file", "{}/file/below")
_COUNTS = ("0", "-1", "many")
WRONG = {
    "align": {
        "data": _FOLDERS, "vlm": _MODELS, "speech_encoder": _MODELS, "output": _OUTPUTS, "steps": _COUNTS,
        "batch_size": _COUNTS, "save_steps": _COUNTS,
        "learning_rate": ("0", "-1", "fast"), "trainable": ("llm", "eyes"),
        "weight_averaging": ("2", "-1"), "training": ('{{"no_such": 1}}', '{{"max_steps": 3}}'), "encoder": ("none",),
        "lora": ('{{"no_such": 1}}',), "recipe": ("{}/none", "{}/file"), "spec_augment": ("-1",),
    },
    "distill": {
        "data": _FOLDERS, "model": _MODELS, "output": _OUTPUTS, "steps": _COUNTS, "alpha": ("2", "-1"),
        "temperature": ("0",), "on_policy_fraction": ("2",), "divergence": ("sideways",), "trainable": ("eyes",),
        "response_weight": ("-1",), "training": ('{{"no_such": 1}}', '{{"learning_rate": 3}}'),
    },
    "evaluate": {
        "data": _FOLDERS, "model": _MODELS, "output": _OUTPUTS, "modalities": ("sideways",), "batch_size": _COUNTS,
        "limit": ("-1",), "max_new_tokens": _COUNTS, "benchmarks": ("mmme",), "endpoint": ('{{"no_such": 1}}',),
        "audio": ('{{"engine": "kokkoro"}}', '{{"no_such": 1}}', '{{"rate_wpm": "fast"}}'), "recipe": ("{}/none",),
    },
    "analyze attention": {
        "data": _FOLDERS, "models": _MODELS, "output": _OUTPUTS, "batch_size": _COUNTS, "limit": ("-1",),
        "map_layers": ("99", "-1"), "maps": ("-1",),
    },
    "analyze agreement": {
        "data": _FOLDERS, "models": _MODELS, "output": _OUTPUTS, "batch_size": _COUNTS, "limit": ("-1",),
        "written_run": ("{}/none",), "spoken_runs": ("{}/none",),
    },
    "serve": {"model": _MODELS, "port": ("99999", "-1", "http"), "max_batch": _COUNTS, "host": ("10.0.0.1",)},
    "app": {"models": _MODELS, "port": ("99999", "-1"), "asr_model": _MODELS, "max_new_tokens": _COUNTS},
    "merge": {"model": _MODELS, "output": _OUTPUTS},
}  # fmt: skip


@pytest.fixture
def no_models(monkeypatch):
    """Weights that are read fail the test, be it those of the bundled model; what `pytest.fail` raises is no Exception,
    and nothing turns it into a line."""
    monkeypatch.setattr(PreTrainedModel, "from_pretrained", lambda *_, **__: pytest.fail("a model was loaded"))


def refused(start, folder, command, field, value, capsys):
    asked = {name: given if name == "output" else str(start / given) for name, given in COMMANDS[command].items()}
    if "output" in asked:
        asked["output"] = str(folder / "out")
    asked[field] = value.format(start, start) if "{" in value else value
    if field == "audio":
        asked["benchmarks"] = "mme"
    code = main([*command.split(), *(part for name, given in asked.items() for part in (f"--{name}", given))])
    error = capsys.readouterr().err
    assert code == 2, error
    assert len(error.strip().splitlines()) == 1 and error.startswith(f"selfkd {command}: "), error
    assert not (folder / "out" / "result.json").exists()
    assert not (folder / "out" / "config.json").exists(), "a corrected command finds the folder free"


@pytest.mark.parametrize(
    ("command", "field"), [(command, field) for command, fields in WRONG.items() for field in fields]
)
def test_each_field_of_each_command(start, tmp_path, no_models, command, field, capsys):
    for value in WRONG[command][field]:
        refused(start, tmp_path, command, field, value, capsys)


@settings(deadline=None, max_examples=40, derandomize=True, suppress_health_check=list(HealthCheck))
@given(where=st.sampled_from(sorted(WRONG)), draw=st.data())
def test_a_wrong_value_among_right_ones(start, tmp_path, no_models, capsys, where, draw):
    field = draw.draw(st.sampled_from(sorted({"data", "models", "model"} & set(WRONG[where]))))
    name = draw.draw(st.text(st.characters(codec="utf-8", exclude_characters="\0/,:={}[]-\"'#&*!|>%@`"), min_size=1))
    refused(start, tmp_path, where, field, str(start / "none" / name.replace("\n", "n")), capsys)


@pytest.mark.parametrize(
    ("arguments", "spoken_text"),
    [
        (["convert", "--source", "{}/none", "--output", "{}/c"], "source: .*no config.json"),
        (["convert", "--source", "https://huggingface.co/a/b", "--output", "{}/c"], "source: .*give the hub id, a/b"),
        (["convert", "--source", "{}/file", "--output", "{}/c"], "source: .*a file"),
        (["convert", "--source", "{}/model", "--output", "{}/c"], "model_type"),
        (["judge", "{}/none", "--model", "m"], "run: .*holds no samples"),
        (["judge", "{}/file"], "run: .*holds no samples"),
        (["compare", "{}/none", "--output", "{}/c"], "runs: .*not a complete evaluation"),
        (["report", "{}/file", "--output", "{}/c"], "runs: .*no such folder"),
        (["publish", "--run", "{}/none", "--repo", "a/b", "--license", "mit"], "run: .*not a complete"),
        (["synthesize", "--output", "{}/c", "--engine", "kokkoro"], "engine"),
        (["synthesize", "--output", "{}/c", "--engine", "piper", "--engine_path", "{}/file"], "engine_path"),
        (["synthesize", "--output", "{}/c", "--asr_filter", "{}/none"], "verify: .*no checkpoint there"),
        (["synthesize", "--output", "{}/c", "--asr_filter", "{}/model"], "verify: .*not a Whisper"),
        (["synthesize", "--output", "{}/c", "--processes", "0"], "processes"),
        (["synthesize", "--output", "{}/file/c"], "file"),
        (["data", "check", "{}/data", "--model", "{}/none"], "model: .*no checkpoint there"),
    ],
)
def test_commands_without_models(start, no_models, arguments, said, capsys):
    import re

    assert main([a.format(start) for a in arguments]) == 2
    error = capsys.readouterr().err
    assert re.search(said, error) and len(error.splitlines()) == 1, error


def test_a_port_in_use_is_told_before_the_model_is_loaded(start, no_models, capsys):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.merge_audio_embeddings()
        port = str(taken.getsockname()[1])
        for command in (["serve", str(start / "model")], ["app", str(start / "model")]):
            assert main([*command, "--port", port]) == 2
            assert f"port: {port}: Address already in use" in capsys.readouterr().err


def damaged(folder, column, values):
    """Three rows of which one column holds these values, of their own type, with a manifest that is right."""
    folder.mkdir(parents=True, exist_ok=True)
    write_shard(folder / "a.parquet", toy_examples(3), {"rows": 3, "rejected": []})
    table = pq.read_table(folder / "a.parquet")
    at = table.schema.get_field_index(column)
    table = table.remove_column(at) if values is None else table.set_column(at, column, values)
    pq.write_table(table, folder / "a.parquet")
    shard = {"file": "a.parquet", "rows": 3, "sha256": sha256(folder / "a.parquet")}
    whole = {
        "schema_version": 3,
        "source": "world",
        "rows": 3,
        "rejected": [],
        "rejected_shards": [],
        "shards": [shard],
    }
    write_json(folder / MANIFEST, whole)


OTHERS = {
    "null": lambda kind: pa.array([None] * 3, type=kind),
    "one null": lambda kind: pa.array(["1", None, "2"]).cast(kind) if pa.types.is_string(kind) else pa.nulls(3, kind),
    "whole numbers": lambda kind: pa.array([1, 2, 3]),
    "numbers": lambda kind: pa.array([1.5, 2.5, float("nan")]),
    "lists": lambda kind: pa.array([["a"], ["b"], []]),
    "bytes": lambda kind: pa.array([b"\xff", b"b", b""]),
    "no column": lambda kind: None,
    "bools": lambda kind: pa.array([True, False, True]),
}


@settings(deadline=None, max_examples=60, derandomize=True, suppress_health_check=list(HealthCheck))
@given(column=st.sampled_from(SCHEMA.names), other=st.sampled_from(sorted(OTHERS)))
def test_what_is_whole_can_be_read(tmp_path_factory, column, other):
    """sec_17: a column of another type, or without values, was whole to `data check` and a traceback to all others."""
    folder = tmp_path_factory.mktemp("data") / "data"
    damaged(folder, column, OTHERS[other](SCHEMA.field(column).type))
    names = [name for name in SCHEMA.names if name not in ("image", "audio")]
    try:
        check(CheckConfig([folder]))
    except InputError as error:
        assert str(folder) in str(error) or column in str(error)
        is_whole = False
    else:
        is_whole = True
    try:
        ExampleFolder(folder).columns(*names)
        [(e.load_image(), e.samples()) for e in ExampleFolder(folder)]
        can_be_read = True
    except InputError:
        can_be_read = False  # in one line, whatever it is
    assert can_be_read or not is_whole


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 9) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)


@settings(deadline=None, max_examples=150, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    field=st.sampled_from(["schema_version", "source", "rows", "rejected", "rejected_shards", "shards", "file",
                           "sha256", "rows of a shard", "voice_names", "language", "whole"]),
    value=_JSON,
)  # fmt: skip
def test_a_manifest_of_other_types_is_one_line(tmp_path_factory, field, value):
    folder = tmp_path_factory.mktemp("data") / "data"
    damaged(folder, "id", pa.array(list("abc")))
    manifest = json.loads((folder / MANIFEST).read_text())
    if field == "whole":
        manifest = value
    elif field in ("file", "sha256", "rows of a shard"):
        manifest["shards"][0][field.partition(" ")[0]] = value
    else:
        manifest[field] = value
    (folder / MANIFEST).write_text(json.dumps(manifest))
    for use in (lambda: check(CheckConfig([folder])), lambda: ExampleFolder(folder).columns("id")):
        try:
            use()
        except InputError as error:
            assert str(folder) in str(error)


def started(*arguments, **how):
    command = [sys.executable, "-m", "selfkd.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **how)


def test_no_home(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k not in ("HOME", "XDG_CACHE_HOME")}
    code = (
        "import os, pwd\ndef none(*_): raise KeyError\npwd.getpwuid = pwd.getpwnam = none\n"
        "import sys; from selfkd.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    asked = ["synthesize", "--source", "words", "--count", "2", "--processes", "1", "--output", str(tmp_path / "d")]
    for more in ({}, {"XDG_CACHE_HOME": str(tmp_path / "cache")}):
        ended = subprocess.run(
            [sys.executable, "-c", code, *asked], capture_output=True, text=True, env=environment | more, timeout=300
        )
        if more:
            assert ended.returncode == 0, ended.stderr
        else:
            assert ended.returncode == 2 and "Traceback" not in ended.stderr
            assert "no home directory; HOME or XDG_CACHE_HOME names a place" in ended.stderr


@pytest.mark.parametrize("arguments", [("--help",), ("align", "--help"), ("compare", "--help")])
def test_a_closed_pipe_is_no_traceback(arguments):
    read, written = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "selfkd.cli", *arguments]
    ended = subprocess.run(command, stdout=written, stderr=subprocess.PIPE, text=True, timeout=300)
    os.close(written)
    assert not ended.stderr, ended.stderr


def test_ctrl_c_is_one_line(start, tmp_path, monkeypatch, capsys):
    def pressed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("selfkd.training.distill.check_data", pressed)
    asked = ["distill", "--data", start / "data", "--model", start / "model", "--output", tmp_path / "run"]
    assert main(list(map(str, asked))) == 130
    assert "stopped" in capsys.readouterr().err


class NoRoom:
    """A folder without room for a checkpoint, and then with it: of a tmpfs where this is root, else by a limit on the
    length of files."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        made = os.geteuid() == 0 and subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], capture_output=True
        )
        self.mounted = bool(made) and made.returncode == 0
        self.limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        if not self.mounted:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, self.limit[1]))

    def grow(self):
        if self.mounted:
            subprocess.run(["mount", "-o", "remount,size=100m", self.folder], check=True)
        resource.setrlimit(resource.RLIMIT_FSIZE, self.limit)

    def end(self):
        resource.setrlimit(resource.RLIMIT_FSIZE, self.limit)
        if self.mounted:
            subprocess.run(["umount", "-l", self.folder], check=True)


def test_a_full_disk_in_training_is_one_line_and_the_rerun_goes_on(start, tmp_path, capsys):
    """data_23: torch says "unexpected pos", safetensors has an error of its own, and neither is an OSError."""
    asked = ["distill", "--data", start / "data", "--steps", "4", "--batch_size", "8", "--save_steps", "2"]
    asked = [*map(str, asked), "--output"]
    assert main([*asked, str(tmp_path / "whole")]) == 0
    full = NoRoom(tmp_path / "full")
    try:
        assert main([*asked, str(full.folder / "run")]) == 2
        error = capsys.readouterr().err
        assert "selfkd distill: no room left on the disk: " in error and "Traceback" not in error
        full.grow()
        assert main([*asked, str(full.folder / "run")]) == 0
        weights = [sha256(f / "model" / "model.safetensors") for f in (tmp_path / "whole", full.folder / "run")]
        assert weights[0] == weights[1]
    finally:
        full.end()


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"),
        Exception("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"),
    ],
)
def test_full_disks_by_any_name(error):
    assert is_no_room(error)
    wrapped = ValueError("it failed")
    wrapped.__cause__ = error
    assert is_no_room(wrapped) and not is_no_room(ValueError("unexpected"))


def test_settings_are_not_lost_on_a_model_that_is_refused(start, tmp_path):
    """The data's typo, and the right data after it, in one folder."""
    given = {"steps": 2, "batch_size": 4, "save_steps": 2}
    with pytest.raises(InputError, match=r"none/manifest.json: not found"):
        distill(DistillConfig([str(tmp_path / "none")], tmp_path / "run", model=str(start / "model"), **given))
    assert distill(DistillConfig([str(start / "data")], tmp_path / "run", model=str(start / "model"), **given))
    with pytest.raises(InputError, match=r"none/manifest.json: not found"):
        evaluate(EvaluateConfig(str(start / "model"), [str(tmp_path / "none")], tmp_path / "eval"))


def test_damaged_json_of_a_run_is_one_line(start, tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    for name, content in (("config.json", b"{"), ("config.json", b"\xff")):
        (run / name).write_bytes(content)
        for asked in (["compare", run], ["report", run], ["distill", "--data", start / "data"]):
            assert main([*map(str, asked), "--output", str(run if asked[0] == "distill" else tmp_path / "c")]) == 2
            assert f"{run / name}: not readable" in capsys.readouterr().err
    with pytest.raises(InputError, match="not found"):
        files.read_json(Path("nowhere.json"))
