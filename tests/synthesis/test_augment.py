"""Rooms, noise and telephones: what they do to a voice, drawn from a hash, and what is kept of it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from examples import tone
from scipy.signal import welch

from selfkd.data.dataset import ExampleFolder
from selfkd.errors import InputError
from selfkd.synthesis.augment import _effect, augmented, check_effects
from selfkd.synthesis.synthesize import SynthesizeConfig, synthesize
from selfkd.synthesis.tts.base import EspeakEngine, Utterance

SNR_DB = (5.0, 20.0)


@pytest.fixture(scope="module")
def voice():
    return EspeakEngine().synthesize_audio(Utterance("How many red circles are there in the image?", "en-US+m3"))


def share_between(samples, low_hz, high_hz):
    frequencies, power = welch(samples, 16_000, nperseg=1024)
    return power[(frequencies >= low_hz) & (frequencies < high_hz)].sum() / power.sum()


def test_noise_has_the_level_that_it_is_said_to_have(voice):
    for key in ("a", "b", "c"):
        heard, done = augmented(voice, {"noise": 1.0}, SNR_DB, "", key)
        noise = heard - voice * (np.dot(heard, voice) / np.dot(voice, voice))
        found = 10 * np.log10(np.dot(heard - noise, heard - noise) / np.dot(noise, noise))
        assert done == f"noise {found:.0f} dB" or abs(found - float(done.split()[1])) < 0.6


def test_a_telephone_leaves_the_middle_of_the_voice(voice):
    heard, done = augmented(voice, {"telephone": 1.0}, SNR_DB, "", "a")
    assert done == "telephone" and share_between(heard, 300, 3400) > 0.95 > share_between(voice, 300, 3400)
    assert share_between(voice, 0, 200) > 0.02 > 0.005 > share_between(heard, 0, 200)
    assert share_between(voice, 4500, 8000) > 10 * share_between(heard, 4500, 8000)


def test_a_room_answers_after_the_voice_has_ended():
    clap = np.zeros(16_000, np.float32)
    clap[800] = 0.5
    heard, done = augmented(clap, {"room": 1.0}, SNR_DB, "", "a")
    assert done == "room" and len(heard) == len(clap)
    late = heard[800 + 400 : 800 + 4800]  # 25 to 300 ms after it
    assert np.abs(late).max() > 1e-3 * np.abs(heard).max()


def test_the_same_example_is_always_heard_alike_whatever_came_before(voice):
    chances = {"room": 0.5, "noise": 0.5, "telephone": 0.5}
    first = {key: augmented(voice, chances, SNR_DB, "", key) for key in "abcdefgh"}
    again = {key: augmented(voice, chances, SNR_DB, "", key) for key in reversed("abcdefgh")}
    assert all(np.array_equal(first[k][0], again[k][0]) and first[k][1] == again[k][1] for k in first)
    assert len({done for _, done in first.values()}) > 3 and "" in {done for _, done in first.values()}
    assert all(np.abs(samples).max() <= 1 and samples.dtype == np.float32 for samples, _ in first.values())


def test_recorded_noise(voice, tmp_path):
    soundfile.write(tmp_path / "hum.wav", tone(4.0), 16_000)
    heard, done = augmented(voice, {"noise": 1.0}, (0.0, 0.0), str(tmp_path), "a")
    assert done == "noise 0 dB" and share_between(heard, 180, 260) > 2 * share_between(voice, 180, 260)


def test_recorded_noise_is_in_one_order_on_every_disk(tmp_path, monkeypatch):
    for name in ("b/1.wav", "c/2.wav", "a/3.wav"):
        (tmp_path / name).parent.mkdir()
        soundfile.write(tmp_path / name, tone(1.0), 16_000)
    found = Path.rglob
    monkeypatch.setattr(Path, "rglob", lambda folder, pattern: sorted(found(folder, pattern), reverse=True))
    listed = [str(path) for path in _effect("noise", str(tmp_path)).sound_file_paths]
    assert listed == [str(tmp_path / name) for name in ("a/3.wav", "b/1.wav", "c/2.wav")]


def test_it_stands_beside_each_example_and_shards_stay_alike(tmp_path):
    settings = {"count": 6, "shard_rows": 3, "augment": {"room": 0.5, "noise": 0.5, "telephone": 0.3}}
    whole = SynthesizeConfig(tmp_path / "whole", **settings, processes=2)
    manifest = synthesize(whole)
    done = [e.augmentation for e in ExampleFolder(whole.output)]
    assert len(set(done)) > 2 and manifest["augment"] == settings["augment"]
    alone = replace(whole, output=tmp_path / "alone", shard=1)
    assert synthesize(alone)["shards"] == [manifest["shards"][1]["file"]]


@pytest.mark.parametrize(
    ("chances", "snr_db", "folder", "message"),
    [
        ({"echo": 0.5}, SNR_DB, "", "augment: 'echo' is no effect; there are room, noise, telephone"),
        ({"room": 1.5}, SNR_DB, "", "augment: room: 1.5 is not between 0 and 1"),
        ({"noise": 1.0}, (20.0, 5.0), "", "noise_snr_db: 20.0 to 5.0 is no range"),
        ({"noise": 1.0}, SNR_DB, "/nowhere", "noise_folder: /nowhere: holds no sound"),
    ],
)
def test_bad_settings(chances, snr_db, folder, message):
    with pytest.raises(InputError, match=message):
        check_effects(chances, snr_db, folder)
