"""Audio files: the format by the first bytes, the decoder, and the share of the header's length that the file holds.

libsndfile decodes WAV, FLAC, MP3, Ogg, AIFF, AU and NIST's Sphere. Recordings of browsers and phones (MP4 with AAC,
WebM, 3GP, AMR) are decoded by FFmpeg, in the package PyAV, where the extra `selfkd[media]` is installed.
"""

import io
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import soundfile
from numpy.typing import NDArray

from selfkd.errors import InputError

READABLE = "WAV, FLAC, MP3, Ogg, AIFF, AU, NIST, M4A, MP4, AAC, WebM, 3GP or AMR"
# in order of preference for a recording, whatever the case of its extension
SUFFIXES = (
    ".wav", ".flac", ".mp3", ".ogg", ".opus", ".oga", ".m4a", ".mp4", ".aac", ".webm", ".3gp", ".amr", ".aif", ".aiff",
)  # fmt: skip
FFMPEG_FORMATS = {"mp4": "mov", "webm": "matroska", "aac": "aac", "amr": "amr"}  # FFmpeg's names of formats
# of the formats above, as libsndfile and FFmpeg call them; neither opens anything else
_CONTAINERS = {
    "wav": ("WAV", "WAVEX", "RF64"), "flac": ("FLAC",), "ogg": ("OGG",), "aiff": ("AIFF",), "au": ("AU",),
    "nist": ("NIST",), "mp3": ("MP3", "MPEG"),
}  # fmt: skip
_FFMPEG_CODECS = ("aac", "aac_latm", "mp3", "mp3float", "opus", "libopus", "vorbis", "flac", "alac", "amrnb", "amrwb",
                  "libopencore_amrnb", "libopencore_amrwb", "ac3", "eac3")  # fmt: skip
MAX_PARTS = 10_000  # chunks of a WAV or AIFF, and runs of junk in an MP3; recorders write a few
_BLOCK_SAMPLES = 1_000_000  # decoded at once: the length in a header may be wrong
_STREAMED = 0x7FFF0000  # a length of this or more, or 0, is that of a stream of unknown length
_UNKNOWN_FRAMES = 2**48  # libsndfile gives more than this for a FLAC without a length
_SLACK_SECONDS = 0.1  # error of a container's duration: priming samples, rounding to its clock


class OpenedAudio(NamedTuple):
    """`blocks` (frames, channels) of float32 follow `skipped_frames`; `known_frames` is the length of the whole file,
    None where the header has none. `share_held(frames)`, for the frames of a file that was decoded to its end, is their
    share of the length in the header, None where the header has none; raises InputError for a truncated file."""

    rate_hz: int
    channels: int
    skipped_frames: int
    known_frames: int | None
    blocks: Iterator[NDArray[np.float32]]
    share_held: Callable[[int], float | None]


def detect_format(head: bytes) -> str:
    """The format of an audio file by its first bytes; "" for an unknown one."""
    for file_format, matches in _FORMATS.items():
        if matches(head):
            return file_format
    return ""


_FORMATS: dict[str, Callable[[bytes], bool]] = {
    "wav": lambda b: b[:4] in (b"RIFF", b"RIFX", b"RF64") and b[8:12] == b"WAVE",
    "flac": lambda b: b[:4] == b"fLaC",
    "ogg": lambda b: b[:4] == b"OggS",
    "aiff": lambda b: b[:4] == b"FORM" and b[8:12] in (b"AIFF", b"AIFC"),
    "au": lambda b: b[:4] == b".snd",
    "nist": lambda b: b[:7] == b"NIST_1A",
    "mp4": lambda b: b[4:8] == b"ftyp",
    "webm": lambda b: b[:4] == b"\x1a\x45\xdf\xa3",
    "amr": lambda b: b[:5] == b"#!AMR",
    "mp3": lambda b: b[:3] == b"ID3" or bool(_mpeg_frame(b)),
    "aac": lambda b: bool(_adts_frame(b)),
}


