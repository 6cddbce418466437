"""Damaged checkpoints (truncated, git-lfs pointers, missing files, other formats) give one line that names the file and
never a traceback (data_22_damaged_checkpoints, sec_18_cut_weights_traceback)."""

import json
import os
import random
import re
import shutil
from pathlib import Path

import pytest
import torch
from damage import damage_json
from examples import training_data
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from selfkd.cli import main
from selfkd.errors import InputError
from selfkd.evaluation.backends.transcriber import Transcriber
from selfkd.model.backbones import load_speech_encoder, load_vlm, read_config
from selfkd.model.checkpoint import inspect_checkpoint, load_model
from selfkd.model.checkpoint_files import check_checkpoint, read_header
from selfkd.training.align import AlignConfig, assemble

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 151061672\n"
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def tiny(parts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    for part in parts:
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("work")


DAMAGES = st.one_of(
    st.tuples(st.just("cut"), st.floats(0, 1), st.just(0)),
    st.tuples(st.just("byte"), st.floats(0, 1), st.integers(0, 255)),
    st.tuples(st.just("zeros"), st.floats(0, 1), st.integers(1, 64)),
    st.tuples(st.sampled_from(["pointer", "gone", "folder", "more"]), st.just(0.0), st.just(0)),
)


def damage(path: Path, how: str, position: float, value: int) -> bool:
    """Damages a file; returns whether its content changed."""
    before = path.read_bytes()
    at = min(int(position * len(before)), len(before) - 1)
    path.unlink()
    if how == "folder":
        path.mkdir()
    elif how != "gone":
        after = {
            "cut": before[:at],
            "byte": before[:at] + bytes([value]) + before[at + 1 :],
            "zeros": before[:at] + bytes(min(value, len(before) - at)) + before[at + value :],
            "pointer": POINTER,
            "more": before + b"more",
        }[how]
        path.write_bytes(after)
        return after != before
    return True


def one_line(error: InputError, folder: Path, path: Path) -> None:
    assert str(folder) in str(error), error
    assert "Traceback" not in str(error) and len(str(error)) < 1000
    if path.name == WEIGHTS:  # an error in another file may show in a different one
        assert path.name in str(error) or "weights that do not fit" in str(error), error


# a changed byte within a weight or a number of a configuration gives another valid checkpoint and cannot be detected;
# the promise is that no damage ends in a traceback
@settings(deadline=None, max_examples=12, derandomize=True, suppress_health_check=list(HealthCheck))
@given(file=st.integers(0, 20), how=DAMAGES)
@example(file=3, how=("cut", 0.5, 0))
def test_damaged_model_gives_one_line_or_loads(tiny, work, file, how):
    folder = work / "model"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(tiny, folder)
    paths = sorted(p for p in folder.rglob("*") if p.is_file())
    path = paths[file % len(paths)]
    changed = damage(path, *how)
    try:
        load_model(folder)
    except InputError as error:
        assert changed, "nothing was wrong"
        one_line(error, folder, path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "processor_config.json"])
def test_value_of_another_type_in_a_configuration_is_one_line(tiny, work, name):
    """What each command does before it reads weights."""
    folder = work / "configuration"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(tiny, folder)
    whole = (folder / name).read_bytes()
    for seed in range(12):
        done = damage_json(folder / name, random.Random(f"{name} {seed}"))
        try:
            info = inspect_checkpoint(folder)
            assert info.config.context > 0 and info.config.placeholder_ids and info.config.projector_type
            info.processor.text_prompt("What?", info.processor.encode_image(None))
        except InputError as error:
            assert str(folder) in str(error) or "chat template" in str(error), (done, error)
        except Exception as error:
            raise AssertionError(done) from error
        (folder / name).write_bytes(whole)


@settings(deadline=None, max_examples=12, derandomize=True, suppress_health_check=list(HealthCheck))
@given(file=st.integers(0, 20), how=DAMAGES)
def test_damaged_whisper_gives_one_line_or_loads(tiny_whisper, work, file, how):
    folder = work / "whisper"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(tiny_whisper, folder)
    paths = sorted(p for p in folder.rglob("*") if p.is_file())
    changed = damage(path := paths[file % len(paths)], *how)
    try:
        assemble(AlignConfig([], work, projector="stack", speech_encoder=str(folder)))
    except InputError as error:
        assert changed
        one_line(error, folder, path)


@settings(deadline=None, max_examples=60, derandomize=True, suppress_health_check=list(HealthCheck))
@given(position=st.floats(0, 1, exclude_max=True))
def test_header_reveals_truncated_weights(tiny_whisper, work, position):
    path = work / "cut.safetensors"
    whole = (tiny_whisper / WEIGHTS).read_bytes()
    path.write_bytes(whole[: int(position * len(whole))])
    with pytest.raises(InputError, match=r"speech_encoder: .*cut\.safetensors: (cut short|not a complete|the header)"):
        read_header(path, "speech_encoder")


def test_header_lists_the_weights_of_a_file(tiny_whisper):
    weights = load_file(tiny_whisper / WEIGHTS)
    found = read_header(tiny_whisper / WEIGHTS, "model")
    assert {name: shape for name, (_, shape) in found.items()} == {name: tuple(w.shape) for name, w in weights.items()}
    assert {dtype for dtype, _ in found.values()} == {"F32"}


