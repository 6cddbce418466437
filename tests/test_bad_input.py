"""Invalid input of every command is refused in one line before a model is loaded, and so are errors of the machine: a
full disk, no home directory, a closed pipe (data_23_disk_full_in_training, data_24_no_home,
sec_17_data_check_says_whole)."""

import json
import math
import os
import random
import re
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from damage import damage_bytes
from examples import toy_examples, training_start
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from selfkd.check_data import CheckConfig, check
from selfkd.cli import main
from selfkd.data.dataset import ExampleFolder, _example, _footer, _row_groups
from selfkd.data.example import MANIFEST, SCHEMA, SCHEMA_VERSION, write_shard
from selfkd.errors import InputError
from selfkd.evaluation.evaluate import EvaluateConfig, evaluate
from selfkd.evaluation.grading import GRADED_COLUMNS, check_gradable, check_source_name
from selfkd.evaluation.response import Prediction
from selfkd.evaluation.samples import read_samples, sample
from selfkd.files import is_disk_full, sha256, write_json
from selfkd.input_hashes import hashes_of_data
from selfkd.json_files import read_json
from selfkd.training.distill import DistillConfig, distill


@pytest.fixture(scope="module")
def start(parts, tmp_path_factory):
    folder = training_start(parts, tmp_path_factory.mktemp("start"))
    (folder / "file").write_bytes(b"a file")
    (folder / "other").mkdir()
    (folder / "other" / "thing").touch()
    return folder


