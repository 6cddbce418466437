"""The only decoder of images and of audio: a file's bytes -> 8-bit RGB pixels, upright; mono samples.

All stages, the server, the app and the report decode with it, so that all of them have the same pixels and samples, and
refuse the same files. A property that a file does not state is an error, not a guess. An InputError of this module says
what is wrong; the caller adds file, row and field.
"""

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import soundfile
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageChops, ImageCms, UnidentifiedImageError

from selfkd.data.audio_files import OpenedAudio, open_audio
from selfkd.data.image_limits import check_structure, check_tags
from selfkd.data.quiet import quiet_libraries
from selfkd.errors import InputError, reason_of, without_run_details
from selfkd.files import open_regular

# Pillow's warnings about metadata: nobody can mend them, and data would write into the log
warnings.filterwarnings("ignore", module=r"PIL\.")

MAX_PIXELS = 50_000_000  # an image with more is no photograph but an attack on memory
MAX_PIXELS_OF = {"WEBP": MAX_PIXELS // 2}  # whose decoder holds two copies more
WEB_FORMATS = ("PNG", "JPEG", "WEBP", "GIF")  # accepted from clients of the server
# Pillow knows some forty formats, among them one that starts Ghostscript, and several that it decodes in Python, a byte
# at a time; JPEG includes what phones call MPO
FORMATS = (*WEB_FORMATS, "TIFF", "BMP", "AVIF")
STRIP_PIXELS = 4_000_000  # converted at once: whole copies of an image would take several times its memory

MAX_SAMPLES = 32_000_000  # of a clip, all channels: 30 s of 8 at 96 kHz have 23 million
MAX_AUDIO_BYTES = 256_000_000  # of a file that is read to its end: as many samples of 64 bits
MAX_CHANNELS = 64
RATES_HZ = range(4_000, 384_001)
MIN_LEVEL = 1e-3  # standard deviation of samples that are not silence: -60 dBFS
_LEVEL_BLOCK = 1_000_000
MAX_PEAK = 4.0  # full scale is 1; decoders of MP3 go a little beyond, whole numbers in a float file go far
MAX_MISSING_SECONDS = 0.02  # at the end of a file: encoders round to a frame
MAX_MISSING_PART_SECONDS = 0.1  # at the end of a part of a file: manifests round the ends of their segments


# images


def decode_image(data: bytes, max_pixels: int = MAX_PIXELS, formats: Sequence[str] = FORMATS) -> Image.Image:
    """The first frame of an image file: mode RGB, 8 bits, upright.

    Transparent pixels are composited on white. Gray values of 16 bits (or 12) are scaled by the range of their type,
    floats by 255 where they are between 0 and 1. Color profiles are ignored, as in the processors of the models. Raises
    InputError for bytes that are no image of the `formats`, are truncated, have over `max_pixels` pixels, or have
    values whose black and white are not known.
    """
    with _opened(data, formats, max_pixels) as pil_image:
        image, orientation = _decoded(pil_image), _orientation(pil_image)
        pil_image.close()  # its memory, before a turned copy takes as much
    return _upright(image, orientation)


def stored_image(data: bytes) -> bytes:
    """The bytes to store of an image file: its own where any reader decodes the same pixels, else a PNG of the result
    of `decode_image`. Raises InputError as that does."""
    with _opened(data, FORMATS) as pil_image:
        is_same = pil_image.mode in _PLAIN and "transparency" not in pil_image.info
        if pil_image.mode in ("RGBA", "LA"):
            is_same = pil_image.getchannel("A").getextrema() == (255, 255)
    image = decode_image(data)
    if is_same:
        return data
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def image_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) upright, from the header of the file only; None where it cannot be decoded."""
    with suppress(InputError), _opened(data, FORMATS) as image:
        width, height = image.size
        return (height, width) if _orientation(image) in _TRANSPOSED else (width, height)
    return None


def is_plain(data: bytes) -> bool:
    """Whether, by the header of an image file, any reader decodes the same pixels as `decode_image`: one frame, stored
    upright, opaque, of 8 bits."""
    with suppress(InputError), _opened(data, FORMATS) as image:
        is_opaque = image.mode in _PLAIN and "transparency" not in image.info
        return is_opaque and _orientation(image) == 1 and not getattr(image, "is_animated", False)
    return False


def rgb(image: Image.Image) -> Image.Image:
    """An image that Pillow has opened, as `decode_image` would decode it; raises InputError as that does."""
    with _image_errors():
        return _upright(_decoded(image), _orientation(image))


_PLAIN = ("1", "L", "P", "RGB", "RGBX", "YCbCr", "CMYK", "HSV")  # modes that `Image.convert("RGB")` converts correctly
_TRANSPOSED = range(5, 9)  # EXIF orientations that swap width and height


@contextmanager
def _opened(data: bytes, formats: Sequence[str], max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """The header of an image whose pixels may be decoded: every limit holds."""
    check_structure(data)
    with _image_errors(), Image.open(io.BytesIO(data), formats=tuple(formats)) as image:
        width, height = image.size
        max_pixels = min(max_pixels, MAX_PIXELS_OF.get(image.format or "", max_pixels))
        if width * height > max_pixels:
            raise InputError(f"{width} x {height} pixels are too many, at most {max_pixels} are accepted")
        if getattr(image, "tile", None) and image.tile[0][0] == "bmp_rle":  # Pillow decodes it in Python
            raise InputError("a run-length encoded BMP; save it as PNG")
        yield image


@contextmanager
def _image_errors() -> Iterator[None]:
    try:
        with quiet_libraries():
            yield
    except InputError:
        raise
    except UnidentifiedImageError as error:  # its own message holds the address of an object
        raise InputError(f"not a readable image (no {', '.join(WEB_FORMATS)} or the like)") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"too many pixels: {error}") from error
    except Exception as error:  # with malformed bytes Pillow's decoders raise nearly anything
        raise InputError(f"not a readable image ({reason_of(error)})") from error


def _decoded(pil_image: Image.Image) -> Image.Image:
    file_format, is_inverted = pil_image.format, _is_white_zero(pil_image)
    # the codec's own name of the stored mode ("L;2", "RGB;16B"): gone once the image is loaded
    tiles = getattr(pil_image, "tile", None)
    stored = str(tiles[0][3]) if tiles else ""
    top = _whitest(pil_image, file_format)
    pil_image.load()
    key = (
        pil_image.info.get("transparency") if pil_image.mode in ("1", "L", "RGB") or pil_image.mode[:1] == "I" else None
    )
    if key is not None and "RGB;16" in stored:
        raise InputError("16-bit colors of which one is transparent: Pillow does not keep all of their bits")
    if key is not None:
        key = _scaled_key(key, pil_image.mode, stored)
    width, height = pil_image.size
    rows = max(1, STRIP_PIXELS // max(1, width))
    image = Image.new("RGB", pil_image.size)
    for at in range(0, height, rows):
        part = pil_image.crop((0, at, width, min(at + rows, height)))
        image.paste(_on_white(_eight_bits(part, top, is_inverted), part if key is not None else None, key), (0, at))
    return image


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    turn = _TURNS.get(orientation)
    image = image if turn is None else image.transpose(turn)
    image.info.clear()  # its EXIF orientation is applied: later readers must not rotate the pixels again
    return image


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation; 1, upright, where there is none or it cannot be read."""
    with suppress(Exception):
        if text := image.info.get("Raw profile type exif"):  # in a PNG of older tools, in hexadecimal
            check_tags(bytes.fromhex("".join(text.split("\n")[3:])), "EXIF")
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    return 1


