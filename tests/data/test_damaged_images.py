"""Any bytes are decoded to an image within the limits, or refused in one line, in little time: those of real files with
flips, cuts and parts of others, and files that are small and would take long."""

import io
import re
import struct
import time
import zlib

import pytest
from damaged import assert_nothing_printed, damaged
from examples import png_chunk
from hypothesis import HealthCheck, example, given, settings
from PIL import Image

from selfkd.data.media import MAX_PIXELS, decode_image, image_size, is_plain, stored_image
from selfkd.errors import InputError

SECONDS = 5.0  # of a file: far more than these take, far less than they took
SETTINGS = settings(deadline=None, max_examples=150, derandomize=True, database=None,
                    suppress_health_check=list(HealthCheck))  # fmt: skip


def saved(image, kind, **how):
    buffer = io.BytesIO()
    image.save(buffer, kind, **how)
    return buffer.getvalue()


EXIF = Image.Exif()
EXIF[0x0112] = 6
RAMP = Image.linear_gradient("L").resize((24, 16))
COLORS = Image.merge("RGB", [RAMP, RAMP.rotate(180), RAMP.transpose(Image.Transpose.FLIP_LEFT_RIGHT)])
ALPHA = Image.merge("RGBA", [*COLORS.split(), RAMP])
FLOATS = RAMP.convert("F").point(lambda value: value * (1 / 255) + 0)
FILES = [
    saved(COLORS, "PNG", exif=EXIF), saved(ALPHA, "PNG"), saved(RAMP, "PNG"), saved(COLORS.quantize(7), "PNG"),
    saved(COLORS, "PNG", save_all=True, append_images=[COLORS.rotate(180)]),
    saved(COLORS, "JPEG", exif=EXIF), saved(COLORS, "JPEG", progressive=True),
    saved(COLORS, "MPO", save_all=True, append_images=[COLORS.rotate(180)]),
    saved(ALPHA, "WEBP", exif=EXIF), saved(COLORS, "WEBP", lossless=True),
    saved(COLORS, "WEBP", save_all=True, append_images=[COLORS.rotate(180)]),
    saved(COLORS, "GIF"), saved(COLORS, "GIF", save_all=True, append_images=[COLORS.rotate(180)]),
    saved(COLORS, "TIFF"), saved(ALPHA, "TIFF", compression="tiff_lzw"), saved(COLORS, "TIFF", compression="jpeg"),
    saved(RAMP.convert("I;16"), "TIFF", compression="tiff_adobe_deflate"), saved(FLOATS, "TIFF"),
    saved(COLORS, "TIFF", save_all=True, append_images=[COLORS.rotate(180)]),
    saved(COLORS, "BMP"), saved(COLORS.quantize(7), "BMP"), saved(COLORS, "AVIF"),
    saved(ALPHA, "AVIF", save_all=True, append_images=[ALPHA.rotate(180)]),
]  # fmt: skip


def check(data):
    """Everything that reads an image, twice: the same result, whatever it is."""
    results = []
    begun = time.process_time()
    for _ in range(2):
        try:
            results.append(decode_image(data).tobytes())
        except InputError as error:
            results.append(str(error))
    assert results[0] == results[1] and (isinstance(results[0], bytes) or "\n" not in results[0])
    assert not isinstance(results[0], str) or not re.search(r" at 0x|<_io", results[0]), results[0]
    size = image_size(data)
    assert size is None or size[0] * size[1] <= MAX_PIXELS
    is_plain(data)
    try:
        assert decode_image(stored_image(data)).tobytes() == results[0]
    except InputError as error:
        assert str(error) == results[0]
    assert time.process_time() - begun < SECONDS


@SETTINGS
@given(data=damaged(FILES))
@example(data=b"")
def test_a_damaged_image_is_decoded_or_refused(data, capfd):
    check(data)
    assert_nothing_printed(capfd)


