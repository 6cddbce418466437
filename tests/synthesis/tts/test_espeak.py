"""espeak-ng: known voices only, the same samples for the same utterance, disjoint training and held-out voices."""

import os

import numpy as np
import pytest

from selfkd.data.example import SAMPLE_RATE_HZ
from selfkd.errors import InputError
from selfkd.synthesis.tts import random_voices
from selfkd.synthesis.tts.base import ESPEAK_VOICES, EspeakEngine, Utterance
from selfkd.synthesis.workers import IsolatedEngine, run_jobs

TEXT = "Is the red circle left of the blue rectangle?"


@pytest.fixture(scope="module")
def tts_engine():
    return EspeakEngine()


@pytest.mark.parametrize("voice", ["en-US+m1", "en-GB-scotland+f3", "en+klatt2", "en-US+whisper"])
def test_an_utterance_always_has_the_same_samples(tts_engine, voice):
    first = tts_engine.synthesize_audio(Utterance(TEXT, voice))
    tts_engine.synthesize_audio(Utterance("Something else in between.", "en-029+f2", 200, 80, seed=9))
    again = EspeakEngine().synthesize_audio(Utterance(TEXT, voice))
    assert np.array_equal(first, again)
    assert 1.0 < len(first) / SAMPLE_RATE_HZ < 5.0 and 0.05 < np.abs(first).max() <= 1.0


def test_voice_rate_and_pitch_change_the_samples(tts_engine):
    plain = tts_engine.synthesize_audio(Utterance(TEXT, "en-US+m1"))
    for other in (
        Utterance(TEXT, "en-US+f2"),
        Utterance(TEXT, "en-US+m1", rate_wpm=250),
        Utterance(TEXT, "en-US+m1", pitch=90),
    ):
        audio_clip = tts_engine.synthesize_audio(other)
        assert audio_clip.shape != plain.shape or not np.array_equal(audio_clip, plain), other
    assert len(tts_engine.synthesize_audio(Utterance(TEXT, "en-US+m1", rate_wpm=250))) < 0.85 * len(plain)


def test_training_and_heldout_voices_share_no_accent_and_no_variant(tts_engine):
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
def test_a_text_without_words_is_refused(tts_engine, text):
    with pytest.raises(InputError, match="gives no audio"):
        tts_engine.synthesize_audio(Utterance(text, "en-US+m1"))


def synthesized_lengths(number):
    utterance = Utterance(f"Number {number}.", "en-US+m1")
    isolated = IsolatedEngine(EspeakEngine, (), 60)
    return len(EspeakEngine().synthesize_audio(utterance)), len(isolated.synthesize_audio(utterance))


def test_processes_leave_no_temporary_files(tmp_path, monkeypatch):
    """Workers of a pool, and the isolated engines that they start and that are killed at their end."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    lengths = list(run_jobs(synthesized_lengths, [(number,) for number in range(3)], "local", 3, ""))
    assert len(lengths) == 3 and all(own == isolated > 0 for own, isolated in lengths)
    assert not list((tmp_path / "temporary").iterdir())
    (kept,) = (tmp_path / "cache" / "selfkd" / "espeak").iterdir()  # made by three at once, whole and one for all
    assert kept.name.startswith("espeak-") and len(list(kept.iterdir())) == 2


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"file/selfkd/espeak/espeak-\w+: cannot be made .*XDG_CACHE_HOME"):
        EspeakEngine()


def test_a_library_is_loaded_from_no_folder_that_others_can_write(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    EspeakEngine()
    cache = tmp_path / "selfkd" / "espeak"
    assert not cache.stat().st_mode & 0o022
    for mode in (0o777, 0o775):
        cache.chmod(mode)
        with pytest.raises(InputError, match="others can write it; remove it, or set XDG_CACHE_HOME"):
            EspeakEngine()
    cache.chmod(0o755)
    if os.geteuid() == 0:
        os.chown(cache, 12_345, -1)
        monkeypatch.setattr("os.geteuid", lambda: 1_000)
        with pytest.raises(InputError, match="others can write it"):
            EspeakEngine()
        os.chown(cache, 0, -1)
        EspeakEngine()
    cache.rename(tmp_path / "moved")
    cache.symlink_to(tmp_path / "moved")
    with pytest.raises(InputError, match="others can write it"):
        EspeakEngine()


def test_random_voices_work_and_are_reproducible():
    """Each has a file of its own next to espeak's; the same name is the same voice; two names are two voices."""
    assert random_voices.voice_file("drawn007") == random_voices.voice_file("drawn007")
    assert len({random_voices.voice_file(name) for name in random_voices.NAMES}) == random_voices.COUNT
    tts_engine = EspeakEngine()
    names = [f"en-US+{name}" for name in ("drawn000", "drawn001")]
    first, second = (tts_engine.synthesize_audio(Utterance("Is there a red circle?", name)) for name in names)
    assert not np.array_equal(first, second)
    assert np.array_equal(first, EspeakEngine().synthesize_audio(Utterance("Is there a red circle?", names[0])))
    parts = {part: {voice.partition("+")[2] for voice in voices} for part, voices in ESPEAK_VOICES.items()}
    assert not parts["random"] & (parts["training"] | parts["heldout"])


def test_a_random_voice_has_its_own_accent(tmp_path, monkeypatch):
    """Without the replaced phonemes the same voice gives other samples for the same sentence."""
    whole = random_voices.voice_file
    replaced = {
        name: [x for x in whole(name).splitlines() if x.startswith("replace 0 ")] for name in random_voices.NAMES
    }
    assert all(replaced.values()) and len(set(map(tuple, replaced.values()))) == random_voices.COUNT
    assert all(old != new for lines in replaced.values() for _, _, old, new in map(str.split, lines))
    name = next(n for n in random_voices.NAMES if any(x.startswith("replace 0 aU ") for x in replaced[n]))
    utterance = Utterance("How now, brown cow?", f"en-US+{name}")
    with_accent = EspeakEngine().synthesize_audio(utterance)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(random_voices, "voice_file", lambda name: whole(name).partition("replace")[0])
    assert not np.array_equal(with_accent, EspeakEngine().synthesize_audio(utterance))
