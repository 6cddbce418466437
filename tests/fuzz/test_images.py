"""Images: files of every format with damaged bytes, lengths and sizes; many pixels in few bytes."""

import io
import struct
import zlib
from functools import cache

import numpy as np
import pytest
from examples import png_chunk, toy_examples
from fuzzing import Malformed
from hypothesis import strategies as st
from malformed import damaged_bytes
from PIL import Image

from selfkd.data.media import decode_image, image_size, is_plain, stored_image
from selfkd.serving.media import read_image
from selfkd.serving.schema import RefusedError
from selfkd.synthesis.sources.rows import checked_image

pytestmark = pytest.mark.slow

MODES = {
    "PNG": ["RGB", "RGBA", "P", "L", "LA", "1", "I;16"], "JPEG": ["RGB", "L", "CMYK"], "WEBP": ["RGB", "RGBA"],
    "GIF": ["P"], "TIFF": ["RGB", "LAB", "F", "I;16", "1"], "BMP": ["RGB", "1"], "AVIF": ["RGB"],
}  # fmt: skip
FORMS = [(name, mode) for name, modes in MODES.items() for mode in modes]
OTHERS = {
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n",
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/hostname"/></svg>',
    "PDF": b"%PDF-1.4\n1 0 obj\n<</Type/Catalog>>\nendobj\n",
    "ICO": b"\0\0\1\0\1\0\x10\x10\0\0\1\0\x20\0\x68\x04\0\0\x16\0\0\0" + bytes(1128),
    "PPM": b"P6 8 8 255 " + bytes(192),
    "text": b"no image",
    "nothing": b"",
}  # fmt: skip


@cache
def image_file(name: str, mode: str) -> bytes:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 20, 3), dtype=np.uint8))
    if mode == "F":
        image = Image.fromarray(np.asarray(image.convert("L"), dtype=np.float32) / 255)
    elif mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    elif mode == "LAB":
        image = Image.new("LAB", image.size, (128, 128, 128))
    else:
        image = image.convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, name, **({"progressive": True} if name == "JPEG" else {}))
    return buffer.getvalue()


@st.composite
def damaged_files(draw: st.DrawFn) -> Malformed:
    name, mode = draw(st.sampled_from(FORMS))
    content, label = draw(damaged_bytes(image_file(name, mode)))
    if draw(st.booleans()):
        content, more = draw(damaged_bytes(content or b"\0"))
        label = f"{label}, {more}"
    return Malformed(content, f"{name} {mode}: {label}")


@st.composite
def large_images(draw: st.DrawFn) -> Malformed:
    """Headers that state many pixels, with bytes for some of them: 20,000 x 20,000 of one color are 50 KB."""
    width, height = draw(
        st.sampled_from([(2**31 - 1, 1), (1, 2**31 - 1), (100_000, 100_000), (20_000, 20_000), (0, 5)])
    )
    rows = draw(st.sampled_from([0, 1, 50]))
    head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    body = zlib.compress(bytes(rows * min(width // 8 + 1, 10**6)))
    content = b"\x89PNG\r\n\x1a\n" + head + png_chunk(b"IDAT", body) + png_chunk(b"IEND", b"")
    return Malformed(content, f"PNG of {width} x {height}, {rows} rows", "an image of so many pixels")


@st.composite
def odd_chunks(draw: st.DrawFn) -> Malformed:
    """A PNG with a further chunk, of any type and content, between its header and its pixels."""
    content = image_file("PNG", draw(st.sampled_from(MODES["PNG"])))
    name = draw(
        st.sampled_from([b"eXIf", b"iCCP", b"tEXt", b"zTXt", b"iTXt", b"tRNS", b"PLTE", b"gAMA", b"acTL", b"fcTL"])
    )
    value = draw(
        st.binary(max_size=40)
        | st.just(b"a\0\0" + zlib.compress(bytes(5_000_000)))  # a text that is large once it is inflated
        | st.sampled_from([b"", b"MM\0*" + bytes(4), b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"])
    )
    return Malformed(
        content[:33] + png_chunk(name, value) + content[33:], f"PNG with {name.decode()} {value[:40].hex()}"
    )


FILES = damaged_files() | large_images() | odd_chunks()
FILES |= st.sampled_from(
    [Malformed(content, name, "no image of an accepted format") for name, content in OTHERS.items()]
)


def decode(content: bytes) -> None:
    """By every reader; the server's accepts formats of the web only."""
    image_size(content)
    is_plain(content)
    try:
        image = read_image(content, 10_000_000)
        assert image.mode == "RGB"
    except RefusedError as error:
        assert error.status == 400 and len(error.message) < 500
    image = decode_image(content)
    stored = stored_image(content)
    assert image.mode == "RGB" and decode_image(stored).size == image.size and checked_image(content) == stored


def test_images(fuzzer):
    fuzzer.run("images", FILES, decode, examples=200)


def test_whole_images_are_accepted():
    """What is damaged above."""
    for name, mode in FORMS:
        decode(image_file(name, mode))
    decode(toy_examples(1)[0].image)
