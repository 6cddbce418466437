"""The TTS engine of a configuration, and its voices with their weights.

Engines: espeak-ng, commands (Flite, Pico, Festival), neural voices, any OpenAI-compatible speech endpoint
(`selfkd[openai]`), or recordings of people in a folder.
"""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from selfkd.credentials import masked_text, read_endpoint, without
from selfkd.data.example import language_code
from selfkd.data.media import decode_audio
from selfkd.data.resample import resampled
from selfkd.errors import EngineError, InputError, without_run_details
from selfkd.response_limit import ENCODINGS, read_up_to
from selfkd.synthesis.config import EngineName
from selfkd.synthesis.sources.rows import Clip, find_recording, read_clip
from selfkd.synthesis.tts.base import ESPEAK_VOICES, EspeakEngine, TTSEngine, Utterance, espeak_voices
from selfkd.synthesis.tts.commands import FestivalEngine, FliteEngine, PicoEngine
from selfkd.synthesis.tts.neural import DEFAULT_RATE_WPM, KokoroEngine, PiperEngine, check_installed

ANY_LANGUAGE_ENGINES = ("openai", "recorded")  # whose voices have no language of their own
_COMMAND_ENGINES: dict[str, Callable[[float], TTSEngine]] = {
    "flite": FliteEngine,
    "pico": PicoEngine,
    "festival": FestivalEngine,
}
_MAX_SPEECH_BYTES = 32_000_000  # two minutes of 32-bit stereo at 32 kHz
_ROW_STATUS_CODES = (400, 413, 422)  # of a server that cannot synthesize a text
# of OpenAI itself, and of "training"; other servers have their own, without a list of them
_OPENAI_VOICES = ("alloy", "ash", "ballad", "coral", "echo", "fable", "onyx", "nova", "sage", "shimmer", "verse")


def open_engine(engine: EngineName, path: str, model: str = "", time_limit_seconds: float = 60.0) -> TTSEngine:
    """The engine with what it needs: a folder of voices or recordings, or a base URL and how long to wait for it.

    Raises InputError where its package or its files are missing.
    """
    if engine == "espeak":
        return EspeakEngine()
    before_limit_seconds = 0.9 * time_limit_seconds  # before the time limit of the row
    if engine in _COMMAND_ENGINES:
        return _COMMAND_ENGINES[engine](before_limit_seconds)
    if engine == "openai":
        return EndpointEngine(path, model, before_limit_seconds)
    if engine not in get_args(EngineName):
        raise InputError(f"engine: {engine!r} is not known; there are {', '.join(get_args(EngineName))}")
    folder = Path(path)
    if not path or not folder.is_dir():
        raise InputError(f"engine_path: {path or '(empty)'}: no such folder; {engine} needs one")
    if engine == "kokoro":
        return KokoroEngine(folder)
    return PiperEngine(folder) if engine == "piper" else RecordedEngine(folder)


def load_engine(engine: EngineName, path: str, model: str, time_limit_seconds: float) -> TTSEngine:
    """The engine with its model in memory: reading hundreds of megabytes does not count for the time limit of the first
    row."""
    tts_engine = open_engine(engine, path, model, time_limit_seconds)
    if isinstance(tts_engine, KokoroEngine):
        tts_engine.load()
    return tts_engine


