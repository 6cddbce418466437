"""Shared fixtures: the embedded parts, and spoken examples of known length."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
# `make test` has two processes beside each other; what they start is held to their share, too
os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")

import threading
from dataclasses import replace

import pytest
import torch
from examples import toy_examples
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

from selfkd.data.example import Example
from selfkd.training.align import AlignConfig, assemble


@pytest.fixture(scope="session")
def parts(tmp_path_factory):
    """(OmniModel with an untrained projector, its processor)."""
    folder = tmp_path_factory.mktemp("parts")
    model, processor = assemble(AlignConfig([], folder, projector="stack"))
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


@pytest.fixture
def examples() -> list[Example]:
    return toy_examples(8)


@pytest.fixture
def example(examples) -> Example:
    return replace(examples[0], id="the-example")


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
