"""What comes from the page -> a question that models are asked; everything that may be wrong with it is found here.

Limits and decoding are the endpoint's. Also the ready examples, and the voices that speak for who types.
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache

import numpy as np
import soundfile
from numpy.typing import NDArray

from selfkd.app.settings import AppConfig
from selfkd.data.embedded_sources import World
from selfkd.data.example import SAMPLE_RATE_HZ, Example
from selfkd.data.questions import WORLD_KINDS
from selfkd.data.speakers import EspeakSpeaker, Utterance
from selfkd.data.spoken_text import spoken_form
from selfkd.errors import InputError
from selfkd.evaluation.chance import chance_floor
from selfkd.model.omni import OmniModel
from selfkd.model.processor import OmniProcessor
from selfkd.serving.media import read_picture, read_sound, sound_formats
from selfkd.serving.prompts import check_text
from selfkd.serving.refused import RefusedError

MOST_LETTERS = 600  # said in 30 seconds
VOICES = {
    "New York, woman": "en-US-nyc+f3",
    "New York, man": "en-US-nyc+m4",
    "West Midlands, woman": "en-GB-x-gbcwmd+f5",
    "West Midlands, man": "en-GB-x-gbcwmd+m6",
    "American, woman (in training)": "en-US+f2",
    "Scottish, man (in training)": "en-GB-scotland+m3",
}
_READY_KINDS = ("exists", "color", "count", "neighbor", "place", "describe")
_READY_SEED = 7


@dataclass(frozen=True)
class Said:
    """A clip (WAV) that was made of a question: it goes with these words in this voice and no others."""

    wav: bytes
    text: str
    voice: str


@cache
def ready_examples() -> tuple[Example, ...]:
    """Pictures of the test split with a question and its right answer, one of each kind."""
    world = World("test", _READY_SEED)
    return tuple(world.example(WORLD_KINDS.index(kind)) for kind in _READY_KINDS)


@cache
def ready_chance() -> float | None:
    """The floor of chance under the ready examples."""
    return chance_floor([asdict(ready) | {"details": {}} for ready in ready_examples()])


def ready_one(example: Example) -> Example | None:
    """The ready example whose very question is asked about its very picture, if it is one."""
    asked = example.image, example.question.lower()
    return next((ready for ready in ready_examples() if (ready.image, ready.question.lower()) == asked), None)


def say(speaker: EspeakSpeaker, text: str, voice: str) -> Said:
    """What is typed, spoken as data are (`spoken_form`); raises InputError for an empty or too long text, and for one
    that holds what cannot be said."""
    text = _checked(text)
    if not text:
        raise InputError("Question: type one first, then it can be spoken")
    try:
        spoken = spoken_form(text)
    except InputError as error:
        raise InputError(str(error).replace("field question", "Question")) from error
    samples = speaker.speak(Utterance(spoken, voice))
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, SAMPLE_RATE_HZ, format="WAV", subtype="PCM_16")
    return Said(buffer.getvalue(), text, voice)


def read_question(
    picture: bytes | None,
    text: str,
    speech: bytes | None,
    config: AppConfig,
    models: Sequence[tuple[OmniModel, OmniProcessor]],
) -> Example:
    """The question as an example: with `question` where it is written, with `speech` where it is spoken. Raises
    InputError, in words for who asked."""
    if not picture:
        raise InputError("Picture: choose one of the examples, or upload one")
    text = _checked(text)
    if not text and speech is None:
        raise InputError("Question: type it, or speak it")
    with _in_words("Question"):
        for model, _ in models:
            check_text(text, model.context)
    with _in_words("Picture"):
        read_picture(picture, config.max_pixels)
    example = Example("question", text, "", "app", "", "", image=picture)
    if speech is None:
        return example
    return example.spoken(_samples(speech, config.max_audio_seconds), "")


def _checked(text: str) -> str:
    if len(text) > MOST_LETTERS:
        raise InputError(f"Question: {len(text)} letters are too many, at most {MOST_LETTERS} are taken")
    return text.strip()


def _samples(content: bytes, most_seconds: float) -> NDArray[np.float32]:
    found = sound_formats(content)
    if not found:
        raise InputError("Speech: not a WAV, FLAC, MP3, Ogg, M4A, AAC, WebM or 3GP file")
    with _in_words("Speech"):
        return read_sound(content, found[0], most_seconds)


@contextmanager
def _in_words(where: str) -> Iterator[None]:
    """A refusal of the endpoint names fields of its protocol; on the page it names what one sees."""
    try:
        yield
    except RefusedError as error:
        raise InputError(f"{where}: {error.message.partition(': ')[2]}") from error
