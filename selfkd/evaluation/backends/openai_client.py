"""Requests to a chat endpoint in parallel through the official `openai` client, with a count of their cost.

The client retries transient errors itself: 408, 409, 429, 5xx, timeouts, lost connections; with exponential backoff and
jitter, or after Retry-After where that is no more than a minute or two. Every attempt, retries included, passes the
HTTP client below, where it waits for the rate limit. An error that remains is that item's `Prediction.error`, except
where every item would fail: then InputError ends the run. Needs the extra `selfkd[openai]`.
"""

import asyncio
import importlib
import os
import queue
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import openai
from pydantic import ConfigDict
from typing_extensions import TypedDict

from selfkd.credentials import EndpointURL, masked_text, read_endpoint, secrets_in, without
from selfkd.errors import InputError, reason_of
from selfkd.evaluation.backends.chat_response import ChatResponse, parse_chat_response, short
from selfkd.evaluation.response import Prediction
from selfkd.evaluation.schemas import Count, Finite
from selfkd.files import write_json
from selfkd.json_files import read_json
from selfkd.response_limit import ENCODINGS, aread_up_to

USAGE = "usage.json"
SAVED_EVERY_SECONDS = 1.0
MAX_RESPONSE_BYTES = 8_000_000  # a minute of audio next to the text has four


@dataclass
class Usage:
    """Requests, tokens and their cost. Clients that are given the same object share a budget."""

    requests: int = 0  # retries included
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    dollars: float = 0.0

    def spend(self, prompt_tokens: int, completion_tokens: int, dollars: float) -> None:
        self.prompt_tokens += prompt_tokens
        self.completion_tokens += completion_tokens
        self.dollars += dollars


class _UsageFields(TypedDict):
    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    requests: Count
    retries: Count
    prompt_tokens: Count
    completion_tokens: Count
    dollars: Finite


class _SavedUsage(Usage):
    """Usage that is saved to a file as it grows: a process that is killed writes nothing at its end."""

    def __init__(self, path: Path):
        super().__init__(**(read_json(path, _UsageFields) if path.is_file() else {}))
        self._path, self._written = path, time.monotonic()

    def spend(self, prompt_tokens: int, completion_tokens: int, dollars: float) -> None:
        super().spend(prompt_tokens, completion_tokens, dollars)
        if time.monotonic() - self._written > SAVED_EVERY_SECONDS:
            self.write()

    def write(self) -> None:
        write_json(self._path, asdict(self))
        self._written = time.monotonic()


@contextmanager
def saved_usage(path: Path, model: str) -> Iterator[Usage]:
    """The usage saved in a file, so that a budget holds over repetitions of a command; printed at the end."""
    usage = _SavedUsage(path)
    try:
        yield usage
    finally:
        usage.write()
        spent = f", ${usage.dollars:.2f}" if usage.dollars else ""
        tokens = f"{usage.prompt_tokens:,} + {usage.completion_tokens:,} tokens"
        print(f"{model}: {usage.requests:,} requests ({usage.retries:,} retries), {tokens}{spent}")


class Attempts(openai.DefaultAsyncHttpxClient):
    """`before(is_retry)` is awaited before each attempt; `timeout_seconds` is from then to the response's last byte."""

    def __init__(self, timeout_seconds: float, before: Callable[[bool], Awaitable[None]]):
        super().__init__(timeout=timeout_seconds, event_hooks={"response": [aread_up_to(MAX_RESPONSE_BYTES)]})
        self.headers["Accept-Encoding"] = ENCODINGS
        self._timeout_seconds, self._before = timeout_seconds, before

    async def send(self, request: Any, *arguments: Any, **options: Any) -> Any:
        await self._before(request.headers.get("x-stainless-retry-count", "0") != "0")
        try:
            # the library's own timeout restarts with every byte: a server that drips would hold an item for ever
            async with asyncio.timeout(self._timeout_seconds):
                return await super().send(request, *arguments, **options)
        except TimeoutError as error:
            # openai uses httpx or httpx2, by its version, and retries after the timeouts of that library
            library = importlib.import_module(type(request).__module__)
            reason = f"no whole response within {self._timeout_seconds:g} s"
            raise library.ReadTimeout(reason, request=request) from error


KEY_VARIABLE = "OPENAI_API_KEY"
FATAL_STATUSES = (401, 403, 404)  # key, permission, path or model: the same for every item

Item = TypeVar("Item")
Messages = list[dict[str, Any]]


