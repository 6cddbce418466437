"""The TTS engine of a configuration, and its voices with their weights.

Engines: espeak-ng, commands (Flite, Pico, Festival), neural voices, any OpenAI-compatible speech endpoint
(`selfkd[openai]`), or recordings of people in a folder.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from selfkd.data.example import language_code
from selfkd.data.resample import resampled
from selfkd.errors import InputError
from selfkd.synthesis.config import EngineName
from selfkd.synthesis.sources.rows import Clip, find_recording, read_clip
from selfkd.synthesis.tts.base import ESPEAK_VOICES, EspeakEngine, TTSEngine, Utterance, espeak_voices
from selfkd.synthesis.tts.commands import FestivalEngine, FliteEngine, PicoEngine
from selfkd.synthesis.tts.endpoint import Budget, EndpointEngine
from selfkd.synthesis.tts.neural import KokoroEngine, PiperEngine
from selfkd.synthesis.tts.pocket import PocketEngine

ANY_LANGUAGE_ENGINES = ("openai", "recorded")  # whose voices have no language of their own
_COMMAND_ENGINES: dict[str, Callable[[float], TTSEngine]] = {
    "flite": FliteEngine,
    "pico": PicoEngine,
    "festival": FestivalEngine,
}
MAX_NAMES = 24  # of voices in a message


def open_engine(
    engine: EngineName, path: str, model: str = "", time_limit_seconds: float = 60.0, budget: Budget | None = None
) -> TTSEngine:
    """The engine with what it needs: a folder of voices or recordings, or a base URL, how long to wait for it and what
    it may use.

    Raises InputError where its package or its files are missing.
    """
    if engine == "espeak":
        return EspeakEngine()
    before_limit_seconds = 0.9 * time_limit_seconds  # before the time limit of the row
    if engine in _COMMAND_ENGINES:
        return _COMMAND_ENGINES[engine](before_limit_seconds)
    if engine == "openai":
        return EndpointEngine(path, model, before_limit_seconds, budget)
    if engine not in get_args(EngineName):
        raise InputError(f"engine: {engine!r} is not known; there are {', '.join(get_args(EngineName))}")
    if not path and engine == "piper":
        return PiperEngine()
    if not path and engine == "pocket":
        return PocketEngine(None, model)
    folder = Path(path)
    if not path or not folder.is_dir():
        raise InputError(f"engine_path: {path or '(empty)'}: no such folder; {engine} needs one")
    if engine == "kokoro":
        return KokoroEngine(folder)
    if engine == "pocket":
        return PocketEngine(folder, model)
    return PiperEngine(folder) if engine == "piper" else RecordedEngine(folder)


def load_engine(
    engine: EngineName, path: str, model: str, time_limit_seconds: float, budget: Budget | None = None
) -> TTSEngine:
    """The engine with its model in memory: reading hundreds of megabytes does not count for the time limit of the first
    row."""
    tts_engine = open_engine(engine, path, model, time_limit_seconds, budget)
    if isinstance(tts_engine, KokoroEngine | PocketEngine):
        tts_engine.load()
    return tts_engine


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
        if name not in known and isinstance(tts_engine, PiperEngine) and tts_engine.fetch(name):
            known = set(tts_engine.voices())
        if name not in known and not is_of_server:
            raise InputError(f"voices: unknown voice {name!r}; {_known_voices(tts_engine, name, language)}")
        if not _has_language(tts_engine, name, language):
            raise InputError(f"voices: {name!r} speaks {tts_engine.language(name)}, the questions are in {language}")
        if colon and not re.fullmatch(r"\d+(\.\d+)?", weight):
            raise InputError(f"voices: {entry!r} is not name:weight")
        voices[name] = float(weight) if colon else 1.0
    if not any(voices.values()):
        none = f"{tts_engine.name} has none that speaks {language}"
        none += "; name one, as en_US-lessac-medium" if isinstance(tts_engine, PiperEngine) else ""
        raise InputError(f"voices: {'all weigh 0' if voices else none}")
    return voices


def _known_voices(tts_engine: TTSEngine, name: str, language: str) -> str:
    """What to write in place of `name`: the voice that is most like it, and those that there are."""
    voices = [voice for voice in tts_engine.voices() if _has_language(tts_engine, voice, language)]
    by_lower_case = {voice.lower(): voice for voice in voices}
    close = get_close_matches(name.lower(), by_lower_case, 1)
    guess = f"did you mean {by_lower_case[close[0]]!r}? " if close else ""
    if not isinstance(tts_engine, EspeakEngine):
        return f"{guess}{tts_engine.name} has {_listed(voices) or 'none that speaks ' + language}"
    named = [voice for part in ("training", "heldout") for voice in ESPEAK_VOICES[part]]
    accents = sorted({voice.partition("+")[0] for voice in voices})
    variants = sorted({voice.partition("+")[2] for voice in named})
    return (
        f"{guess}there are 'training', 'random', 'heldout', and ACCENT+VARIANT: "
        f"accents {_listed(accents)}; variants {_listed(variants)}"
    )


def _listed(names: Sequence[str]) -> str:
    more = len(names) - MAX_NAMES
    return ", ".join(names[:MAX_NAMES]) + (f" and {more} more" if more > 0 else "")


def _has_language(tts_engine: TTSEngine, voice: str, language: str) -> bool:
    known = tts_engine.language(voice)
    return known == "any" or language_code(known) == language_code(language)
