"""vLLM gives the greedy responses of `OmniModel`, token for token, in text and audio: both projectors, each backbone.

Wants vLLM (`make test-vllm VLLM=DIR`); each model starts an engine in this process.
"""

import os
from contextlib import contextmanager

import pytest
from examples import toy_examples
from vllm_backbones import BACKBONES, own_responses, save_backbone, vllm_responses

from selfkd.model.checkpoint import load_model
from selfkd.model.tiny import TINY_MODELS
from selfkd.synthesis.sources.registry import ToyWorld
from selfkd.synthesis.tts.base import EspeakEngine, Utterance
from selfkd.training.data import MODALITIES

pytest.importorskip("vllm")
pytestmark = pytest.mark.slow
NEW_TOKENS, VOICE = 8, "en-US-nyc+f3"
SETTINGS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # one process
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "HF_HUB_OFFLINE": "1",
}


@contextmanager
def engine(folder):
    from vllm import LLM
    from vllm.distributed import cleanup_dist_env_and_memory

    from selfkd.vllm.plugin import register

    os.environ.update(SETTINGS)
    register()  # the entry point is there only where selfkd is installed
    llm = LLM(str(folder), enforce_eager=True, dtype="float32", max_model_len=1024, max_num_seqs=4)
    try:
        yield llm
    finally:
        llm.llm_engine.engine_core.shutdown()
        cleanup_dist_env_and_memory()


def examples_with_speech(count):
    """Toy questions in a voice: to a CTC projector a tone is no speech."""
    source, tts = ToyWorld("test", 5, False), EspeakEngine()
    examples = [source.example(i) for i in range(count)]
    return [e.with_audio(tts.synthesize_audio(Utterance(e.question, VOICE)), VOICE) for e in examples]


@pytest.mark.parametrize("name", TINY_MODELS)
def test_tiny_models_give_their_own_responses(name, tmp_path):
    examples = examples_with_speech(12)
    model, processor = load_model(name)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    own = {m: own_responses(model, processor, examples, m, NEW_TOKENS) for m in MODALITIES}
    with engine(tmp_path) as llm:
        for modality in MODALITIES:
            assert vllm_responses(llm, examples, modality, NEW_TOKENS) == own[modality]


@pytest.mark.parametrize("model_type", list(BACKBONES))
def test_backbones_give_their_own_responses(model_type, tmp_path):
    """An image before a clip: M-RoPE counts on after it, and a clip adds nothing to Qwen3-VL's first layers."""
    if model_type == "smolvlm":
        pytest.importorskip("num2words")  # its processor's
    save_backbone(model_type, tmp_path)
    examples = toy_examples(4)
    model, processor = load_model(tmp_path)
    own = {m: own_responses(model, processor, examples, m, NEW_TOKENS) for m in MODALITIES}
    assert own["text"] != own["audio"]
    with engine(tmp_path) as llm:
        for modality in MODALITIES:
            assert vllm_responses(llm, examples, modality, NEW_TOKENS) == own[modality]
