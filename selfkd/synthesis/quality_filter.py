"""Which synthesized audio is kept: not silent, of a plausible length and, with an ASR filter, of a low word error rate.

The word error rate is jiwer's, on text after Whisper's own normalization (in English "twenty three" and "23" are
equal).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfkd.data.example import MAX_AUDIO_SECONDS, SAMPLE_RATE_HZ, Example, language_code
from selfkd.data.media import check_not_silent
from selfkd.errors import InputError

SECONDS_PER_CHARACTER = (0.02, 0.3)  # outside of the rates of human speech
SLACK_SECONDS = 1.5  # for silence around a short utterance
MAX_EXTRA_TOKENS = 16
UNSPACED = ("zh", "yue", "ja", "th", "lo", "my")  # written without spaces: the word error rate counts characters
FULL_SCALE = 0.999
MAX_CLIPPED = 0.01  # share of samples at full scale
MAX_CLIPPED_RECORDED = (
    0.25  # people record too loud: of Tux Paint's Spanish captions 4 to 13% of the samples are clipped
)


def check_audio(samples: NDArray[np.float32], text: str, max_clipped: float = MAX_CLIPPED) -> None:
    """Raises InputError for audio that is silent, clipped, over 30 s, or of an implausible length for its text."""
    seconds = len(samples) / SAMPLE_RATE_HZ
    try:
        check_not_silent(samples)
    except InputError as error:
        raise InputError(f"field audio: {error}") from error
    at_full_scale = max(samples.max(), -samples.min()) >= FULL_SCALE
    clipped = float(np.mean(np.abs(samples) >= FULL_SCALE)) if at_full_scale else 0.0
    if clipped > max_clipped:
        raise InputError(f"field audio: clipped ({clipped:.1%} of the samples)")
    if seconds > MAX_AUDIO_SECONDS:
        raise InputError(f"field audio: {seconds:.1f} s is over the encoder's window of {MAX_AUDIO_SECONDS:.0f} s")
    characters = sum(c.isalnum() for c in text)
    low, high = (characters * s for s in SECONDS_PER_CHARACTER)
    if not low <= seconds <= high + SLACK_SECONDS:
        raise InputError(f"field audio: {seconds:.1f} s for {characters} characters is not a plausible length")


@dataclass
class ASRFilter:
    """ASR by any Whisper checkpoint that knows `language`; `max_wer` is the highest word error rate that is kept."""

    checkpoint: str
    max_wer: float
    language: str = "en"

    @cached_property
    def _asr_model(self) -> Any:
        from transformers import pipeline

        try:
            asr_model = pipeline("automatic-speech-recognition", self.checkpoint, device="cpu", dtype="float32")
        except (OSError, ValueError) as error:
            raise InputError(f"asr_filter: {self.checkpoint}: {str(error).splitlines()[0]}") from error
        tokenizer: Any = asr_model.tokenizer
        if tokenizer.pad_token_id is None:  # batches need one
            tokenizer.pad_token_id = tokenizer.eos_token_id
        from transformers.models.whisper.tokenization_whisper import LANGUAGES

        known = ["en"] if not _is_multilingual(asr_model) else list(LANGUAGES)
        if language_code(self.language) not in known:
            languages = f"{len(known)} languages" if len(known) > 1 else "English only"
            raise InputError(
                f"asr_filter: {self.checkpoint}: transcribes {languages}, the questions are in {self.language!r}"
            )
        return asr_model

    def transcribe(self, examples: Sequence[Example]) -> list[Example]:
        """The examples with `transcript` and `word_error_rate`."""
        clips = [{"raw": e.samples(), "sampling_rate": SAMPLE_RATE_HZ} for e in examples]
        # Whisper may repeat a word until its window is full: a transcript far longer than the text is wrong already
        max_length = token_limit(self._asr_model.tokenizer, [e.spoken_text for e in examples])
        max_length = min(max_length, self._asr_model.model.config.max_target_positions)
        # one beam: the pipeline's default of five costs three times as much
        settings: dict[str, Any] = {"max_length": max_length, "num_beams": 1}
        if _is_multilingual(self._asr_model):  # else it detects the language, and may translate
            settings |= {"language": language_code(self.language), "task": "transcribe"}
        texts = [r["text"].strip() for r in self._asr_model(clips, batch_size=8, generate_kwargs=settings)]
        return [
            replace(e, transcript=text, word_error_rate=word_error_rate(e.spoken_text, text, self.language))
            for e, text in zip(examples, texts, strict=True)
        ]

    def check(self, example: Example) -> None:
        if example.word_error_rate > self.max_wer:
            wer = f"word error rate {example.word_error_rate:.2f}"
            raise InputError(f"field audio: {wer} is over {self.max_wer:.2f} (transcript: {example.transcript!r})")


def token_limit(tokenizer: Any, texts: Sequence[str]) -> int:
    """Tokens that suffice for a transcript of any of the texts; in some scripts a character takes two or three."""
    wanted = (max(len(text) // 2, 2 * len(tokenizer(text, add_special_tokens=False).input_ids)) for text in texts)
    return MAX_EXTRA_TOKENS + max(wanted, default=0)


def word_error_rate(reference: str, transcript: str, language: str = "en") -> float:
    """Substitutions, deletions and insertions per word of the reference, after normalization; 0 for no reference."""
    import jiwer

    texts = [_in_linear_time(text) for text in (reference, transcript)]
    try:
        normalized, words = map(normalizer(language_code(language)), texts)
    except Exception:  # Whisper's fails on some numbers, such as "hundred" a thousand times
        normalized, words = map(normalizer(""), texts)
    return float(jiwer.wer(normalized, words)) if normalized else 0.0


def _in_linear_time(text: str) -> str:
    """A text whose normal form is the same, and is found in linear time: without brackets that nothing closes, each of
    which Whisper's patterns would try to the end of the text, and without runs of blanks."""
    for opening, closing in (("(", ")"), ("<[", ">]")):
        end = max(map(text.rfind, closing)) + 1
        text = text[:end] + text[end:].translate(dict.fromkeys(map(ord, opening), " "))
    return " ".join(text.split())


@cache
def normalizer(language: str) -> Any:
    from whisper_normalizer.basic import BasicTextNormalizer
    from whisper_normalizer.english import EnglishTextNormalizer

    return EnglishTextNormalizer() if language == "en" else BasicTextNormalizer(split_letters=language in UNSPACED)


def _is_multilingual(asr_model: Any) -> bool:
    return bool(asr_model.model.generation_config.is_multilingual)