# command -> valid arguments
VALID = {
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
# command -> field -> invalid values
INVALID = {
    "align": {
        "data": _FOLDERS, "vlm": _MODELS, "speech_encoder": _MODELS, "output": _OUTPUTS, "steps": _COUNTS,
        "batch_size": _COUNTS, "save_steps": _COUNTS,
        "learning_rate": ("0", "-1", "fast"), "trainable": ("llm", "vision_tower"),
        "weight_averaging": ("2", "-1"), "training": ('{{"no_such": 1}}', '{{"max_steps": 3}}'), "projector": ("none",),
        "lora": ('{{"no_such": 1}}',), "recipe": ("{}/none", "{}/file"), "spec_augment": ("-1",),
    },
    "distill": {
        "data": _FOLDERS, "model": _MODELS, "output": _OUTPUTS, "steps": _COUNTS, "alpha": ("2", "-1"),
        "temperature": ("0",), "on_policy_fraction": ("2",), "rollout_engine": ("sglang",), "divergence": ("sideways",),
        "trainable": ("vision_tower",), "response_weight": ("-1",),
        "training": ('{{"no_such": 1}}', '{{"learning_rate": 3}}'),
    },
    "evaluate": {
        "data": _FOLDERS, "model": _MODELS, "output": _OUTPUTS, "modalities": ("sideways",), "batch_size": _COUNTS,
        "limit": ("-1",), "max_new_tokens": _COUNTS, "benchmarks": ("mmme",), "endpoint": ('{{"no_such": 1}}',),
        "synthesis": ('{{"engine": "kokkoro"}}', '{{"no_such": 1}}', '{{"rate_wpm": "fast"}}'), "recipe": ("{}/none",),
    },
    "analyze attention": {
        "data": _FOLDERS, "models": _MODELS, "output": _OUTPUTS, "batch_size": _COUNTS, "limit": ("-1",),
        "map_layers": ("99", "-1"), "maps": ("-1",),
    },
    "analyze agreement": {
        "data": _FOLDERS, "models": _MODELS, "output": _OUTPUTS, "batch_size": _COUNTS, "limit": ("-1",),
        "text_run": ("{}/none",), "audio_runs": ("{}/none",),
    },
    "serve": {"model": _MODELS, "port": ("99999", "-1", "http"), "max_batch": _COUNTS, "host": ("10.0.0.1",)},
    "app": {"models": _MODELS, "port": ("99999", "-1"), "asr_model": _MODELS, "max_new_tokens": _COUNTS},
    "merge": {"model": _MODELS, "output": _OUTPUTS},
}  # fmt: skip


@pytest.fixture
def no_models(monkeypatch):
    """Loading weights, also those of the bundled model, fails the test: `pytest.fail` raises no Exception, so no code
    turns it into a one-line error."""
    monkeypatch.setattr(PreTrainedModel, "from_pretrained", lambda *_, **__: pytest.fail("a model was loaded"))


def assert_refused(start, folder, command, field, value, capsys):
    arguments = {name: given if name == "output" else str(start / given) for name, given in VALID[command].items()}
    if "output" in arguments:
        arguments["output"] = str(folder / "out")
    arguments[field] = value.format(start, start) if "{" in value else value
    if field == "synthesis":
        arguments["benchmarks"] = "mme"
    code = main([*command.split(), *(part for name, given in arguments.items() for part in (f"--{name}", given))])
    error = capsys.readouterr().err
    assert code == 2, error
    assert len(error.strip().splitlines()) == 1 and error.startswith(f"selfkd {command}: "), error
    assert f"--{field}: no such flag" not in error, error
    assert not (folder / "out" / "result.json").exists()
    assert not (folder / "out" / "config.json").exists(), "the folder stays free for the corrected command"


@pytest.mark.parametrize(
    ("command", "field"), [(command, field) for command, fields in INVALID.items() for field in fields]
)
def test_invalid_value_of_each_field(start, tmp_path, no_models, command, field, capsys):
    for value in INVALID[command][field]:
        assert_refused(start, tmp_path, command, field, value, capsys)


@settings(deadline=None, max_examples=20, derandomize=True, suppress_health_check=list(HealthCheck))
@given(command=st.sampled_from(sorted(INVALID)), draw=st.data())
def test_missing_path_with_any_name(start, tmp_path, no_models, capsys, command, draw):
    field = draw.draw(st.sampled_from(sorted({"data", "models", "model"} & set(INVALID[command]))))
    name = draw.draw(st.text(st.characters(codec="utf-8", exclude_characters="\0/,:={}[]-\"'#&*!|>%@`"), min_size=1))
    assert_refused(start, tmp_path, command, field, str(start / "none" / name.replace("\n", "n")), capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
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
        (["synthesize", "--output", "{}/c", "--asr_filter", "{}/none"], "(asr_filter|verify): .*no checkpoint there"),
        (["synthesize", "--output", "{}/c", "--asr_filter", "{}/model"], "(asr_filter|verify): .*not a Whisper"),
        (["synthesize", "--output", "{}/c", "--processes=-1"], "processes"),
        (["synthesize", "--output", "{}/file/c"], "file"),
        (["data", "check", "{}/data", "--model", "{}/none"], "model: .*no checkpoint there"),
    ],
)
def test_invalid_input_of_other_commands(start, no_models, arguments, message, capsys):
    assert main([a.format(start) for a in arguments]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error) and len(error.splitlines()) == 1, error


def test_port_in_use_is_refused_before_a_model_is_loaded(start, no_models, capsys):
    with socket.create_server(("127.0.0.1", 0)) as other_server:
        port = str(other_server.getsockname()[1])
        for command in (["serve", str(start / "model")], ["app", str(start / "model")]):
            assert main([*command, "--port", port]) == 2
            assert f"port: {port}: Address already in use" in capsys.readouterr().err


