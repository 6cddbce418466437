"""Pictures and sound of a request: bytes that anyone may have sent -> an RGB picture, mono samples at 16 kHz.

They are decoded where all others are (`data/media.py`), within the limits of the server; what is refused there is
refused here in OpenAI's shape of an error.
"""

import base64
import binascii

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from selfkd.data.media import WEB_FORMATS, decode_audio, decode_image
from selfkd.data.resample import resampled
from selfkd.data.sound_files import sniffed
from selfkd.errors import InputError
from selfkd.model.features import SHORTEST_SECONDS
from selfkd.serving.schema import AudioFormat, bad_field

# by the kind of the bytes: one container has several names
_CALLED: dict[str, tuple[AudioFormat, ...]] = {
    "wav": ("wav",), "flac": ("flac",), "mp3": ("mp3",), "ogg": ("ogg", "opus"), "webm": ("webm", "opus"),
    "mp4": ("m4a", "mp4", "aac", "3gp"), "aac": ("aac",),
}  # fmt: skip
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


def read_image(image: bytes, max_pixels: int) -> Image.Image:
    """RGB, upright; raises RefusedError for what is no picture, or has too many pixels."""
    try:
        return decode_image(image, max_pixels, WEB_FORMATS)
    except InputError as error:
        raise bad_field("image_url", str(error)) from error


def read_audio(content: bytes, expected: str, max_seconds: float) -> NDArray[np.float32]:
    """Mono, 16 kHz; raises RefusedError for what is no sound of the `expected` format, is silent, was cut short, or is
    too short or too long."""
    if expected not in audio_formats(content):
        raise bad_field("input_audio", f"the bytes are not a {expected} file")
    try:
        audio_clip = decode_audio(content, max_seconds=max_seconds, shortest_seconds=SHORTEST_SECONDS)
    except InputError as error:
        raise bad_field("input_audio", str(error)) from error
    return resampled(audio_clip.samples, audio_clip.rate_hz)


def audio_formats(content: bytes) -> tuple[AudioFormat, ...]:
    """The names that a request may give to the format of these bytes; none where they are no sound that is read."""
    return _CALLED.get(sniffed(content[:16]), ())