def _replaced(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def _pickled(folder):
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")


def _sharded(folder):
    (folder / WEIGHTS).rename(folder / "model-00001-of-00002.safetensors")
    files = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate("ab")}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))


def _of_other_bins(folder):
    path = folder / "preprocessor_config.json"
    path.write_text(path.read_text().replace('"feature_size": 80', '"feature_size": 128'))


def _edit(folder, name, change):
    path = folder / name
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def _with(name, **fields):
    return lambda folder: _edit(folder, name, lambda values: values | fields)


def _whole_numbers(folder):
    weights = load_file(folder / WEIGHTS)
    save_file({n: w.to(torch.int64) for n, w in weights.items()}, folder / WEIGHTS, {"format": "pt"})


def _too_large(folder):
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"d_model": 32', '"d_model": 9632'))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_replaced(WEIGHTS, POINTER), r"model.safetensors: a git-lfs pointer"),
        (_replaced("config.json", POINTER), r"config.json: a git-lfs pointer"),
        (_replaced(WEIGHTS, b"PK\x03\x04" + bytes(99)), r"model.safetensors: not a complete safetensors file"),
        (lambda folder: (folder / WEIGHTS).unlink(), r"model.safetensors: not there; the folder holds no weights"),
        (_pickled, r"pytorch_model.bin: a pickle"),
        (_sharded, r"model-00002-of-00002.safetensors: not there, though model.safetensors.index.json names it"),
        (_replaced("config.json", b"{"), r"config.json: not JSON"),
        (_replaced("config.json", b"[1]"), r"config.json: holds no JSON object"),
        (_replaced("config.json", b'{"model_type": ["whisper"]}'), r"config.json: field model_type: .*valid string"),
        (_replaced("config.json", b"\xff\xfe"), r"config.json: not UTF-8"),
        (lambda folder: (folder / "preprocessor_config.json").unlink(), r"preprocessor_config.json: not there"),
        (_replaced("preprocessor_config.json", b"half"), r"preprocessor_config.json: not JSON"),
        (_of_other_bins, r"128 mel bins .* the encoder takes 80"),
        (_whole_numbers, r"model.safetensors: weight .* of type I64, expected floats"),
        (
            _with("config.json", encoder_layers=10**9),
            r"config.json: field encoder_layers: 1000000000, expected at most",
        ),
        (_with("config.json", encoder_layers=1e300), r"config.json: field encoder_layers: 1e\+300, expected at most"),
        (_with("config.json", num_mel_bins=10**8), r"config.json: field num_mel_bins: 100000000, expected at most"),
        (_with("preprocessor_config.json", n_fft=10**9), r"field n_fft: 1000000000, expected at most"),
        (_with("config.json", d_model=-32), r"cannot be loaded|do not fit"),
        (_with("config.json", architectures=[1]), r"config.json: field architectures.0: 1"),
        (_replaced("config.json", b"[" * 9_000), r"config.json: not JSON .*nested"),
        (_replaced("config.json", b'{"a": ' + b"1" * 9_000 + b"}"), r"config.json: not JSON .*9000 digits"),
        (_too_large, r"config.json is of a model of|do not fit|cannot be loaded"),
    ],
)
def test_error_names_the_fault_of_a_whisper(tiny_whisper, tmp_path, change, message, capsys):
    """As a command reports it, before it reads the data or builds a model."""
    folder = shutil.copytree(tiny_whisper, tmp_path / "whisper")
    change(folder)
    training_data(tmp_path)
    arguments = ["align", "--data", tmp_path / "data", "--speech_encoder", folder, "--steps", "1"]
    assert main([*map(str, arguments), "--output", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert re.search(f"selfkd align: speech_encoder: .*{message}", error), error
    with pytest.raises(InputError):
        Transcriber.from_pretrained(str(folder))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("https://huggingface.co/openai/whisper-base", "an address; give the hub id, openai/whisper-base"),
        ("https://hf.co/openai/whisper-base/tree/main", "an address; give the hub id, openai/whisper-base"),
        ("s3://bucket/model", "an address"),
        ("", r"\(empty\)"),
        ("  ", r"\(empty\)"),
        ("{}/file", "a file; give the folder"),
        ("{}/none", "no checkpoint there"),
        ("nobody/nothing", "no checkpoint there"),
        ("a b c", "no checkpoint there"),
    ],
)
def test_error_names_a_source_that_is_no_checkpoint(source, message, tmp_path):
    (tmp_path / "file").touch()
    for read in (lambda s: read_config(s, "vlm"), load_vlm):
        with pytest.raises(InputError, match=f"vlm: .*{message}"):
            read(source.format(tmp_path))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_file_without_read_permission_is_refused(tiny_whisper, tmp_path):
    folder = shutil.copytree(tiny_whisper, tmp_path / "whisper")
    (folder / WEIGHTS).chmod(0)
    with pytest.raises(InputError, match=r"model.safetensors: Permission denied"):
        check_checkpoint(folder, "speech_encoder")


def test_half_precision_weights_load(tiny_whisper, tmp_path):
    folder = shutil.copytree(tiny_whisper, tmp_path / "whisper")
    save_file({n: w.half() for n, w in load_file(folder / WEIGHTS).items()}, folder / WEIGHTS, {"format": "pt"})
    assert load_speech_encoder(folder).conv1.weight.dtype.is_floating_point
