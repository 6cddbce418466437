"""Real pretrained parts: Whisper-base and SmolLM2-135M in SmolVLM's classes, with a random vision encoder.

SELFKD_MODELS=DIR   a folder with whisper-base and smollm2-135m-instruct in it
"""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from examples import toy_examples
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    WhisperFeatureExtractor,
)

from selfkd.losses import LossConfig
from selfkd.model.backbones import load_speech_encoder
from selfkd.model.modeling_omni import OmniModel
from selfkd.model.processing_omni import OmniProcessor
from selfkd.synthesis.tts.base import EspeakEngine, Utterance
from selfkd.training.data import PairedCollator, paired_item
from selfkd.training.self_kd import paired_loss
from selfkd.training.trainable import freeze_all_but

MODELS = Path(os.environ.get("SELFKD_MODELS", "/nowhere"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all((MODELS / name / "DONE").is_file() for name in ("whisper-base", "smollm2-135m-instruct")),
        reason="SELFKD_MODELS names no folder with whisper-base and smollm2-135m-instruct",
    ),
]
SETTINGS = {"max_new_tokens": 12, "do_sample": False}


class TextProcessor:
    """A tokenizer with its chat template as a processor without images."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def apply_chat_template(self, turns, **settings):
        plain = [{"role": t["role"], "content": "".join(part.get("text", "") for part in t["content"])} for t in turns]
        return self.tokenizer.apply_chat_template(plain, tokenize=False, **settings)


@pytest.fixture(scope="module")
def real():
    """(OmniModel of real parts, its processor, the LLM as it is on the hub)."""
    llm = AutoModelForCausalLM.from_pretrained(MODELS / "smollm2-135m-instruct", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(MODELS / "smollm2-135m-instruct")
    vision = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 16, "patch_size": 4}
    text = AutoConfig.from_pretrained(MODELS / "smollm2-135m-instruct").to_dict()
    torch.manual_seed(0)
    vlm = SmolVLMForConditionalGeneration(
        SmolVLMConfig(text_config=text, vision_config=vision, image_token_id=1, pad_token_id=text["pad_token_id"] or 0)
    )
    vlm.model.text_model.load_state_dict(llm.model.state_dict())
    vlm.lm_head.load_state_dict(llm.lm_head.state_dict())
    vlm.float().generation_config = llm.generation_config
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    extractor = WhisperFeatureExtractor.from_pretrained(MODELS / "whisper-base")
    processor = OmniProcessor(TextProcessor(tokenizer), extractor)
    model = OmniModel.from_parts(vlm, load_speech_encoder(MODELS / "whisper-base"), processor.audio_token_id)
    return model.eval(), processor, llm


@pytest.mark.slow
def test_text_responses_equal_those_of_the_llm(real):
    model, processor, llm = real
    prompt = processor.text_prompt("What is the capital of France?", processor.encode_image(None))
    ids = torch.tensor([prompt.prefix_ids + prompt.suffix_ids])
    own = llm.generate(ids, attention_mask=torch.ones_like(ids), **SETTINGS)[0, ids.shape[1] :]
    ours = model.generate_responses(**processor.collate([prompt]), **SETTINGS)[0]
    assert ours.tolist() == own.tolist() and "Paris" in processor.response_texts([ours])[0]


@pytest.mark.slow
def test_self_kd_teaches_one_audio_query_the_text_response(real):
    """Only the projector trains, towards the text modality of the same weights: noise becomes the answer."""
    model, processor, _ = real
    freeze_all_but(model, ["projector"])
    question = "What is the capital of France?"
    example = replace(toy_examples(1)[0], question=question, answer="The capital of France is Paris.", image=None)
    example = example.with_audio(EspeakEngine().synthesize_audio(Utterance(question, "en-US")), "en-US")
    batch = PairedCollator(processor)([paired_item(processor, example)])
    prompt = processor.audio_prompt(processor.encode_audio(example.samples()), processor.encode_image(None))
    before = processor.response_texts(model.generate_responses(**processor.collate([prompt]), **SETTINGS))[0]
    optimizer, kl = torch.optim.AdamW(model.projector.parameters(), 3e-4), []
    for _ in range(40):
        loss = paired_loss(model.train(), batch, LossConfig(1.0))
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        kl.append(loss.kd.item() / loss.tokens)
        if kl[-1] < 0.03 * kl[0]:
            break
    after = processor.response_texts(model.eval().generate_responses(**processor.collate([prompt]), **SETTINGS))[0]
    assert "Paris" not in before and "Paris" in after, (before, after)
    assert kl[-1] < 0.1 * kl[0], kl
