"""What comes from the page -> a query, checked, and the models that it goes to.

Limits and decoding are the endpoint's. Also the ready examples, the voices that read typed queries aloud, and the ASR
model that transcribes audio queries.
"""

import io
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache

import numpy as np
import soundfile
from numpy.typing import NDArray
from PIL import Image

from selfkd.analysis.runner import named
from selfkd.app.config import AppConfig
from selfkd.app.inference import Answer, answer, thumbnail
from selfkd.data.example import SAMPLE_RATE_HZ, Example
from selfkd.errors import InputError
from selfkd.evaluation.backends.transcriber import Transcriber
from selfkd.evaluation.chance import chance_floor
from selfkd.evaluation.grading import is_right, parse
from selfkd.evaluation.verdicts import AT_CHANCE, no_verdict_reason, too_few
from selfkd.model.checkpoint import inspect_checkpoint, ready
from selfkd.model.modeling_omni import OmniModel
from selfkd.model.processing_omni import OmniProcessor
from selfkd.model.tiny import TINY_MODEL, has_tiny_encoder
from selfkd.serving.media import audio_formats, read_audio, read_image
from selfkd.serving.prompts import check_text
from selfkd.serving.schema import RefusedError
from selfkd.synthesis.sources.toy import ToyWorld
from selfkd.synthesis.text_normalization import spoken_form
from selfkd.synthesis.tts.base import EspeakEngine, Utterance
from selfkd.toy_world.questions import TOY_QUESTION_TYPES
from selfkd.training.data import MODALITIES, Modality

MAX_CHARACTERS = 600  # said in 30 seconds
VOICES = {
    "New York, woman": "en-US-nyc+f3",
    "New York, man": "en-US-nyc+m4",
    "West Midlands, woman": "en-GB-x-gbcwmd+f5",
    "West Midlands, man": "en-GB-x-gbcwmd+m6",
    "American, woman (in training)": "en-US+f2",
    "Scottish, man (in training)": "en-GB-scotland+m3",
}
_READY_TYPES = ("exists", "color", "count", "neighbor", "place", "describe")
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
    world = ToyWorld("test", _READY_SEED)
    return tuple(world.example(TOY_QUESTION_TYPES.index(question_type)) for question_type in _READY_TYPES)


@cache
def ready_chance() -> float | None:
    """The floor of chance under the ready examples."""
    return chance_floor([asdict(ready) | {"details": {}} for ready in ready_examples()])


def ready_one(example: Example) -> Example | None:
    """The ready example whose very question is asked about its very picture, if it is one."""
    asked = example.image, example.question.lower()
    return next((ready for ready in ready_examples() if (ready.image, ready.question.lower()) == asked), None)


def say(tts_engine: EspeakEngine, text: str, voice: str) -> Said:
    """What is typed, spoken as data are (`spoken_form`); raises InputError for an empty or too long text, and for one
    that holds what cannot be said."""
    text = _checked(text)
    if not text:
        raise InputError("Question: type one first, then it can be spoken")
    try:
        spoken = spoken_form(text)
    except InputError as error:
        raise InputError(str(error).replace("field question", "Question")) from error
    samples = tts_engine.synthesize_audio(Utterance(spoken, voice))
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, SAMPLE_RATE_HZ, format="WAV", subtype="PCM_16")
    return Said(buffer.getvalue(), text, voice)


def parse_query(
    image: bytes | None,
    text: str,
    audio: bytes | None,
    config: AppConfig,
    models: Sequence[tuple[OmniModel, OmniProcessor]],
) -> Example:
    """The question as an example: with `question` where it is written, with `audio` where it is spoken. Raises
    InputError, in words for who asked."""
    if not image:
        raise InputError("Picture: choose one of the examples, or upload one")
    text = _checked(text)
    if not text and audio is None:
        raise InputError("Question: type it, or speak it")
    with _in_words("Question"):
        for model, _ in models:
            check_text(text, model.context)
    with _in_words("Picture"):
        read_image(image, config.max_pixels)
    example = Example("question", text, "", "app", "", "", image=image)
    if audio is None:
        return example
    return example.spoken(_samples(audio, config.max_audio_seconds), "")


def _checked(text: str) -> str:
    if len(text) > MAX_CHARACTERS:
        raise InputError(f"Question: {len(text)} letters are too many, at most {MAX_CHARACTERS} are taken")
    return text.strip()


