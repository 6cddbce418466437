"""The only decoder of images: transparency on white, upright, 8 bits; or an error that says why."""

import io
import os
import struct
import zlib
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from examples import png_chunk, toy_examples
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import EpsImagePlugin, Image, ImageDraw

from selfkd.data.example import image_columns
from selfkd.data.media import FORMATS, decode_image, image_size, is_plain, rgb, stored_image
from selfkd.errors import InputError
from selfkd.evaluation.backends.endpoint import image_part
from selfkd.serving.media import read_image
from selfkd.serving.schema import RefusedError
from selfkd.synthesis.sources.rows import checked_image

FEW = settings(deadline=None, max_examples=40, derandomize=True, database=None)
PIXELS = arrays(np.uint8, st.tuples(st.integers(1, 7), st.integers(1, 7), st.just(4)))
COMPRESSED = [("WEBP", {"lossless": True}), ("TIFF", {"compression": "tiff_lzw"})]
RAMP = np.tile(np.linspace(0, 65535, 64, dtype=np.uint16), (8, 1))


def saved(image, kind="PNG", **how):
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return buffer.getvalue()


def pixels_of(data):
    return np.asarray(decode_image(data))


def png_file(width, height, bits, colors, rows, transparent=b""):
    """A PNG as the standard says, in forms that Pillow does not write."""
    head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colors, 0, 0, 0))
    key = png_chunk(b"tRNS", transparent) if transparent else b""
    body = png_chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + head + key + body + png_chunk(b"IEND", b"")


def on_white(pixels):
    """The closed form, rounded."""
    color, alpha = pixels[..., :-1].astype(int), pixels[..., -1:].astype(int)
    return (2 * (color * alpha + 255 * (255 - alpha)) + 255) // 510


@FEW
@given(pixels=PIXELS, kind=st.sampled_from(["PNG", "TIFF", "WEBP"]))
def test_any_transparency_is_composited_on_white(pixels, kind):
    """data_02_transparency, eval_11_transparent_png"""
    data = saved(Image.fromarray(pixels, "RGBA"), kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))
    expected = on_white(pixels)
    assert np.array_equal(pixels_of(data), expected) and np.array_equal(
        np.asarray(rgb(Image.fromarray(pixels))), expected
    )
    stored = stored_image(data)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(stored)).convert("RGB")), expected), (
        "as other tools decode it"
    )
    grey = np.ascontiguousarray(pixels[..., 2:])
    assert np.array_equal(pixels_of(saved(Image.fromarray(grey, "LA"))), np.repeat(on_white(grey), 3, axis=2))


@pytest.mark.parametrize(("mode", "clear", "ink", "shown"), [
    ("RGBA", (0, 0, 0, 0), (0, 0, 0, 255), (0, 0, 0)), ("LA", (0, 0), (0, 255), (0, 0, 0)),
    ("RGBA", (255, 0, 255, 0), (0, 128, 0, 255), (0, 128, 0)),
])  # fmt: skip
def test_a_transparent_drawing_is_decoded_alike_everywhere(mode, clear, ink, shown):
    """data_02_transparency, eval_11_transparent_png: one decoder for shards, evaluation, server and endpoints."""
    image = Image.new(mode, (64, 64), clear)
    ImageDraw.Draw(image).rectangle((20, 20, 44, 44), fill=ink)
    data = saved(image)
    example = replace(toy_examples(1)[0], image=data)
    for found in (
        example.load_image(),
        read_image(data, 10_000),
        replace(example, image=checked_image(data)).load_image(),
    ):
        assert found.getpixel((2, 2)) == (255, 255, 255) and found.getpixel((32, 32)) == shown
    url = image_part(example)["image_url"]["url"]
    assert not is_plain(data) and url.startswith("data:image/png;base64,") and len(url) != len(data)


