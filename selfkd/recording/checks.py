"""Which recordings of a person are kept: level, clipping, silence, and a length that fits the sentence.

The person is still at the microphone, so a recording can be repeated: clipping is refused from a far smaller share on
than in published recordings, and a reason says what to change.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from selfkd.data.example import MAX_AUDIO_SECONDS, SHORTEST_SECONDS
from selfkd.data.media import check_not_silent, decode_audio
from selfkd.data.resample import resampled
from selfkd.errors import InputError
from selfkd.synthesis.quality_filter import FULL_SCALE, MAX_CLIPPED_RECORDED, SECONDS_PER_CHARACTER, check_audio

MIN_LEVEL_DBFS = -45.0  # of loud speech; what is quieter drowns in the noise of a sound card
MAX_CLIPPED = 0.001  # share of samples at full scale
_FRAME_SECONDS = 0.02
_LOUD_FRAMES = 10  # the least loud of them counts: a click has one or two, and pauses change nothing
_ACTIVE_DB = 30.0  # below the loud frames: frames of speech and not of a pause


class Level(NamedTuple):
    """`level_dbfs`: root mean square of the tenth loudest frame of 20 ms; `active_seconds`: of the frames within 30 dB
    of it; `clipped`: share of samples at full scale."""

    seconds: float
    active_seconds: float
    level_dbfs: float
    clipped: float


def measure(samples: NDArray[np.float32], rate_hz: int) -> Level:
    """The level of samples (frames,) in [-1, 1], which are not empty."""
    width = max(1, round(_FRAME_SECONDS * rate_hz))
    whole = len(samples) // width * width
    parts = samples[:whole].reshape(-1, width) if whole else samples[None]
    # without the mean of each frame: a cheap sound card adds a constant, which is no sound
    levels = 20 * np.log10(np.maximum(parts.std(axis=1, dtype=np.float64), 1e-6))
    loud = float(np.sort(levels)[-_LOUD_FRAMES:][0])
    active = int((levels >= max(loud - _ACTIVE_DB, MIN_LEVEL_DBFS - _ACTIVE_DB)).sum())
    seconds = len(samples) / rate_hz
    clipped = float(np.mean(np.abs(samples) >= FULL_SCALE))
    return Level(seconds, min(seconds, active * _FRAME_SECONDS), loud, clipped)


def check_recording(samples: NDArray[np.float32], rate_hz: int, sentence: str) -> Level:
    """The level of a recording (frames,) of a sentence; raises InputError that says why it cannot be kept, and what to
    change. What is kept here is kept by `selfkd synthesize`, too."""
    with _silence_explained():
        check_not_silent(samples)
    level = measure(samples, rate_hz)
    if level.clipped > MAX_CLIPPED:
        raise InputError(
            f"too loud: {level.clipped:.1%} of the samples are clipped; move away from the microphone, or turn it down"
        )
    if level.level_dbfs < MIN_LEVEL_DBFS:
        raise InputError(
            f"too quiet: {level.level_dbfs:.0f} dBFS, at least {MIN_LEVEL_DBFS:.0f} are needed; come closer to the "
            "microphone, or turn it up"
        )
    characters = sum(c.isalnum() for c in sentence)
    if level.active_seconds < characters * SECONDS_PER_CHARACTER[0]:
        raise InputError(
            f"too short: {level.active_seconds:.1f} s of speech for {characters} characters; read the whole sentence"
        )
    try:
        check_audio(resampled(samples, rate_hz), sentence, MAX_CLIPPED_RECORDED)
    except InputError as error:
        raise InputError(str(error).removeprefix("field audio: ")) from error
    return level


@contextmanager
def _silence_explained() -> Iterator[None]:
    try:
        yield
    except InputError as error:
        if not str(error).startswith("silent"):
            raise
        raise InputError("silent: is this the right microphone, and is it on?") from error


def decode_recording(content: bytes, sentence: str) -> tuple[NDArray[np.float32], int, float]:
    """(mono samples (frames,), rate in Hz, level in dBFS) of the bytes of an audio file that can be kept; raises
    InputError for any other. For an isolated process: the bytes may be anything."""
    with _silence_explained():
        audio_clip = decode_audio(content, max_seconds=MAX_AUDIO_SECONDS, min_seconds=SHORTEST_SECONDS)
    level = check_recording(audio_clip.samples, audio_clip.rate_hz, sentence)
    return audio_clip.samples, audio_clip.rate_hz, level.level_dbfs
