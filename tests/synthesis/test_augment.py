"""Audio augmentation: room acoustics, noise and telephone, sampled from a hash, and what is stored of it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from examples import tone
from scipy.signal import welch

from selfkd.data.dataset import ExampleFolder
from selfkd.errors import InputError
from selfkd.synthesis.augment import CODECS, EFFECTS, _noise_files, augment, check_effects
from selfkd.synthesis.synthesize import SynthesizeConfig, synthesize
from selfkd.synthesis.tts.base import EspeakEngine, Utterance

SNR_DB = (5.0, 20.0)


@pytest.fixture(scope="module")
def voice():
    return EspeakEngine().synthesize_audio(Utterance("How many red circles are there in the image?", "en-US+m3"))


def share_between(samples, low_hz, high_hz):
    frequencies, power = welch(samples, 16_000, nperseg=1024)
    return power[(frequencies >= low_hz) & (frequencies < high_hz)].sum() / power.sum()


def test_noise_has_the_stated_snr(voice):
    for key in ("a", "b", "c"):
        result, effects = augment(voice, {"noise": 1.0}, SNR_DB, "", key)
        noise = result - voice * (np.dot(result, voice) / np.dot(voice, voice))
        found = 10 * np.log10(np.dot(result - noise, result - noise) / np.dot(noise, noise))
        assert effects == f"noise {found:.0f} dB" or abs(found - float(effects.split()[1])) < 0.6


def test_a_telephone_is_a_band_pass_filter(voice):
    result, effects = augment(voice, {"telephone": 1.0}, SNR_DB, "", "a")
    assert effects == "telephone" and share_between(result, 300, 3400) > 0.95 > share_between(voice, 300, 3400)
    assert share_between(voice, 0, 200) > 0.02 > 0.005 > share_between(result, 0, 200)
    assert share_between(voice, 4500, 8000) > 10 * share_between(result, 4500, 8000)


def test_a_room_has_reverberation():
    clap = np.zeros(16_000, np.float32)
    clap[800] = 0.5
    result, effects = augment(clap, {"room": 1.0}, SNR_DB, "", "a")
    assert effects == "room" and len(result) == len(clap)
    late = result[800 + 400 : 800 + 4800]  # 25 to 300 ms after it
    assert np.abs(late).max() > 1e-3 * np.abs(result).max()


def test_speed_changes_length_and_pitch_together(voice):
    result, effects = augment(voice, {"speed": 1.0}, SNR_DB, "", "a")
    factor = float(effects.split()[1])
    assert len(result) == pytest.approx(len(voice) / factor, rel=0.01) and 0.85 <= factor <= 1.15 and factor != 1


@pytest.mark.parametrize("codec", CODECS)
def test_codecs_keep_length_and_band(voice, codec, monkeypatch):
    monkeypatch.setattr("selfkd.synthesis.augment.CODECS", {codec: CODECS[codec]})
    result, effects = augment(voice, {"codec": 1.0}, SNR_DB, "", "a")
    assert effects == codec and len(result) == len(voice) and not np.array_equal(result, voice)
    low = [share_between(samples, 100, 3000) for samples in (result, voice)]
    assert low[0] == pytest.approx(low[1], abs=0.2) and np.abs(result).max() > 0.3 * np.abs(voice).max()


def test_pauses_surround_the_speech(voice):
    result, effects = augment(voice, {"pause": 1.0}, SNR_DB, "", "a")
    assert effects == "pause" and len(voice) < len(result) <= len(voice) + 1.5 * 16_000
    position = np.argmax(np.correlate(result[:32_000], voice[:16_000], "valid"))
    assert np.abs(result[position : position + len(voice)] - voice).max() < 0.05
    assert 0 < np.abs(result[:position]).max() < 0.05


def test_level(voice):
    results = [augment(voice, {"level": 1.0}, SNR_DB, "", key) for key in "abcd"]
    for result, effects in results:
        assert 20 * np.log10(np.abs(result).max() / 0.95) == pytest.approx(float(effects.split()[0]), abs=0.6)
    assert len({effects for _, effects in results}) > 1
    silence = np.zeros(1600, np.float32)
    assert not augment(silence, {"level": 1.0}, SNR_DB, "", "a")[0].any()


def test_augmentation_does_not_depend_on_earlier_examples(voice):
    probabilities = dict.fromkeys(EFFECTS, 0.2)
    first = {key: augment(voice, probabilities, SNR_DB, "", key) for key in "abcdefgh"}
    again = {key: augment(voice, probabilities, SNR_DB, "", key) for key in reversed("abcdefgh")}
    assert all(np.array_equal(first[k][0], again[k][0]) and first[k][1] == again[k][1] for k in first)
    assert len({effects for _, effects in first.values()}) > 3 and "" in {effects for _, effects in first.values()}
    assert all(np.abs(samples).max() <= 1 and samples.dtype == np.float32 for samples, _ in first.values())


@pytest.mark.slow
def test_recorded_noise(voice, tmp_path):
    soundfile.write(tmp_path / "hum.wav", tone(4.0), 16_000)
    result, effects = augment(voice, {"noise": 1.0}, (0.0, 0.0), str(tmp_path), "a")
    assert effects == "noise 0 dB" and share_between(result, 180, 260) > 2 * share_between(voice, 180, 260)


def test_recorded_noise_has_one_order_on_every_file_system(tmp_path, monkeypatch):
    for name in ("b/1.wav", "c/2.wav", "a/3.wav"):
        (tmp_path / name).parent.mkdir()
        soundfile.write(tmp_path / name, tone(1.0), 16_000)
    found = Path.rglob
    monkeypatch.setattr(Path, "rglob", lambda folder, pattern: sorted(found(folder, pattern), reverse=True))
    listed = [str(path) for path in _noise_files(str(tmp_path))]
    assert listed == [str(tmp_path / name) for name in ("a/3.wav", "b/1.wav", "c/2.wav")]


def test_effects_are_stored_and_shards_are_reproducible(tmp_path):
    settings = {"count": 6, "shard_rows": 3, "augment": {"room": 0.5, "noise": 0.5, "telephone": 0.3}}
    whole = SynthesizeConfig(tmp_path / "whole", **settings, processes=2)
    manifest = synthesize(whole)
    effects = [e.augmentation for e in ExampleFolder(whole.output)]
    assert len(set(effects)) > 2 and manifest["augment"] == settings["augment"]
    single = replace(whole, output=tmp_path / "single", shard=1)
    assert synthesize(single)["shards"] == [manifest["shards"][1]["file"]]


@pytest.mark.parametrize(
    ("probabilities", "snr_db", "folder", "message"),
    [
        (
            {"echo": 0.5},
            SNR_DB,
            "",
            f"augment: 'echo' is no effect; choose from {', '.join(EFFECTS)}",
        ),
        ({"room": 1.5}, SNR_DB, "", "augment: room: 1.5 is not between 0 and 1"),
        ({"noise": 1.0}, (20.0, 5.0), "", "noise_snr_db: 20.0 to 5.0 is no range"),
        ({"noise": 1.0}, SNR_DB, "/nowhere", "noise_folder: /nowhere: holds no audio file"),
    ],
)
def test_bad_settings(probabilities, snr_db, folder, message):
    with pytest.raises(InputError, match=message):
        check_effects(probabilities, snr_db, folder)
