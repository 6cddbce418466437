"""The part of OpenAI's chat-completions protocol that the server supports: requests, responses and errors.

A request is a conversation: a system message or none, then turns of user and assistant. Its response is greedy, or
sampled with `temperature`, `top_p`, `top_k` and `seed`. What is not honoured is refused by the name of its field.
"""

import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, FailFast, Field, ValidationError, field_validator


class RefusedError(Exception):
    """A refused request: HTTP status, message, the field at fault (`param`) and a machine-readable code."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None):
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    def __reduce__(self) -> tuple[Any, ...]:  # it is raised in the process that decodes
        return type(self), (self.status, self.message, self.param, self.code)

    @property
    def reason(self) -> str:
        """One of a few names, for the metrics."""
        return self.code or {400: "invalid_request"}.get(self.status, f"status_{self.status}")

    @property
    def headers(self) -> dict[str, str]:
        headers = {503: {"Retry-After": "1"}, 401: {"WWW-Authenticate": "Bearer"}}.get(self.status, {})
        # after 413 the connection stays open: closing it would reset it while the client sends, and lose the response
        return headers | ({"Connection": "close"} if self.status == 408 else {})

    @property
    def body(self) -> dict[str, Any]:
        error_type = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"error": {"message": self.message, "type": error_type, "param": self.param, "code": self.code}}


def overloaded(message: str) -> RefusedError:
    return RefusedError(503, message, code="overloaded")


def bad_field(param: str, message: str) -> RefusedError:
    """400 for a field of the request; the message begins with its name."""
    return RefusedError(400, f"{param}: {message}", param)


@contextmanager
def located(path: str) -> Iterator[None]:
    """Refusals of a field get the `path` of the part that it is in: messages.0.content.1.image_url."""
    try:
        yield
    except RefusedError as error:
        if error.param is None or error.param.startswith("messages"):  # no field of the part
            raise
        raise RefusedError(error.status, f"{path}.{error.message}", f"{path}.{error.param}", error.code) from error


MAX_QUOTED = 200  # characters
# fields that cannot change the response: user, storage, billing, transport
HARMLESS = frozenset(
    {
        *("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"),
        *("prompt_cache_retention", "priority", "request_id", "rid", "cache_salt", "parallel_tool_calls"),
        *("include_reasoning", "separate_reasoning", "stream_reasoning", "stream_options.include_obfuscation"),
    }
)
HARMLESS_IN_MESSAGES = frozenset({"cache_control", "uuid"})
# fields of OpenAI, vLLM, SGLang and transformers -> values that leave the response as it is; null always does
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "min_p": (0,),
    "do_sample": (False,),
    "n": (1,),
    "best_of": (1,),
    "use_beam_search": (False,),
    "num_beams": (1,),
    "length_penalty": (1,),
    "early_stopping": (False,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "no_repeat_ngram_size": (0,),
    "logit_bias": ({},),
    "bad_words": ([],),
    "min_tokens": (0,),
    "ignore_eos": (False,),
    "stop_token_ids": ([],),
    "include_stop_str_in_output": (False,),
    "no_stop_trim": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "prompt_logprobs": (False,),
    "echo": (False,),
    "return_tokens_as_token_ids": (False,),
    "return_token_ids": (False,),
    "return_hidden_states": (False,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"], []),
    "reasoning_effort": ("none",),
    "verbosity": ("medium",),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "continue_final_turn": (False,),
    "add_special_tokens": (False,),
    "chat_template_kwargs": ({},),
    "mm_processor_kwargs": ({},),
    "documents": ([],),
    "logits_processors": ([],),
    "stream_options.continuous_usage_stats": (False,),
}
# the detail of an image; what an assistant's message has where it called no tool
NEUTRAL_IN_MESSAGES: dict[str, tuple[Any, ...]] = {
    "detail": ("auto", "high"),
    "tool_calls": ([],),
    "annotations": ([],),
}
_MAX_SHOWN = 100  # characters of a field's name in an error
_REFUSAL_REASONS = {"n": "there is one response per request"}


def check_supported(fields: Iterable[tuple[str, Any]]) -> None:
    """Raises RefusedError for the first field whose value could change the response. A field is named by its path in
    the request: `min_p`, `stream_options.continuous_usage_stats`, `messages.0.content.1.image_url.detail`."""
    for path, value in fields:
        name, harmless, neutral = path, HARMLESS, NEUTRAL
        if path.startswith("messages."):
            name, harmless, neutral = path.rpartition(".")[2], HARMLESS_IN_MESSAGES, NEUTRAL_IN_MESSAGES
        if value is None or name in harmless or any(_is_same(value, allowed) for allowed in neutral.get(name, ())):
            continue
        default = "this value is not supported" if name in neutral else "unknown field"
        shown = path[:_MAX_SHOWN]  # the client chose the name
        raise RefusedError(400, f"{shown}: {_REFUSAL_REASONS.get(name, default)}", shown, "unsupported_parameter")


def _is_same(value: Any, neutral: Any) -> bool:
    """JSON's true is not 1."""
    return value == neutral and isinstance(value, bool) == isinstance(neutral, bool)


