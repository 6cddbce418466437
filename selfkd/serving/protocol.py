"""OpenAI's chat protocol as far as it is spoken here: the body of a request, and the bodies of a reply."""

import time
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from selfkd.serving.honoured import check_honoured
from selfkd.serving.refused import RefusedError

SoundFormat = Literal["wav", "flac", "mp3", "ogg", "opus", "m4a", "mp4", "aac", "webm", "3gp"]


class _Strict(BaseModel):
    # "7" is no number; fields that are not declared are looked at by `honoured.py`
    model_config = ConfigDict(strict=True, extra="allow")


class TextPart(_Strict):
    type: Literal["text"]
    text: str


class ImageUrl(_Strict):
    url: str


class ImagePart(_Strict):
    type: Literal["image_url"]
    image_url: ImageUrl


class InputAudio(_Strict):
    data: str
    format: SoundFormat


class AudioPart(_Strict):
    type: Literal["input_audio"]
    input_audio: InputAudio


Part = Annotated[TextPart | ImagePart | AudioPart, Field(discriminator="type")]


class Message(_Strict):
    role: Literal["user"]
    content: list[Part]

    @field_validator("content", mode="before")
    @classmethod
    def _text_as_part(cls, content: Any) -> Any:
        return [{"type": "text", "text": content}] if isinstance(content, str) else content


class StreamOptions(_Strict):
    include_usage: bool | None = None


class ChatRequest(_Strict):
    model: str
    messages: list[Message]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)

    @field_validator("messages", mode="before")
    @classmethod
    def _one_turn(cls, messages: Any) -> Any:
        if not isinstance(messages, list) or not messages:
            raise ValueError("must be a list with one message")
        roles = [m.get("role") if isinstance(m, dict) else None for m in messages]
        if roles != ["user"]:
            found = ", ".join(str(role)[:20] for role in roles[:5])
            raise ValueError(
                "the models here answer one question and know no earlier turns and no system message: "
                f"send one message of the role user (found: {found})"
            )
        return messages

    @property
    def includes_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def most_tokens(self) -> int | None:
        """Most tokens of the reply, where the request says; the newer of the two names wins."""
        return self.max_completion_tokens or self.max_tokens


def read_request(body: bytes) -> ChatRequest:
    """Raises RefusedError, naming the field, for what is no request or asks for what is not honoured."""
    try:
        request = ChatRequest.model_validate_json(body)
    except ValidationError as error:
        # not the whole: it would repeat what was sent
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        param = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        raise RefusedError(400, f"{param}: {message}" if param else message, param or None) from None
    check_honoured(_undeclared(request))
    return request


def _undeclared(part: BaseModel, place: str = "") -> Iterator[tuple[str, Any]]:
    """(where, value) of the fields that a request holds beyond those of its models, in its parts too."""
    for name, value in (part.model_extra or {}).items():
        yield f"{place}{name}", value
    for name in type(part).model_fields:
        value = getattr(part, name)
        for at, inner in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if isinstance(inner, BaseModel):
                yield from _undeclared(inner, f"{place}{name}." if at is None else f"{place}{name}.{at}.")


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def completion(head: Mapping[str, Any], text: str, finish: str, counts: dict[str, int]) -> dict[str, Any]:
    """The body of a reply that is sent whole. `head` is what all bodies of one reply share."""
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
    return {**head, "object": "chat.completion", "choices": [choice], "usage": counts}


def chunk(head: Mapping[str, Any], delta: dict[str, str], finish: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return {**head, "object": "chat.completion.chunk", "choices": [choice]}


def usage_chunk(head: Mapping[str, Any], counts: dict[str, int]) -> dict[str, Any]:
    return {**head, "object": "chat.completion.chunk", "choices": [], "usage": counts}


def model_card(name: str, created: int) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": "selfkd"}


def now() -> int:
    return int(time.time())
