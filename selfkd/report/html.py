"""What all sections share: names and styles of runs and systems, media as data URIs, and the rendered page.

The page has its styles, script, images and audio inside and fetches nothing. Each run and system keeps its colour,
dashes and marker throughout the page.
"""

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
from selfkd.report.charts import legend_swatch
from selfkd.report.data_uris import data_uri
from selfkd.report.table_csv import csv_name, csv_uri
from selfkd.report.terms import TERMS, mark_terms, term_id, term_of

MAX_IMAGE_SIDE = 448  # pixels
_MAX_LOSSLESS_BYTES = 24_000  # a larger image is compressed with loss
_MP3_COMPRESSION = 0.7  # 0 is the best quality, 1 the smallest file; words stay intelligible
_JPEG_START = b"\xff\xd8"
_HEAT_COLOR = (214, 40, 57)


def image_uri(example: Example) -> Markup | None:
    """The image, at most `MAX_IMAGE_SIDE` wide and high; None without a readable one."""
    try:
        image = example.load_image()
    except InputError:
        return None
    if image is None or example.image is None:
        return None
    fits = max(image.size) <= MAX_IMAGE_SIDE
    if not fits:
        image.thumbnail((MAX_IMAGE_SIDE, MAX_IMAGE_SIDE))
    webp = _webp(image, lossless=True)
    if len(webp) > _MAX_LOSSLESS_BYTES:
        webp = min(webp, _webp(image, quality=78), key=len)
    if fits and len(example.image) <= len(webp):
        return data_uri(example.image, f"image/{'jpeg' if example.image.startswith(_JPEG_START) else 'png'}")
    return data_uri(webp, "image/webp")


def _webp(image: Image.Image, **options: bool | int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", **options)
    return buffer.getvalue()


def audio_uri(example: Example) -> Markup | None:
    """The audio as MP3, a fourth of the size of FLAC, or as stored where that is smaller; None without audio."""
    try:
        samples = example.samples()
    except InputError:
        return None
    buffer, stored = io.BytesIO(), example.audio or b""
    soundfile.write(buffer, samples, SAMPLE_RATE_HZ, "MPEG_LAYER_III", format="MP3", compression_level=_MP3_COMPRESSION)
    mp3 = buffer.getvalue()
    return data_uri(mp3, "audio/mpeg") if len(mp3) < len(stored) else data_uri(stored, "audio/flac")


def heat_map_uri(grid: Sequence[Sequence[float]], maximum: float) -> Markup:
    """One pixel per cell, opaque at `maximum`; the browser scales and smooths it."""
    opacity = np.clip(np.array(grid, dtype=float) / (maximum or 1), 0, 1)
    pixels = np.zeros((*opacity.shape, 4), dtype=np.uint8)
    pixels[..., :3], pixels[..., 3] = _HEAT_COLOR, np.round(235 * opacity)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return data_uri(buffer.getvalue(), "image/png")


STYLES = 8
_TITLES = {"sft": "SFT", "selfkd": "Self-KD", "base": "Base", "ctc": "CTC projector"}
_TEXT_STYLE, _CASCADE_STYLE = 0, STYLES - 1


class Styles:
    """One style for text, one for the cascade; models take the others in the order in which they come."""

    def __init__(self) -> None:
        self._of = {TEXT: _TEXT_STYLE, CASCADE: _CASCADE_STYLE}

    def of(self, name: str) -> int:
        models = len(self._of) - 2
        return self._of.setdefault(name, 1 + models % (STYLES - 2))


def run_title(name: str) -> str:
    """ "Self-KD" of a run that is called selfkd."""
    return _TITLES.get(name, name)


def join_titles(names: Sequence[str]) -> str:
    """ "SFT, Self-KD and Base"."""
    *first, last = map(run_title, names)
    return f"{', '.join(first)} and {last}" if first else last


def system_title(system: str, run: str = "") -> str:
    """ "Text", "Cascade" or "Audio, SFT"; text and cascade with the name of their `run` if it is given."""
    suffix = f", {run_title(run)}" if run else ""
    return {TEXT: f"Text{suffix}", CASCADE: f"Cascade{suffix}"}.get(system, f"Audio, {run_title(system)}")


def write_page(path: Path, template: str, **values: Any) -> None:
    environment = Environment(
        loader=PackageLoader("selfkd", "report/templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"legend_swatch": legend_swatch, "style_count": STYLES, "csv_uri": csv_uri}
    environment.globals |= {"csv_name": csv_name, "terms": TERMS, "term_id": term_id, "term_of": term_of}
    environment.filters["mark_terms"] = mark_terms
    write_text(path, environment.get_template(template).render(**values))
