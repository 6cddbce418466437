"""What an image file may hold besides its pixels, checked in its bytes before Pillow opens them.

Pillow's own limits bound the pixels, but neither the scans of a JPEG, each of which is decoded over all pixels, nor the
parts that its readers go through in Python, some of them in quadratic time. Photographs have less than a tenth of each.
"""

import re
import struct

from selfkd.errors import InputError

MAX_BYTES = 50_000_000
MAX_SCANS = 50  # of a progressive JPEG; encoders write about 10
MAX_PARTS = 100_000  # chunks of a PNG, segments of a JPEG, strips of a TIFF
MAX_TEXT_BLOCKS = 4_000  # of 255 bytes, in the extensions of a GIF
MAX_TILE_SIDE = 8_192  # of a TIFF, pixels
MAX_FRAME_BLOCKS = 500_000  # of 255 bytes, in the first two frames of a GIF

_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")  # of a segment of a JPEG: neither data nor a restart of a scan
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}  # TIFF
_OFFSETS = (273, 279, 324, 325)  # tags of a TIFF: where its strips or tiles are, and how long
_TILE_SIDES = (322, 323)


def check_structure(data: bytes) -> None:
    """Raises InputError for a file that takes far more to decode than its pixels do."""
    if len(data) > MAX_BYTES:
        raise InputError(f"{len(data)} bytes are too many, at most {MAX_BYTES} are accepted")
    if data.startswith(b"\xff\xd8"):
        _check_jpeg(data)
    elif data.startswith(b"\x89PNG"):
        _check_png(data)
    elif data.startswith(b"GIF8"):
        _check_gif(data)
    elif data.startswith((b"II", b"MM")):
        check_tags(data, "TIFF")
    elif data.startswith(b"RIFF"):
        _check_webp(data)


def _check_jpeg(data: bytes) -> None:
    at, scans, exif = 2, 0, []
    for _ in range(MAX_PARTS):
        marker = _MARKER.search(data, at)
        if marker is None or marker[1] == b"\xd9":
            break
        at = marker.end()
        if marker[1] in (b"\xd8", b"\x01"):  # which have no length
            continue
        length = int.from_bytes(data[at : at + 2], "big")
        if marker[1] == b"\xda":
            scans += 1
        elif marker[1] == b"\xe1" and data[at + 2 : at + 8] == b"Exif\0\0":
            exif.append(data[at + 8 : at + length])
        elif marker[1] == b"\xe2" and data[at + 2 : at + 6] == b"MPF\0":
            check_tags(data[at + 6 : at + length], "MPF")
        if scans > MAX_SCANS:
            raise InputError(f"more than {MAX_SCANS} scans (JPEG)")
        at += length
    else:
        raise InputError(f"more than {MAX_PARTS} segments (JPEG)")
    if len(exif) > 16:  # Pillow joins them, each time in a new text
        raise InputError("more than 16 segments of EXIF (JPEG)")
    check_tags(b"".join(exif), "EXIF")


def _check_png(data: bytes) -> None:
    at = 8
    for _ in range(MAX_PARTS):
        if at + 8 > len(data):
            return
        length, name = struct.unpack_from(">I4s", data, at)
        if name == b"eXIf":
            check_tags(data[at + 8 : at + 8 + length], "EXIF")
        at += 12 + length
    raise InputError(f"more than {MAX_PARTS} chunks (PNG)")


def _check_webp(data: bytes) -> None:
    at = 12
    for _ in range(MAX_PARTS):
        if at + 8 > len(data):
            return
        name, length = struct.unpack_from("<4sI", data, at)
        if name == b"EXIF":
            check_tags(data[at + 8 : at + 8 + length].removeprefix(b"Exif\0\0"), "EXIF")
        at += 8 + length + length % 2
    raise InputError(f"more than {MAX_PARTS} chunks (WebP)")


def _check_gif(data: bytes) -> None:
    """The blocks up to the end of the second frame: Pillow looks whether there is one."""
    flags = data[10] if len(data) > 10 else 0
    at = 13 + _color_table(flags)
    frames = text = image = 0
    while at < len(data) and frames < 2 and data[at] != 0x3B:
        kind = data[at]
        if kind == 0x2C:
            frames += 1
            at += 11 + _color_table(data[at + 9] if at + 9 < len(data) else 0)
            at, blocks = _after_blocks(data, at)
            image += blocks
        elif kind == 0x21:
            at, blocks = _after_blocks(data, at + 2)
            text += 1 + blocks
        else:  # Pillow skips it, a byte at a time
            text, at = text + 1, at + 1
        if text > MAX_TEXT_BLOCKS or image > MAX_FRAME_BLOCKS:
            raise InputError("too many blocks (GIF)")


def _color_table(flags: int) -> int:
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _after_blocks(data: bytes, at: int) -> tuple[int, int]:
    """(end, number of blocks) of a chain, of which the last block has the length 0. No more are counted than a frame
    may have."""
    blocks = 0
    while at < len(data) and blocks <= MAX_FRAME_BLOCKS:
        length = data[at]
        at, blocks = at + 1 + length, blocks + 1
        if not length:
            break
    return at, blocks


def check_tags(block: bytes, kind_of_file: str) -> None:
    """The first directory of a TIFF, or of EXIF, which is one. Pillow copies the value of every tag: values that lie on
    top of each other would take far more memory than the file."""
    order = "<" if block.startswith(b"II") else ">"
    is_big = block[2:4] in (b"\x2b\0", b"\0\x2b")
    head, number, entry = ("Q", "Q", "HHQQ") if is_big else ("I", "H", "HHII")
    try:
        (at,) = struct.unpack_from(order + head, block, 8 if is_big else 4)
        (count,) = struct.unpack_from(order + number, block, at)
        size = struct.calcsize(order + entry)
        if count > MAX_PARTS:
            raise InputError(f"more than {MAX_PARTS} tags ({kind_of_file})")
        at, total = at + struct.calcsize(order + number), 0
        for _ in range(count):
            tag, kind, values, value = struct.unpack_from(order + entry, block, at)
            at, total = at + size, total + values * _SIZES.get(kind, 0)
            if total > len(block) + MAX_PARTS:
                raise InputError(f"tags with more bytes than the file ({kind_of_file})")
            if tag in _OFFSETS and values > MAX_PARTS:
                raise InputError(f"more than {MAX_PARTS} strips or tiles ({kind_of_file})")
            if tag in _TILE_SIDES and values == 1:
                side = value >> 16 if kind == 3 and order == ">" and not is_big else value
                if side > MAX_TILE_SIDE:
                    raise InputError(f"tiles of {side} pixels are too large ({kind_of_file})")
    except struct.error:  # a directory that is cut short is Pillow's to refuse
        return
