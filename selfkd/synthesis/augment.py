"""Audio augmentation: speed, room acoustics, noise, channels and codecs, level, pauses.

Rooms, noise and filters are those of audiomentations (`selfkd[augment]`), codecs those of libsndfile. The effects of an
example, and their random parameters, are sampled from a hash of the seed and its id, so that any shard can be made
again on its own.
"""

import io
import random
from collections.abc import Mapping
from dataclasses import replace
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from selfkd.data.audio_files import open_audio
from selfkd.data.example import SAMPLE_RATE_HZ, Example
from selfkd.data.resample import resampled
from selfkd.errors import InputError
from selfkd.synthesis.sources.rows import Clip, read_clip

# in the order in which they are applied: as on the way from a speaker through a room and a channel to a recording
EFFECTS = ("speed", "room", "noise", "telephone", "codec", "pause", "level")
PEAK = 0.95
TELEPHONE_HZ = (300.0, 3400.0)  # ITU-T G.712
SPEED = (0.85, 1.15)  # pitch and formants change with it
LEVEL_DB = (-30.0, 0.0)  # of the peak
PAUSE_SECONDS = (1.0, 0.5)  # at most, before and after the speech
PAUSE_NOISE_DB = (-80.0, -45.0)  # of white noise in the pauses and under the speech: a microphone is never quite silent
# (container, subtype, sample rate in Hz, compression level from 0, the best, to 1)
CODECS = {
    "opus": ("OGG", "OPUS", 16_000, (0.8, 1.0)),  # 7 to 20 kbit/s
    "vorbis": ("OGG", "VORBIS", 16_000, (0.7, 1.0)),
    "mp3": ("MP3", "MPEG_LAYER_III", 16_000, (0.7, 0.99)),  # 1.0 is refused
    "gsm": ("WAV", "GSM610", 8_000, None),
    "mu-law": ("WAV", "ULAW", 8_000, None),
}
_NOISE_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg")  # in any case
_FROM_LIBRARY = ("room", "noise", "telephone")

Samples = NDArray[np.float32]  # mono, (frames,)


def check_effects(probabilities: Mapping[str, float], snr_db: tuple[float, float], noise_folder: str) -> None:
    """Raises InputError for invalid settings, before any shard is made."""
    for name, probability in probabilities.items():
        if name not in EFFECTS:
            raise InputError(f"augment: {name!r} is no effect; choose from {', '.join(EFFECTS)}")
        if not 0 <= probability <= 1:
            raise InputError(f"augment: {name}: {probability} is not between 0 and 1")
    needs_library = any(name in probabilities for name in _FROM_LIBRARY)
    if needs_library and not (find_spec("audiomentations") and find_spec("pyroomacoustics")):
        raise InputError("augment: audiomentations is not installed; pip install 'selfkd[augment]'")
    if snr_db[0] > snr_db[1]:
        raise InputError(f"noise_snr_db: {snr_db[0]} to {snr_db[1]} is no range")
    if noise_folder and not _noise_files(noise_folder):
        raise InputError(f"noise_folder: {noise_folder}: holds no audio file ({', '.join(_NOISE_SUFFIXES)})")


def _noise_files(folder: str) -> list[Path]:
    """Sorted: the order must not be that of the file system."""
    return sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in _NOISE_SUFFIXES)


_known_noise_files = cache(_noise_files)


def augment_example(
    example: Example, probabilities: Mapping[str, float], snr_db: tuple[float, float], noise_folder: str, key: str
) -> Example:
    """The example with effects on its audio, which replaces the audio that it has; raises InputError without audio."""
    samples, effects = augment(example.samples(), probabilities, snr_db, noise_folder, key)
    return replace(example.with_audio(samples, example.voice, example.spoken_text), augmentation=effects)


def augment(
    samples: Samples, probabilities: Mapping[str, float], snr_db: tuple[float, float], noise_folder: str, key: str
) -> tuple[Samples, str]:
    """(samples, names of the applied effects): "room, noise 12 dB, telephone", "" for none. Only speed and pause change
    the length."""
    rng = random.Random(f"augment/{key}")  # noqa: S311 seeded, for the same data in every run; nothing secret
    chosen = [name for name in EFFECTS if rng.random() < probabilities.get(name, 0.0)]
    if not chosen:
        return samples, ""
    random.seed(rng.getrandbits(32))  # the generators of the library
    np.random.seed(rng.getrandbits(32))
    applied = []
    for name in chosen:
        samples, label = _applied(name, samples, snr_db, noise_folder, rng)
        applied.append(label)
    peak = float(np.abs(samples).max())
    return (samples * np.float32(min(1.0, PEAK / peak)) if peak else samples).astype(np.float32), ", ".join(applied)


