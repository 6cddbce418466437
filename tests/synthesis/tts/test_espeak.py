"""espeak-ng: known voices alone, the same samples for the same utterance, training and unseen voices apart."""

import os
import subprocess
import sys

import numpy as np
import pytest

from selfkd.errors import InputError
from selfkd.synthesis.tts import random_voices as drawn_voices
from selfkd.synthesis.tts.base import ESPEAK_VOICES, SAMPLE_RATE_HZ, EspeakEngine, Utterance

TEXT = "Is the red circle left of the blue rectangle?"


@pytest.fixture(scope="module")
def tts_engine():
    return EspeakEngine()


@pytest.mark.parametrize("voice", ["en-US+m1", "en-GB-scotland+f3", "en+klatt2", "en-US+whisper"])
def test_an_utterance_always_sounds_the_same(tts_engine, voice):
    first = tts_engine.synthesize_audio(Utterance(TEXT, voice))
    tts_engine.synthesize_audio(Utterance("Something else in between.", "en-029+f2", 200, 80, seed=9))
    again = EspeakEngine().synthesize_audio(Utterance(TEXT, voice))
    assert np.array_equal(first, again)
    assert 1.0 < len(first) / SAMPLE_RATE_HZ < 5.0 and 0.05 < np.abs(first).max() <= 1.0


def test_voice_rate_pitch_and_seed_are_heard(tts_engine):
    plain = tts_engine.synthesize_audio(Utterance(TEXT, "en-US+m1"))
    for other in (
        Utterance(TEXT, "en-US+f2"),
        Utterance(TEXT, "en-US+m1", rate_wpm=250),
        Utterance(TEXT, "en-US+m1", pitch=90),
    ):
        audio_clip = tts_engine.synthesize_audio(other)
        assert audio_clip.shape != plain.shape or not np.array_equal(audio_clip, plain), other
    assert len(tts_engine.synthesize_audio(Utterance(TEXT, "en-US+m1", rate_wpm=250))) < 0.85 * len(plain)


def test_training_and_unseen_voices_share_no_accent_and_no_variant(tts_engine):
    known = set(tts_engine.voices())
    accents, variants = [], []
    for names in ESPEAK_VOICES.values():
        assert set(names) <= known
        accents.append({n.split("+")[0] for n in names})
        variants.append({n.split("+")[1] for n in names})
    assert not accents[0] & accents[1] and not variants[0] & variants[1]


@pytest.mark.parametrize("voice", ["", "english", "en-US+", "en-US+nobody", "xx+f1", "en-US+../../x"])
def test_unknown_voices_are_refused(tts_engine, voice):
    with pytest.raises(InputError, match="no voice"):
        tts_engine.synthesize_audio(Utterance("Hello.", voice))


@pytest.mark.parametrize("text", ["", "   ", "...", "?"])
def test_nothing_to_say_is_refused(tts_engine, text):
    with pytest.raises(InputError, match="nothing to say"):
        tts_engine.synthesize_audio(Utterance(text, "en-US+m1"))


_POOL = """
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from selfkd.synthesis.workers import GuardedSpeaker
from selfkd.synthesis.tts.base import EspeakSpeaker, Utterance

def spoken(number):
    said = Utterance(f"Number {number}.", "en-US+m1")
    return len(EspeakSpeaker().speak(said)), len(GuardedSpeaker(EspeakSpeaker, (), 60).speak(said))

if __name__ == "__main__":
    with ProcessPoolExecutor(3, get_context("spawn")) as pool:
        print([own == guarded > 0 for own, guarded in pool.map(spoken, range(3))])
"""


def test_processes_that_speak_leave_nothing_behind(tmp_path):
    """Workers of a pool, and the guarded engines that they start and that are killed at their end."""
    (tmp_path / "job.py").write_text(_POOL)
    (tmp_path / "temporary").mkdir()
    positions = {"TMPDIR": str(tmp_path / "temporary"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [sys.executable, str(tmp_path / "job.py")]
    ended = subprocess.run(command, env=os.environ | positions, check=True, capture_output=True, text=True, timeout=120)
    assert ended.stdout == "[True, True, True]\n"
    assert not list((tmp_path / "temporary").iterdir())
    (kept,) = (tmp_path / "cache" / "selfkd").iterdir()  # made by three at once, whole and one for all
    assert kept.name.startswith("espeak-") and len(list(kept.iterdir())) == 2


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"file/selfkd/espeak-\w+: cannot be made .*XDG_CACHE_HOME"):
        EspeakEngine()


def test_drawn_voices_speak_and_are_the_same_everywhere():
    """Each has a file of its own beside espeak's; the same name is the same voice; two names are two voices."""
    assert drawn_voices.voice_file("drawn007") == drawn_voices.voice_file("drawn007")
    assert len({drawn_voices.voice_file(name) for name in drawn_voices.NAMES}) == drawn_voices.COUNT
    tts_engine = EspeakEngine()
    names = [f"en-US+{name}" for name in ("drawn000", "drawn001")]
    first, second = (tts_engine.synthesize_audio(Utterance("Is there a red circle?", name)) for name in names)
    assert not np.array_equal(first, second)
    assert np.array_equal(first, EspeakEngine().synthesize_audio(Utterance("Is there a red circle?", names[0])))
    parts = {part: {voice.partition("+")[2] for voice in voices} for part, voices in ESPEAK_VOICES.items()}
    assert not parts["random"] & (parts["training"] | parts["heldout"])


def test_a_drawn_voice_has_an_accent_of_its_own(tmp_path, monkeypatch):
    """The exchanged phonemes are heard: without them the same voice says the same sentence otherwise."""
    whole = drawn_voices.voice_file
    exchanged = {
        name: [x for x in whole(name).splitlines() if x.startswith("replace 0 ")] for name in drawn_voices.NAMES
    }
    assert all(exchanged.values()) and len(set(map(tuple, exchanged.values()))) == drawn_voices.COUNT
    assert all(old != new for lines in exchanged.values() for _, _, old, new in map(str.split, lines))
    name = next(n for n in drawn_voices.NAMES if any(x.startswith("replace 0 aU ") for x in exchanged[n]))
    said = Utterance("How now, brown cow?", f"en-US+{name}")
    with_accent = EspeakEngine().synthesize_audio(said)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(drawn_voices, "voice_file", lambda name: whole(name).partition("replace")[0])
    assert not np.array_equal(with_accent, EspeakEngine().synthesize_audio(said))