def _on_white(image: Image.Image, keyed: Image.Image | None, key: int | tuple[int, ...] | None) -> Image.Image:
    """RGB of an image of 8 bits. Pixels where `keyed` has the value `key` are transparent."""
    if keyed is not None and key is not None:
        opaque = _other_than(keyed, key)
    elif image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        if image.mode == "La":
            image = image.convert("LA")
        image = image.convert("RGBA")
        opaque = image.getchannel("A")
    else:
        return image.convert("RGB")
    if opaque.getextrema() == (255, 255):
        return image.convert("RGB")
    white = Image.new("RGB", image.size, "white")
    white.paste(image.convert("RGB"), mask=opaque)  # color x a + 255 x (1 - a), rounded
    return white


def _other_than(image: Image.Image, key: int | tuple[int, ...]) -> Image.Image:
    """255 where a pixel has another value than `key`, 0 where it has that value."""
    if image.mode[:1] == "I":
        return Image.fromarray(np.where(np.asarray(image) == key, 0, 255).astype(np.uint8))
    bands = zip(image.convert("L" if image.mode == "1" else image.mode).split(), np.atleast_1d(key), strict=True)
    others = [band.point([0 if value == k else 255 for value in range(256)]) for band, k in bands]
    found = others[0]
    for other in others[1:]:
        found = ImageChops.lighter(found, other)
    return found


