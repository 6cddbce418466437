"""Form fields of the page -> a validated query -> the responses of all models.

Limits and decoding are those of `selfkd serve`. Also here: the built-in examples, the voices that synthesize typed
questions, and the ASR model that transcribes audio queries.
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

from selfkd.analysis.runner import named_paths
from selfkd.app.config import AppConfig
from selfkd.app.conversation import Conversation, PastTurn, about, continued
from selfkd.app.inference import ModelResponse, generate_responses, thumbnail
from selfkd.data.example import SAMPLE_RATE_HZ, Example
from selfkd.errors import InputError
from selfkd.evaluation.backends.transcriber import Transcriber
from selfkd.evaluation.chance import chance_accuracy
from selfkd.evaluation.grading import is_correct, parse
from selfkd.evaluation.verdicts import AT_CHANCE, no_verdict_reason, too_few
from selfkd.model.checkpoint import inspect_checkpoint, ready
from selfkd.model.modeling_omni import OmniModel
from selfkd.model.processing_omni import OmniProcessor
from selfkd.model.tiny import TINY_MODEL, has_tiny_llm, note_tiny_llm
from selfkd.serving.config import decoder_bytes
from selfkd.serving.decoding import check_text, read_pixels
from selfkd.serving.isolated import DECODE_SECONDS, IsolatedProcess, TooCostlyError
from selfkd.serving.media import audio_formats, read_audio
from selfkd.serving.schema import RefusedError
from selfkd.synthesis.sources.toy import ToyWorld
from selfkd.synthesis.text_normalization import spoken_form
from selfkd.synthesis.tts.base import EspeakEngine, Utterance
from selfkd.toy_world.questions import TOY_QUESTION_TYPES
from selfkd.training.data import Modality

MAX_CHARACTERS = 600  # about 30 seconds of speech
VOICES = {
    "New York, woman": "en-US-nyc+f3",
    "New York, man": "en-US-nyc+m4",
    "West Midlands, woman": "en-GB-x-gbcwmd+f5",
    "West Midlands, man": "en-GB-x-gbcwmd+m6",
    "American, woman (in training)": "en-US+f2",
    "Scottish, man (in training)": "en-GB-scotland+m3",
}
_EXAMPLE_TYPES = ("exists", "color", "count", "neighbor", "place", "describe")
_EXAMPLE_SEED = 7


@dataclass(frozen=True)
class SynthesizedQuery:
    """A WAV clip that was synthesized from this text in this voice."""

    wav: bytes
    text: str
    voice: str


@cache
def builtin_examples() -> tuple[Example, ...]:
    """One example of each question type: a test-split image of the toy world with its question and target."""
    world = ToyWorld("test", _EXAMPLE_SEED)
    return tuple(world.example(TOY_QUESTION_TYPES.index(question_type)) for question_type in _EXAMPLE_TYPES)


@cache
def builtin_chance() -> float | None:
    """Chance accuracy on the built-in examples."""
    return chance_accuracy([asdict(example) | {"details": {}} for example in builtin_examples()])


def matching_builtin(example: Example) -> Example | None:
    """The built-in example with the same image and question, if there is one."""
    key = example.image, example.question.lower()
    return next((one for one in builtin_examples() if (one.image, one.question.lower()) == key), None)


def synthesize_query(tts_engine: EspeakEngine, text: str, voice: str) -> SynthesizedQuery:
    """Speech of a typed question, normalized like the training data (`spoken_form`); raises InputError for text that
    is empty, too long or not pronounceable."""
    text = _checked(text)
    if not text:
        raise InputError("Question: type one first, then its audio can be synthesized")
    try:
        spoken_text = spoken_form(text)
    except InputError as error:
        raise InputError(str(error).replace("field question", "Question")) from error
    return SynthesizedQuery(_wav(tts_engine, spoken_text, voice), text, voice)


def read_aloud(tts_engine: EspeakEngine, text: str, voice: str) -> bytes | str:
    """A response in a voice as a WAV file, or why it is not pronounceable."""
    try:
        return _wav(tts_engine, spoken_form(text), voice)
    except InputError as error:
        return str(error).partition(": ")[2] or str(error)


def _wav(tts_engine: EspeakEngine, spoken_text: str, voice: str) -> bytes:
    samples = tts_engine.synthesize_audio(Utterance(spoken_text, voice))
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, SAMPLE_RATE_HZ, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def parse_query(
    image: bytes | None,
    text: str,
    audio: bytes | None,
    config: AppConfig,
    models: Sequence[tuple[OmniModel, OmniProcessor]],
    decoder: IsolatedProcess,
) -> Example:
    """An example with `question` if the query has text and `audio` if it has audio. Raises InputError with a message
    that names fields as the page does."""
    if not image:
        raise InputError("Image: choose one of the examples, or upload one")
    text = _checked(text)
    if not text and audio is None:
        raise InputError("Question: type it, or record it")
    with _page_names("Question"):
        for model, _ in models:
            check_text(text, model.context)
    with _page_names("Image"):
        decoder.call(read_pixels, image, config.max_pixels, seconds=DECODE_SECONDS)
    example = Example("question", text, "", "app", "", "", image=image)
    if audio is None:
        return example
    return example.with_audio(_samples(audio, config.max_audio_seconds, decoder), "")


def _checked(text: str) -> str:
    if len(text) > MAX_CHARACTERS:
        raise InputError(f"Question: {len(text)} characters exceed the limit of {MAX_CHARACTERS}")
    return text.strip()


def _samples(content: bytes, max_seconds: float, decoder: IsolatedProcess) -> NDArray[np.float32]:
    formats = audio_formats(content)
    if not formats:
        raise InputError("Audio: not a WAV, FLAC, MP3, Ogg, M4A, AAC, WebM or 3GP file")
    with _page_names("Audio"):
        return decoder.call(read_audio, content, formats[0], max_seconds, seconds=DECODE_SECONDS)


@contextmanager
def _page_names(field: str) -> Iterator[None]:
    """Errors of `serving` name fields of its protocol; on the page they name the form field instead."""
    try:
        yield
    except RefusedError as error:
        raise InputError(f"{field}: {error.message.partition(': ')[2]}") from error
    except TooCostlyError as error:
        raise InputError(f"{field}: {error}") from error


LoadedModel = tuple[OmniModel, OmniProcessor]


@dataclass(frozen=True)
class QueryResult:
    """What the page shows of a query, and no more."""

    image: Image.Image  # thumbnail
    question: str
    transcript: str | None  # None without an ASR model
    example: Example | None  # the built-in example that was run: its target is known
    responses: dict[str, dict[Modality, ModelResponse]]  # by the model's name
    seconds: dict[str, float]
    conversation: Conversation  # up to and with this query
    clips: dict[
        tuple[str, Modality], bytes | str
    ]  # responses read aloud, as WAV, or why one is not; by model, modality

    @property
    def layers(self) -> int:
        """Of the deepest model that has attention maps; 0 where none has."""
        maps = [response.attention for modalities in self.responses.values() for response in modalities.values()]
        return max((found.layers for found in maps if not isinstance(found, str)), default=0)

    def is_correct(self, response: ModelResponse) -> bool | None:
        """None where the target is not known."""
        if self.example is None:
            return None
        question_type, target = self.example.question_type, self.example.target
        return is_correct(question_type, target, parse(question_type, self.question, response.text))

    def gap_caveat(self, name: str) -> str:
        """Why the responses of this model do not measure its modality gap: one question is too few, and a built-in
        example whose text query fails has no gap."""
        text = self.is_correct(self.responses[name]["text"])
        reason = no_verdict_reason(1, None if text is None else float(text), None, builtin_chance())
        return AT_CHANCE if reason == "at chance" else f"one question does not measure the gap: {too_few(1)}"


class Session:
    """The loaded models, the TTS engine and the ASR model of one app. Not thread-safe."""

    def __init__(self, config: AppConfig, models: dict[str, LoadedModel], transcriber: Transcriber | None):
        self.config, self.models, self.transcriber = config, models, transcriber
        self.tts_engine = EspeakEngine()
        # what is uploaded is decoded there first: only what it could decode within the limits is decoded here
        self.decoder = IsolatedProcess(decoder_bytes(config.max_upload_bytes, config.max_pixels))

    def close(self) -> None:
        self.decoder.close()

    @classmethod
    def load(cls, config: AppConfig) -> "Session":
        """On the GPU if there is one; raises InputError, before anything is loaded, for a path without an omni
        model."""
        paths = named_paths("models", config.models) if config.models else {}
        inspected = {name: inspect_checkpoint(path, "models") for name, path in paths.items()}
        asr_model = inspect_checkpoint(config.asr_model or TINY_MODEL, "asr_model", "asr")
        inspected = inspected or {"bundled": inspect_checkpoint(TINY_MODEL)}
        for info in inspected.values():
            note_tiny_llm(info.config)
        models = {name: info.load() for name, info in inspected.items()}
        transcriber = None
        if config.asr_model or any(has_tiny_llm(model.config) for model, _ in models.values()):
            transcriber = Transcriber.load(asr_model)
        for model, _ in models.values():
            ready(model)
        return cls(config, models, transcriber)

    def run(
        self,
        image: bytes | None,
        text: str,
        audio: bytes | None,
        synthesized: SynthesizedQuery | None,
        voice: str,
        earlier: Conversation = (),
        reads_aloud: bool = False,
    ) -> tuple[QueryResult, SynthesizedQuery | None]:
        """Runs a query in every available modality on all models; returns the result and the clip that was used.

        `synthesized` is the last clip that this session made. A query without audio is synthesized in `voice`, and
        synthesized again when its text or voice has changed. A user's own recording is never replaced. The query
        continues the `earlier` turns, where they are about the same image. If it `reads_aloud`, every response is
        synthesized too, in `voice`.
        """
        models = list(self.models.values())
        is_synthesized = audio is None or (synthesized is not None and synthesized.wav == audio)
        recording = None if is_synthesized else audio
        example = parse_query(image, text, recording, self.config, models, self.decoder)  # refused before TTS
        if is_synthesized:
            if synthesized is None or (synthesized.text, synthesized.voice) != (text.strip(), voice):
                synthesized = synthesize_query(self.tts_engine, text, voice)
            samples = _samples(synthesized.wav, self.config.max_audio_seconds, self.decoder)
            example = example.with_audio(samples, "")
        earlier = about(earlier, image)
        queries = {name: continued(example, earlier, name) for name in self.models}
        responses, seconds = {}, {}
        for name, (model, processor) in self.models.items():
            start = time.perf_counter()
            try:
                responses[name] = generate_responses(model, processor, queries[name], self.config.max_new_tokens)
            except InputError as error:
                if not earlier:
                    raise
                raise InputError(f"{error}; {len(earlier)} earlier turns are in it: start again") from error
            seconds[name] = time.perf_counter() - start
        transcript = None if self.transcriber is None else self.transcriber.transcribe([example])[0].strip()
        texts = {name: {m: one.text for m, one in of.items()} for name, of in responses.items()}
        clips = {
            (name, modality): read_aloud(self.tts_engine, text, voice)
            for name, of in texts.items()
            for modality, text in of.items()
            if reads_aloud
        }
        return QueryResult(
            thumbnail(example.load_image()),
            example.question,
            transcript,
            matching_builtin(example),
            responses,
            seconds,
            (*earlier, PastTurn(example, transcript, texts)),
            clips,
        ), synthesized if is_synthesized else None
