"""Pictures and sound of a request: bytes that anyone may have sent -> an RGB picture, mono samples at 16 kHz.

Each is measured before it is decoded, and what is decoded at once is bounded by the limits and not by the file.
"""

import base64
import binascii
import io

import numpy as np
import soundfile
from numpy.typing import NDArray
from PIL import Image

from selfkd.data.example import upright
from selfkd.data.features import SHORTEST_SECONDS
from selfkd.data.speakers import resampled
from selfkd.serving.protocol import SoundFormat
from selfkd.serving.refused import bad_field

_PICTURES = ("PNG", "JPEG", "WEBP", "GIF")
_RATES_HZ = range(4_000, 192_001)
# rates are rounded to multiples of this for the low-pass filter, 0.3% at most: filters of odd rates are megabytes long
_RATE_STEP_HZ = 25
REMOTE = ("http://", "https://")


def data_url_bytes(url: str) -> bytes:
    """The bytes of a base64 data URL; raises RefusedError for any other."""
    head, comma, data = url.partition(",")
    if not comma or not head.startswith("data:") or not head.endswith(";base64"):
        raise bad_field("image_url", "expected data:image/...;base64,...")
    return base64_bytes(data, "image_url")


def base64_bytes(data: str, param: str) -> bytes:
    try:
        content = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise bad_field(param, f"not base64 ({error})") from error
    if not content:
        raise bad_field(param, "holds no bytes")
    return content


def read_picture(image: bytes, most_pixels: int) -> Image.Image:
    """RGB, upright; raises RefusedError for what is no picture, or has too many pixels."""
    try:
        with Image.open(io.BytesIO(image), formats=_PICTURES) as picture:
            width, height = picture.size
            if width * height <= most_pixels:
                return upright(picture).convert("RGB")
    except Image.DecompressionBombError as error:
        raise bad_field("image_url", f"too many pixels, at most {most_pixels} are taken") from error
    except Exception as error:  # hostile bytes make Pillow's decoders raise nearly anything
        raise bad_field(
            "image_url", f"not a readable picture (PNG, JPEG, WebP, GIF): {type(error).__name__}"
        ) from error
    raise bad_field("image_url", f"{width} x {height} pixels are too many, at most {most_pixels} are taken")


def read_sound(content: bytes, expected: SoundFormat, most_seconds: float) -> NDArray[np.float32]:
    """Mono, 16 kHz; raises RefusedError for what is no sound of the `expected` format, or too short or too long."""
    if sound_format(content) != expected:
        raise bad_field("input_audio", f"the bytes are not a {expected} file")
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            rate_hz = file.samplerate
            if rate_hz not in _RATES_HZ:
                allowed = f"{_RATES_HZ[0]} to {_RATES_HZ[-1]}"
                raise bad_field("input_audio", f"{rate_hz} samples a second, {allowed} are taken")
            samples = _mono(file, int(most_seconds * rate_hz) + 1)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise bad_field("input_audio", f"not readable sound: {error}") from error
    seconds = len(samples) / rate_hz
    if seconds > most_seconds:
        raise bad_field("input_audio", f"over the limit of {most_seconds:g} s")
    if seconds < SHORTEST_SECONDS:
        raise bad_field("input_audio", f"{seconds:.3f} s of sound is too short")
    samples = resampled(samples, round(rate_hz / _RATE_STEP_HZ) * _RATE_STEP_HZ)
    if not np.isfinite(samples).all():
        raise bad_field("input_audio", "holds samples that are no numbers")
    return samples


def _mono(file: soundfile.SoundFile, most_frames: int) -> NDArray[np.float32]:
    """At most so many frames, a second at a time: a small FLAC may hold hours, and a WAV a thousand channels."""
    blocks: list[NDArray[np.float32]] = []
    left = most_frames
    while left > 0:
        block = file.read(min(left, file.samplerate), dtype="float32", always_2d=True)
        if not len(block):
            break
        # as read_clip averages them; floats beyond full scale are cut first, for their mean may overflow
        blocks.append(np.clip(block, -1, 1).mean(axis=1))
        left -= len(block)
    return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)


def sound_format(content: bytes) -> str:
    """wav, flac or mp3 by the first bytes, else "": libsndfile reads many more, and none is needed."""
    if content[:4] in (b"RIFF", b"RF64") and content[8:12] == b"WAVE":
        return "wav"
    if content[:4] == b"fLaC":
        return "flac"
    is_frame = len(content) > 1 and content[0] == 0xFF and content[1] & 0xE0 == 0xE0
    return "mp3" if content[:3] == b"ID3" or is_frame else ""
