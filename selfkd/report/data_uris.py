"""Content inside the page, as data URIs."""

import base64

from markupsafe import Markup


def data_uri(content: bytes, media_type: str) -> Markup:
    return Markup(f"data:{media_type};base64,{base64.b64encode(content).decode()}")  # noqa: S704  # nosec B704 base64
