"""Attention on the picture: what gets little of it is darkened, what gets most of it stays as it is."""

import base64
import io

import numpy as np
from PIL import Image
from torch import Tensor

SIDE = 384  # pixels, of the longer side
DARKEST = 0.86  # opacity over a place that gets none


def thumbnail(picture: Image.Image | None) -> Image.Image:
    """At most `SIDE` pixels a side; small pictures stay as they are."""
    assert picture is not None, "a question here has a picture"
    small = picture.copy()
    small.thumbnail((SIDE, SIDE))
    return small


def shade(share_YX: Tensor, most: float) -> Image.Image:
    """One pixel a place, to be stretched over the picture: black, the more opaque the less attention there is.
    `most` is the share of attention that leaves a place as bright as it is."""
    brightness = (share_YX.numpy() / max(most, 1e-9)).clip(0, 1)
    alpha = np.round(255 * DARKEST * (1 - brightness)).astype(np.uint8)
    return Image.fromarray(np.stack([np.zeros_like(alpha), alpha], axis=-1), "LA")


def data_uri(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
