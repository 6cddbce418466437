"""The body of a request -> its query: JSON is parsed and checked, the image and the audio are decoded.

All that reads untrusted bytes is here and in `media`. It runs in an isolated process, so this module imports no model.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from selfkd.serving.config import ServeConfig
from selfkd.serving.media import REMOTE_SCHEMES, base64_bytes, data_url_bytes, read_audio, read_image
from selfkd.serving.schema import AudioPart, ChatRequest, ImagePart, RefusedError, TextPart, bad_field, read_request

_MAX_CHARACTERS_PER_TOKEN = 64  # texts far beyond the context are refused before tokenization


@dataclass(frozen=True)
class Query:
    """What a request asks, with at most one image and at most one audio part.

    With audio, the text before it is the instruction and the text after it the answer format. Without audio, all text
    is the question (`text_before`).
    """

    text_before: str
    text_after: str
    image: NDArray[np.uint8] | None  # (height, width, 3), RGB
    image_url: str  # of a remote image, which is still to be fetched; "" for none
    samples: NDArray[np.float32] | None  # mono, 16 kHz
    token_limit: int | None
    streams: bool
    includes_usage: bool


def read_query(body: bytes, config: ServeConfig, context: int) -> Query:
    """`context`: the LLM's context length in tokens. Raises RefusedError for an invalid request, for images and audio
    that cannot be decoded, and for texts far beyond the context."""
    request = read_request(body)
    if request.model != config.served_name:
        raise unknown_model(request.model, config)
    before, after, image_url, audio = _parse_message(request)
    check_text(before + after, context)
    remote = image_url is not None and image_url.lower().startswith(REMOTE_SCHEMES)
    if remote and not config.remote_images:
        raise bad_field("image_url", "remote images are not fetched here; send a data URL")
    image = samples = None
    if image_url is not None and not remote:
        image = read_pixels(data_url_bytes(image_url), config.max_pixels)
    if audio is not None:
        content = base64_bytes(audio.input_audio.data, "input_audio")
        samples = read_audio(content, audio.input_audio.format, config.max_audio_seconds)
    return Query(
        before,
        after,
        image,
        image_url if remote and image_url else "",
        samples,
        request.token_limit,
        bool(request.stream),
        request.includes_usage,
    )


def read_pixels(content: bytes, max_pixels: int) -> NDArray[np.uint8]:
    """(height, width, 3), RGB; raises RefusedError as `read_image` does."""
    return np.asarray(read_image(content, max_pixels))


def _parse_message(request: ChatRequest) -> tuple[str, str, str | None, AudioPart | None]:
    """(text before the audio, text after it, URL of the image, audio). Joins text parts without a separator. Raises
    RefusedError for a message without a query, or with several images or audio parts."""
    parts = request.messages[0].content
    images = [p.image_url.url for p in parts if isinstance(p, ImagePart)]
    audio_parts = [p for p in parts if isinstance(p, AudioPart)]
    if len(images) > 1 or len(audio_parts) > 1:
        part_type = "image_url" if len(images) > 1 else "input_audio"
        raise bad_field("messages.0.content", f"at most one part of type {part_type} is supported")
    split = parts.index(audio_parts[0]) if audio_parts else len(parts)
    before, after = (
        "".join(p.text for p in some if isinstance(p, TextPart)) for some in (parts[:split], parts[split:])
    )
    if not audio_parts and not before.strip():
        raise bad_field("messages.0.content", "no query: send text or input_audio")
    return before, after, images[0] if images else None, audio_parts[0] if audio_parts else None


def check_text(text: str, context: int) -> None:
    """Raises RefusedError for a text that cannot fit the context, before it is tokenized."""
    if len(text) > context * _MAX_CHARACTERS_PER_TOKEN:
        raise context_exceeded(f"{len(text)} characters do not fit the model's context of {context} tokens")


def context_exceeded(message: str) -> RefusedError:
    return RefusedError(400, f"messages: {message}", "messages", "context_length_exceeded")


def unknown_model(name: str, config: ServeConfig) -> RefusedError:
    message = f"model: {name[:100]!r} does not exist; this server has {config.served_name!r}"
    return RefusedError(404, message, "model", "model_not_found")
