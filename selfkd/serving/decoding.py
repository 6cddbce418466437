"""The body of a request -> its query: JSON is parsed and checked, images and audio are decoded.

All that reads untrusted bytes is here and in `media`. It runs in an isolated process, so this module imports no model.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from selfkd.data.example import SAMPLE_RATE_HZ, SHORTEST_SECONDS
from selfkd.serving.config import ServeConfig
from selfkd.serving.media import REMOTE_SCHEMES, base64_bytes, data_url_bytes, read_audio, read_image
from selfkd.serving.schema import (
    AudioPart,
    ImagePart,
    InputAudio,
    Message,
    RefusedError,
    Sampling,
    TextPart,
    bad_field,
    located,
    read_request,
)

_MAX_CHARACTERS_PER_TOKEN = 64  # texts far beyond the context are refused before tokenization


@dataclass(frozen=True)
class QueryTurn:
    """A user's turn and the response to it.

    With audio, the text before it is the instruction and the text after it the answer format. Without audio, all text
    is the question (`text_before`).
    """

    text_before: str
    text_after: str
    response: str  # "" of the last turn
    image: NDArray[np.uint8] | None  # (height, width, 3), RGB
    image_url: str  # of a remote image, which is still to be fetched; "" for none
    image_path: str  # of its part, as errors name it: messages.0.content.1; "" for none
    samples: NDArray[np.float32] | None  # mono, 16 kHz
    audio_path: str

    @property
    def num_pixels(self) -> int:
        return 0 if self.image is None else self.image.shape[0] * self.image.shape[1]


@dataclass(frozen=True)
class Query:
    """What a request asks: a conversation, its media decoded, and how to respond."""

    system: str  # "" for none
    turns: tuple[QueryTurn, ...]  # the last is the query
    token_limit: int | None
    sampling: Sampling
    stop: tuple[str, ...]  # texts that end the response
    streams: bool
    includes_usage: bool


def read_query(body: bytes, config: ServeConfig, context: int) -> Query:
    """`context`: the LLM's context length in tokens. Raises RefusedError for an invalid request, for images and audio
    that cannot be decoded or are over the limits of `config` together, and for texts far beyond the context."""
    request = read_request(body)
    if request.model != config.served_name:
        raise unknown_model(request.model, config)
    system, messages = read_turns(request.messages)
    check_text("".join([system, *(text for one in messages for text in one.texts)]), context)
    turns: list[QueryTurn] = []
    for message in messages:
        turns.append(_decoded(message, turns, config))
    return Query(
        system,
        tuple(turns),
        request.token_limit,
        request.sampling,
        tuple(request.stop or ()),
        bool(request.stream),
        request.includes_usage,
    )


@dataclass(frozen=True)
class UserMessage:
    """The parts of a user's message, and the response to it."""

    text_before: str
    text_after: str
    response: str
    image: ImagePart | None
    image_path: str
    audio: AudioPart | None
    audio_path: str

    @property
    def texts(self) -> tuple[str, str, str]:
        return self.text_before, self.text_after, self.response


def read_turns(messages: Sequence[Message]) -> tuple[str, list[UserMessage]]:
    """The system message, "" for none, and the turns of messages in the order that `check_roles` requires. Text parts
    are joined without a separator. Raises RefusedError for a turn without a query, or with several images or clips."""
    system, first = "", 0
    if messages[0].role != "user":
        system, first = _text_only(messages[0], 0), 1
        if not system:
            raise bad_field("messages.0.content", "empty: leave this message out")
    turns = []
    for index in range(first, len(messages), 2):
        response = _text_only(messages[index + 1], index + 1) if index + 1 < len(messages) else ""
        turns.append(_user_message(messages[index], index, response))
    return system, turns


def _text_only(message: Message, index: int) -> str:
    texts = [p.text for p in message.content if isinstance(p, TextPart)]
    if len(texts) < len(message.content):
        reason = f"a message of the role {message.role} has parts of type text only"
        raise bad_field(f"messages.{index}.content", reason)
    return "".join(texts)