def _samples(content: bytes, max_seconds: float) -> NDArray[np.float32]:
    found = audio_formats(content)
    if not found:
        raise InputError("Speech: not a WAV, FLAC, MP3, Ogg, M4A, AAC, WebM or 3GP file")
    with _in_words("Speech"):
        return read_audio(content, found[0], max_seconds)


@contextmanager
def _in_words(where: str) -> Iterator[None]:
    """A refusal of the endpoint names fields of its protocol; on the page it names what one sees."""
    try:
        yield
    except RefusedError as error:
        raise InputError(f"{where}: {error.message.partition(': ')[2]}") from error


Loaded = tuple[OmniModel, OmniProcessor]


@dataclass(frozen=True)
class Answered:
    """What is kept of a question for the page: no more than it shows."""

    image: Image.Image  # small
    question: str
    transcript: str | None  # None where nobody writes down what was heard
    ready: Example | None  # whose right answer is known
    answers: dict[str, dict[Modality, Answer]]  # by the model's name
    seconds: dict[str, float]

    @property
    def layers(self) -> int:
        """Of the deepest model of which it is known where it looked; 0 where that is known of none."""
        looks = [a.looks for modalities in self.answers.values() for a in modalities.values()]
        return max((found.layers for found in looks if not isinstance(found, str)), default=0)

    def is_right(self, answer: Answer) -> bool | None:
        """None where the right answer is not known."""
        if self.ready is None:
            return None
        question_type, target = self.ready.question_type, self.ready.target
        return is_right(question_type, target, parse(question_type, self.question, answer.text))

    def why_no_gap(self, name: str) -> str:
        """Why the two views of a model say nothing of its gap: one question is too few, and of a ready example that it
        does not answer in writing there is none."""
        written = self.is_right(self.answers[name]["text"])
        silent = no_verdict_reason(1, None if written is None else float(written), None, ready_chance())
        return AT_CHANCE if silent == "at chance" else f"one question says nothing of the gap: {too_few(1)}"


class Session:
    """Not for two threads at once."""

    def __init__(self, config: AppConfig, models: dict[str, Loaded], transcriber: Transcriber | None):
        self.config, self.models, self.transcriber = config, models, transcriber
        self.tts_engine = EspeakEngine()

    @classmethod
    def load(cls, config: AppConfig) -> "Session":
        """On the GPU where there is one; raises InputError, before anything is loaded, for what is no model that
        hears."""
        paths = named("models", config.models) if config.models else {}
        inspected = {name: inspect_checkpoint(path, "models") for name, path in paths.items()}
        asr_model = inspect_checkpoint(config.asr_model or TINY_MODEL, "asr_model", "asr")
        models = {
            name: info.load() for name, info in (inspected or {"bundled": inspect_checkpoint(TINY_MODEL)}).items()
        }
        has_bundled_ears = any(hears_as_bundled(model) for model, _ in models.values())
        transcriber = None
        if config.asr_model or has_bundled_ears:
            transcriber = Transcriber.load(asr_model)
        for model, _ in models.values():
            ready(model)
        return cls(config, models, transcriber)

    def ask(
        self, image: bytes | None, text: str, audio: bytes | None, said: Said | None, voice: str
    ) -> tuple[Answered, Said | None]:
        """Asks all models in every view that there is, and gives the clip that stands for the question now: `said` is
        the last one that was made here. A question without speech is spoken in `voice`, and so is one whose words or
        voice are others than those of `said`; somebody's own recording is left alone."""
        loaded = list(self.models.values())
        is_ours_to_say = audio is None or (said is not None and said.wav == audio)
        if is_ours_to_say:
            parse_query(image, text, None, self.config, loaded)  # before it is spoken
            if said is None or (said.text, said.voice) != (text.strip(), voice):
                said = say(self.tts_engine, text, voice)
            audio = said.wav
        example = parse_query(image, text, audio, self.config, loaded)
        modalities: Sequence[Modality] = MODALITIES if example.question else ("audio",)
        answers, seconds = {}, {}
        for name, (model, processor) in self.models.items():
            start = time.perf_counter()
            answers[name] = answer(model, processor, example, modalities, self.config.max_new_tokens)
            seconds[name] = time.perf_counter() - start
        heard = None if self.transcriber is None else self.transcriber.transcribe([example])[0].strip()
        small = thumbnail(example.load_image())
        answered = Answered(small, example.question, heard, ready_one(example), answers, seconds)
        return answered, said if is_ours_to_say else None


def hears_as_bundled(model: OmniModel) -> bool:
    return has_tiny_encoder(model.config)
