"""The page: names and styles of runs and systems, and a template with styles and script inside.

Nothing is fetched from anywhere. Each run and system keeps its colour, dashes and marker throughout the page.
"""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from selfkd.data.example import SAMPLE_RATE_HZ, Example
from selfkd.errors import InputError
from selfkd.evaluation.compare import CASCADE, TEXT
from selfkd.files import write_text
from selfkd.report.charts import swatch

LONGEST_SIDE = 448  # of a picture, pixels
_PLAIN_BYTES = 24_000  # a picture that is smaller without loss is kept without
_SMALLER = 0.7  # of MP3: 0 is the best, 1 the smallest; words stay clear
_HEAT = (214, 40, 57)


def data_uri(content: bytes, media_type: str) -> Markup:
    return Markup(f"data:{media_type};base64,{base64.b64encode(content).decode()}")


def image_uri(example: Example) -> Markup | None:
    """The picture, at most `LONGEST_SIDE` wide and high; None without one that can be read."""
    try:
        image = example.load_image()
    except InputError:
        return None
    if image is None or example.image is None:
        return None
    fits = max(image.size) <= LONGEST_SIDE
    if not fits:
        image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    found = _webp(image, lossless=True)
    if len(found) > _PLAIN_BYTES:
        found = min(found, _webp(image, quality=78), key=len)
    kind = "jpeg" if example.image.startswith(b"\xff\xd8") else "png"
    return data_uri(example.image, f"image/{kind}") if fits and len(example.image) <= len(found) else _as_webp(found)


def _webp(image: Image.Image, **how: bool | int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", **how)
    return buffer.getvalue()


def _as_webp(content: bytes) -> Markup:
    return data_uri(content, "image/webp")


def audio_uri(example: Example) -> Markup | None:
    """The speech as MP3, a fourth of FLAC's size, or as it is where that is smaller; None without any to be heard."""
    try:
        samples = example.samples()
    except InputError:
        return None
    buffer, plain = io.BytesIO(), example.audio or b""
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


STYLES = 8
_TITLES = {"sft": "SFT", "selfkd": "Self-KD", "base": "Base", "ctc": "CTC projector"}
_WRITTEN_STYLE, _CASCADE_STYLE = 0, STYLES - 1


class Styles:
    """Written and cascade have styles of their own; models share the others, in the order in which they come."""

    def __init__(self) -> None:
        self._of = {TEXT: _WRITTEN_STYLE, CASCADE: _CASCADE_STYLE}

    def of(self, name: str) -> int:
        models = len(self._of) - 2
        return self._of.setdefault(name, 1 + models % (STYLES - 2))


def titled(name: str) -> str:
    return _TITLES.get(name, name)


def listed(names: Sequence[str]) -> str:
    """ "SFT, Self-KD and Base"."""
    *first, last = map(titled, names)
    return f"{', '.join(first)} and {last}" if first else last


def system_title(system: str, writer: str = "") -> str:
    """With the name of the run that was asked in writing, where there are several."""
    whose = f", {titled(writer)}" if writer else ""
    return {TEXT: f"Written{whose}", CASCADE: f"Cascade{whose}"}.get(system, f"Spoken, {titled(system)}")


def write_page(path: Path, template: str, **values: Any) -> None:
    environment = Environment(
        loader=PackageLoader("selfkd", "report/templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"swatch": swatch, "style_count": STYLES}
    write_text(path, environment.get_template(template).render(**values))
