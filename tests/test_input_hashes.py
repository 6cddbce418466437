"""A run resumes only with the data, the weights and the number of processes that it began with."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from examples import interrupted_at, toy_examples, training_data, training_start
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from selfkd.data.dataset import ExampleFolder
from selfkd.data.example import MANIFEST, write_shard
from selfkd.errors import InputError
from selfkd.evaluation.evaluate import EvaluateConfig, evaluate
from selfkd.files import write_json
from selfkd.input_hashes import hashes_of_checkpoint, hashes_of_data
from selfkd.model.tiny import asr_model_path, vlm_path
from selfkd.run_dir import CONFIG, INPUTS, RESULT, Run, RunCompleteError
from selfkd.training.align import AlignConfig, align
from selfkd.training.distill import DistillConfig, distill


@pytest.fixture
def start(parts, tmp_path):
    return training_start(parts, tmp_path / "start")


def replace_data(folder):
    """A shard of the same name and number of rows with other content."""
    write_shard(folder / "train.parquet", toy_examples(17)[1:], {"rows": 16, "rejected": []})


def change_weights(weights):
    """Changes one tensor of a checkpoint."""
    tensors = load_file(weights)
    name = min(tensors, key=lambda n: tensors[n].numel())
    save_file(tensors | {name: tensors[name] + 1}, weights, {"format": "pt"})


@pytest.mark.slow
def test_training_resumes_with_its_own_inputs_only(start, tmp_path, monkeypatch):
    """Not with other data, other weights or another number of processes."""
    config = DistillConfig(
        [str(start / "data")], tmp_path / "run", model=str(start / "model"), steps=4, batch_size=4, save_steps=1
    )
    with pytest.raises(KeyboardInterrupt), interrupted_at(3):
        distill(config)
    written = (config.output / CONFIG).read_text()
    shutil.copytree(start, tmp_path / "kept")

    def refused(message):
        with pytest.raises(InputError, match=message):
            distill(config)
        assert (config.output / CONFIG).read_text() == written

    replace_data(start / "data")
    refused(r"began \(data: .*data: 'sha256 \w{12}\.\.\.' there, 'sha256 \w{12}\.\.\.' here\); give another output")
    shutil.copytree(tmp_path / "kept" / "data", start / "data", dirs_exist_ok=True)
    change_weights(start / "model" / "model.safetensors")
    refused(r"inputs have changed since the run began \(model: .*/model: model.safetensors: ")
    shutil.copytree(tmp_path / "kept" / "model", start / "model", dirs_exist_ok=True)
    (start / "model" / "adapter_config.json").write_text("{}")
    refused(r"adapter_config.json: nothing there, 'sha256 \w{12}\.\.\.' here\); give another output")
    (start / "model" / "adapter_config.json").unlink()
    with monkeypatch.context() as patch:
        patch.setenv("WORLD_SIZE", "2")
        patch.setattr(
            "selfkd.training.stage.check_training", lambda *_: None
        )  # TrainingArguments would wait for the other process
        refused(r"\(processes: 1 there, 2 here\); give another output")
    assert (config.output / "checkpoints").is_dir()
    result = distill(config)
    assert result["steps"] == 4
    there = json.loads((config.output / RESULT).read_text())["inputs"]
    assert there == json.loads((config.output / INPUTS).read_text()) and there["processes"] == 1
    with pytest.raises(RunCompleteError):
        distill(config)
    replace_data(start / "data")
    refused("inputs have changed since the run began")  # the complete run has other data


@pytest.mark.parametrize("part", ["vlm", "speech_encoder"])
def test_align_resumes_with_its_own_checkpoints_only(tmp_path, part):
    training_data(tmp_path)
    for name, path in (("vlm", vlm_path()), ("speech_encoder", asr_model_path())):
        shutil.copytree(path, tmp_path / name)
    sources = {name: str(tmp_path / name) for name in ("vlm", "speech_encoder")}
    config = AlignConfig(
        [str(tmp_path / "data")], tmp_path / "run", projector="stack", steps=2, batch_size=2, **sources
    )
    with pytest.raises(KeyboardInterrupt), interrupted_at(2):
        align(config)
    change_weights(tmp_path / part / "model.safetensors")
    with pytest.raises(InputError, match=rf"since the run began \({part}: .*model.safetensors: "):
        align(config)


@pytest.mark.parametrize(("changed", "name"), [("model", "model"), ("asr", "asr_model")])
def test_an_evaluation_resumes_with_its_own_weights_only(start, tmp_path, monkeypatch, changed, name):
    shutil.copytree(asr_model_path(), start / "asr")
    config = EvaluateConfig(
        str(start / "model"), [str(start / "data")], tmp_path / "run", modalities=["text", "cascade"], batch_size=4,
        asr_model=str(start / "asr"),
    )  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr("selfkd.evaluation.samples.SampleFile.finish", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            evaluate(config)
    change_weights(start / changed / "model.safetensors")
    with pytest.raises(InputError, match=rf"since the run began \({name}: .*: model.safetensors: "):
        evaluate(config)


@dataclass
class Settings:
    output: Path


@settings(deadline=None, max_examples=25, derandomize=True)
@given(
    st.dictionaries(
        st.sampled_from(["config.json", "a.safetensors", "b.safetensors", "vocab.txt", "chat.jinja", "own.py"]),
        st.binary(max_size=40),
        min_size=1,
    ),
    st.data(),
)
def test_any_change_of_a_checkpoint_is_reported_with_its_file(files, data):
    """Changed bytes, added and removed files count; modification times and files that no model reads do not."""
    with TemporaryDirectory() as folder:
        source, config = Path(folder) / "model", Settings(Path(folder) / "run")
        source.mkdir()
        for name, content in files.items():
            (source / name).write_bytes(content)

        def opened():
            with Run.open(config.output, "test", config, inputs=lambda: hashes_of_checkpoint("model", source)) as run:
                (run.folder / "made").touch()

        opened()
        for name in files:
            os.utime(source / name, (1, 1))
        (source / "README.md").write_text("A model.")
        opened()
        name = data.draw(st.sampled_from(sorted(files)))
        change = data.draw(st.sampled_from(["longer", "another", "gone", "renamed"]))
        if change == "longer" or not files[name]:
            (source / name).write_bytes(files[name] + b"\0")
        elif change == "another":
            at = data.draw(st.integers(0, len(files[name]) - 1))
            (source / name).write_bytes(files[name][:at] + bytes([files[name][at] ^ 1]) + files[name][at + 1 :])
        elif change == "gone":
            (source / name).unlink()
        else:
            (source / name).rename(source / f"other-{name}")
        with pytest.raises(InputError, match=rf"since the run began \(model: .*{name}: "):
            opened()


def test_the_hash_of_a_data_folder_is_of_manifest_and_shards(tmp_path):
    training_data(tmp_path)
    folder = tmp_path / "data"
    found = [hashes_of_data({"it": ExampleFolder(folder)})]
    replace_data(folder)
    found.append(hashes_of_data({"it": ExampleFolder(folder)}))
    manifest = json.loads((folder / MANIFEST).read_text())
    write_json(folder / MANIFEST, manifest | {"language": "de"})
    found.append(hashes_of_data({"it": ExampleFolder(folder)}))
    assert all(list(hashes) == ["data: it"] for hashes in found) and len({hashes["data: it"] for hashes in found}) == 3
