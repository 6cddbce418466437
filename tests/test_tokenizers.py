"""Tokenizers unlike the embedded model's: with a first token, with spaces that are part of words, without padding."""

from types import SimpleNamespace

import pytest
import torch
from conftest import tone, world_examples
from native_models import gemma4
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from selfkd.model.adapters import adapter_parameters
from selfkd.model.bundled import OwnEars
from selfkd.model.embedded import CHAT_TEMPLATE, vlm_path
from selfkd.model.load import load_vlm_processor
from selfkd.model.processor import OmniProcessor
from selfkd.training.align import AlignConfig, assemble
from selfkd.training.parts import freeze_all_but

FIRST = "<bos>"


def with_first_token(processor, in_template: bool, template: str):
    """The processor, its tokenizer now one that puts a first token before every text, as Llama's and Gemma's do."""
    made = processor.tokenizer
    made.add_special_tokens({"bos_token": FIRST})
    made._tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{FIRST} $A", special_tokens=[(FIRST, made.bos_token_id)]
    )
    assert made("a")["input_ids"][0] == made.bos_token_id
    for part in (processor, made):
        part.chat_template = (FIRST if in_template else "") + template
    return processor


@pytest.mark.parametrize("in_template", [True, False])
def test_a_first_token_stands_once_at_the_beginning(example, in_template):
    processor = OmniProcessor(with_first_token(load_vlm_processor(vlm_path()), in_template, CHAT_TEMPLATE))
    turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}]
    whole = processor.vlm_processor.apply_chat_template(turn, add_generation_prompt=True)
    wanted = processor.vlm_processor(
        images=[example.picture()], text=[whole], return_tensors="pt", add_special_tokens=not in_template
    )["input_ids"][0]
    prompt = processor.text_prompt("What?", processor.look(example.picture()))
    assert prompt.prefix_ids + prompt.suffix_ids == wanted.tolist()
    first = processor.tokenizer.bos_token_id
    unseen = processor.text_prompt("What?", processor.look(None))
    for ids in (wanted.tolist(), unseen.prefix_ids + unseen.suffix_ids):
        assert ids[0] == first and ids.count(first) == 1


def test_a_native_models_clip_has_no_first_token_of_its_own(example):
    _, own = gemma4()
    processor = OmniProcessor(with_first_token(own, True, own.chat_template))
    first = processor.tokenizer.bos_token_id
    prompt = processor.speech_prompt(processor.hear(tone(0.5)), processor.look(example.picture()))
    assert (prompt.prefix_ids + prompt.suffix_ids).count(first) == 1


def test_own_ears_write_the_spaces_that_are_part_of_sentencepiece_words():
    words = ["▁what", "▁is", "▁it", "</s>"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="</s>"))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    made = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    heard = SimpleNamespace(transcripts=lambda *mels: [[2, 1, 0], [], [0]])
    ears = OwnEars(heard, OmniProcessor(SimpleNamespace(tokenizer=made)), [2, 1, 0])
    assert ears.recognize(None, None) == ["what is it", "", "it"]


@pytest.fixture
def adapted(tmp_path):
    model, processor = assemble(AlignConfig([], tmp_path, ears="stacked"))
    model.add_llm_adapters(r=4, lora_alpha=8)
    return model.eval(), processor


def test_written_and_spoken_replies_are_filled_up_with_the_same_token(adapted):
    """With adapters they are generated apart; many configurations name no padding, and token 0 of theirs is a word."""
    model, processor = adapted
    example = world_examples(1)[0]
    seen, end, filled = processor.look(example.picture()), processor.end_id, 40
    heard = processor.hear(example.samples())
    prompts = [processor.text_prompt(example.question, seen), processor.speech_prompt(heard, seen)]
    replies = model.generate(**processor(prompts), max_new_tokens=30, do_sample=False, pad_token_id=filled)
    lengths = [(reply == end).int().argmax().item() + 1 if end in reply else len(reply) for reply in replies]
    assert len(set(lengths)) == 2, "the one must have ended before the other"
    for reply, length in zip(replies, lengths, strict=True):
        assert reply[length:].tolist() == [filled] * (len(reply) - length)


def test_a_whole_llm_learns_without_the_adapters_that_it_has(adapted):
    model, _ = adapted
    freeze_all_but(model, ["llm"])
    assert not any(parameter.requires_grad for parameter in adapter_parameters(model.vlm))
    assert model.get_output_embeddings().weight.requires_grad
    freeze_all_but(model, ["llm_adapters"])
    assert all(parameter.requires_grad for parameter in adapter_parameters(model.vlm))
    assert torch.tensor([p.requires_grad for p in model.parameters()]).sum() == len(list(adapter_parameters(model.vlm)))
