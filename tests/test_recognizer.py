"""A recogniser trained for tokens of an LLM, from nothing or from a Whisper encoder: ears for any VLM."""

import pytest
import torch
from conftest import training_data
from transformers import AutoTokenizer, WhisperForConditionalGeneration

from selfkd.data.folder import ExampleFolder
from selfkd.errors import InputError
from selfkd.model.embedded import WHISPER_SIZE
from selfkd.model.load import load_recognizer
from selfkd.training.align import AlignConfig, assemble
from selfkd.training.pretrain_recognizer import pretrain_recognizer


@pytest.mark.parametrize("from_whisper", [False, True])
def test_a_recognizer_becomes_ears(tmp_path, tiny_whisper, from_whisper):
    training_data(tmp_path)
    output, encoder = tmp_path / "recognizer", str(tiny_whisper) if from_whisper else ""
    pretrain_recognizer([tmp_path / "data"], output, character_steps=2, token_steps=2, encoder=encoder)
    recognizer, _ = load_recognizer(output)
    width = 32 if from_whisper else WHISPER_SIZE["d_model"]
    assert recognizer.config.d_model == width
    model, processor = assemble(AlignConfig([], tmp_path, speech_encoder=str(output)))
    said = {i for e in ExampleFolder(tmp_path / "data") for i in processor.ids(e.question)}
    assert set(model.config.speech_tokens) == said


def test_it_begins_as_the_whisper_that_is_named(tmp_path, tiny_whisper):
    training_data(tmp_path)
    output = tmp_path / "recognizer"
    pretrain_recognizer([tmp_path / "data"], output, character_steps=0, token_steps=1, encoder=str(tiny_whisper))
    recognizer, _ = load_recognizer(output)
    own = WhisperForConditionalGeneration.from_pretrained(tiny_whisper).get_encoder().state_dict()
    # one step at the end of a warm-up moves a weight by no more than the rate
    for name, weight in recognizer.encoder.state_dict().items():
        assert torch.allclose(weight, own[name], atol=1e-3), name


def test_cut_short_it_goes_on_to_the_same_bytes(tmp_path, tiny_whisper, monkeypatch):
    training_data(tmp_path)
    how = {"character_steps": 2, "token_steps": 2, "encoder": str(tiny_whisper)}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    pretrain_recognizer([tmp_path / "data"], whole, **how)

    def stopped(*_args, **_how):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(AutoTokenizer, "from_pretrained", stopped)  # between the two parts
        pretrain_recognizer([tmp_path / "data"], cut, **how)
    assert list((cut / "checkpoints").glob("characters/checkpoint-2"))
    with pytest.raises(InputError, match="begun with another seed \\(0 there, 1 here\\)"):
        pretrain_recognizer([tmp_path / "data"], cut, seed=1, **how)
    pretrain_recognizer([tmp_path / "data"], cut, **how)
    assert (cut / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert not (cut / "checkpoints").exists()
