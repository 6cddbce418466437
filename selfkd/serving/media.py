"""Images and audio of a request: untrusted bytes -> an RGB image, mono samples at 16 kHz.

`data/media.py` decodes them, within the server's limits. Its refusals become errors of OpenAI's protocol here.
"""

import base64
import binascii

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from selfkd.data.audio_files import detect_format
from selfkd.data.example import SHORTEST_SECONDS
from selfkd.data.media import WEB_FORMATS, decode_audio, decode_image
from selfkd.data.resample import resampled
from selfkd.errors import InputError
from selfkd.serving.schema import AudioFormat, bad_field

# container, as its first bytes show it -> names that a request may give it
_FORMAT_NAMES: dict[str, tuple[AudioFormat, ...]] = {
    "wav": ("wav",), "flac": ("flac",), "mp3": ("mp3",), "ogg": ("ogg", "opus"), "webm": ("webm", "opus"),
    "mp4": ("m4a", "mp4", "aac", "3gp"), "aac": ("aac",),
}  # fmt: skip
REMOTE_SCHEMES = ("http://", "https://")


def data_url_bytes(url: str) -> bytes:
    """The bytes of a base64 data URL; raises RefusedError for any other URL."""
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
    """RGB, upright; raises RefusedError for bytes that are no image, or one with too many pixels."""
    try:
        return decode_image(image, max_pixels, WEB_FORMATS)
    except InputError as error:
        raise bad_field("image_url", str(error)) from error


def read_audio(content: bytes, expected: str, max_seconds: float) -> NDArray[np.float32]:
    """Mono, 16 kHz; raises RefusedError for bytes that are not audio in the `expected` format, and for audio that is
    silent, truncated, too short or too long."""
    if expected not in audio_formats(content):
        raise bad_field("input_audio", f"the bytes are not a {expected} file")
    try:
        decoded = decode_audio(content, max_seconds=max_seconds, min_seconds=SHORTEST_SECONDS)
    except InputError as error:
        raise bad_field("input_audio", str(error)) from error
    return resampled(decoded.samples, decoded.rate_hz)


def audio_formats(content: bytes) -> tuple[AudioFormat, ...]:
    """The names that a request may give to the format of these bytes; empty if they are not a supported audio file."""
    return _FORMAT_NAMES.get(detect_format(content[:16]), ())
