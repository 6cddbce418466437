"""The training of the bundled ASR model, a Whisper's encoder with a new CTC head over the tokens of an LLM, and of the
bundled frame-stacking projector."""

from functools import partial

import numpy as np
import pytest
import soundfile
from examples import training_data
from safetensors.torch import load_file

from selfkd.data.dataset import ExampleFolder
from selfkd.data.rewrite import rewrite
from selfkd.errors import InputError
from selfkd.model.backbones import load_asr_model, load_feature_extractor
from selfkd.model.speech_encoder import ASRModel, ASRModelConfig
from selfkd.model.tiny import TINY_STACK_MODEL, load_tiny_model
from selfkd.training.align import AlignConfig, assemble
from tools.tiny_model.pretrain_asr_model import AudioTexts, copy_head, pretrain_asr_model, write_babble
from tools.tiny_model.pretrain_stack_projector import pretrain_stack_projector
from tools.tiny_model.speech import as_opus


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrain")
    training_data(folder)
    return folder / "data"


@pytest.fixture(scope="module")
def pretrain(data, tiny_whisper):
    return partial(pretrain_asr_model, [data], tiny_whisper, steps=2)


@pytest.fixture(scope="module")
def pretrained(data, pretrain):
    output = data.parent / "asr_model"
    pretrain(output)
    return output


@pytest.mark.slow
def test_asr_model_becomes_a_ctc_projector(data, pretrained, tmp_path):
    asr_model, _ = load_asr_model(pretrained)
    assert asr_model.config.d_model == 32 and asr_model.dtype.itemsize == 4, "half precision on disk only"
    model, processor = assemble(AlignConfig([], tmp_path, speech_encoder=str(pretrained)))
    question_ids = {i for e in ExampleFolder(data) for i in processor.ids(e.question)}
    assert set(model.config.ctc_token_ids) == question_ids


@pytest.mark.slow
def test_interrupted_pretraining_refuses_other_settings_and_ends_in_the_same_bytes(
    pretrain, pretrained, tmp_path, monkeypatch
):
    output = tmp_path / "interrupted"

    def interrupt(*_args, **_kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("tools.tiny_model.pretrain_asr_model.follow_umask", interrupt)  # trained, not yet cleaned up
        pretrain(output)
    assert list((output / "checkpoints").glob("checkpoint-2"))
    with pytest.raises(InputError, match="holds another run \\(seed: 0 there, 1 here\\)"):
        pretrain(output, seed=1)
    pretrain(output)
    assert (output / "model.safetensors").read_bytes() == (pretrained / "model.safetensors").read_bytes()
    assert not (output / "checkpoints").exists()


@pytest.mark.slow
def test_training_goes_on_from_an_asr_model_with_its_head(data, pretrained, tmp_path):
    asr_model, _ = load_asr_model(pretrained)
    fewer = ASRModel(ASRModelConfig.from_dict(asr_model.config.to_dict() | {"pieces": asr_model.config.pieces[1:]}))
    copy_head(fewer, asr_model)
    assert fewer.ctc_head.weight.equal(asr_model.ctc_head.weight[1:])
    pretrain_asr_model([data], pretrained, tmp_path / "more", steps=1, rate=1e-6)
    more, _ = load_asr_model(tmp_path / "more")
    assert (more.ctc_head.weight - asr_model.ctc_head.weight).abs().max() < 1e-3


def test_clips_differ_by_epoch_and_not_by_order(data, tiny_whisper, tmp_path):
    examples = list(ExampleFolder(data))
    write_babble(examples, tmp_path, 0)
    assert all(0.89 < np.abs(soundfile.read(path)[0]).max() < 0.91 for path in tmp_path.iterdir())
    texts = AudioTexts(examples, load_feature_extractor(tiny_whisper, "whisper"), tmp_path, 0)
    texts.token_ids = texts.character_ids = [[0]] * len(examples)
    first = [texts[i]["mel_FM"] for i in range(4)]
    assert all(texts[i]["mel_FM"].equal(first[i]) for i in reversed(range(4)))
    texts.set_epoch(1)
    assert not any(texts[i]["mel_FM"].equal(first[i]) for i in range(4))


def test_a_folder_in_opus_is_an_ordinary_folder(data, tmp_path):
    rewrite(data, tmp_path / "opus", as_opus)
    pairs = list(zip(ExampleFolder(data), ExampleFolder(tmp_path / "opus"), strict=True))
    for before, after in pairs:
        ours, theirs = before.samples(), after.samples()
        assert len(ours) == len(theirs) and np.corrcoef(ours, theirs)[0, 1] > 0.9
        assert after.question == before.question and after.image == before.image
    assert sum(len(a.audio) for _, a in pairs) < sum(len(b.audio) for b, _ in pairs) / 2


@pytest.mark.slow
def test_a_frame_stacking_projector_is_trained_on_augmented_clips_too(data, tmp_path, monkeypatch):
    monkeypatch.setattr("tools.tiny_model.pretrain_stack_projector.PROBE_SENTENCES", 4)
    pretrain_stack_projector([data], tmp_path, steps=2, seed=0)
    clips, augmented = (list(ExampleFolder(f)) for f in (data, tmp_path / "augmented" / data.name))
    assert [e.id for e in clips] == [e.id for e in augmented]
    assert any(e.augmentation for e in augmented) and clips[0].audio != augmented[0].audio
    projector = load_tiny_model(TINY_STACK_MODEL)[0].projector
    before = projector.linear_out.weight.clone()
    projector.load_state_dict(load_file(tmp_path / "projector" / "model.safetensors"))
    assert not projector.linear_out.weight.equal(before)
