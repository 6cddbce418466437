"""The tiny ASR model, trained from random weights for the tokens of an LLM."""

from functools import partial

import pytest
from examples import training_data
from transformers import AutoTokenizer

from selfkd.data.dataset import ExampleFolder
from selfkd.errors import InputError
from selfkd.model.backbones import load_asr_model
from selfkd.training.align import AlignConfig, assemble
from tools.tiny_model.architecture import WHISPER_SIZE
from tools.tiny_model.pretrain_asr_model import pretrain_asr_model

pretrain = partial(pretrain_asr_model, character_steps=2, token_steps=2)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrain")
    training_data(folder)
    return folder / "data"


@pytest.fixture(scope="module")
def pretrained(data):
    output = data.parent / "asr_model"
    pretrain([data], output)
    return output


@pytest.mark.slow
def test_asr_model_becomes_a_ctc_projector(data, pretrained, tmp_path):
    assert load_asr_model(pretrained)[0].config.d_model == WHISPER_SIZE["d_model"]
    model, processor = assemble(AlignConfig([], tmp_path, speech_encoder=str(pretrained)))
    question_ids = {i for e in ExampleFolder(data) for i in processor.ids(e.question)}
    assert set(model.config.ctc_token_ids) == question_ids


@pytest.mark.slow
def test_interrupted_pretraining_resumes_to_the_same_bytes(data, pretrained, tmp_path, monkeypatch):
    output = tmp_path / "interrupted"

    def interrupt(*_args, **_kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(AutoTokenizer, "from_pretrained", interrupt)  # between the two parts
        pretrain([data], output)
    assert list((output / "checkpoints").glob("characters/checkpoint-2"))
    with pytest.raises(InputError, match="holds another run \\(seed: 0 there, 1 here\\)"):
        pretrain([data], output, seed=1)
    pretrain([data], output)
    assert (output / "model.safetensors").read_bytes() == (pretrained / "model.safetensors").read_bytes()
    assert not (output / "checkpoints").exists()
