"""Pictures and sound inside the page: as they are, or smaller where that is smaller."""

import base64
import io
from collections.abc import Sequence

import numpy as np
import soundfile
from markupsafe import Markup
from PIL import Image

from selfkd.data.example import SAMPLE_RATE_HZ, Example
from selfkd.errors import InputError

LONGEST_SIDE = 448  # of a picture, pixels
_PLAIN_BYTES = 24_000  # a picture that is smaller without loss is kept without
_SMALLER = 0.7  # of MP3: 0 is the best, 1 the smallest; words stay clear
_HEAT = (214, 40, 57)


def data_uri(content: bytes, media_type: str) -> Markup:
    return Markup(f"data:{media_type};base64,{base64.b64encode(content).decode()}")


def picture_uri(example: Example) -> Markup | None:
    """The picture, at most `LONGEST_SIDE` wide and high; None without one that can be read."""
    try:
        picture = example.picture()
    except InputError:
        return None
    if picture is None or example.image is None:
        return None
    fits = max(picture.size) <= LONGEST_SIDE
    if not fits:
        picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    found = _webp(picture, lossless=True)
    if len(found) > _PLAIN_BYTES:
        found = min(found, _webp(picture, quality=78), key=len)
    kind = "jpeg" if example.image.startswith(b"\xff\xd8") else "png"
    return data_uri(example.image, f"image/{kind}") if fits and len(example.image) <= len(found) else _as_webp(found)


def _webp(picture: Image.Image, **how: bool | int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", **how)
    return buffer.getvalue()


def _as_webp(content: bytes) -> Markup:
    return data_uri(content, "image/webp")


def speech_uri(example: Example) -> Markup | None:
    """The speech as MP3, a fourth of FLAC's size, or as it is where that is smaller; None without any to be heard."""
    try:
        samples = example.samples()
    except InputError:
        return None
    buffer, plain = io.BytesIO(), example.speech or b""
    soundfile.write(buffer, samples, SAMPLE_RATE_HZ, "MPEG_LAYER_III", format="MP3", compression_level=_SMALLER)
    is_smaller = len(buffer.getvalue()) < len(plain)
    return data_uri(buffer.getvalue(), "audio/mpeg") if is_smaller else data_uri(plain, "audio/flac")


def heat_uri(grid: Sequence[Sequence[float]], top: float) -> Markup:
    """One pixel a cell, the more opaque the nearer to `top`; the browser stretches and smooths it."""
    opacity = np.clip(np.array(grid, dtype=float) / (top or 1), 0, 1)
    pixels = np.zeros((*opacity.shape, 4), dtype=np.uint8)
    pixels[..., :3], pixels[..., 3] = _HEAT, np.round(235 * opacity)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return data_uri(buffer.getvalue(), "image/png")