KEYED = {
    "grey": (saved(Image.new("L", (4, 4), 7), transparency=7), 255),
    "grey, another": (saved(Image.new("L", (4, 4), 8), transparency=7), 8),
    "colors": (saved(Image.new("RGB", (4, 4), (1, 1, 1)), transparency=(1, 1, 1)), 255),
    "colors, another": (saved(Image.new("RGB", (4, 4), (2, 2, 2)), transparency=(2, 2, 1)), 2),
    "1 bit": (png_file(8, 2, 1, 0, [b"\0"] * 2, b"\0\0"), 255),
    "1 bit, another": (png_file(8, 2, 1, 0, [b"\0"] * 2, b"\0\1"), 0),
    "2 bits": (png_file(4, 2, 2, 0, [b"\x55"] * 2, b"\0\1"), 255),
    "2 bits, another": (png_file(4, 2, 2, 0, [b"\x55"] * 2, b"\0\2"), 85),
    "4 bits": (png_file(2, 2, 4, 0, [b"\x33"] * 2, b"\0\3"), 255),
    "16 bits": (png_file(1, 2, 16, 0, [b"\x12\x34"] * 2, b"\x12\x34"), 255),
    "16 bits, another": (png_file(1, 2, 16, 0, [b"\x80\0"] * 2, b"\x80\1"), 128),
    "16 bits and alpha": (png_file(1, 2, 16, 4, [b"\0\0\0\0"] * 2), 255),
    "16 bits, colors and alpha": (png_file(1, 2, 16, 6, [b"\0" * 8] * 2), 255),
    "GIF": (saved(Image.new("L", (4, 4), 3), "GIF", transparency=3), 255),
}


@pytest.mark.parametrize("name", KEYED)
def test_a_transparent_color(name):
    data, grey = KEYED[name]
    assert set(pixels_of(data).ravel()) == {grey}


def test_palettes_and_their_transparency():
    palette = Image.new("P", (4, 4), 3)
    palette.putpalette([0] * 9 + [10, 20, 30])
    assert tuple(pixels_of(saved(palette))[0, 0]) == (10, 20, 30) and stored_image(saved(palette)) == saved(palette)
    assert tuple(pixels_of(saved(palette, transparency=3))[0, 0]) == (255, 255, 255)
    half = pixels_of(saved(palette, transparency=b"\xff\xff\xff\x80"))[0, 0]
    assert tuple(half) == tuple(on_white(np.array([[[10, 20, 30, 128]]]))[0, 0])
    alpha = Image.new("RGBA", (4, 4), (0, 0, 0, 0)).convert("PA")
    assert tuple(np.asarray(rgb(alpha))[0, 0]) == (255, 255, 255)
    for mode, pixel in (("RGBa", (64, 0, 0, 128)), ("La", (64, 128))):
        assert np.asarray(rgb(Image.new(mode, (2, 2), pixel)))[0, 0, 0] == pytest.approx(64 + 127, abs=1)


@FEW
@given(
    values=arrays(np.uint16, st.tuples(st.integers(1, 5), st.integers(1, 9))),
    kind=st.sampled_from(["PNG", "TIFF"]),
)
def test_sixteen_bits_are_scaled_by_their_range(values, kind):
    """data_01_gray16"""
    found = pixels_of(saved(Image.fromarray(values), kind))[..., 0]
    assert np.abs(found.astype(float) - values / 257).max() <= 0.5
    order = np.argsort(values, axis=None)
    assert (np.diff(found.ravel()[order].astype(int)) >= 0).all(), "the order of brightness is kept"


def test_values_of_other_ranges():
    """data_01_gray16: scaled where black and white are known, an error where they are not."""
    expected = np.round(RAMP / 257)
    for data in (
        saved(Image.fromarray((RAMP / 65535).astype(np.float32)), "TIFF"),
        saved(Image.fromarray(RAMP.astype(">u2")), "TIFF"),
    ):
        assert np.abs(pixels_of(data)[..., 0] - expected).max() <= 1
    inverted = saved(Image.fromarray(RAMP), "TIFF", tiffinfo={262: 0})  # as X-rays are: white is 0
    assert np.abs(255 - pixels_of(inverted)[..., 0] - expected).max() <= 1
    twelve = Image.fromarray(RAMP >> 4)
    twelve.tag_v2 = SimpleNamespace(get=lambda tag, default=None: {258: (12,), 262: 1}.get(tag, default))
    assert np.abs(np.asarray(rgb(twelve))[..., 0] - expected).max() <= 1
    colors = png_file(64, 8, 16, 2, [np.repeat(row, 3).astype(">u2").tobytes() for row in RAMP])
    assert np.abs(pixels_of(colors)[..., 0] - expected).max() <= 1


@pytest.mark.parametrize(("values", "words"), [
    (np.full((4, 4), 255.0, np.float32), "floats from 255 to 255: what is black"),
    (np.array([[-0.1, 1.0]], np.float32), "floats from -0.1 to 1"),
    (np.array([[0.5, np.nan]], np.float32), "NaN or infinite floats"),
    (np.array([[0.5, np.inf]], np.float32), "NaN or infinite floats"),
    (np.array([[0, 70_000]], np.int32), "integers of 32 bits"),
])  # fmt: skip
def test_values_without_a_known_white_are_refused(values, words):
    with pytest.raises(InputError, match=f"field image: bytes: {words}"):
        checked_image(saved(Image.fromarray(values), "TIFF"))


