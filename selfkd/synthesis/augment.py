"""Audio augmentation: room acoustics, noise, a telephone channel (audiomentations, `selfkd[augment]`).

The effects of an example, and their random parameters, are sampled from a hash of the seed and its id, so that any
shard can be made again on its own.
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

EFFECTS = ("room", "noise", "telephone")  # in the order in which they are applied
PEAK = 0.95
TELEPHONE_HZ = (300.0, 3400.0)  # ITU-T G.712
_NOISE_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg")  # in any case


def check_effects(probabilities: Mapping[str, float], snr_db: tuple[float, float], noise_folder: str) -> None:
    """Raises InputError for invalid settings, before any shard is made."""
    for name, probability in probabilities.items():
        if name not in EFFECTS:
            raise InputError(f"augment: {name!r} is no effect; choose from {', '.join(EFFECTS)}")
        if not 0 <= probability <= 1:
            raise InputError(f"augment: {name}: {probability} is not between 0 and 1")
    if probabilities and not (find_spec("audiomentations") and find_spec("pyroomacoustics")):
        raise InputError("augment: audiomentations is not installed; pip install 'selfkd[augment]'")
    if snr_db[0] > snr_db[1]:
        raise InputError(f"noise_snr_db: {snr_db[0]} to {snr_db[1]} is no range")
    if noise_folder and not _noise_files(noise_folder):
        raise InputError(f"noise_folder: {noise_folder}: holds no audio file ({', '.join(_NOISE_SUFFIXES)})")


def _noise_files(folder: str) -> list[Path]:
    return sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in _NOISE_SUFFIXES)


def augment(
    samples: NDArray[np.float32],
    probabilities: Mapping[str, float],
    snr_db: tuple[float, float],
    noise_folder: str,
    key: str,
) -> tuple[NDArray[np.float32], str]:
    """(samples, names of the applied effects): "room, noise 12 dB, telephone", "" for none. The length does not
    change."""
    rng = random.Random(f"augment/{key}")
    chosen = [name for name in EFFECTS if rng.random() < probabilities.get(name, 0.0)]
    if not chosen:
        return samples, ""
    random.seed(rng.getrandbits(32))  # the generators of the library
    np.random.seed(rng.getrandbits(32))
    applied = []
    for name in chosen:
        effect = _effect(name, noise_folder)
        if name == "noise":
            effect.min_snr_db = effect.max_snr_db = rng.uniform(*snr_db)
            name = f"noise {effect.min_snr_db:.0f} dB"
        samples = effect(samples, sample_rate=SAMPLE_RATE_HZ)
        applied.append(name)
    peak = float(np.abs(samples).max())
    return (samples * np.float32(min(1.0, PEAK / peak)) if peak else samples).astype(np.float32), ", ".join(applied)


@cache
def _effect(name: str, noise_folder: str) -> Any:
    import audiomentations as a

    microphone: Any = {"min_mic_distance": 0.5, "max_mic_distance": 2.0}  # metres

    if name == "room":
        # image sources only: the random numbers of ray tracing cannot be seeded
        return a.RoomSimulator(use_ray_tracing=False, max_order=6, leave_length_unchanged=True, p=1.0, **microphone)
    if name == "noise":
        if noise_folder:
            # sorted: the library would list subfolders in the order of the file system
            return a.AddBackgroundNoise([str(path) for path in _noise_files(noise_folder)], p=1.0)
        return a.AddColorNoise(min_f_decay=-3.01, max_f_decay=-3.01, p=1.0)  # pink: equal power in each octave
    steep: Any = {"min_rolloff": 24, "max_rolloff": 24, "p": 1.0}  # dB an octave
    low, high = TELEPHONE_HZ
    return a.Compose([a.HighPassFilter(low, low, **steep), a.LowPassFilter(high, high, **steep)])
