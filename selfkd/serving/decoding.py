"""The body of a request -> its query: JSON is parsed and checked, the image and the audio are decoded.

All that reads untrusted bytes is here and in `media`. It runs in an isolated process, so this module imports no model.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from selfkd.serving.config import ServeConfig
from selfkd.serving.media import REMOTE_SCHEMES, base64_bytes, data_url_bytes, read_audio, read_image
from selfkd.serving.schema import (
    AudioPart,
    ImagePart,
    Message,
    RefusedError,
    Sampling,
    TextPart,
    bad_field,
    read_request,
)

_MAX_CHARACTERS_PER_TOKEN = 64  # texts far beyond the context are refused before tokenization
_ELSEWHERE = "vLLM serves such conversations"


@dataclass(frozen=True)
class Turns:
    """A conversation, with at most one image, in its first turn, and at most one audio part, in its last.

    With audio, the text of the last turn before it is the instruction and the text after it the answer format. Without
    audio, all its text is the question (`text_before`).
    """

    system: str  # "" for none
    history: tuple[tuple[str, str], ...]  # the earlier text queries, each with its response
    text_before: str
    text_after: str
    image: ImagePart | None
    audio: AudioPart | None


@dataclass(frozen=True)
class Query:
    """What a request asks: a conversation as in `Turns`, its media decoded, and how to respond."""

    system: str
    history: tuple[tuple[str, str], ...]
    text_before: str
    text_after: str
    image: NDArray[np.uint8] | None  # (height, width, 3), RGB
    image_url: str  # of a remote image, which is still to be fetched; "" for none
    samples: NDArray[np.float32] | None  # mono, 16 kHz
    token_limit: int | None
    sampling: Sampling
    stop: tuple[str, ...]  # texts that end the response
    streams: bool
    includes_usage: bool


def read_query(body: bytes, config: ServeConfig, context: int) -> Query:
    """`context`: the LLM's context length in tokens. Raises RefusedError for an invalid request, for images and audio
    that cannot be decoded, and for texts far beyond the context."""
    request = read_request(body)
    if request.model != config.served_name:
        raise unknown_model(request.model, config)
    turns = read_turns(request.messages)
    texts = [turns.system, *(text for turn in turns.history for text in turn), turns.text_before, turns.text_after]
    check_text("".join(texts), context)
    url = turns.image.image_url.url if turns.image else ""
    is_remote = url.lower().startswith(REMOTE_SCHEMES)
    if is_remote and not config.remote_images:
        raise bad_field("image_url", "remote images are not fetched here; send a data URL")
    image = samples = None
    if turns.image and not is_remote:
        image = read_pixels(data_url_bytes(url), config.max_pixels)
    if turns.audio:
        content = base64_bytes(turns.audio.input_audio.data, "input_audio")
        samples = read_audio(content, turns.audio.input_audio.format, config.max_audio_seconds)
    return Query(
        turns.system,
        turns.history,
        turns.text_before,
        turns.text_after,
        image,
        url if is_remote else "",
        samples,
        request.token_limit,
        request.sampling,
        tuple(request.stop or ()),
        bool(request.stream),
        request.includes_usage,
    )


def read_pixels(content: bytes, max_pixels: int) -> NDArray[np.uint8]:
    """(height, width, 3), RGB; raises RefusedError as `read_image` does."""
    return np.asarray(read_image(content, max_pixels))


def read_turns(messages: Sequence[Message]) -> Turns:
    """Messages in the order that `check_roles` requires. Text parts are joined without a separator. Raises RefusedError
    for a turn without a query, and for a conversation that a shared prefix of text cannot hold."""
    system, first = "", 0
    if messages[0].role != "user":
        system, first = _text(messages[0], 0), 1
        if not system:
            raise bad_field("messages.0.content", "empty: leave this message out")
    image = None
    for index, message in enumerate(messages[first:], first):
        if message.role == "user":
            image = _check_media(message, index, index == first, index == len(messages) - 1) or image
    earlier = [_text(message, index) for index, message in enumerate(messages[first:-1], first)]
    history = tuple(zip(earlier[::2], earlier[1::2], strict=True))
    return replace(_last_turn(messages[-1], len(messages) - 1), system=system, history=history, image=image)


def _check_media(message: Message, index: int, is_first: bool, is_last: bool) -> ImagePart | None:
    """The image of a user's turn. The prompt before the last query is one image and text, so an image belongs to the
    first turn and audio to the last."""
    images = [p for p in message.content if isinstance(p, ImagePart)]
    audio_parts = [p for p in message.content if isinstance(p, AudioPart)]
    where = f"messages.{index}.content"
    for parts, name in ((images, "image_url"), (audio_parts, "input_audio")):
        if len(parts) > 1:
            raise bad_field(where, f"at most one part of type {name} is supported; {_ELSEWHERE}")
    if images and not is_first:
        raise bad_field(where, f"an image_url in a later turn than the first is not supported; {_ELSEWHERE}")
    if audio_parts and not is_last:
        raise bad_field(where, f"input_audio in an earlier turn than the last is not supported; {_ELSEWHERE}")
    return images[0] if images else None


def _text(message: Message, index: int) -> str:
    """The text of a message; only a user's has an image too, and a query."""
    where = f"messages.{index}.content"
    if message.role != "user" and not all(isinstance(p, TextPart) for p in message.content):
        raise bad_field(where, f"a message of the role {message.role} has parts of type text only")
    text = "".join(p.text for p in message.content if isinstance(p, TextPart))
    if message.role == "user" and not text.strip():
        raise bad_field(where, "no query: send text")
    return text


def _last_turn(message: Message, index: int) -> Turns:
    parts = message.content
    audio = next((p for p in parts if isinstance(p, AudioPart)), None)
    split = parts.index(audio) if audio else len(parts)
    before, after = (
        "".join(p.text for p in some if isinstance(p, TextPart)) for some in (parts[:split], parts[split:])
    )
    if not audio and not before.strip():
        raise bad_field(f"messages.{index}.content", "no query: send text or input_audio")
    return Turns("", (), before, after, None, audio)


def check_text(text: str, context: int) -> None:
    """Raises RefusedError for a text that cannot fit the context, before it is tokenized."""
    if len(text) > context * _MAX_CHARACTERS_PER_TOKEN:
        raise context_exceeded(f"{len(text)} characters do not fit the model's context of {context} tokens")


def context_exceeded(message: str) -> RefusedError:
    return RefusedError(400, f"messages: {message}", "messages", "context_length_exceeded")


def unknown_model(name: str, config: ServeConfig) -> RefusedError:
    message = f"model: {name[:100]!r} does not exist; this server has {config.served_name!r}"
    return RefusedError(404, message, "model", "model_not_found")
