# SPDX-License-Identifier: Apache-2.0
"""Images and clips as files, for callers in Python: a path -> pixels, samples at 16 kHz."""

from math import gcd
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from .features import SAMPLE_RATE_HZ
from .input_error import InputError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF")  # none of which starts an interpreter
MAX_PIXELS = 50_000_000
ImageInput = Image.Image | str | Path | None
AudioInput = NDArray[np.float32] | str | Path | None


def open_image(image: ImageInput) -> Image.Image | None:
    """The image of a file: RGB, upright, on white where it is transparent; an image of Pillow and None as they are.
    Raises InputError for a file that is missing or no image."""
    if not isinstance(image, str | Path):
        return image
    try:
        with Image.open(_regular(image, "images"), formats=FORMATS) as file:
            if file.width * file.height > MAX_PIXELS:
                raise InputError(f"images: {image}: {file.width} x {file.height} pixels are too many")
            upright = ImageOps.exif_transpose(file)
            if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
                upright = upright.convert("RGBA")
                upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
            return upright.convert("RGB")
    except InputError:
        raise
    except Exception as error:  # with malformed bytes Pillow's decoders raise nearly anything
        raise InputError(f"images: {image}: not a readable image ({type(error).__name__}: {error})") from error


def open_audio(audio: AudioInput) -> NDArray[np.float32]:
    """Samples (frames,) at 16 kHz: of a file the mean of its channels, resampled; samples as they are. Raises
    InputError for a file that is missing or no audio."""
    if not isinstance(audio, str | Path):
        return mono(audio)
    path = _regular(audio, "audio")
    try:
        import soundfile
    except ImportError as error:
        raise InputError(f"audio: {audio}: reading a file needs the package soundfile; or give its samples") from error
    try:
        samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    except Exception as error:  # of libsndfile, whose own error is a RuntimeError
        raise InputError(f"audio: {audio}: not readable audio ({error})") from error
    return _resampled(np.clip(samples, -1, 1).mean(axis=1, dtype=np.float32), rate_hz)


def mono(samples: Any) -> NDArray[np.float32]:
    """One clip's samples as float32; raises InputError where they are not one row of numbers."""
    found = np.asarray(samples, dtype=np.float32)
    if found.ndim != 1:
        raise InputError(f"audio: samples of shape {found.shape}, expected one row for each clip (mono, 16 kHz)")
    return found


def _regular(path: str | Path, field: str) -> Path:
    path = Path(path)
    try:
        path.stat()
    except OSError as error:
        raise InputError(f"{field}: {path}: {error.strerror}") from error
    if not path.is_file():
        raise InputError(f"{field}: {path}: not a file")
    return path


def _resampled(samples: NDArray[np.float32], rate_hz: int) -> NDArray[np.float32]:
    if rate_hz == SAMPLE_RATE_HZ:
        return samples
    try:
        from scipy.signal import resample_poly
    except ImportError as error:
        raise InputError(f"audio: {rate_hz} samples a second; resampling to 16 kHz needs the package scipy") from error
    divisor = gcd(SAMPLE_RATE_HZ, rate_hz)
    return np.clip(resample_poly(samples, SAMPLE_RATE_HZ // divisor, rate_hz // divisor), -1, 1).astype(np.float32)