def write_damaged_data(folder, column, values):
    """Three rows with one column replaced by these values, in their own type, and a valid manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    write_shard(folder / "a.parquet", toy_examples(3), {"rows": 3, "rejected": []})
    table = pq.read_table(folder / "a.parquet")
    at = table.schema.get_field_index(column)
    write_damaged_table(folder, table.remove_column(at) if values is None else table.set_column(at, column, values))


def write_damaged_table(folder, table):
    pq.write_table(table, folder / "a.parquet")
    shard = {"file": "a.parquet", "rows": 3, "sha256": sha256(folder / "a.parquet")}
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "source": "world",
        "rows": 3,
        "rejected": [],
        "rejected_shards": [],
        "shards": [shard],
    }
    write_json(folder / MANIFEST, manifest)


WRONG_COLUMNS = {
    "null": lambda arrow_type: pa.array([None] * 3, type=arrow_type),
    "one null": lambda arrow_type: (
        pa.array(["1", None, "2"]).cast(arrow_type) if pa.types.is_string(arrow_type) else pa.nulls(3, arrow_type)
    ),
    "whole numbers": lambda arrow_type: pa.array([1, 2, 3]),
    "numbers": lambda arrow_type: pa.array([1.5, 2.5, float("nan")]),
    "lists": lambda arrow_type: pa.array([["a"], ["b"], []]),
    "bytes": lambda arrow_type: pa.array([b"\xff", b"b", b""]),
    "no column": lambda arrow_type: None,
    "bools": lambda arrow_type: pa.array([True, False, True]),
    "texts": lambda arrow_type: pa.array(["a", "", "\0"]),
    "huge numbers": lambda arrow_type: pa.array([2**62, -(2**62), 2**31], pa.int64()),
    "infinite numbers": lambda arrow_type: pa.array([float("inf"), -1e300, 1e300]),
    "dates": lambda arrow_type: pa.array([0, 1, 2], pa.timestamp("us")),
    "decimals": lambda arrow_type: pa.array([1, 2, 3]).cast(pa.decimal128(20)),
    "a struct": lambda arrow_type: pa.array(
        [{"bytes": b"a"}, {"bytes": None}, None], pa.struct([("bytes", pa.binary())])
    ),
    "not UTF-8": lambda arrow_type: pa.StringArray.from_buffers(
        3, pa.py_buffer(np.arange(4, dtype=np.int32).tobytes()), pa.py_buffer(b"\xff\xfe\xfd")
    ),
}


def use_data(folder):
    """What training and evaluation do with data, but for the model: decode, sort by length, grade, read the grades."""
    examples = ExampleFolder(folder)
    examples.columns(*(name for name in SCHEMA.names if name not in ("image", "audio")))
    check_source_name(examples)
    check_gradable(examples.source, examples.columns(*GRADED_COLUMNS))
    hashes_of_data({"data": examples})
    for one, metadata in zip(examples, examples.metadata(), strict=True):
        one.load_image(), one.samples()
        assert metadata.width >= 0 and math.isfinite(100 * metadata.speech_seconds)
        file = folder.parent / "samples" / f"{one.source}.audio.jsonl"
        file.parent.mkdir(exist_ok=True)
        with file.open("a") as lines:
            lines.write(json.dumps(sample(one, "audio", Prediction("yes"))) + "\n")
        read_samples(file)


def is_whole(folder, *names):
    try:
        check(CheckConfig([folder]))
    except InputError as error:
        assert any(name in str(error) for name in (str(folder), *names)), error
        return False
    return True


def is_usable(folder):
    try:
        use_data(folder)
    except InputError:
        return False
    return True


@settings(deadline=None, max_examples=90, derandomize=True, suppress_health_check=list(HealthCheck))
@given(column=st.sampled_from(SCHEMA.names), other=st.sampled_from(sorted(WRONG_COLUMNS)))
@example(column="details", other="texts")
@example(column="duration_seconds", other="infinite numbers")
def test_data_that_passes_the_check_is_usable(tmp_path_factory, column, other):
    """sec_17: `data check` accepted a column of another type or without values, and other commands crashed."""
    folder = tmp_path_factory.mktemp("data") / "data"
    write_damaged_data(folder, column, WRONG_COLUMNS[other](SCHEMA.field(column).type))
    usable = is_usable(folder)  # no other error, whole or not
    if is_whole(folder, column) and not usable:
        with pytest.raises(InputError, match=r"no rule|could be parsed|names a public"):  # `data check` says so too
            use_data(folder)


@pytest.mark.parametrize("column", [name for name in SCHEMA.names if pa.types.is_string(SCHEMA.field(name).type)])
def test_texts_of_other_tools_are_read(tmp_path, column):
    """Written as large strings or as a dictionary, with a column more; two columns of a name are refused."""
    write_damaged_data(tmp_path / "data", "id", pa.array(list("abc")))
    table = pq.read_table(tmp_path / "data" / "a.parquet")
    at, texts = table.schema.get_field_index(column), table.column(column)
    for arrow_type in (pa.large_string(), pa.dictionary(pa.int32(), pa.string())):
        changed = table.set_column(at, column, texts.cast(arrow_type)).append_column("more", pa.array([1, 2, 3]))
        write_damaged_table(tmp_path / "data", changed)
        assert is_whole(tmp_path / "data"), arrow_type
        use_data(tmp_path / "data")
    write_damaged_table(tmp_path / "data", table.append_column(column, pa.array([1, 2, 3])))
    assert not is_whole(tmp_path / "data") and not is_usable(tmp_path / "data")


def test_damaged_shard_is_one_line(tmp_path):
    write_damaged_data(tmp_path / "data", "id", pa.array(list("abc")))
    file = tmp_path / "data" / "a.parquet"
    content, refused = file.read_bytes(), 0
    for seed in range(60):
        damage_bytes(file, random.Random(seed))
        refused += not is_usable(tmp_path / "data")
        _footer.cache_clear(), _row_groups.clear(), _example.cache_clear()
        file.write_bytes(content)
    assert refused > 20


@pytest.mark.parametrize(
    ("source", "details"),
    [("textvqa", "{}"), ("hallusionbench", "{}"), ("mmbench", '{"options": 3}'), ("mme", '{"image": []}')],
)
def test_details_that_a_benchmark_cannot_be_graded_by(source, details):
    item = {"id": "a", "question_type": "vqa", "category": "c", "question": "Q?", "target": "A", "details": details}
    with pytest.raises(InputError, match=f"example a: field details: {source} cannot be graded by it"):
        check_gradable(source, [item])


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 9) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)


@settings(deadline=None, max_examples=80, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    field=st.sampled_from(["schema_version", "source", "rows", "rejected", "rejected_shards", "shards", "file",
                           "sha256", "rows of a shard", "voice_names", "language", "manifest"]),
    value=_JSON,
)  # fmt: skip
def test_manifest_with_wrong_types_is_one_line(tmp_path_factory, field, value):
    folder = tmp_path_factory.mktemp("data") / "data"
    write_damaged_data(folder, "id", pa.array(list("abc")))
    manifest = json.loads((folder / MANIFEST).read_text())
    if field == "manifest":
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


NO_PASSWD_ENTRY = "import pwd\ndef none(*_): raise KeyError\npwd.getpwuid = pwd.getpwnam = none\n"
SYNTHESIZE = ["synthesize", "--source", "words", "--count", "2", "--processes", "1", "--output"]


def test_no_home_directory(tmp_path, monkeypatch, capsys):
    """In a new process, whose imports have no home directory either; then with a cache folder instead."""
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    code = NO_PASSWD_ENTRY + "import sys; from selfkd.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, *SYNTHESIZE, str(tmp_path / "d")]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 2 and "Traceback" not in finished.stderr
    assert "no home directory; " in finished.stderr
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("pwd.getpwuid", lambda *_: {}["no entry"])
    assert main([*SYNTHESIZE, str(tmp_path / "d")]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("arguments", [("--help",), ("align", "--help"), ("compare", "--help")])
def test_closed_pipe_prints_nothing(arguments):
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = [sys.executable, "-m", "selfkd.cli", *arguments]
    finished = subprocess.run(command, stdout=write_end, stderr=subprocess.PIPE, text=True, timeout=300)
    os.close(write_end)
    assert not finished.stderr, finished.stderr


def test_ctrl_c_is_one_line(start, tmp_path, monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("selfkd.training.distill.check_data", interrupt)
    arguments = ["distill", "--data", start / "data", "--model", start / "model", "--output", tmp_path / "run"]
    assert main(list(map(str, arguments))) == 130
    assert "interrupted" in capsys.readouterr().err


class SmallDisk:
    """A folder with too little space for a checkpoint, until `grow`: a tmpfs if the test runs as root, else a limit on
    the size of files."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()
        mount = os.geteuid() == 0 and subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], capture_output=True
        )
        self.mounted = bool(mount) and mount.returncode == 0
        self.limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        if not self.mounted:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, self.limit[1]))

    def grow(self):
        if self.mounted:
            subprocess.run(["mount", "-o", "remount,size=600m", self.folder], check=True)
        resource.setrlimit(resource.RLIMIT_FSIZE, self.limit)

    def close(self):
        resource.setrlimit(resource.RLIMIT_FSIZE, self.limit)
        if self.mounted:
            subprocess.run(["umount", "-l", self.folder], check=True)