def _user_message(message: Message, index: int, response: str) -> UserMessage:
    parts, where = message.content, f"messages.{index}.content"
    images = [(at, p) for at, p in enumerate(parts) if isinstance(p, ImagePart)]
    clips = [(at, p) for at, p in enumerate(parts) if isinstance(p, AudioPart)]
    for count, name in ((len(images), "image_url"), (len(clips), "input_audio")):
        if count > 1:
            raise bad_field(where, f"at most one part of type {name} in a turn is supported")
    image_at, image = images[0] if images else (0, None)
    split, clip = clips[0] if clips else (len(parts), None)
    before, after = (
        "".join(p.text for p in some if isinstance(p, TextPart)) for some in (parts[:split], parts[split:])
    )
    if clip is None and not before.strip():
        raise bad_field(where, "no query: send text or input_audio")
    image_path, audio_path = f"{where}.{image_at}" if image else "", f"{where}.{split}" if clip else ""
    return UserMessage(before, after, response, image, image_path, clip, audio_path)


def _decoded(message: UserMessage, earlier: Sequence[QueryTurn], config: ServeConfig) -> QueryTurn:
    """A turn with its media. Those of the `earlier` turns count for the limits too."""
    url = message.image.image_url.url if message.image else ""
    is_remote = url.lower().startswith(REMOTE_SCHEMES)
    image = samples = None
    if message.image:
        with located(message.image_path):
            if is_remote and not config.remote_images:
                raise bad_field("image_url", "remote images are not fetched here; send a data URL")
            if not is_remote:
                image = read_pixels(data_url_bytes(url), config.max_pixels, sum(turn.num_pixels for turn in earlier))
    if message.audio:
        with located(message.audio_path):
            samples = _read_clip(message.audio.input_audio, config.max_audio_seconds, earlier)
    return QueryTurn(*message.texts, image, url if is_remote else "", message.image_path, samples, message.audio_path)


def read_pixels(content: bytes, max_pixels: int, used: int = 0) -> NDArray[np.uint8]:
    """(height, width, 3), RGB; `used` are pixels of other images of the request. Raises RefusedError as `read_image`
    does."""
    if used >= max_pixels:
        raise bad_field("image_url", f"the images before it have {used} pixels, all that a request may have")
    try:
        return np.asarray(read_image(content, max_pixels - used))
    except RefusedError as error:
        raise RefusedError(400, f"{error.message}{_note(used, 'pixels')}", error.param) from error


def _read_clip(audio: InputAudio, max_seconds: float, earlier: Sequence[QueryTurn]) -> NDArray[np.float32]:
    used = sum(len(turn.samples) for turn in earlier if turn.samples is not None) / SAMPLE_RATE_HZ
    if max_seconds - used < SHORTEST_SECONDS:
        raise bad_field("input_audio", f"the clips before it have {used:g} s, all that a request may have")
    content = base64_bytes(audio.data, "input_audio")
    try:
        return read_audio(content, audio.format, max_seconds - used)
    except RefusedError as error:
        raise RefusedError(400, f"{error.message}{_note(used, 's of audio')}", error.param) from error


def _note(used: float, unit: str) -> str:
    return f" ({used:g} {unit} of other turns count too)" if used else ""


def check_text(text: str, context: int) -> None:
    """Raises RefusedError for a text that cannot fit the context, before it is tokenized."""
    if len(text) > context * _MAX_CHARACTERS_PER_TOKEN:
        raise context_exceeded(f"{len(text)} characters do not fit the model's context of {context} tokens")


def context_exceeded(message: str) -> RefusedError:
    return RefusedError(400, f"messages: {message}", "messages", "context_length_exceeded")


def unknown_model(name: str, config: ServeConfig) -> RefusedError:
    message = f"model: {name[:100]!r} does not exist; this server has {config.served_name!r}"
    return RefusedError(404, message, "model", "model_not_found")
