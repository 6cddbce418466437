"""Pocket TTS: the package's own model with random weights and tiny dimensions, which hums in place of speaking. The
published weights were not at hand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from examples import tone

from selfkd.errors import EngineError, InputError
from selfkd.synthesis.tts.base import Utterance
from selfkd.synthesis.tts.registry import load_engine, open_engine, weighted_voices

pocket_tts = pytest.importorskip("pocket_tts")
TOKENS = 36
SEANET = {"dimension": 16, "channels": 1, "n_filters": 4, "n_residual_layers": 1, "ratios": [6, 5, 4], "kernel_size": 3,
          "residual_kernel_size": 3, "last_kernel_size": 3, "dilation_base": 2, "pad_mode": "constant",
          "compress": 2}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A configuration in the package's form, without weights, and a tokenizer."""
    import sentencepiece

    folder = tmp_path_factory.mktemp("pocket")
    words = "Is there a red bus? How many dogs are brown? What is the man holding in his left hand?"
    (folder / "text.txt").write_text("\n".join([words] * 20))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text.txt"), model_prefix=str(folder / "tokenizer"), vocab_size=TOKENS
    )
    transformer = {"d_model": 16, "num_heads": 2, "num_layers": 1, "layer_scale": 0.01, "context": 50,
                   "dim_feedforward": 32, "input_dimension": 16, "output_dimensions": [16]}  # fmt: skip
    config = {
        "flow_lm": {
            "dtype": "float32",
            "flow": {"depth": 1, "dim": 16},
            "transformer": {"d_model": 16, "hidden_scale": 2, "max_period": 10_000, "num_heads": 2, "num_layers": 1},
            "lookup_table": {
                "dim": 16,
                "n_bins": TOKENS,
                "tokenizer": "sentencepiece",
                "tokenizer_path": str(folder / "tokenizer.model"),
            },
        },
        "mimi": {
            "dtype": "float32",
            "sample_rate": 24_000,
            "inner_dim": 8,
            "outer_dim": 16,
            "channels": 1,
            "frame_rate": 12.5,
            "seanet": SEANET,
            "transformer": transformer,
            "quantizer": {"dimension": 8, "output_dimension": 16},
        },
    }
    (folder / "english_tiny.yaml").write_text(yaml.safe_dump(config))
    return str(folder / "english_tiny.yaml")


@pytest.fixture(scope="module")
def voices(tmp_path_factory):
    folder = tmp_path_factory.mktemp("voices")
    for name, pitch in (("low", 110), ("high", 330)):
        soundfile.write(folder / f"{name}.wav", np.repeat(tone(1.0, pitch), 2)[::2], 16_000)
    return folder


def test_the_same_seed_gives_the_same_audio_in_the_voice_of_a_recording(model, voices):
    tts_engine = load_engine("pocket", str(voices), model, 60.0)
    assert weighted_voices("training", tts_engine, "en") == {"high": 1.0, "low": 1.0}
    first = Utterance("Is there a red bus?", "low", seed=3)
    samples = tts_engine.synthesize_audio(first)
    assert samples.dtype == np.float32 and samples.ndim == 1 and len(samples) > 1_000
    assert np.array_equal(samples, tts_engine.synthesize_audio(first))
    # with random weights a recording does not matter: the matrix that projects it is zero until weights are loaded
    for other in (replace(first, seed=4), replace(first, text="How many dogs?")):
        assert not np.array_equal(samples[:1_000], tts_engine.synthesize_audio(other)[:1_000])
    with pytest.raises(InputError, match=r"Pocket TTS has no voice 'nobody'; there are high, low"):
        tts_engine.synthesize_audio(replace(first, voice="nobody"))
    with pytest.raises(InputError, match="Pocket TTS gives no audio for "):
        tts_engine.synthesize_audio(replace(first, text="..."))


def test_its_own_voices_have_the_language_of_the_model(tmp_path):
    assert "alba" in weighted_voices("training", open_engine("pocket", ""), "en")
    assert weighted_voices("training", open_engine("pocket", "", "german_24l"), "de") == {"juergen": 1.0}
    with pytest.raises(InputError, match="unknown voice 'albe'; did you mean 'alba'"):
        weighted_voices("albe", open_engine("pocket", ""), "en")
    with pytest.raises(InputError, match=r"holds no voice \(NAME.wav or NAME.safetensors\)"):
        open_engine("pocket", str(tmp_path))


def test_a_model_or_voice_that_cannot_be_read_stops_the_job(model, tmp_path):
    with pytest.raises(EngineError, match=r"engine_model: .*none.yaml: cannot be loaded"):
        load_engine("pocket", "", str(tmp_path / "none.yaml"), 60.0)
    Path(tmp_path / "broken.wav").write_text("no audio")
    with pytest.raises(EngineError, match="voices: broken: cannot be used"):
        open_engine("pocket", str(tmp_path), model).synthesize_audio(Utterance("Is there a red bus?", "broken"))
