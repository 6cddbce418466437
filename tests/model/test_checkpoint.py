"""A checkpoint is inspected once: its kind, projector and folders, without weights; what is no model is refused."""

import json
import shutil

import pytest
import torch
from native_models import qwen2_5_omni
from PIL import Image

from selfkd.errors import InputError
from selfkd.model.checkpoint import inspect_checkpoint, load_model
from selfkd.model.processing_omni import AUDIO_TOKEN
from selfkd.model.tiny import (
    TINY_MODEL,
    TINY_MODELS,
    TINY_STACK_MODEL,
    asr_model_path,
    load_tiny_model,
    tiny_model_config,
    tiny_model_paths,
    vlm_path,
)


@pytest.fixture(scope="module")
def saved(parts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    for part in parts:
        part.save_pretrained(folder)
    return folder


def test_kind_and_projector_of_each_checkpoint(saved, tiny_whisper, tmp_path):
    vlm, processor = qwen2_5_omni()
    for part in (vlm, processor):
        part.save_pretrained(tmp_path)
    found = {source: inspect_checkpoint(source) for source in (*TINY_MODELS, saved, tmp_path)}
    assert [(i.kind, i.config.projector_type) for i in found.values()] == [
        ("tiny", "ctc"), ("tiny", "stack"), ("omni", "stack"), ("native", "native"),
    ]  # fmt: skip
    assert [i.paths for i in found.values()] == [*map(tiny_model_paths, TINY_MODELS), (saved,), (tmp_path,)]
    assert [inspect_checkpoint(s, "asr_model", "asr").kind for s in (TINY_MODEL, asr_model_path(), tiny_whisper)] == [
        "asr_model", "asr_model", "whisper",
    ]  # fmt: skip


@pytest.mark.parametrize("name", TINY_MODELS)
def test_the_tiny_models_are_loaded_by_their_names(name, tmp_path):
    model, processor = load_model(name)
    assert not model.training and processor.feature_extractor is not None
    assert {type(p) for p in (model.config, processor)} == {type(p) for p in tiny_model_config(name)}
    for part in (model, processor):
        part.save_pretrained(tmp_path)
    saved = load_model(tmp_path)[0]
    assert saved.config.projector_type == model.config.projector_type
    for other in (load_tiny_model(name)[0], saved):
        expected = other.state_dict()
        assert all(torch.equal(weight.cpu(), expected[name].cpu()) for name, weight in model.state_dict().items())


def test_processor_and_configuration_are_read_once(saved):
    """What a stage hands down is what it has loaded already."""
    for source in (saved, *TINY_MODELS):
        info = inspect_checkpoint(source)
        assert info.load()[1] is info.processor


@pytest.mark.parametrize(
    ("source", "expected", "message"),
    [
        (vlm_path(), "omni", "field: .*'internvl' takes no audio"),
        (vlm_path(), "asr", "field: .*'internvl' is neither a Whisper checkpoint nor an ASR model"),
        ("saved", "asr", "field: .*has no CTC projector"),
        (TINY_STACK_MODEL, "asr", "field: .*has no CTC projector"),
        ("nowhere/at/all", "omni", "field: .*no checkpoint there"),
    ],
)
def test_other_checkpoints_are_refused(saved, source, expected, message):
    with pytest.raises(InputError, match=message):
        inspect_checkpoint(saved if source == "saved" else source, "field", expected)


def test_weights_are_checked_where_they_are_needed(saved, tmp_path):
    (tmp_path / "config.json").write_text((saved / "config.json").read_text())
    assert inspect_checkpoint(tmp_path, weights=False).kind == "omni"
    with pytest.raises(InputError, match=r"model: .*holds no weights"):
        inspect_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "values",
    [
        {"model_type": "selfkd_omni", "speech_config": {"model_type": "whisper"}},
        {"model_type": "selfkd_omni", "speech_tokens": [1, 2]},
        {"model_type": "selfkd_omni", "speech_stack": 4},
        {"model_type": "selfkd_recognizer", "pieces": ["a"]},
    ],
)
@pytest.mark.parametrize("expected", ["omni", "asr"])
def test_checkpoints_of_an_older_selfkd_are_refused(tmp_path, values, expected):
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"model: .*config.json: field .*an older selfkd wrote .* train it again"):
        inspect_checkpoint(tmp_path, "model", expected)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("tokenizer_config.json", {"start_image_token": "/etc/hostname"}, "has the token '/etc/hostname'"),
        ("tokenizer_config.json", {"model_max_length": "long"}, "cannot be loaded"),
        ("audio/preprocessor_config.json", {"dither": "0.0"}, "cannot be loaded"),
        ("processor_config.json", {"max_patches": "12"}, "cannot be loaded"),
        (
            "processor_config.json",
            {"image_seq_length": None},
            "image: the model does not take what its processor gives",
        ),
    ],
)
def test_settings_of_a_processor_that_make_no_prompt_are_one_line(saved, tmp_path, file, change, message):
    """Found when the checkpoint is loaded or, where only the model can tell, at its first image."""
    folder = shutil.copytree(saved, tmp_path / "model")
    values = json.loads((folder / file).read_text())
    changed = [_changed(values, name, value) for name, value in change.items()]
    assert any(changed), f"{file} has none of {list(change)}"
    (folder / file).write_text(json.dumps(values))
    with pytest.raises(InputError, match=message):
        model, processor = load_model(folder)
        inputs = processor.encode_queries(images=Image.new("RGB", (64, 64)), text="What?")
        model.generate_responses(**inputs, max_new_tokens=1)


def test_a_tokenizer_with_other_ids_than_the_model_s_is_one_line(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "model")
    values = json.loads((folder / "tokenizer.json").read_text())
    values["added_tokens"] = [token for token in values["added_tokens"] if token["content"] != AUDIO_TOKEN]
    for token in values["added_tokens"][-1:]:
        values["added_tokens"].append(token | {"id": token["id"] + 1, "content": "<more>"})
    (folder / "tokenizer.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=f"the tokenizer gives {AUDIO_TOKEN} the id"):
        load_model(folder)


def _changed(values, name, value):
    """Whether a field of this name, at any depth, has been changed, or removed for None."""
    found = False
    for part in values.values() if isinstance(values, dict) else ():
        found |= _changed(part, name, value) if isinstance(part, dict) else False
    if name in values:
        if value is None:
            del values[name]
        else:
            values[name] = value
        found = True
    return found