@contextmanager
def open_audio(file: BinaryIO, start: float) -> Iterator[OpenedAudio]:
    """An audio file from `start` seconds on. Raises InputError, or an error of its decoder, for bytes that are none."""
    file_format = detect_format(file.read(16))
    file.seek(0)
    if not file_format:
        raise InputError(f"not readable audio (no {READABLE} file)")
    decoder = _by_ffmpeg if file_format in FFMPEG_FORMATS else _by_libsndfile
    with decoder(file, file_format, start) as opened:
        yield opened


@contextmanager
def _by_libsndfile(file: BinaryIO, file_format: str, start: float) -> Iterator[OpenedAudio]:
    with soundfile.SoundFile(_with_length(file) if file_format == "wav" else file) as opened:
        if opened.format not in _CONTAINERS[file_format]:
            raise InputError(f"not readable audio (a {file_format} file with {opened.format} in it)")
        first = opened.seek(round(start * opened.samplerate)) if start else 0
        is_known = 0 < opened.frames < _UNKNOWN_FRAMES
        if not is_known:  # soundfile seeks after each read, which libsndfile then refuses
            opened.seekable = lambda: False
        yield OpenedAudio(
            opened.samplerate,
            opened.channels,
            first,
            opened.frames if is_known else None,
            _blocks(opened, first),
            lambda frames: _SHARES[file_format](file, frames) if file_format in _SHARES else None,
        )


