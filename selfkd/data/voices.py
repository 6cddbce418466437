"""The voices that a setting names, and how often each speaks."""

import re

from selfkd.data.engines import EndpointSpeaker
from selfkd.data.speakers import ESPEAK_VOICES, EspeakSpeaker, Speaker
from selfkd.data.verify import base_language
from selfkd.errors import InputError


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
