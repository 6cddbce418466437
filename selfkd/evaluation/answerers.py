"""Who answers: the text view, the speech view, and the cascade (transcribe, then read) of a model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from transformers import WhisperFeatureExtractor

from selfkd.data.example import Example
from selfkd.data.features import log_mel, pad_mels
from selfkd.model.load import WhisperRecognizer
from selfkd.model.omni import OmniModel
from selfkd.model.processor import OmniProcessor, Prompt
from selfkd.model.speech_encoder import SpeechRecognizer

MAX_NEW_TOKENS = 48


@dataclass(frozen=True)
class Reply:
    text: str
    heard: str = ""  # the transcript, where there is one
    error: str = ""  # why there is no reply; `text` is "" then, and it is no wrong answer: who asked decides
    seconds: float = 0.0  # how long an endpoint took for it, waiting and earlier tries not counted


class Answerer(Protocol):
    def answer(self, examples: Sequence[Example]) -> list[Reply]: ...


def generate_replies(
    model: OmniModel, processor: OmniProcessor, prompts: Sequence[Prompt], examples: Sequence[Example]
) -> list[str]:
    """Greedy replies to a batch of prompts, one for each of `examples`."""
    for prompt, example in zip(prompts, examples, strict=True):
        ids, room = prompt.prefix_ids + prompt.suffix_ids, model.context - MAX_NEW_TOKENS
        processor.check_context(f"example {example.id}", ids, prompt.speech_inputs, room)
    return processor.decode(model.generate(**processor(prompts), max_new_tokens=MAX_NEW_TOKENS, do_sample=False))


@dataclass
class TextAnswerer:
    model: OmniModel
    processor: OmniProcessor

    def answer(self, examples: Sequence[Example]) -> list[Reply]:
        return [Reply(t) for t in self.read(examples, [e.question for e in examples])]

    def read(self, examples: Sequence[Example], questions: Sequence[str]) -> list[str]:
        prompts = [
            self.processor.text_prompt(q, self.processor.look(e.picture()), e.instruction, e.answer_format)
            for q, e in zip(questions, examples, strict=True)
        ]
        return generate_replies(self.model, self.processor, prompts, examples)


@dataclass
class SpeechAnswerer:
    model: OmniModel
    processor: OmniProcessor

    def answer(self, examples: Sequence[Example]) -> list[Reply]:
        prompts = [
            self.processor.speech_prompt(
                self.processor.hear(e.samples(), f"example {e.id}"),
                self.processor.look(e.picture()),
                e.instruction,
                e.answer_format,
            )
            for e in examples
        ]
        return [Reply(t) for t in generate_replies(self.model, self.processor, prompts, examples)]


@dataclass
class CascadeAnswerer:
    """The baseline that users would pick: the speech encoder's own recogniser, then the text view."""

    recognizer: SpeechRecognizer | WhisperRecognizer
    extractor: WhisperFeatureExtractor
    text: TextAnswerer

    def transcribe(self, examples: Sequence[Example]) -> list[str]:
        mels = [log_mel(self.extractor, e.samples(), f"example {e.id}") for e in examples]
        return self.recognizer.recognize(*(t.to(self.recognizer.device) for t in pad_mels(mels)))

    def answer(self, examples: Sequence[Example]) -> list[Reply]:
        heard = self.transcribe(examples)
        return [Reply(t, h) for t, h in zip(self.text.read(examples, heard), heard, strict=True)]


def answer_views(model, processor, examples, views, max_new_tokens=MAX_NEW_TOKENS):
    of = {"text": TextAnswerer, "speech": SpeechAnswerer}
    return {view: of[view](model, processor).answer(examples) for view in views}