def _applied(
    name: str, samples: Samples, snr_db: tuple[float, float], noise_folder: str, rng: random.Random
) -> tuple[Samples, str]:
    match name:
        case "speed":
            factor = rng.uniform(*SPEED)
            return resampled(samples, round(SAMPLE_RATE_HZ * factor)), f"speed {factor:.2f}"
        case "codec":
            codec = rng.choice(list(CODECS))
            return _coded(samples, codec, rng), codec
        case "pause":
            return _with_pauses(samples, rng), "pause"
        case "level":
            level_db = rng.uniform(*LEVEL_DB)
            peak = float(np.abs(samples).max())
            return samples * np.float32(10 ** (level_db / 20) * PEAK / peak) if peak else samples, f"{level_db:.0f} dB"
    if name == "noise" and noise_folder:
        noise_db = rng.uniform(*snr_db)
        return _with_recorded_noise(samples, noise_folder, noise_db, rng), f"noise {noise_db:.0f} dB"
    effect = _effect(name)
    label = name
    if name == "noise":
        effect.min_snr_db = effect.max_snr_db = rng.uniform(*snr_db)
        label = f"noise {effect.min_snr_db:.0f} dB"
    return effect(samples, sample_rate=SAMPLE_RATE_HZ), label


def _coded(samples: Samples, codec: str, rng: random.Random) -> Samples:
    """The samples after encoding and decoding, with the same length."""
    container, subtype, rate_hz, levels = CODECS[codec]
    settings: dict[str, Any] = {} if levels is None else {"compression_level": rng.uniform(*levels)}
    before = resampled(samples, SAMPLE_RATE_HZ**2 // rate_hz)  # to `rate_hz`: the same ratio as from there to 16 kHz
    file = io.BytesIO()
    soundfile.write(file, before.clip(-1, 1), rate_hz, subtype, format=container, **settings)
    file.seek(0)
    with open_audio(file, 0.0) as opened:
        decoded = resampled(np.concatenate(list(opened.blocks))[:, 0], rate_hz)[: len(samples)]
    return np.pad(decoded, (0, len(samples) - len(decoded)))


def _with_pauses(samples: Samples, rng: random.Random) -> Samples:
    """Faint noise under the samples, and up to `PAUSE_SECONDS` of it before and after them."""
    before, after = (round(rng.uniform(0, seconds) * SAMPLE_RATE_HZ) for seconds in PAUSE_SECONDS)
    longer = np.pad(samples, (before, after))
    level = 10 ** (rng.uniform(*PAUSE_NOISE_DB) / 20)
    noise = np.random.default_rng(rng.getrandbits(32)).standard_normal(len(longer), dtype=np.float32)
    return longer + np.float32(level) * noise


def _with_recorded_noise(samples: Samples, folder: str, snr_db: float, rng: random.Random) -> Samples:
    """The samples with a part of a random file of `folder`, repeated where it is shorter. Raises InputError, naming the
    file, for one that cannot be decoded."""
    noise = _noise(rng.choice(_known_noise_files(folder)), Path(folder))
    noise = np.resize(noise[rng.randint(0, max(0, len(noise) - len(samples))) :], len(samples))
    levels = [float(np.sqrt(np.mean(np.square(part, dtype=np.float64)))) for part in (samples, noise)]
    return samples + noise * np.float32(levels[0] / max(levels[1], 1e-9) / 10 ** (snr_db / 20))


@lru_cache(maxsize=4)
def _noise(path: Path, folder: Path) -> Samples:
    try:
        return resampled(*read_clip(Clip(path, folder=folder)))
    except InputError as error:
        raise InputError(f"noise_folder: {error}") from error


@cache
def _effect(name: str) -> Any:
    import audiomentations as a

    microphone: Any = {"min_mic_distance": 0.5, "max_mic_distance": 2.0}  # metres

    if name == "room":
        # image sources only: the random numbers of ray tracing cannot be seeded
        return a.RoomSimulator(use_ray_tracing=False, max_order=6, leave_length_unchanged=True, p=1.0, **microphone)
    if name == "noise":
        return a.AddColorNoise(min_f_decay=-3.01, max_f_decay=-3.01, p=1.0)  # pink: equal power in each octave
    steep: Any = {"min_rolloff": 24, "max_rolloff": 24, "p": 1.0}  # dB an octave
    low, high = TELEPHONE_HZ
    return a.Compose([a.HighPassFilter(low, low, **steep), a.LowPassFilter(high, high, **steep)])
