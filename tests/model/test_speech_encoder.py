"""Whisper encoders of any size: loading, encoding with and without padding, and Whisper's own decoder in the
cascade."""

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from examples import toy_examples
from safetensors.torch import load_file, save_file
from transformers import (
    LlamaConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from selfkd.data.example import Example
from selfkd.errors import InputError
from selfkd.evaluation.backends.transcriber import Transcriber, inspect_asr_model
from selfkd.model.backbones import WhisperASRModel, load_asr_model, load_speech_encoder, load_vlm, whisper_prompt_ids
from selfkd.model.features import log_mel, pad_mels
from selfkd.model.speech_encoder import encode_mel, encoder_frames
from selfkd.model.tiny import asr_model_path, load_tiny_model
from selfkd.synthesis.tts.base import EspeakEngine, Utterance
from selfkd.training.align import AlignConfig, assemble

SENTENCE = "Is there a red circle in the image?"
real_whisper = pytest.mark.skipif(
    not (Path(os.environ.get("SELFKD_MODELS", "")) / "whisper-tiny.en").is_dir(),
    reason="SELFKD_MODELS names no folder with whisper-tiny.en",
)


@pytest.fixture(scope="module")
def audio():
    tts_engine = EspeakEngine()
    return [tts_engine.synthesize_audio(Utterance(text, "en-US")) for text in (SENTENCE, "What is left of the star?")]


def test_the_encoder_of_a_whisper_checkpoint(tiny_whisper, tmp_path):
    encoder = load_speech_encoder(tiny_whisper)
    whole = WhisperForConditionalGeneration.from_pretrained(tiny_whisper)
    for name, weight in whole.model.encoder.state_dict().items():
        assert torch.equal(encoder.state_dict()[name], weight), name
    config = AlignConfig(
        [], tmp_path, speech_encoder=str(tiny_whisper), projector="stack", stack_factor=8, pad_to_window=True
    )
    model, processor = assemble(config)
    assert model.projector.linear_in.in_features == 32 * 8 and model.config.pad_to_window
    assert torch.equal(model.speech_encoder.conv1.weight, encoder.conv1.weight)
    model.save_pretrained(tmp_path / "saved")
    assert type(model).from_pretrained(tmp_path / "saved").config.pad_to_window
    assert processor.stack_factor == 8


def test_padded_encoding_equals_whisper(audio):
    """The frames of a clip out of 30 seconds, in a batch and single; silence follows the clip."""
    encoder = load_speech_encoder(asr_model_path()).eval()
    extractor = WhisperFeatureExtractor.from_pretrained(asr_model_path())
    audio = [np.pad(s, (0, 1600)) for s in audio]
    window = extractor(audio, sampling_rate=16_000, return_tensors="pt")["input_features"]
    frames = [len(s) // extractor.hop_length for s in audio]
    mel, mask = pad_mels([w[:, :n] for w, n in zip(window, frames, strict=True)])
    with torch.no_grad():
        expected = encoder(window).last_hidden_state
        hidden, hidden_mask = encode_mel(encoder, mel, mask, padded=True)
        single, _ = encode_mel(encoder, mel[1:, :, : frames[1]], mask[1:, : frames[1]], padded=True)
    assert hidden_mask.sum(-1).tolist() == [encoder_frames(n) for n in frames]
    for i, frame_mask in enumerate(hidden_mask):
        torch.testing.assert_close(hidden[i][frame_mask], expected[i, : frame_mask.sum()], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(single[0], hidden[1, : single.shape[1]], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("load", "model_type", "message"),
    [
        (load_vlm, "llama", "vlm: .*'llama' is not a model that takes images and text"),
        (load_vlm, "internvl_chat", "vlm: .*selfkd convert first"),
        (load_speech_encoder, "llama", "speech_encoder: .*'llama' is not a Whisper checkpoint"),
        (load_asr_model, "llama", "asr_model: .*'llama' is neither"),
        (load_vlm, None, "vlm: .*no checkpoint there"),
        (load_speech_encoder, None, "speech_encoder: .*no checkpoint there"),
    ],
)
def test_error_names_a_checkpoint_of_another_model_type(load, model_type, message, tmp_path):
    if model_type is not None:
        LlamaConfig().save_pretrained(tmp_path)
        config = tmp_path / "config.json"
        config.write_text(config.read_text().replace('"llama"', f'"{model_type}"'))
    with pytest.raises(InputError, match=message):
        load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("model.encoder.conv1.bias"), r"1 missing \(such as model.encoder.conv1.bias\)"),
        (lambda w: w.update(extra=torch.zeros(1)), r"1 unexpected \(such as extra\)"),
        (lambda w: w.update({"model.encoder.conv1.bias": torch.zeros(3)}), r"1 mismatched \(such as .*conv1.bias"),
    ],
)
def test_missing_or_extra_keys_are_refused(tiny_whisper, tmp_path, change, message):
    """transformers would initialize missing weights at random and continue."""
    folder = shutil.copytree(tiny_whisper, tmp_path / "whisper")
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=rf"speech_encoder: .*weights that do not fit the configuration: {message}"):
        load_speech_encoder(folder)