def _scaled_key(key: int | tuple[int, ...], mode: str, stored: str) -> int | tuple[int, ...]:
    """A transparent value in the range of the decoded pixels; files of few bits store it in their own range."""
    if isinstance(key, bytes | tuple) or mode[:1] == "I":
        return tuple(key) if not isinstance(key, int) else key
    return key * {"1": 255, "L;2": 85, "L;4": 17}.get(stored.split("'")[1] if "'" in stored else stored, 1)


def _eight_bits(image: Image.Image, top: float | None, is_inverted: bool) -> Image.Image:
    mode = image.mode
    if mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        found = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
        assert found is not None, "it is not changed in place"  # noqa: S101 an invariant of this code, no check of input
        return found
    if mode[:1] not in ("I", "F"):
        return image
    values = np.asarray(image)
    if mode == "F":
        low, high = float(values.min()), float(values.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise InputError("NaN or infinite floats")
        if low < 0 or high > 1:
            raise InputError(
                f"floats from {low:g} to {high:g}: what is black and what is white is not known; save them as 0 to 1, "
                "or as 8 bits"
            )
        grey = np.rint(values * np.float32(255)).astype(np.uint8)
    elif top is None:
        raise InputError("integers of 32 bits, or signed: what is black and what is white is not known")
    else:
        grey = ((values.astype(np.uint32) * 255 + int(top) // 2) // int(top)).clip(0, 255).astype(np.uint8)
    return Image.fromarray(255 - grey if is_inverted else grey)


def _whitest(image: Image.Image, file_format: str | None) -> float | None:
    """The value of white in integers of more than 8 bits; None where the file does not define it."""
    if image.mode.startswith("I;16"):
        bits = image.tag_v2.get(ExifTags.Base.BitsPerSample, (16,)) if hasattr(image, "tag_v2") else (16,)
        return 2 ** int(np.atleast_1d(bits)[0]) - 1
    # older versions of Pillow give the 16 bits of PNG as 32
    return 65_535 if image.mode == "I" and file_format == "PNG" else None


def _is_white_zero(image: Image.Image) -> bool:
    """Whether white is stored as 0, as in X-rays: Pillow inverts 8 bits, but neither 16 bits nor floats."""
    tags = getattr(image, "tag_v2", None)
    return tags is not None and tags.get(ExifTags.Base.PhotometricInterpretation) == 0


# audio


class AudioClip(NamedTuple):
    """Mono `samples` (frames,), float32 in [-1, 1], at the file's own rate; `channels` is their number in the file."""

    samples: NDArray[np.float32]
    rate_hz: int
    channels: int


def decode_audio(
    source: bytes | Path,
    start: float = 0.0,
    stop: float = 0.0,
    channels: Sequence[int] = (),
    max_seconds: float = 0.0,
    min_seconds: float = 0.0,
) -> AudioClip:
    """An audio file, or a part of it in seconds (to its end where `stop` is 0): the mean of its channels, or of
    `channels`, counted from 0.

    Raises InputError for bytes that are no audio; for samples that are silent, NaN, or far beyond full scale; for over
    `max_seconds` (`MAX_SAMPLES` where that is 0) or under `min_seconds`; and for a truncated file, which holds less
    than its header says, or less than the part. A length of 0, or the maximum, is that of a stream and states nothing.
    """
    with _audio_errors(), _open(source) as file:
        size = file.seek(0, io.SEEK_END)
        if not stop and size > MAX_AUDIO_BYTES:
            raise InputError(f"{size} bytes are too many, at most {MAX_AUDIO_BYTES} are accepted")
        file.seek(0)
        return _clip(file, start, stop, channels, max_seconds, min_seconds)


def _clip(
    file: BinaryIO, start: float, stop: float, channels: Sequence[int], max_seconds: float, min_seconds: float
) -> AudioClip:
    with open_audio(file, start) as audio_clip:
        if audio_clip.rate_hz not in RATES_HZ:
            raise InputError(f"{audio_clip.rate_hz} samples a second, {RATES_HZ[0]} to {RATES_HZ[-1]} are accepted")
        if audio_clip.channels > MAX_CHANNELS:
            raise InputError(f"{audio_clip.channels} channels are too many, at most {MAX_CHANNELS} are accepted")
        beyond = [number for number in channels if not 0 <= number < audio_clip.channels]
        if beyond:
            raise InputError(f"no channel {beyond[0]} (counted from 0), there are {audio_clip.channels}")
        wanted = round((stop - start) * audio_clip.rate_hz) if stop else None
        samples = _mono(audio_clip, wanted, list(channels), max_seconds)
        seconds = len(samples) / audio_clip.rate_hz
        if wanted is None:
            _check_whole(audio_clip, audio_clip.skipped_frames + len(samples))
        elif wanted / audio_clip.rate_hz - seconds > MAX_MISSING_PART_SECONDS:
            raise InputError(f"truncated: holds {seconds:.1f} s of the {stop - start:.1f} s from {start:.1f} s on")
        if seconds < min_seconds:
            raise InputError(f"{seconds:.3f} s of audio is too short")
        if not len(samples):
            raise InputError("holds no samples")
    check_not_silent(samples)
    return AudioClip(samples, audio_clip.rate_hz, audio_clip.channels)


def _check_whole(audio_clip: OpenedAudio, frames: int) -> None:
    share, held = audio_clip.share_held(frames), frames / audio_clip.rate_hz
    if share and held / share - held > MAX_MISSING_SECONDS:
        raise InputError(f"truncated: holds {held:.2f} s of {held / share:.2f} s")


def _mono(audio_clip: OpenedAudio, wanted: int | None, channels: list[int], max_seconds: float) -> NDArray[np.float32]:
    """The wanted part of the audio; the length is checked before each further block is decoded."""
    max_frames = int(max_seconds * audio_clip.rate_hz) if max_seconds else MAX_SAMPLES // audio_clip.channels
    blocks: list[NDArray[np.float32]] = []
    held, known = 0, audio_clip.known_frames
    expected = 0 if known is None else min(known - audio_clip.skipped_frames, known if wanted is None else wanted)
    for block in audio_clip.blocks:
        expected = max(expected, held + len(block) if wanted is None else min(wanted, held + len(block)))
        if expected > max_frames:  # an hour of silence is a small FLAC file
            if max_seconds:
                raise InputError(f"over the limit of {max_seconds:g} s")
            raise InputError(f"{expected / audio_clip.rate_hz:.0f} s of {audio_clip.channels} channels are too much")
        blocks.append(mono(block[: None if wanted is None else wanted - held], channels))
        held += len(blocks[-1])
        if wanted is not None and held >= wanted:
            break
    return np.concatenate(blocks) if blocks else np.zeros(0, np.float32)


def mono(samples: NDArray[np.float32], channels: Sequence[int] = ()) -> NDArray[np.float32]:
    """(frames,) in [-1, 1]: the mean of (frames, channels), or of `channels`. Raises InputError for NaN and infinite
    samples, and for samples far beyond full scale, which have another scale."""
    if channels:
        samples = samples[:, list(channels)]
    peak = float(np.abs(samples).max()) if samples.size else 0.0
    if not np.isfinite(peak):
        raise InputError("holds NaN or infinite samples")
    if peak > MAX_PEAK:
        raise InputError(f"holds samples up to {peak:g}, full scale is 1; save them between -1 and 1")
    # clipped first: the two decoders of a clipped recording would differ otherwise
    return np.clip(samples, -1, 1).mean(axis=1, dtype=np.float32)


@contextmanager
def _open(source: bytes | Path) -> Iterator[BinaryIO]:
    with io.BytesIO(source) if isinstance(source, bytes) else open_regular(source) as file:
        yield file


@contextmanager
def _audio_errors() -> Iterator[None]:
    try:
        with quiet_libraries():
            yield
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"not readable audio ({error.strerror})") from error
    except soundfile.LibsndfileError as error:  # its text names the file object, and thus local folders
        raise InputError(f"not readable audio ({error.error_string})") from error
    except Exception as error:  # malformed headers raise nearly anything
        raise InputError(f"not readable audio ({without_run_details(str(error))})") from error


def _level(samples: NDArray[np.float32]) -> float:
    """The standard deviation of samples (frames,), a block at a time: in float64 as a whole they are three copies."""
    blocks = np.array_split(samples, len(samples) // _LEVEL_BLOCK + 1)
    mean = sum(float(block.sum(dtype=np.float64)) for block in blocks) / max(1, len(samples))
    squares = sum(float(np.square(block - np.float64(mean)).sum()) for block in blocks)
    return float(np.sqrt(squares / max(1, len(samples))))


def check_not_silent(samples: NDArray[np.float32]) -> None:
    """Raises InputError for samples that are silent or constant, NaN or infinite."""
    level = _level(samples)
    if not np.isfinite(level):
        raise InputError("holds NaN or infinite samples")
    if level < MIN_LEVEL:
        raise InputError(f"silent (root mean square {level:.5f})")