AudioFormat = Literal["wav", "flac", "mp3", "ogg", "opus", "m4a", "mp4", "aac", "webm", "3gp"]


class _Strict(BaseModel):
    # "7" is not a number; undeclared fields go through `check_supported`
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
    format: AudioFormat


class AudioPart(_Strict):
    type: Literal["input_audio"]
    input_audio: InputAudio


Part = Annotated[TextPart | ImagePart | AudioPart, Field(discriminator="type")]


class Message(_Strict):
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[list[Part], FailFast()]  # an error for each of a million parts would take gigabytes

    @field_validator("content", mode="before")
    @classmethod
    def _text_as_part(cls, content: Any) -> Any:
        return [{"type": "text", "text": content}] if isinstance(content, str) else content


class StreamOptions(_Strict):
    include_usage: bool | None = None


MAX_MESSAGES = 128  # a processor renders the chat template for each length of a conversation, and keeps some
MAX_STOPS, MAX_STOP_CHARACTERS = 4, 1000
_SEED_LIMIT = 2**63  # as torch takes them
_MIN_TEMPERATURE = 1e-5  # below it a sample is the most probable token, and quotients leave the range of float32


@dataclass(frozen=True)
class Sampling:
    """How the tokens of one response are chosen: greedily at temperature 0, where the other settings have no effect.

    `top_k` 0 and `top_p` 1 keep all tokens. Without a `seed` each response has random numbers of its own."""

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None

    @property
    def is_greedy(self) -> bool:
        return self.temperature < _MIN_TEMPERATURE or self.top_k == 1


class ChatRequest(_Strict):
    model: str
    messages: Annotated[list[Message], FailFast()] = Field(min_length=1, max_length=MAX_MESSAGES)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)

    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(None, gt=0, le=1, allow_inf_nan=False)
    top_k: int | None = Field(None, ge=-1)
    seed: int | None = Field(None, ge=-_SEED_LIMIT, lt=_SEED_LIMIT)
    stop: list[Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]] | None = Field(
        None, max_length=MAX_STOPS
    )

    @field_validator("stop", mode="before")
    @classmethod
    def _stop_as_list(cls, stop: Any) -> Any:
        return ([stop] if stop else []) if isinstance(stop, str) else stop

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.temperature or 0.0, self.top_p or 1.0, max(self.top_k or 0, 0), self.seed)

    @property
    def includes_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def token_limit(self) -> int | None:
        """Maximum tokens of the response, if the request sets it; the newer of the two names wins."""
        return self.max_completion_tokens or self.max_tokens