@pytest.mark.slow
@real_whisper
def test_real_whisper_transcribes_with_and_without_padding(audio):
    """OpenAI's whisper-tiny.en transcribes espeak's speech; its encoder gives alike vectors of the frames there are."""
    asr_model, extractor = load_asr_model(Path(os.environ["SELFKD_MODELS"]) / "whisper-tiny.en")
    mel, mask = pad_mels([log_mel(extractor, s, "audio") for s in audio])
    whole = extractor(audio, sampling_rate=16_000, return_tensors="pt")["input_features"]
    plain = asr_model.model.generate(input_features=whole, do_sample=False)
    transcripts = asr_model.transcribe(mel, mask)
    assert transcripts == [t.strip() for t in asr_model.tokenizer.batch_decode(plain, skip_special_tokens=True)]
    assert transcripts[0].lower().startswith("is there a"), transcripts  # too small a model for espeak's "red circle"
    encoder = asr_model.model.get_encoder()
    with torch.no_grad():
        padded, frames = encode_mel(encoder, mel, mask, padded=True)
        short, same = encode_mel(encoder, mel, mask)
    assert torch.equal(frames, same)
    alike = torch.nn.functional.cosine_similarity(padded[frames], short[frames], dim=-1)
    assert alike.mean() > 0.8, alike.mean()


def test_multilingual_whisper_gets_the_language(tiny_whisper, audio):
    """Otherwise it detects the language, and may translate."""
    whole, calls = WhisperForConditionalGeneration.from_pretrained(tiny_whisper), []
    asr_model = WhisperASRModel(whole, SimpleNamespace(batch_decode=lambda ids, **_: [" a "]))
    whole.generate = lambda **settings: calls.append(settings)
    mels = pad_mels([log_mel(WhisperFeatureExtractor.from_pretrained(tiny_whisper), audio[0], "clip")])
    whole.generation_config.lang_to_id = {"<|de|>": 5}
    for language in ("de-AT", "", "xx"):
        assert asr_model.transcribe(*mels, language) == ["a"]
    whole.generation_config.lang_to_id = None  # it transcribes English only
    asr_model.transcribe(*mels, "de")
    assert not any("max_new_tokens" in call for call in calls), "transformers would warn at each batch"
    assert [(call.get("language"), call.get("task")) for call in calls] == [("de", "transcribe")] + [(None, None)] * 3


def test_whisper_is_prompted_with_the_words_of_the_domain(tiny_whisper, audio, monkeypatch):
    """The prompt reaches the decoder; one that Whisper would cut is refused, and so is one for a CTC model."""
    tokenizer = SimpleNamespace(
        batch_decode=lambda ids, **_: [f"{len(ids)} a "],
        get_prompt_ids=lambda text, return_tensors: torch.tensor([60, *(range(len(text.split())))]),
    )
    monkeypatch.setattr("selfkd.model.backbones._whisper_tokenizer", lambda source: tokenizer)
    monkeypatch.setattr(Example, "samples", lambda self: audio[0])
    checkpoint = inspect_asr_model(str(tiny_whisper), "one two three")
    calls = []
    for prompt in ("one two three", ""):
        transcriber = Transcriber.load(checkpoint, prompt)
        monkeypatch.setattr(transcriber.asr_model.model, "generate", lambda **settings: calls.append(settings) or [1])
        assert transcriber.transcribe(toy_examples(1)) == ["1 a"]
    assert calls[0]["prompt_ids"].tolist() == [60, 0, 1, 2] and "prompt_ids" not in calls[1]
    with pytest.raises(InputError, match="asr_prompt: 224 tokens, at most 223 are read"):
        inspect_asr_model(str(tiny_whisper), "word " * 224)
    with pytest.raises(InputError, match="asr_prompt: needs a Whisper checkpoint as asr_model"):
        inspect_asr_model("", "word")


@pytest.mark.slow
@real_whisper
def test_real_whisper_follows_its_prompt(audio):
    source = Path(os.environ["SELFKD_MODELS"]) / "whisper-tiny.en"
    asr_model, extractor = load_asr_model(source)
    mels = pad_mels([log_mel(extractor, audio[0], "clip")])
    prompt_ids = whisper_prompt_ids(source, "IS THERE A CIRCLE? WHAT COLOR IS THE STAR?")
    (plain,), (prompted,) = asr_model.transcribe(*mels), asr_model.transcribe(*mels, prompt_ids=prompt_ids)
    assert plain != plain.upper() and prompted == prompted.upper(), (plain, prompted)


def test_whole_asr_model_moves_to_the_gpu(tiny_whisper, tmp_path, monkeypatch):
    """Otherwise a cascade next to a model on the GPU waits for decoding on the CPU."""
    for part in load_tiny_model():
        part.save_pretrained(tmp_path)
    moved: set[int] = set()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.nn.Module, "cuda", lambda module: moved.update(map(id, module.parameters())))
    for checkpoint in (tiny_whisper, asr_model_path(), tmp_path):
        moved.clear()
        asr_model = Transcriber.from_pretrained(str(checkpoint)).asr_model
        parts = [part for part in (asr_model, *vars(asr_model).values()) if isinstance(part, torch.nn.Module)]
        assert parts and {id(p) for part in parts for p in part.parameters()} == moved, checkpoint
