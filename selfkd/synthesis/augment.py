"""Speech as it is heard in life: in a room, among noise, over a telephone (audiomentations, `selfkd[augment]`).

Which of them an example gets, and all that is random in them, is drawn from a hash of the seed and its id, so that any
shard can be made again alone.
"""

import random
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfkd.data.example import SAMPLE_RATE_HZ
from selfkd.errors import InputError

EFFECTS = ("room", "noise", "telephone")  # in the order in which sound meets them
PEAK = 0.95
TELEPHONE_HZ = (300.0, 3400.0)  # ITU-T G.712
_NOISE_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg")  # in any case


def check_effects(chances: Mapping[str, float], snr_db: tuple[float, float], noise_folder: str) -> None:
    """Raises InputError for settings that cannot be, before anything is made."""
    for name, chance in chances.items():
        if name not in EFFECTS:
            raise InputError(f"augment: {name!r} is no effect; there are {', '.join(EFFECTS)}")
        if not 0 <= chance <= 1:
            raise InputError(f"augment: {name}: {chance} is not between 0 and 1")
    if chances and not (find_spec("audiomentations") and find_spec("pyroomacoustics")):
        raise InputError("augment: audiomentations is not installed; pip install 'selfkd[augment]'")
    if snr_db[0] > snr_db[1]:
        raise InputError(f"noise_snr_db: {snr_db[0]} to {snr_db[1]} is no range")
    if noise_folder and not _sounds(noise_folder):
        raise InputError(f"noise_folder: {noise_folder}: holds no sound ({', '.join(_NOISE_SUFFIXES)})")


def _sounds(folder: str) -> list[Path]:
    return sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in _NOISE_SUFFIXES)


def augmented(
    samples: NDArray[np.float32], chances: Mapping[str, float], snr_db: tuple[float, float], noise_folder: str, key: str
) -> tuple[NDArray[np.float32], str]:
    """(samples, what was done to them): "room, noise 12 dB, telephone", "" for nothing. The length stays as it was."""
    rng = random.Random(f"augment/{key}")
    chosen = [name for name in EFFECTS if rng.random() < chances.get(name, 0.0)]
    if not chosen:
        return samples, ""
    random.seed(rng.getrandbits(32))  # the library draws from these two
    np.random.seed(rng.getrandbits(32))
    done = []
    for name in chosen:
        effect = _effect(name, noise_folder)
        if name == "noise":
            effect.min_snr_db = effect.max_snr_db = rng.uniform(*snr_db)
            name = f"noise {effect.min_snr_db:.0f} dB"
        samples = effect(samples, sample_rate=SAMPLE_RATE_HZ)
        done.append(name)
    peak = float(np.abs(samples).max())
    return (samples * np.float32(min(1.0, PEAK / peak)) if peak else samples).astype(np.float32), ", ".join(done)


@cache
def _effect(name: str, noise_folder: str) -> Any:
    import audiomentations as a

    a_listener: Any = {"min_mic_distance": 0.5, "max_mic_distance": 2.0}  # metres

    if name == "room":
        # mirror images alone: ray tracing has random numbers of its own, which cannot be set
        return a.RoomSimulator(use_ray_tracing=False, max_order=6, leave_length_unchanged=True, p=1.0, **a_listener)
    if name == "noise":
        if noise_folder:
            # sorted: the library would take subfolders in the order in which the disk names them
            return a.AddBackgroundNoise([str(path) for path in _sounds(noise_folder)], p=1.0)
        return a.AddColorNoise(min_f_decay=-3.01, max_f_decay=-3.01, p=1.0)  # pink: as much power in each octave
    steep: Any = {"min_rolloff": 24, "max_rolloff": 24, "p": 1.0}  # dB an octave
    low, high = TELEPHONE_HZ
    return a.Compose([a.HighPassFilter(low, low, **steep), a.LowPassFilter(high, high, **steep)])
