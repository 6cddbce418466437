"""The embedded recogniser, trained from nothing for tokens of an LLM."""

import pytest
from examples import training_data
from transformers import AutoTokenizer

from selfkd.data.dataset import ExampleFolder
from selfkd.errors import InputError
from selfkd.model.backbones import load_asr_model
from selfkd.training.align import AlignConfig, assemble
from tools.tiny_model.architecture import WHISPER_SIZE
from tools.tiny_model.pretrain_asr_model import pretrain_asr_model


def test_a_recognizer_becomes_ears(tmp_path):
    training_data(tmp_path)
    output = tmp_path / "asr_model"
    pretrain_asr_model([tmp_path / "data"], output, character_steps=2, token_steps=2)
    assert load_asr_model(output)[0].config.d_model == WHISPER_SIZE["d_model"]
    model, processor = assemble(AlignConfig([], tmp_path, speech_encoder=str(output)))
    said = {i for e in ExampleFolder(tmp_path / "data") for i in processor.ids(e.question)}
    assert set(model.config.ctc_token_ids) == said


def test_cut_short_it_goes_on_to_the_same_bytes(tmp_path, monkeypatch):
    training_data(tmp_path)
    how = {"character_steps": 2, "token_steps": 2}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    pretrain_asr_model([tmp_path / "data"], whole, **how)

    def stopped(*_args, **_how):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(AutoTokenizer, "from_pretrained", stopped)  # between the two parts
        pretrain_asr_model([tmp_path / "data"], cut, **how)
    assert list((cut / "checkpoints").glob("characters/checkpoint-2"))
    with pytest.raises(InputError, match="begun with another seed \\(0 there, 1 here\\)"):
        pretrain_asr_model([tmp_path / "data"], cut, seed=1, **how)
    pretrain_asr_model([tmp_path / "data"], cut, **how)
    assert (cut / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert not (cut / "checkpoints").exists()