def _blocks(opened: soundfile.SoundFile, first: int) -> Iterator[NDArray[np.float32]]:
    block_frames = max(1, _BLOCK_SAMPLES // opened.channels)
    left = opened.frames - first  # not by `tell`: GSM in WAV has no positions
    while len(block := opened.read(max(1, min(block_frames, left)), dtype="float32", always_2d=True)):
        left = max(block_frames, left - len(block))
        yield block


# share of the length in the header that the file holds


def _wav_chunks(file: BinaryIO) -> tuple[dict[bytes, tuple[int, int]], str, int]:
    """({chunk id: (position, size)} up to the data, byte order, length of the file)."""
    length = file.seek(0, io.SEEK_END)
    file.seek(0)
    order = ">" if file.read(4) == b"RIFX" else "<"
    found: dict[bytes, tuple[int, int]] = {}
    at = 12
    for _ in range(MAX_PARTS):
        if at + 8 > length or b"data" in found:
            return found, order, length
        file.seek(at)
        name, size = struct.unpack(f"{order}4sI", file.read(8))
        found[name] = (at + 8, size)
        at += 8 + size + size % 2
    raise InputError(f"more than {MAX_PARTS} chunks (WAV)")


def _wav_share(file: BinaryIO, frames: int) -> float | None:
    chunks, order, length = _wav_chunks(file)
    at, size = chunks[b"data"]
    if b"ds64" in chunks and size == 0xFFFFFFFF:
        file.seek(chunks[b"ds64"][0] + 8)
        (size,) = struct.unpack(f"{order}Q", file.read(8))
        return None if size == 0 or size >= 2**62 else _share(length - at, size)
    return None if size == 0 or size >= _STREAMED else _share(length - at, size)


def _with_length(file: BinaryIO) -> BinaryIO:
    """A WAV with its real length in place of 0, for which libsndfile would decode no samples."""
    chunks, order, length = _wav_chunks(file)
    file.seek(0)
    at, size = chunks.get(b"data", (length, 1))
    if size or at >= length:
        return file
    content = bytearray(file.read())
    content[at - 4 : at] = struct.pack(f"{order}I", min(length - at, _STREAMED))
    return io.BytesIO(content)


def _aiff_share(file: BinaryIO, frames: int) -> float | None:
    length, at = file.seek(0, io.SEEK_END), 12
    for _ in range(MAX_PARTS):
        if at + 8 > length:
            return None
        file.seek(at)
        name, size = struct.unpack(">4sI", file.read(8))
        if name == b"SSND":
            return None if size >= _STREAMED else _share(length - at - 8, size)
        at += 8 + size + size % 2
    raise InputError(f"more than {MAX_PARTS} chunks (AIFF)")


def _au_share(file: BinaryIO, frames: int) -> float | None:
    length = file.seek(0, io.SEEK_END)
    file.seek(4)
    at, size = struct.unpack(">II", file.read(8))
    return None if size == 0 or size >= _STREAMED else _share(length - at, size)


def _nist_share(file: BinaryIO, frames: int) -> float | None:
    file.seek(0)
    for line in file.read(1024).split(b"\n"):
        if line.startswith(b"sample_count -i "):
            return _share(frames, int(line.split()[2]))
    return None


def _ogg_share(file: BinaryIO, frames: int) -> None:
    """An Ogg file has its length on its last page, which has a flag."""
    file.seek(0)
    content, at = file.read(), 0
    unended: set[bytes] = set()
    while content[at : at + 4] == b"OggS" and at + 27 <= len(content):
        flags, serial, segments = content[at + 5], content[at + 14 : at + 18], content[at + 26]
        at += 27 + segments + sum(content[at + 27 : at + 27 + segments])
        if at > len(content):
            break
        unended = unended - {serial} if flags & 4 else unended | {serial}
    if unended or at > len(content):
        raise InputError(f"truncated: its last page is missing (Ogg, {len(content)} bytes)")


def _mp3_share(file: BinaryIO, frames: int) -> float | None:
    """MPEG frames in the file, of the number in the first frame (Xing, Info, VBRI). Without such a header a file that
    ends within a frame was truncated; one truncated between two frames looks like a whole one."""
    file.seek(0)
    content = file.read()
    at = _after_id3(content)
    stated, first = _stated_frames(content, at), _mpeg_frame(content[at : at + 4])
    at = at + first if stated else at
    found, end = _count_frames(content, at, _mpeg_frame)
    if stated and stated - found > 1:
        return _share(found, stated)
    if end > len(content):
        raise InputError(f"truncated: it ends within a frame (MP3, {len(content)} bytes)")
    return None


def _stated_frames(content: bytes, at: int) -> int:
    frame = content[at : at + 200]
    for name, offset in ((b"Xing", 8), (b"Info", 8), (b"VBRI", 14)):
        mark = frame.find(name)
        if mark > 0 and (name == b"VBRI" or (len(frame) > mark + 7 and frame[mark + 7] & 1)):
            number = frame[mark + offset : mark + offset + 4]
            return int.from_bytes(number, "big") if len(number) == 4 else 0
    return 0


def _count_frames(content: bytes, at: int, length_of: Callable[[bytes], int]) -> tuple[int, int]:
    """(whole frames from `at` on, end of the last one), which is beyond the content for a truncated frame. Tags and
    junk between frames are skipped."""
    found, end, junk = 0, at, 0
    while at + 7 <= len(content):
        length = length_of(content[at : at + 8])
        follows = content[at + length : at + length + 8]
        # two bytes of junk may look like a header: a frame is followed by another, or a tag, or the end
        if length and (len(follows) < 7 or length_of(follows) or follows[:3] in (b"TAG", b"APE", b"ID3")):
            found, at = found + (at + length <= len(content)), at + length
            end = at
        else:
            at, junk = content.find(b"\xff", at + 1), junk + 1
            if at < 0:
                break
            if junk > MAX_PARTS:
                raise InputError(f"more than {MAX_PARTS} runs of junk between its frames")
    return found, end


def _after_id3(content: bytes) -> int:
    at = 0
    while content[at : at + 3] == b"ID3" and len(content) >= at + 10:
        size = content[at + 6 : at + 10]
        at += 10 + (size[0] << 21 | size[1] << 14 | size[2] << 7 | size[3])
    return at


_KBITS = {
    (1, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}  # of MPEG (1, or 2 and 2.5) and layer, by the index from 1
_MPEG_HZ = (44_100, 48_000, 32_000)


def _mpeg_frame(head: bytes) -> int:
    """The length of an MPEG audio frame in bytes by its header; 0 for any other bytes."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return 0
    version, layer, rate = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3), head[2] >> 2 & 3
    index, padding = head[2] >> 4, head[2] >> 1 & 1
    if version == 1 or layer == 4 or rate == 3 or not 0 < index < 15:
        return 0
    generation = 1 if version == 3 else 2
    hz = _MPEG_HZ[rate] // {3: 1, 2: 2, 0: 4}[version]
    bits = 1000 * _KBITS[generation, layer][index - 1]
    if layer == 1:
        return 4 * (12 * bits // hz + padding)
    return (72 if generation == 2 and layer == 3 else 144) * bits // hz + padding


def _adts_frame(head: bytes) -> int:
    """The length of an AAC frame in bytes by its header; 0 for any other bytes."""
    if len(head) < 7 or head[0] != 0xFF or head[1] & 0xF6 != 0xF0:
        return 0
    return (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5


def _share(held: int, stated: int) -> float:
    return max(0, held) / stated if stated else 1.0


_SHARES: dict[str, Callable[[BinaryIO, int], float | None]] = {
    "wav": _wav_share, "aiff": _aiff_share, "au": _au_share, "nist": _nist_share, "ogg": _ogg_share, "mp3": _mp3_share,
}  # fmt: skip  # for a truncated FLAC libsndfile raises an error itself


# recordings of browsers and phones


@contextmanager
def _by_ffmpeg(file: BinaryIO, file_format: str, start: float) -> Iterator[OpenedAudio]:
    try:
        import av
    except ImportError as error:
        raise InputError(
            f"{file_format} files need PyAV: pip install 'selfkd[media]'; or convert the recording to WAV or FLAC"
        ) from error
    try:
        with av.open(file, mode="r", format=FFMPEG_FORMATS[file_format]) as container:
            if not container.streams.audio:
                raise InputError(f"not readable audio ({file_format} without an audio stream)")
            stream = container.streams.audio[0]
            if stream.codec_context.name not in _FFMPEG_CODECS:
                raise InputError(f"not readable audio ({stream.codec_context.name} in {file_format})")
            skipped = round(start * stream.rate)
            frames = container.decode(stream)
            yield OpenedAudio(
                stream.rate,
                stream.channels,
                skipped,
                None,
                _from(skipped, _as_floats(frames, av.AudioResampler("fltp", stream.layout, stream.rate))),
                lambda count: _duration_share(file, file_format, container, count / stream.rate),
            )
    except av.FFmpegError as error:
        raise InputError(f"not readable audio ({file_format}: {error.strerror})") from error


def _as_floats(frames: Iterator[Any], resampler: Any) -> Iterator[NDArray[np.float32]]:
    for frame in chain(frames, [None]):  # flushes the resampler
        for out in resampler.resample(frame):
            yield out.to_ndarray().T


def _from(first: int, blocks: Iterator[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
    at = 0
    for block in blocks:
        if at + len(block) > first:
            yield block[max(0, first - at) :]
        at += len(block)


def _duration_share(file: BinaryIO, file_format: str, container: Any, seconds: float) -> float | None:
    if file_format == "aac":  # its duration is FFmpeg's guess
        file.seek(0)
        content = file.read()
        if _count_frames(content, _after_id3(content), _adts_frame)[1] > len(content):
            raise InputError(f"truncated: it ends within a frame (AAC, {len(content)} bytes)")
    if file_format in ("aac", "amr"):
        return None
    stream = container.streams.audio[0]
    stated = float(stream.duration * stream.time_base) if stream.duration else (container.duration or 0) / 1_000_000
    return seconds / stated if stated > seconds + _SLACK_SECONDS else None
