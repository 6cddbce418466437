"""The TTS engine of a configuration, and the voices that it is given.

Engines: espeak-ng, Flite, neural voices, any OpenAI-compatible speech endpoint (`selfkd[openai]`), or recordings of
people in a folder.
"""

import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from selfkd.credentials import read_endpoint, without
from selfkd.data.media import decode_sound
from selfkd.errors import EngineError, InputError, steady
from selfkd.synthesis.quality_filter import base_language
from selfkd.synthesis.sources.rows import Clip, find_recording, read_clip
from selfkd.synthesis.tts.base import ESPEAK_VOICES, EspeakSpeaker, Speaker, Utterance, resampled
from selfkd.synthesis.tts.flite import FliteSpeaker
from selfkd.synthesis.tts.neural import USUAL_RATE_WPM, KokoroSpeaker, PiperSpeaker, check_installed

EngineName = Literal["espeak", "flite", "kokoro", "piper", "openai", "recorded"]
FOLLOW_THE_TEXT = ("openai", "recorded")  # whose voices are of no one language
_ABOUT_THE_ROW = (400, 413, 422)  # what a server answers to a text that it cannot speak
# of OpenAI itself, and of "training"; other servers have their own, which they do not tell
_OPENAI_VOICES = ("alloy", "ash", "ballad", "coral", "echo", "fable", "onyx", "nova", "sage", "shimmer", "verse")


def open_engine(engine: EngineName, path: str, model: str = "", time_limit_seconds: float = 60.0) -> Speaker:
    """The engine with what it needs: a folder of voices or recordings, or a base URL and how long to wait for it.

    Raises InputError where its package or its files are not there.
    """
    if engine == "espeak":
        return EspeakSpeaker()
    if engine == "flite":
        return FliteSpeaker()
    if engine == "openai":
        return EndpointSpeaker(path, model, 0.9 * time_limit_seconds)  # before the time of the row is over
    if engine not in get_args(EngineName):
        raise InputError(f"engine: {engine!r} is not known; there are {', '.join(get_args(EngineName))}")
    folder = Path(path)
    if not path or not folder.is_dir():
        raise InputError(f"engine_path: {path or '(empty)'}: no such folder; {engine} needs one")
    if engine == "kokoro":
        return KokoroSpeaker(folder)
    return PiperSpeaker(folder) if engine == "piper" else RecordedSpeaker(folder)


def loaded_engine(engine: EngineName, path: str, model: str, time_limit_seconds: float) -> Speaker:
    """The engine for the process that is to speak, in which a model of hundreds of megabytes is read before the time
    of the first row begins."""
    speaker = open_engine(engine, path, model, time_limit_seconds)
    if isinstance(speaker, KokoroSpeaker):
        speaker.load()
    return speaker


@dataclass
class EndpointSpeaker:
    """`/v1/audio/speech` of any server. The key comes from OPENAI_API_KEY; what it answers is not ours to reproduce."""

    url: str
    model: str
    timeout_seconds: float
    license: str = "as the endpoint's terms say"

    @property
    def engine(self) -> str:
        return f"{self.model or 'tts-1'} at {self._endpoint.shown or 'OpenAI'}"

    def __post_init__(self) -> None:
        check_installed("openai", "openai")
        self._endpoint = read_endpoint(self.url, "engine_path")

    @cached_property
    def _client(self) -> Any:
        from openai import OpenAI

        key = os.environ.get("OPENAI_API_KEY", "none")
        return OpenAI(
            base_url=self._endpoint.base or None,
            api_key=key,
            default_headers=self._endpoint.headers,
            default_query=self._endpoint.query,
            max_retries=5,
            timeout=self.timeout_seconds,
        )

    def voices(self) -> list[str]:
        return list(_OPENAI_VOICES)

    def language(self, voice: str) -> str:
        return "any"

    def speak(self, utterance: Utterance) -> NDArray[np.float32]:
        from openai import APIStatusError, OpenAIError

        try:
            answer = self._client.audio.speech.create(
                model=self.model or "tts-1",
                voice=utterance.voice,
                input=utterance.text,
                response_format="wav",
                speed=utterance.rate_wpm / USUAL_RATE_WPM,
            )
            sound = decode_sound(answer.read())
        except (OpenAIError, InputError) as error:
            about_the_row = isinstance(error, InputError) or (
                isinstance(error, APIStatusError) and error.status_code in _ABOUT_THE_ROW
            )
            reason = f"engine: {self.engine}: {without(steady(str(error)), self._endpoint.secrets)}"
            raise (InputError if about_the_row else EngineError)(reason) from error
        return resampled(sound.samples, sound.rate_hz)


@dataclass
class RecordedSpeaker:
    """People's recordings: a sound file for each question, named by its id (see `SUFFIXES`)."""

    folder: Path
    engine: str = "recorded"
    license: str = "as the recordings' owner says"

    def voices(self) -> list[str]:
        return ["recorded"]

    def language(self, voice: str) -> str:
        return "any"

    def speak(self, utterance: Utterance) -> NDArray[np.float32]:
        try:
            path = find_recording(self.folder, utterance.id)
        except InputError as error:
            raise InputError(f"field id: {error}") from error
        if path is None:
            raise InputError(f"field speech: {self.folder / utterance.id}: no recording")
        return resampled(*read_clip(Clip(path, folder=self.folder)))


def weighted_voices(names: str, speaker: Speaker, language: str) -> dict[str, float]:
    """Voices and their weights; raises InputError for one that the engine lacks, or that speaks another language."""
    wanted = ESPEAK_VOICES.get(names) or [v.strip() for v in names.split(",")]
    if names in ESPEAK_VOICES and not isinstance(speaker, EspeakSpeaker):
        if names != "training":
            raise InputError(f"voices: {names!r} are voices of espeak-ng; name some of {speaker.engine}'s")
        wanted = [v for v in speaker.voices() if _speaks(speaker, v, language)]
    voices, known = {}, set(speaker.voices())
    for entry in wanted:
        name, colon, weight = entry.partition(":")
        named_there = name and isinstance(speaker, EndpointSpeaker) and speaker.url  # a server has voices of its own
        if name not in known and not named_there:
            raise InputError(f"voices: unknown voice {name!r}; {_hint(speaker, language)}")
        if not _speaks(speaker, name, language):
            raise InputError(f"voices: {name!r} speaks {speaker.language(name)}, the questions are in {language}")
        if colon and not re.fullmatch(r"\d+(\.\d+)?", weight):
            raise InputError(f"voices: {entry!r} is not name:weight")
        voices[name] = float(weight) if colon else 1.0
    if not any(voices.values()):
        raise InputError(f"voices: {'all weigh 0' if voices else f'{speaker.engine} has none that speaks {language}'}")
    return voices


def _hint(speaker: Speaker, language: str) -> str:
    parts = "'training', 'drawn', 'unseen'" if isinstance(speaker, EspeakSpeaker) else "'training'"
    named = next((voice for voice in speaker.voices() if _speaks(speaker, voice, language)), None)
    return f"say {parts}" + (f" or names such as {named}" if named else "")


def _speaks(speaker: Speaker, voice: str, language: str) -> bool:
    spoken = speaker.language(voice)
    return spoken == "any" or spoken.partition("-")[0] == base_language(language)
