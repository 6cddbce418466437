"""Which recordings are kept: for any level, clipping and silence, with a reason that says what to change."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from recordings import speech, wav

from selfkd.errors import InputError
from selfkd.recording.checks import MAX_CLIPPED, MIN_LEVEL_DBFS, check_recording, decode_recording, measure
from selfkd.synthesis.quality_filter import check_audio

SENTENCE = "What color is the circle?"
RATES = st.sampled_from([16_000, 22_050, 44_100, 48_000])


def tone(rate_hz, seconds, peak, hertz=220.0):
    return (peak * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate_hz)) / rate_hz)).astype(np.float32)


@pytest.fixture(scope="module")
def voice():
    samples = speech(SENTENCE)
    return samples / np.abs(samples).max()


@given(RATES, st.floats(0.3, 4.0), st.floats(0.05, 0.9))
def test_level_of_a_tone_is_its_root_mean_square(rate_hz, seconds, peak):
    level = measure(tone(rate_hz, seconds, peak, 500.0), rate_hz)
    assert level.level_dbfs == pytest.approx(20 * np.log10(peak / np.sqrt(2)), abs=0.2)
    assert level.seconds == pytest.approx(seconds, abs=1e-4) and level.clipped == 0
    assert level.active_seconds == pytest.approx(seconds, abs=0.021)


@given(st.floats(0.003, 0.99), st.floats(0.01, 1.0))
def test_louder_speech_is_measured_louder_by_as_many_decibels(voice, gain, factor):
    first, second = measure(gain * voice, 16_000), measure(np.float32(gain * factor) * voice, 16_000)
    assert first.level_dbfs - second.level_dbfs == pytest.approx(-20 * np.log10(factor), abs=0.3)


@given(st.floats(0.05, 0.99), st.floats(-0.005, 0.005))
def test_speech_of_a_usual_level_is_kept_whatever_the_offset_of_the_sound_card(voice, gain, offset):
    level = check_recording((gain * voice + offset).astype(np.float32), 16_000, SENTENCE)
    assert level.level_dbfs >= MIN_LEVEL_DBFS


@given(st.floats(0.0, 1.0))
def test_a_recording_is_refused_for_its_level_exactly_where_it_is_below_the_bar(voice, gain):
    samples = np.float32(gain) * voice * 0.99
    try:
        check_recording(samples, 16_000, SENTENCE)
        assert measure(samples, 16_000).level_dbfs >= MIN_LEVEL_DBFS
    except InputError as error:
        assert measure(samples, 16_000).level_dbfs < MIN_LEVEL_DBFS
        assert str(error).startswith(("too quiet: ", "silent: "))


@given(st.floats(1.0, 20.0))
def test_clipping_is_refused_exactly_beyond_its_share(voice, gain):
    samples = np.clip(gain * voice, -1, 1).astype(np.float32)
    share = np.mean(np.abs(samples) >= 0.999)
    try:
        check_recording(samples, 16_000, SENTENCE)
        assert share <= MAX_CLIPPED
    except InputError as error:
        assert share > MAX_CLIPPED and "clipped" in str(error) and "turn it down" in str(error)


@given(RATES, st.floats(0.2, 5.0), st.floats(0.0, 1e-4), st.floats(-0.5, 0.5))
def test_silence_is_refused_whatever_its_constant(rate_hz, seconds, noise, constant):
    rng = np.random.default_rng(0)
    samples = (constant + noise * rng.standard_normal(round(seconds * rate_hz))).astype(np.float32)
    with pytest.raises(InputError, match=r"^silent: is this the right microphone"):
        check_recording(samples, rate_hz, SENTENCE)


@given(st.floats(0.0, 0.3))
def test_a_beginning_of_the_sentence_is_too_short(voice, share):
    start = 8_000
    part = voice.copy() * 0.5
    end = start + int(share * 0.5 * (len(voice) - 2 * start))
    part[end:] = 0
    with pytest.raises(InputError, match=r"^(too short: .* read the whole sentence|silent: |too quiet: )"):
        check_recording(part, 16_000, SENTENCE * 3)


@given(st.floats(0.0, 6.0), st.floats(0.05, 1.0))
def test_pauses_and_a_click_do_not_change_the_level(voice, pause, click):
    level = measure(voice, 16_000)
    silence = np.zeros(int(pause * 16_000), np.float32)
    silence[:1] = click
    longer = measure(np.concatenate([silence, np.zeros(-len(silence) % 320, np.float32), voice]), 16_000)
    assert longer.level_dbfs == pytest.approx(level.level_dbfs, abs=0.5)
    assert longer.active_seconds == pytest.approx(level.active_seconds, abs=0.05)


@given(st.floats(0.02, 1.5), st.floats(0.0, 3.0), st.sampled_from([16_000, 48_000]))
def test_synthesis_keeps_all_that_is_kept_here(voice, gain, silence, rate_hz):
    samples = np.concatenate([np.clip(gain * voice, -1, 1), np.zeros(int(silence * 16_000))]).astype(np.float32)
    try:
        check_recording(samples, 16_000, SENTENCE)
    except InputError:
        return
    check_audio(samples, SENTENCE)  # of synthesized speech, which is stricter


def test_bytes_of_others_are_refused_with_a_reason(voice):
    samples, rate_hz, level = decode_recording(wav(0.5 * voice), SENTENCE)
    assert rate_hz == 16_000 and len(samples) == len(voice) and -45 < level < 0
    for content, reason in (
        (b"", "not readable audio"),
        (b"RIFF....WAVEnonsense", "not readable audio"),
        (wav(0.5 * voice)[:20_000], "truncated"),
        (wav(np.tile(0.5 * voice, 20)), "over the limit of 30 s"),
        (wav(np.zeros(16_000)), "silent: is this the right microphone"),
        (wav(0.5 * voice[:200]), "too short"),
    ):
        with pytest.raises(InputError, match=reason):
            decode_recording(content, SENTENCE)