MAX_TOKENS = 20_000  # of a body, as JSON has them: strings, brackets, commas; a request has some dozens
MAX_DIGITS = 400  # of a number: the time to read one grows with their square
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[{,]|[0-9]{%d}' % MAX_DIGITS, re.DOTALL)


def check_structure(body: bytes) -> None:
    """Raises RefusedError for a body of so many values that their objects would take far more memory than its bytes.
    Takes time linear in the body, and stops at the limit."""
    for count, token in enumerate(_TOKEN.finditer(body)):
        if count == MAX_TOKENS:
            raise RefusedError(400, f"the body has over {MAX_TOKENS} JSON tokens", code="too_many_values")
        if chr(body[token.start()]).isdigit():
            raise RefusedError(400, f"the body has a number of over {MAX_DIGITS} digits", code="too_many_values")


def read_request(body: bytes) -> ChatRequest:
    """Raises RefusedError, naming the field, for an invalid request or an unsupported field."""
    check_structure(body)
    try:
        request = ChatRequest.model_validate_json(body)
    except ValidationError as error:
        # only the first error, because the whole would repeat the request
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        param = _short(".".join(map(str, first["loc"])))
        message = _short(first["msg"].removeprefix("Value error, "))
        raise RefusedError(400, f"{param}: {message}" if param else message, param or None) from None
    check_supported(_undeclared_fields(request))
    check_roles(request.messages)
    check_sampling(request)
    return request


def check_roles(messages: Sequence[Message]) -> None:
    """Raises RefusedError unless a system message or none is followed by turns of user and assistant, user last."""
    first = int(messages[0].role in ("system", "developer"))
    for index, message in enumerate(messages[first:], first):
        expected = "assistant" if (index - first) % 2 else "user"
        if message.role != expected:
            order = "one system or developer message may come first, then user and assistant take turns"
            raise bad_field(f"messages.{index}.role", f"{message.role} instead of {expected}: {order}")
    if messages[-1].role != "user":
        raise bad_field(f"messages.{len(messages) - 1}.role", "the last message must be a user's")


def check_sampling(request: ChatRequest) -> None:
    """Raises RefusedError for `top_p` or `top_k` without a temperature, which other servers take as 1 and this as 0."""
    if request.temperature is not None:
        return
    for name, neutral in (("top_p", (None, 1)), ("top_k", (None, -1, 0, 1))):
        if getattr(request, name) not in neutral:
            message = f"{name}: has no effect without a temperature, which is 0 (greedy) unless it is sent"
            raise RefusedError(400, message, name, "unsupported_parameter")


def _short(text: str) -> str:
    """A message repeats no more than this of what a request holds."""
    return text if len(text) <= MAX_QUOTED else f"{text[:MAX_QUOTED]}..."


def _undeclared_fields(part: BaseModel, path: str = "") -> Iterator[tuple[str, Any]]:
    """(path, value) of the fields of a request, and of its nested parts, that the models above do not declare."""
    for name, value in (part.model_extra or {}).items():
        yield f"{path}{name}", value
    for name in type(part).model_fields:
        value = getattr(part, name)
        for index, inner in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if isinstance(inner, BaseModel):
                inner_path = f"{path}{name}." if index is None else f"{path}{name}.{index}."
                yield from _undeclared_fields(inner, inner_path)


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def completion(shared: Mapping[str, Any], text: str, finish_reason: str, counts: dict[str, int]) -> dict[str, Any]:
    """The body of a response that is not streamed. `shared`: the fields that all bodies of one response have."""
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}
    return {**shared, "object": "chat.completion", "choices": [choice], "usage": counts}


def chunk(shared: Mapping[str, Any], delta: dict[str, str], finish_reason: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return {**shared, "object": "chat.completion.chunk", "choices": [choice]}


def usage_chunk(shared: Mapping[str, Any], counts: dict[str, int]) -> dict[str, Any]:
    return {**shared, "object": "chat.completion.chunk", "choices": [], "usage": counts}


def model_entry(name: str, created: int) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": "selfkd"}


def now() -> int:
    return int(time.time())