@dataclass
class EndpointEngine:
    """`/v1/audio/speech` of any server. The key comes from OPENAI_API_KEY; the audio is not reproducible."""

    url: str
    model: str
    timeout_seconds: float
    license: str = "as the endpoint's terms say"

    @property
    def name(self) -> str:
        return f"{self.model or 'tts-1'} at {self._endpoint.shown or 'OpenAI'}"

    def __post_init__(self) -> None:
        check_installed("openai", "openai")
        self._endpoint = read_endpoint(self.url, "engine_path")
        self._key = os.environ.get("OPENAI_API_KEY", "").strip() or "none"

    @cached_property
    def _client(self) -> Any:
        from openai import DefaultHttpxClient, OpenAI

        http_client = DefaultHttpxClient(
            timeout=self.timeout_seconds, event_hooks={"response": [read_up_to(_MAX_SPEECH_BYTES)]}
        )
        http_client.headers["Accept-Encoding"] = ENCODINGS
        return OpenAI(
            base_url=self._endpoint.base or None,
            api_key=self._key,
            default_headers=self._endpoint.headers,
            default_query=self._endpoint.query,
            max_retries=5,
            timeout=self.timeout_seconds,
            http_client=http_client,
        )

    def voices(self) -> list[str]:
        return list(_OPENAI_VOICES)

    def language(self, voice: str) -> str:
        return "any"

    def synthesize_audio(self, utterance: Utterance) -> NDArray[np.float32]:
        from openai import APIStatusError, OpenAIError

        try:
            response = self._client.audio.speech.create(
                model=self.model or "tts-1",
                voice=utterance.voice,
                input=utterance.text,
                response_format="wav",
                speed=utterance.rate_wpm / DEFAULT_RATE_WPM,
            )
            audio_clip = decode_audio(response.read())
        except (OpenAIError, InputError) as error:
            is_row_error = isinstance(error, InputError) or (
                isinstance(error, APIStatusError) and error.status_code in _ROW_STATUS_CODES
            )
            # servers repeat keys in their error messages; reasons are written to files
            secrets = [*self._endpoint.secrets, *([self._key] if self._key != "none" else [])]
            reason = f"engine: {self.name}: {masked_text(without(without_run_details(str(error)), secrets))}"
            raise (InputError if is_row_error else EngineError)(reason) from error
        return resampled(audio_clip.samples, audio_clip.rate_hz)


@dataclass
class RecordedEngine:
    """Recordings of people: an audio file for each question, named by its id (see `SUFFIXES`)."""

    folder: Path
    name: str = "recorded"
    license: str = "as the recordings' owner says"

    def voices(self) -> list[str]:
        return ["recorded"]

    def language(self, voice: str) -> str:
        return "any"

    def synthesize_audio(self, utterance: Utterance) -> NDArray[np.float32]:
        try:
            path = find_recording(self.folder, utterance.id)
        except InputError as error:
            raise InputError(f"field id: {error}") from error
        if path is None:
            raise InputError(f"field audio: {self.folder / utterance.id}: no recording")
        return resampled(*read_clip(Clip(path, folder=self.folder)))


def weighted_voices(names: str, tts_engine: TTSEngine, language: str) -> dict[str, float]:
    """{voice: weight}. Raises InputError for a voice that the engine lacks, or that has another language."""
    wanted = ESPEAK_VOICES.get(names) or [v.strip() for v in names.split(",")]
    if names in ESPEAK_VOICES and not isinstance(tts_engine, EspeakEngine):
        if names != "training":
            raise InputError(f"voices: {names!r} are voices of espeak-ng; name some of {tts_engine.name}'s")
        wanted = [v for v in tts_engine.voices() if _has_language(tts_engine, v, language)]
    elif names in ("training", "heldout") and language_code(language) != "en":
        accents = (v.partition("+")[0] for v in tts_engine.voices() if _has_language(tts_engine, v, language))
        wanted = espeak_voices(names, dict.fromkeys(accents))
    voices, known = {}, set(tts_engine.voices())
    for entry in wanted:
        name, colon, weight = entry.partition(":")
        # a server has voices of its own
        is_of_server = name and isinstance(tts_engine, EndpointEngine) and tts_engine.url
        if name not in known and not is_of_server:
            raise InputError(f"voices: unknown voice {name!r}; {_hint(tts_engine, language)}")
        if not _has_language(tts_engine, name, language):
            raise InputError(f"voices: {name!r} speaks {tts_engine.language(name)}, the questions are in {language}")
        if colon and not re.fullmatch(r"\d+(\.\d+)?", weight):
            raise InputError(f"voices: {entry!r} is not name:weight")
        voices[name] = float(weight) if colon else 1.0
    if not any(voices.values()):
        raise InputError(f"voices: {'all weigh 0' if voices else f'{tts_engine.name} has none that speaks {language}'}")
    return voices


def _hint(tts_engine: TTSEngine, language: str) -> str:
    subsets = "'training', 'random', 'heldout'" if isinstance(tts_engine, EspeakEngine) else "'training'"
    example = next((voice for voice in tts_engine.voices() if _has_language(tts_engine, voice, language)), None)
    return f"choose from {subsets}" + (f" or names such as {example}" if example else "")


def _has_language(tts_engine: TTSEngine, voice: str, language: str) -> bool:
    known = tts_engine.language(voice)
    return known == "any" or language_code(known) == language_code(language)