def test_sixteen_bit_colors_of_which_one_is_transparent_are_refused():
    with pytest.raises(InputError, match="16-bit colors of which one is transparent"):
        decode_image(png_file(1, 1, 16, 2, [b"\x12\x34" * 3], b"\x12\x34" * 3))


@FEW
@given(
    pixels=PIXELS,
    form=st.sampled_from([*((kind, {}) for kind in ("PNG", "TIFF", "BMP")), *COMPRESSED]),
    mode=st.sampled_from(["RGB", "L", "1"]),
)  # fmt: skip
def test_lossless_formats_are_decoded_without_loss(pixels, form, mode):
    image = Image.fromarray(np.ascontiguousarray(pixels[..., :3])).convert(mode)
    data = saved(image, form[0], **form[1])
    assert np.array_equal(pixels_of(data), np.asarray(image.convert("RGB")))
    assert stored_image(data) == data or form[0] == "WEBP", "the original bytes are kept"
    assert image_size(data) == image.size


def test_other_colors():
    cmyk = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    for data in (saved(cmyk, "TIFF"), saved(cmyk, "JPEG", quality=100)):  # the second inverted, as Adobe's are
        assert np.abs(pixels_of(data)[0, 0].astype(int) - (0, 255, 255)).max() <= 2
    grey = pixels_of(saved(Image.new("LAB", (4, 4), (255, 128, 128)), "TIFF"))
    assert grey.min() >= 253, "the lightest of Lab is white"
    assert np.abs(np.asarray(rgb(Image.new("HSV", (2, 2), (0, 255, 255))))[0, 0].astype(int) - (255, 0, 0)).max() <= 1


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF", "MPO"])
def test_the_first_frame_is_decoded(kind):
    first, *others = [Image.new("RGB", (8, 8), color) for color in ("red", "blue", "lime")]
    data = saved(first, kind, save_all=True, append_images=others)
    assert np.abs(pixels_of(data)[0, 0].astype(int) - (255, 0, 0)).max() <= 3
    assert not is_plain(data), "an endpoint may decode others"


def test_an_applied_orientation_is_removed():
    """An upright PNG with the EXIF of a rotated one would be rotated again."""
    exif = Image.Exif()
    exif[0x0112] = 6
    data = saved(Image.new("RGBA", (8, 4), (0, 0, 0, 128)), exif=exif)
    stored = stored_image(data)
    assert image_size(data) == image_size(stored) == decode_image(stored).size == (4, 8) and is_plain(stored)


@FEW
@given(st.data())
def test_any_truncation_is_refused_or_changes_nothing(data):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 24, 3), dtype=np.uint8))
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"]))
    whole = saved(image, kind)
    cut = data.draw(st.integers(1, len(whole) - 1))
    try:
        found = pixels_of(whole[:-cut])
    except InputError:
        return
    assert np.array_equal(found, pixels_of(whole)), f"{cut} of {len(whole)} bytes of {kind} are missing"


def test_an_image_starts_no_interpreter(tmp_path, monkeypatch):
    """sec_05_picture_runs_ghostscript: a `gs` that leaves a mark is first in the path."""
    mark = tmp_path / "started"
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {mark}\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)  # which Pillow keeps once it has searched the path
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n{} loop\n"
    example = replace(toy_examples(1)[0], image=eps)
    for read in (checked_image, decode_image, lambda data: read_image(data, 99), lambda data: example.load_image()):
        with pytest.raises((InputError, RefusedError)):
            read(eps)
    assert not is_plain(eps) and image_columns(example)["image_width"] == 0
    assert not mark.exists() and not {"EPS", "PDF", "WMF"} & set(FORMATS)
    with pytest.raises(OSError), Image.open(io.BytesIO(eps)) as opened:
        opened.load()
    assert mark.exists(), "Pillow itself starts it"


def test_limits_and_formats():
    """sec_08_small_png_takes_3_gb: the one decoder of images has a limit of pixels."""
    with pytest.raises(InputError, match="8 x 8 pixels are too many, at most 63 are accepted"):
        decode_image(saved(Image.new("1", (8, 8))), 63)
    with pytest.raises(RefusedError, match="not a readable image"):
        read_image(saved(Image.new("1", (8, 8)), "TIFF"), 64)
    with pytest.raises(InputError) as found:
        decode_image(b"nothing")
    assert " at 0x" not in str(found.value), "the same message every time"
