"""Checkpoints: files that are missing, cut or changed, weights of other shapes and types, fields of other types.

`selfkd evaluate` runs the model; `selfkd convert` reads an original checkpoint of InternVL2."""

import json
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzzing import Malformed
from hypothesis import strategies as st
from internvl2 import write_original
from malformed import as_json, damaged_bytes, edited_documents
from safetensors.torch import load_file, save_file

from selfkd.evaluation.config import EvaluateConfig
from selfkd.evaluation.evaluate import evaluate
from selfkd.model.convert_config import ConvertConfig
from selfkd.model.convert_internvl2 import convert

pytestmark = pytest.mark.slow

WEIGHTS = "model.safetensors"
Change = Callable[[dict[str, torch.Tensor], str], object]
# of a weight; each is wrong for sure
CHANGES: dict[str, Change] = {
    "is missing": lambda weights, name: weights.pop(name),
    "has another name": lambda weights, name: weights.update(other=weights.pop(name)),
    "has one row more": lambda weights, name: weights.update({name: torch.cat([weights[name], weights[name][:1]])}),
    "is flat": lambda weights, name: weights.update({name: weights[name].flatten()[:3].clone()}),
    "is empty": lambda weights, name: weights.update({name: torch.zeros(0)}),
}


@pytest.fixture(scope="module")
def checkpoints(parts, tmp_path_factory):
    """A model of the tiny parts, and an original checkpoint of InternVL2."""
    folder = tmp_path_factory.mktemp("checkpoints")
    model, processor = parts
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    for template in ("Hermes-2", "internlm2-chat"):
        write_original(folder / template, template)
    return folder


@st.composite
def edited_configs(draw: st.DrawFn, base: Path) -> Malformed:
    checkpoint = draw(st.sampled_from(["model", "model", "Hermes-2", "internlm2-chat"]))
    small = [p for p in sorted((base / checkpoint).rglob("*")) if p.suffix in (".json", ".jinja") and p.is_file()]
    path = draw(st.sampled_from(small))
    name = str(path.relative_to(base / checkpoint))
    content = path.read_bytes()
    if path.suffix == ".jinja" or draw(st.integers(0, 3)) == 0:
        content, label = draw(damaged_bytes(content))
    else:
        document, label = draw(edited_documents(json.loads(content)))
        content = as_json(document)
    return Malformed((checkpoint, name, content), f"{checkpoint}/{name}: {label}")


@st.composite
def edited_weights(draw: st.DrawFn, base: Path) -> Malformed:
    checkpoint = draw(st.sampled_from(["model", "Hermes-2", "internlm2-chat"]))
    weights = load_file(base / checkpoint / WEIGHTS)
    name, change = draw(st.sampled_from(sorted(weights))), draw(st.sampled_from(sorted(CHANGES)))
    return Malformed(
        (checkpoint, name, CHANGES[change]), f"{checkpoint}: {name} {change}", "other weights than the model's"
    )


@st.composite
def damaged_weights(draw: st.DrawFn, base: Path) -> Malformed:
    """The header and the length of a file of weights."""
    checkpoint = draw(st.sampled_from(["model", "Hermes-2", "internlm2-chat"]))
    path = base / checkpoint / WEIGHTS
    with path.open("rb") as file:
        head = file.read(8)
        head += file.read(int.from_bytes(head, "little"))
    head, label = draw(damaged_bytes(head, [b"\0", b"{", b"}" * 8, b'"a": 1,', b"[" * 5_000]))
    rest = draw(st.sampled_from(["whole", "cut", "longer", "none"]))
    wrong = "weights of another length" if rest != "whole" else ""
    return Malformed(
        (checkpoint, WEIGHTS, (head, rest)), f"{checkpoint}/{WEIGHTS}: header {label}, weights {rest}", wrong
    )


@st.composite
def missing_files(draw: st.DrawFn, base: Path) -> Malformed:
    checkpoint = draw(st.sampled_from(["model", "Hermes-2"]))
    names = [str(p.relative_to(base / checkpoint)) for p in sorted((base / checkpoint).rglob("*")) if p.is_file()]
    name = draw(st.sampled_from(names))
    other = draw(st.sampled_from([None, "folder", "loop", "pickle"]))
    wrong = "a checkpoint without its configuration or weights" if name in ("config.json", WEIGHTS) else ""
    return Malformed((checkpoint, name, other), f"{checkpoint}/{name} is {other or 'missing'}", wrong)


def use(base: Path, data: Path, output: Path, given: tuple[str, str, Any]) -> None:
    checkpoint, name, change = given
    with tempfile.TemporaryDirectory(dir=output) as made:
        folder = Path(made) / checkpoint
        shutil.copytree(base / checkpoint, folder, copy_function=lambda old, new: Path(new).hardlink_to(old))
        damage(folder / name, change)
        if checkpoint == "model":
            settings = {"limit": 1, "max_new_tokens": 2, "batch_size": 1}
            evaluate(EvaluateConfig(str(folder), [str(data)], Path(made) / "out", **settings))
        else:
            convert(ConvertConfig(folder, Path(made) / "out"))


def damage(path: Path, change: Any) -> None:
    if callable(change):
        path, name = path.parent / WEIGHTS, path.name
        weights = load_file(path)
        change(weights, name)
        path.unlink()
        save_file(weights, path, {"format": "pt"})
        return
    content = path.read_bytes()
    path.unlink()
    if isinstance(change, bytes):
        path.write_bytes(change)
    elif isinstance(change, tuple):
        head, rest = change
        weights = content[8 + int.from_bytes(content[:8], "little") :]
        path.write_bytes(head + {"whole": weights, "cut": weights[:-1000], "longer": weights + b"x", "none": b""}[rest])
    elif change == "folder":
        path.mkdir()
    elif change == "loop":
        path.symlink_to(path)
    elif change == "pickle":
        torch.save({"a": 1}, path)


def test_checkpoints(fuzzer, checkpoints, data_folder, tmp_path):
    every = (edited_configs, edited_configs, edited_weights, damaged_weights, missing_files)
    inputs = st.one_of(*(strategy(checkpoints) for strategy in every))
    fuzzer.run("checkpoints", inputs, partial(use, checkpoints, data_folder, tmp_path), examples=30)


def test_whole_checkpoints_are_accepted(checkpoints, data_folder, tmp_path):
    for checkpoint in ("model", "Hermes-2", "internlm2-chat"):
        content = (checkpoints / checkpoint / "config.json").read_bytes()
        use(checkpoints, data_folder, tmp_path, (checkpoint, "config.json", content))