@dataclass
class EndpointSettings:
    """Settings of the requests. The key comes from the environment variable OPENAI_API_KEY and from nowhere else.

    Args:
        concurrency: Requests in flight at once.
        requests_per_minute: Maximum requests a minute, retries included, evenly spread; 0 sets no limit.
        timeout_seconds: Longest wait for one response, from sending the request to the last byte.
        max_retries: Retries of a request after 408, 409, 429, 5xx, a timeout or a lost connection.
        max_new_tokens: Maximum tokens of a response.
        price_in: USD for a million prompt tokens.
        price_out: USD for a million completion tokens.
        budget: USD after which no more requests are sent; those in flight are still paid. 0 sets none.
        max_failures: Items that fail one after another before the run ends.
        extra: Further fields of a request, or other values for the default ones; null leaves one out. OpenAI's
            reasoning models need {max_tokens: null, temperature: null, max_completion_tokens: 2000}. Its fields
            extra_headers and extra_query go to headers and URL.
    """

    concurrency: int = 8
    requests_per_minute: float = 0
    timeout_seconds: float = 120
    max_retries: int = 5
    max_new_tokens: int = 256
    price_in: float = 0
    price_out: float = 0
    budget: float = 0
    max_failures: int = 20
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("concurrency", "max_new_tokens", "max_failures"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: {getattr(self, name)}: must be at least 1")
        for name in ("requests_per_minute", "max_retries", "price_in", "price_out", "budget"):
            if getattr(self, name) < 0:
                raise InputError(f"{name}: {getattr(self, name)}: must not be negative")
        if self.timeout_seconds <= 0:
            raise InputError(f"timeout_seconds: {self.timeout_seconds}: must be more than 0")
        if self.budget and not self.price_in and not self.price_out:
            raise InputError("budget: without price_in and price_out no cost is known")


def endpoint_settings(fields: Mapping[str, Any]) -> EndpointSettings:
    """Raises InputError for a field that does not exist, or a value out of range."""
    try:
        return EndpointSettings(**fields)
    except TypeError as error:
        raise InputError(f"endpoint: {str(error).rpartition('__init__() ')[2]}") from error


@dataclass
class OpenAIClient:
    """A chat endpoint at a base URL ("" is OpenAI's). Not thread-safe. Consecutive failures, the rate of requests and
    the budget are counted over all calls of `query_each`."""

    url: str
    model: str
    settings: EndpointSettings = field(default_factory=EndpointSettings)
    usage: Usage = field(default_factory=Usage)
    _key: str = field(init=False, repr=False)
    _endpoint: EndpointURL = field(init=False, repr=False)
    _secrets: list[str] = field(init=False, repr=False)
    _accepted: bool = field(default=False, init=False, repr=False)  # whether any request ever succeeded
    _failures: int = field(default=0, init=False, repr=False)  # consecutive
    _has_unknown_cost: bool = field(default=False, init=False, repr=False)
    _next_turn: float = field(default=0.0, init=False, repr=False)  # monotonic seconds

    def __post_init__(self) -> None:
        self._endpoint = read_endpoint(self.url)
        if not self.model:
            raise InputError("model: must name the endpoint's model")
        self._key = os.environ.get(KEY_VARIABLE, "").strip() or "none"
        if not (self._key.isascii() and self._key.isprintable()):
            raise InputError(f"{KEY_VARIABLE}: holds characters that no header can carry")
        self._secrets = [*self._endpoint.secrets, *secrets_in(self.settings.extra, "extra")]

    @property
    def name(self) -> str:
        return f"{self.model} at {self._endpoint.shown or 'OpenAI'}"

    def query_each(
        self, items: Iterable[Item], messages_of: Callable[[Item], Messages]
    ) -> Iterator[tuple[int, Prediction]]:
        """Yields (position in `items`, prediction) in the order in which responses come, one for every item.

        An item's messages are made when its turn comes, so that no more of them than `concurrency` are in memory.
        Raises InputError where all other items would fail as well; what was yielded before is valid. Closing the
        iterator cancels requests in flight.
        """
        predictions: queue.SimpleQueue[tuple[int, Prediction] | None] = queue.SimpleQueue()
        loop = asyncio.new_event_loop()
        requests = loop.create_task(self._request_all(items, messages_of, predictions.put))

        def run() -> None:
            try:
                loop.run_until_complete(asyncio.wait([requests]))
                loop.run_until_complete(loop.shutdown_asyncgens())
            finally:
                predictions.put(None)

        # a daemon, so that a program that ends with an error does not first send all other requests
        thread = threading.Thread(target=run, name="openai-client", daemon=True)
        thread.start()
        try:
            while (found := predictions.get()) is not None:
                yield found
            requests.result()  # raises what ended the requests
        finally:
            loop.call_soon_threadsafe(requests.cancel)
            thread.join()
            loop.close()

    async def _request_all(
        self,
        items: Iterable[Item],
        messages_of: Callable[[Item], Messages],
        put: Callable[[tuple[int, Prediction]], None],
    ) -> None:
        numbered = enumerate(items)  # one iterator for all workers

        async def work() -> None:
            for index, item in numbered:
                prediction = await self._request(client, item, messages_of)
                put((index, prediction))
                self._check(prediction)

        try:
            async with self._open() as client, asyncio.TaskGroup() as group:
                for _ in range(self.settings.concurrency):
                    group.create_task(work())
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None

    def _open(self) -> Any:
        """A client of this event loop."""
        try:
            from openai import AsyncOpenAI
        except ImportError as error:
            raise InputError(f"url: {self.name}: {error}; pip install 'selfkd[openai]'") from error
        http_client = Attempts(self.settings.timeout_seconds, self._before_attempt)
        retries, timeout = self.settings.max_retries, self.settings.timeout_seconds
        return AsyncOpenAI(
            base_url=self._endpoint.base or None,
            api_key=self._key,
            default_headers=self._endpoint.headers,
            default_query=self._endpoint.query,
            max_retries=retries,
            timeout=timeout,
            http_client=http_client,
        )

    async def _before_attempt(self, is_retry: bool) -> None:
        if self.settings.requests_per_minute:
            turn = max(self._next_turn, time.monotonic())
            self._next_turn = turn + 60 / self.settings.requests_per_minute
            await asyncio.sleep(turn - time.monotonic())
        self.usage.requests += 1
        self.usage.retries += is_retry

    async def _request(self, client: Any, item: Item, messages_of: Callable[[Item], Messages]) -> Prediction:
        if self._is_spent():
            return Prediction("", error=self._spent_reason())
        try:
            messages = messages_of(item)
        except InputError as error:
            return Prediction("", error=self._reason(error))
        fields = {"temperature": 0, "max_tokens": self.settings.max_new_tokens, **self.settings.extra}
        body = {name: value for name, value in fields.items() if value is not None}
        options = {name: body.pop(name) for name in ("extra_headers", "extra_query") if name in body}
        try:
            response = await client.chat.completions.with_raw_response.create(
                model=self.model, messages=messages, extra_body=body, **options
            )
        except Exception as error:  # any error of a broken server is that item's error
            status = getattr(error, "status_code", None)
            if status in FATAL_STATUSES and not self._accepted:
                hint = f"are url, model and {KEY_VARIABLE} right?"
                raise InputError(f"url: {self.name}: {self._reason(error)}; {hint}") from error
            return Prediction("", error=self._reason(error))
        self._accepted = True
        read = parse_chat_response(response.content)
        self._count(read)
        return Prediction(
            read.text,
            error=self._without_secrets(read.error),
            seconds=response.elapsed.total_seconds(),
            finish_reason=read.finish_reason,
            reasoning=read.reasoning,
        )

    def _count(self, read: ChatResponse) -> None:
        prompt, completion = read.prompt_tokens or 0, read.completion_tokens or 0
        dollars = (prompt * self.settings.price_in + completion * self.settings.price_out) / 1e6
        self.usage.spend(prompt, completion, dollars)
        if self.settings.budget and not read.error and read.prompt_tokens is None:
            self._has_unknown_cost = True

    def _check(self, prediction: Prediction) -> None:
        """Raises InputError where all other items would fail after this prediction."""
        if self._has_unknown_cost:
            raise InputError(f"budget: {self.name} returns no token counts (usage), so no cost is known")
        if prediction.error != self._spent_reason():
            self._failures = self._failures + 1 if prediction.error else 0
        if self._failures >= self.settings.max_failures:
            raise InputError(f"url: {self.name}: {self._failures} items failed one after another: {prediction.error}")

    def _is_spent(self) -> bool:
        return bool(self.settings.budget) and self.usage.dollars >= self.settings.budget

    def _spent_reason(self) -> str:
        return f"budget of ${self.settings.budget:g} reached"

    def _reason(self, error: Exception) -> str:
        reason = reason_of(error)
        if error.__cause__ is not None and not isinstance(error, InputError):
            reason += f" ({reason_of(error.__cause__)})"
        return self._without_secrets(short(reason))

    def _without_secrets(self, reason: str) -> str:
        """Servers repeat keys in their error messages; reasons are written to files."""
        reason = reason if self._key == "none" else reason.replace(self._key, f"({KEY_VARIABLE})")
        return masked_text(without(reason, self._secrets))
