"""Tokenizers unlike the tiny model's: with a first token, with spaces that are part of pieces."""

from types import SimpleNamespace

import pytest
import torch
from examples import tone
from native_models import gemma4
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch.nn.functional import one_hot
from transformers import PreTrainedTokenizerFast

from selfkd.model.backbones import load_vlm_processor
from selfkd.model.ctc_asr import CTCTranscriber
from selfkd.model.processing_omni import OmniProcessor
from selfkd.model.projectors import CTCOutput
from selfkd.model.tiny import vlm_path
from tools.tiny_model.architecture import CHAT_TEMPLATE

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
def test_first_token_appears_once_at_the_beginning(example, in_template):
    processor = OmniProcessor(with_first_token(load_vlm_processor(vlm_path()), in_template, CHAT_TEMPLATE))
    turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}]
    whole = processor.vlm_processor.apply_chat_template(turn, add_generation_prompt=True)
    wanted = processor.vlm_processor(
        images=[example.load_image()], text=[whole], return_tensors="pt", add_special_tokens=not in_template
    )["input_ids"][0]
    prompt = processor.text_prompt("What?", processor.encode_image(example.load_image()))
    assert prompt.prefix_ids + prompt.suffix_ids == wanted.tolist()
    first = processor.tokenizer.bos_token_id
    without_image = processor.text_prompt("What?", processor.encode_image(None))
    for ids in (wanted.tolist(), without_image.prefix_ids + without_image.suffix_ids):
        assert ids[0] == first and ids.count(first) == 1


def test_clip_of_a_native_model_adds_no_first_token(example):
    _, own = gemma4()
    processor = OmniProcessor(with_first_token(own, True, own.chat_template))
    first = processor.tokenizer.bos_token_id
    prompt = processor.audio_prompt(processor.encode_audio(tone(0.5)), processor.encode_image(example.load_image()))
    assert (prompt.prefix_ids + prompt.suffix_ids).count(first) == 1


def test_transcript_keeps_the_spaces_of_sentencepiece_pieces(monkeypatch):
    words = ["▁what", "▁is", "▁it", "</s>"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="</s>"))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    made = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    blank = 3
    best = torch.tensor([[2, blank, 1, 0], [blank] * 4, [0, 0, blank, blank]])
    output = CTCOutput(one_hot(best, blank + 1).float(), torch.ones(3, 4, dtype=torch.bool))
    monkeypatch.setattr(CTCTranscriber, "ctc_output", lambda *mels: output)
    projector = SimpleNamespace(token_ids=[2, 1, 0])
    encoder = CTCTranscriber(None, projector, False, OmniProcessor(SimpleNamespace(tokenizer=made)))
    assert encoder.transcribe(None, None) == ["what is it", "", "it"]