@pytest.mark.slow
def test_full_disk_in_training_is_one_line_and_the_rerun_resumes(start, tmp_path, capsys):
    """data_23: torch raises "unexpected pos", safetensors an error of its own; neither is an OSError."""
    arguments = ["distill", "--data", start / "data", "--steps", "2", "--batch_size", "4", "--save_steps", "1"]
    arguments = [*map(str, arguments), "--output"]
    assert main([*arguments, str(tmp_path / "whole")]) == 0
    full = SmallDisk(tmp_path / "full")
    try:
        assert main([*arguments, str(full.folder / "run")]) == 2
        error = capsys.readouterr().err
        assert "selfkd distill: no space left on the disk: " in error and "Traceback" not in error
        full.grow()
        assert main([*arguments, str(full.folder / "run")]) == 0
        weights = [sha256(f / "model" / "model.safetensors") for f in (tmp_path / "whole", full.folder / "run")]
        assert weights[0] == weights[1]
    finally:
        full.close()


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 64 vs 0"),
        Exception("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"),
    ],
)
def test_is_no_room(error):
    assert is_disk_full(error)
    wrapped = ValueError("it failed")
    wrapped.__cause__ = error
    assert is_disk_full(wrapped) and not is_disk_full(ValueError("unexpected"))


def test_corrected_command_can_use_the_same_folder(start, tmp_path):
    """First with a typo in the data's path, then without."""
    settings = {"steps": 1, "batch_size": 4, "save_steps": 1}
    with pytest.raises(InputError, match=r"none/manifest.json: not found"):
        distill(DistillConfig([str(tmp_path / "none")], tmp_path / "run", model=str(start / "model"), **settings))
    assert distill(DistillConfig([str(start / "data")], tmp_path / "run", model=str(start / "model"), **settings))
    with pytest.raises(InputError, match=r"none/manifest.json: not found"):
        evaluate(EvaluateConfig(str(start / "model"), [str(tmp_path / "none")], tmp_path / "eval"))


def test_damaged_config_of_a_run_is_one_line(start, tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    for name, content in (("config.json", b"{"), ("config.json", b"\xff")):
        (run / name).write_bytes(content)
        for arguments in (["compare", run], ["report", run], ["distill", "--data", start / "data"]):
            assert (
                main([*map(str, arguments), "--output", str(run if arguments[0] == "distill" else tmp_path / "c")]) == 2
            )
            assert f"{run / name}: not readable" in capsys.readouterr().err
    with pytest.raises(InputError, match="not found"):
        read_json(Path("nowhere.json"))
