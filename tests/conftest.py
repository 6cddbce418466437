"""Shared fixtures: the embedded parts, and spoken examples of known length."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
# `make test` has two processes beside each other; what they start is held to their share, too
os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")

import threading
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from unittest.mock import patch

import numpy as np
import pytest
import torch
from transformers import Trainer, WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

from selfkd.data.example import MANIFEST, SAMPLE_RATE_HZ, Example, write_shard
from selfkd.data.sources import World
from selfkd.files import write_json
from selfkd.training.align import AlignConfig, assemble


@pytest.fixture(scope="session")
def parts(tmp_path_factory):
    """(OmniModel with an untrained projector, its processor)."""
    folder = tmp_path_factory.mktemp("parts")
    model, processor = assemble(AlignConfig([], folder, ears="stacked"))
    return model.eval(), processor


@pytest.fixture
def model(parts):
    parts[0].requires_grad_(True)
    for module in parts[0].part("llm"):
        module.requires_grad_(False)
    parts[0].zero_grad()
    return parts[0]


@pytest.fixture
def processor(parts):
    return parts[1]


@pytest.fixture(scope="session")
def tiny_whisper(tmp_path_factory):
    """A Whisper checkpoint of the real classes at tiny size, with weights at random."""
    folder = tmp_path_factory.mktemp("whisper")
    config = WhisperConfig(
        vocab_size=64, num_mel_bins=80, d_model=32, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=64,
        decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=64, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        decoder_start_token_id=1, suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip
    torch.manual_seed(0)
    WhisperForConditionalGeneration(config).save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(folder)
    return folder


def tone(seconds: float, pitch_hz: float = 220) -> np.ndarray:
    """Sound of an exact length; what it says does not matter where lengths are tested."""
    t = np.arange(round(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    return (0.3 * np.sin(2 * np.pi * pitch_hz * t) * np.sin(2 * np.pi * 3 * t)).astype(np.float32)


def world_examples(count: int, annotated: bool = True) -> list[Example]:
    """World examples with tones of different lengths for speech: quick to make, valid in every field."""
    source = World("train", 5, annotated)
    return [source.example(i).spoken(tone(0.5 + 0.17 * i), "tone") for i in range(count)]


@pytest.fixture
def examples() -> list[Example]:
    return world_examples(8)


@pytest.fixture
def example(examples) -> Example:
    return replace(examples[0], id="the-example")


def training_start(parts, folder):
    """Writes a model to start from (`folder/model`) and sixteen examples (`folder/data`); returns the folder."""
    model, processor = parts
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    training_data(folder)
    return folder


def training_data(folder):
    """Writes sixteen examples (`folder/data`)."""
    (folder / "data").mkdir()
    write_shard(folder / "data" / "train.parquet", world_examples(16), {"rows": 16, "rejected": []})
    write_json(folder / "data" / MANIFEST, {"source": "world", "shards": [{"file": "train.parquet"}]})


@contextmanager
def interrupted_at(step):
    """Within it a training run is interrupted, as by ctrl-C, in that step."""
    plain, calls = Trainer.training_step, count(1)

    def training_step(self, *args, **kwargs):
        if next(calls) == step:
            raise KeyboardInterrupt
        return plain(self, *args, **kwargs)

    with patch.object(Trainer, "training_step", training_step):
        yield


@pytest.fixture(scope="module")
def server(parts):
    """The model of `parts` behind HTTP, with the usual settings."""
    from serving import served

    with served(parts) as running:
        yield running


@pytest.fixture
def endless(parts, monkeypatch):
    """No token ends a reply: each goes on to its limit."""
    model, processor = parts
    monkeypatch.setattr(model.vlm.generation_config, "eos_token_id", [processor.tokenizer.pad_token_id])
    monkeypatch.setattr(processor, "end_id", processor.tokenizer.pad_token_id)


@pytest.fixture
def gate(parts, monkeypatch):
    """Batches wait until it is set; `gate.sizes` are theirs."""
    opened, plain = threading.Event(), parts[0].generate
    opened.sizes = []

    def generate(*arguments, **inputs):
        opened.sizes.append(len(inputs["suffix_ids"]))
        assert opened.wait(300)
        return plain(*arguments, **inputs)

    monkeypatch.setattr(parts[0], "generate", generate)
    yield opened
    opened.set()