def jpeg_of_scans(scans, side):
    """A progressive JPEG with its last scan, of a few bytes, once more and again."""
    data = saved(Image.new("RGB", (side, side), "gray"), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * scans + data[-2:]


def tags(number, size):
    """A directory of TIFF, or EXIF, of which all tags have the same bytes as their value."""
    entries = b"".join(struct.pack("<HHII", tag + 1, 7, size, 8) for tag in range(number))
    return b"II*\0" + struct.pack("<IH", 8, number) + entries + bytes(size)


def tiff(*entries, rest=b""):
    packed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + packed + bytes(4) + rest


def tiff_of_strips(strips):
    at = 8 + 2 + 12 * 9 + 4
    offsets, lengths = (273, 4, strips, at), (279, 4, strips, at + 4 * strips)
    shape = [(256, 4, 1, 8), (257, 4, 1, strips), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    rest = bytes(4 * strips) + struct.pack("<I", 8) * strips
    return tiff(*shape, offsets, (277, 3, 1, 1), (278, 4, 1, 1), lengths, rest=rest)


def tiff_of_one_tile(side):
    shape = [(256, 4, 1, 64), (257, 4, 1, 64), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1)]
    body = zlib.compress(bytes(1000))
    return tiff(*shape, (322, 4, 1, side), (323, 4, 1, side), (324, 4, 1, 134), (325, 4, 1, len(body)), rest=body)


SMALL = {kind: saved(Image.new("P" if kind == "GIF" else "RGB", (8, 8)), kind) for kind in ("PNG", "GIF", "JPEG")}
AFTER_HEAD = {"PNG": 33, "GIF": 13 + (3 << ((SMALL["GIF"][10] & 7) + 1)), "JPEG": 2}


def with_parts(kind, parts):
    at = AFTER_HEAD[kind]
    return SMALL[kind][:at] + parts + SMALL[kind][at:]


def of_zeros(number):
    return zlib.compress(bytes(number), 9)


TOO_MUCH = {
    "scans": (lambda: jpeg_of_scans(5_000, 2_000), "more than 50 scans"),
    "segments": (lambda: with_parts("JPEG", b"\xff\xfe\0\2" * 2_000_000), "more than 100000 segments"),
    "EXIF in many segments": (lambda: with_parts("JPEG", b"\xff\xe1\0\x0aExif\0\0II" * 20), "16 segments of EXIF"),
    "chunks": (lambda: with_parts("PNG", png_chunk(b"tEXt", b"k\0a") * 500_000), "more than 100000 chunks"),
    "tags of EXIF": (lambda: with_parts("PNG", png_chunk(b"eXIf", tags(3_000, 10**6))), "tags with more bytes"),
    "tags": (lambda: tags(3_000, 10**6), "tags with more bytes"),
    "text": (lambda: with_parts("PNG", png_chunk(b"zTXt", b"k\0\0" + of_zeros(10**7))), "too large"),
    "texts": (lambda: with_parts("PNG", png_chunk(b"zTXt", b"k\0\0" + of_zeros(900_000)) * 200), "Too much memory"),
    "profile": (lambda: with_parts("PNG", png_chunk(b"iCCP", b"k\0\0" + of_zeros(10**7))), "too large"),
    "comments": (lambda: with_parts("GIF", b"\x21\xfe\xff" + bytes(256) * 40_000), "too many blocks"),
    "a long comment": (lambda: with_parts("GIF", b"\x21\xfe" + (b"\xff" + bytes(255)) * 40_000), "too many blocks"),
    "junk": (lambda: with_parts("GIF", b"\1" * 5_000_000), "too many blocks"),
    "frames": (lambda: with_parts("GIF", b"\x2c" + bytes(8) + b"\2" + b"\1\1" * 1_000_000), "too many blocks"),
    "strips": (lambda: tiff_of_strips(1_000_000), "more than 100000 strips"),
    "a tile": (lambda: tiff_of_one_tile(40_000), "tiles of 40000 pixels"),
    "bytes": (lambda: SMALL["PNG"] + bytes(50_000_000), "bytes are too many"),
    "pixels": (lambda: saved(Image.new("1", (10_000, 5_001)), "PNG"), "10000 x 5001 pixels are too many"),
    "pixels of WebP": (lambda: saved(Image.new("RGB", (5_000, 5_001)), "WEBP", method=0), "at most 25000000"),
}


@pytest.mark.parametrize("name", TOO_MUCH)
def test_a_file_that_would_take_long_is_refused_at_once(name):
    make, words = TOO_MUCH[name]
    data = make()
    for read in (decode_image, stored_image):
        begun = time.process_time()
        with pytest.raises(InputError, match=words):
            read(data)
        assert time.process_time() - begun < 1.0
    assert not is_plain(data) and time.process_time() - begun < 1.0


def test_files_of_encoders_are_within_the_limits():
    large = Image.effect_noise((600, 400), 60).convert("RGB")
    for kind, how in (("PNG", {}), ("JPEG", {"progressive": True, "quality": 95}), ("GIF", {}), ("BMP", {}),
                      ("TIFF", {}), ("WEBP", {"method": 0}), ("AVIF", {"speed": 10})):  # fmt: skip
        assert decode_image(saved(large, kind, **how)).size == large.size
    assert decode_image(jpeg_of_scans(30, 64)).size == (64, 64)


def test_large_images_are_converted_strip_by_strip(monkeypatch):
    whole = [decode_image(data).tobytes() for data in FILES]
    monkeypatch.setattr("selfkd.data.media.STRIP_PIXELS", 50)
    assert [decode_image(data).tobytes() for data in FILES] == whole
