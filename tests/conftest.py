"""Shared fixtures: the parts of the tiny model, and examples with audio of known length."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as selfkd.cli does
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
# `make test` has two processes in parallel; the processes that they start get their share of threads, too
os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")

import gc
import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from examples import toy_examples, training_start
from hypothesis import settings
from processes import PRELOAD, run_selfkd
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

from selfkd.data.example import Example
from selfkd.files import locked
from selfkd.synthesis import workers
from selfkd.training.align import AlignConfig, assemble

# a test machine may be busy, so that a time says nothing
settings.register_profile("selfkd", deadline=None)
settings.load_profile("selfkd")
PRELOAD.extend(workers.PRELOAD)  # one fork server for commands and for workers of synthesis
workers.PRELOAD[:] = PRELOAD


def pytest_collection_finish() -> None:
    """Imported objects are never garbage: frozen, they save 0.3 s of each `gc.collect`, which a Trainer calls twice."""
    gc.collect()
    gc.freeze()


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
    """A Whisper checkpoint of the real classes at tiny size, with random weights."""
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


DEMO_SIZE = {"questions": 16, "distill_steps": 2, "test_share": 0.05}


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """`selfkd demo` at a small size: its `folder`, `arguments`, `stdout`. All workers share one, which is run once;
    a test that runs the command again holds its `lock`."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, printed = shared / "demo", shared / "demo.txt"
    arguments = ["demo", "--output", folder, *(part for name, n in DEMO_SIZE.items() for part in (f"--{name}", n))]
    lock = shared / "demo.lock"
    with locked(lock):
        if not printed.is_file():
            finished = run_selfkd(*arguments, timeout=600)
            assert finished.returncode == 0, finished.stderr[-3000:]
            printed.write_text(finished.stdout)
    return SimpleNamespace(folder=folder, arguments=arguments, stdout=printed.read_text(), lock=lock)


@pytest.fixture(scope="session")
def server(parts):
    """The model of `parts` behind HTTP, with default settings."""
    from serving import served

    with served(parts) as running:
        yield running


@pytest.fixture(scope="module")
def one_thread():
    """Models this small are slower with two threads on busy cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def start(parts, tmp_path_factory):
    """A folder with a model to start from and sixteen examples."""
    return training_start(parts, tmp_path_factory.mktemp("start"))


@pytest.fixture
def endless(parts, monkeypatch):
    """No token ends a response: each runs to its token limit."""
    model, processor = parts
    monkeypatch.setattr(model.vlm.generation_config, "eos_token_id", [processor.tokenizer.pad_token_id])
    monkeypatch.setattr(processor, "end_id", processor.tokenizer.pad_token_id)


@pytest.fixture
def gate(parts, monkeypatch):
    """Batches block until the gate is set; `gate.sizes` are their sizes."""
    opened, plain = threading.Event(), parts[0].generate_responses
    opened.sizes = []

    def generate_responses(*arguments, **inputs):
        opened.sizes.append(len(inputs["suffix_ids"]))
        assert opened.wait(300)
        return plain(*arguments, **inputs)

    monkeypatch.setattr(parts[0], "generate_responses", generate_responses)
    yield opened
    opened.set()
