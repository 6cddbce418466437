"""Whether what was spoken can be understood: sound that is there, of a likely length, and a round trip through ASR.

WER is jiwer's, on text that Whisper's own normaliser has levelled (in English "twenty three" and "23" are the same).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfkd.data.example import LONGEST_SECONDS, SAMPLE_RATE_HZ, Example, language_code
from selfkd.data.media import check_vocabulary_coverage
from selfkd.errors import InputError

SECONDS_A_LETTER = (0.02, 0.3)  # faster and slower than anybody speaks
SLACK_SECONDS = 1.5  # of silence around a short utterance
MAX_EXTRA_TOKENS = 16
UNSPACED = ("zh", "yue", "ja", "th", "lo", "my")  # written without spaces: letters stand for words
FULL_SCALE, MAX_CLIPPED = 0.999, 0.01  # share of samples at full scale


def check_audio(samples: NDArray[np.float32], said: str) -> None:
    """Raises InputError for speech that is silent, clipped, over 30 s, or of no likely length for its text."""
    seconds = len(samples) / SAMPLE_RATE_HZ
    try:
        check_vocabulary_coverage(samples)
    except InputError as error:
        raise InputError(f"field audio: {error}") from error
    at_full_scale = max(samples.max(), -samples.min()) >= FULL_SCALE
    clipped = float(np.mean(np.abs(samples) >= FULL_SCALE)) if at_full_scale else 0.0
    if clipped > MAX_CLIPPED:
        raise InputError(f"field audio: clipped ({clipped:.1%} of the samples)")
    if seconds > LONGEST_SECONDS:
        raise InputError(f"field audio: {seconds:.1f} s is over the {LONGEST_SECONDS:.0f} s that can be heard at once")
    letters = sum(c.isalnum() for c in said)
    low, high = (letters * s for s in SECONDS_A_LETTER)
    if not low <= seconds <= high + SLACK_SECONDS:
        raise InputError(f"field audio: {seconds:.1f} s for {letters} letters is not a likely length")


@dataclass
class Verifier:
    """ASR by any Whisper checkpoint that hears `language`; `max_wer` is the highest word error rate that is kept."""

    checkpoint: str
    max_wer: float
    language: str = "en"

    @cached_property
    def _recognizer(self) -> Any:
        from transformers import pipeline

        try:
            asr_model = pipeline("automatic-speech-recognition", self.checkpoint, device="cpu", dtype="float32")
        except (OSError, ValueError) as error:
            raise InputError(f"verify: {self.checkpoint}: {str(error).splitlines()[0]}") from error
        tokenizer: Any = asr_model.tokenizer
        if tokenizer.pad_token_id is None:  # batches need one
            tokenizer.pad_token_id = tokenizer.eos_token_id
        from transformers.models.whisper.tokenization_whisper import LANGUAGES

        known = ["en"] if not _is_multilingual(asr_model) else list(LANGUAGES)
        if self._spoken not in known:
            hears = f"{len(known)} languages" if len(known) > 1 else "English alone"
            raise InputError(f"verify: {self.checkpoint}: hears {hears}, the questions are in {self.language!r}")
        return asr_model

    @property
    def _spoken(self) -> str:
        return language_code(self.language)

    def transcribed(self, examples: Sequence[Example]) -> list[Example]:
        """The examples with `heard` and `word_error_rate`."""
        clips = [{"raw": e.samples(), "sampling_rate": SAMPLE_RATE_HZ} for e in examples]
        # Whisper may say the same word until its window is full: what is longer than the text by far is wrong already
        most = token_limit(self._recognizer.tokenizer, [e.spoken_text for e in examples])
        most = min(most, self._recognizer.model.config.max_target_positions)
        how: dict[str, Any] = {"max_length": most, "num_beams": 1}  # the pipeline's own five cost three times as much
        if _is_multilingual(self._recognizer):  # else it guesses, and may translate
            how |= {"language": self._spoken, "task": "transcribe"}
        texts = [r["text"].strip() for r in self._recognizer(clips, batch_size=8, generate_kwargs=how)]
        return [
            replace(e, transcript=text, word_error_rate=word_error_rate(e.spoken_text, text, self.language))
            for e, text in zip(examples, texts, strict=True)
        ]

    def check(self, example: Example) -> None:
        if example.word_error_rate > self.max_wer:
            wer = f"word error rate {example.word_error_rate:.2f}"
            raise InputError(f"field audio: {wer} is over {self.max_wer:.2f} (heard: {example.transcript!r})")


def token_limit(tokenizer: Any, said: Sequence[str]) -> int:
    """That are enough for what may be heard of any of these; a letter takes two or three in many a script."""
    wanted = (max(len(text) // 2, 2 * len(tokenizer(text, add_special_tokens=False).input_ids)) for text in said)
    return MAX_EXTRA_TOKENS + max(wanted, default=0)


def word_error_rate(said: str, heard: str, language: str = "en") -> float:
    """Words wrong, missing and added, over the words said, after normalisation."""
    import jiwer

    normalize = _normalizer(language_code(language))
    reference = normalize(said)
    return float(jiwer.wer(reference, normalize(heard))) if reference else 0.0


@cache
def _normalizer(language: str) -> Any:
    from whisper_normalizer.basic import BasicTextNormalizer
    from whisper_normalizer.english import EnglishTextNormalizer

    return EnglishTextNormalizer() if language == "en" else BasicTextNormalizer(split_letters=language in UNSPACED)


def _is_multilingual(asr_model: Any) -> bool:
    return bool(asr_model.model.generation_config.is_multilingual)
