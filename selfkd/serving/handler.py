"""One HTTP request to /v1/chat/completions, from the first byte of its body to the last byte of the response.

The time limit, the limit of active requests and a disconnect of the client hold for all of it: reading the body,
waiting for a batch, and the row in the batch.
"""

import asyncio
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from http import HTTPStatus
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from selfkd.serving.batching import Delta, Done, Event, Job
from selfkd.serving.decoding import Query
from selfkd.serving.prompts import PreparedPrompt
from selfkd.serving.schema import RefusedError, chunk, completion, now, usage, usage_chunk
from selfkd.serving.state import Body, ServerState, body_too_long

log = logging.getLogger("selfkd.serving")
_ERROR_SEND_SECONDS = 1.0  # to send the error that ends a stream early


def error_response(refused: RefusedError) -> JSONResponse:
    return JSONResponse(refused.body, refused.status, refused.headers)


def refusal_bytes(refused: RefusedError) -> bytes:
    """A whole HTTP response, for a connection that gets no handler; it closes the connection."""
    response = error_response(refused)
    headers = [*response.raw_headers, (b"connection", b"close")]
    head = b"".join(b"%s: %s\r\n" % pair for pair in headers)
    return b"HTTP/1.1 %d %s\r\n%s\r\n%s" % (
        refused.status,
        HTTPStatus(refused.status).phrase.encode(),
        head,
        response.body,
    )


class ChatCompletionHandler(Response):
    """A response that reads its own request, so that waiting for the body counts as an active request too."""

    def __init__(self, state: ServerState):
        super().__init__()
        self._state, self._config = state, state.config
        self._started = time.monotonic()
        self._has_body = False
        self._is_streaming = False  # status and headers of a stream have been sent

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request, refused = Request(scope, receive), None
        try:
            with self._state.admit() as body:
                async with asyncio.timeout(self._config.timeout_seconds):
                    await _read_body(request, body, self._config.max_body_bytes)
                    self._has_body = True
                    await _cancel_on_disconnect(self._respond(body, scope, receive, send), receive)
        except ClientDisconnect:
            self._state.metrics.disconnect()
            return
        except RefusedError as error:
            refused = error
        except TimeoutError:
            status, missing = (504, "response") if self._has_body else (408, "request")
            message = f"no complete {missing} within {self._config.timeout_seconds:g} s"
            refused = RefusedError(status, message, code="timeout")
        except Exception:
            log.exception("a request failed")
            refused = RefusedError(500, "the server failed on this request", code="server_failed")
        if refused is None:
            return
        self._state.metrics.refuse(refused)
        with suppress(TimeoutError):
            async with asyncio.timeout(_ERROR_SEND_SECONDS):
                if self._is_streaming:
                    await send({"type": "http.response.body", "body": _event(refused.body), "more_body": False})
                else:
                    await error_response(refused)(scope, receive, send)

    async def _respond(self, body: Body, scope: Scope, receive: Receive, send: Send) -> None:
        query, prepared = await self._state.prepare(body)
        loop, events = asyncio.get_running_loop(), asyncio.Queue[Event]()

        def emit(event: Event) -> None:
            with suppress(RuntimeError):  # the event loop is closed: the server has stopped
                loop.call_soon_threadsafe(events.put_nowait, event)

        job = Job(prepared, emit, query.streams)
        shared = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": now(), "model": self._config.served_name}
        try:
            self._state.worker.submit(job)
            first = await events.get()  # before a stream sends its status: errors until here have their own
            if isinstance(first, RefusedError):
                raise first
            if query.streams:
                await self._stream(first, events, shared, query, prepared, send)
                return
            assert isinstance(first, Done)  # noqa: S101 an invariant of this code, no check of input
            counts = usage(prepared.prompt_tokens, first.completion_tokens)
            await JSONResponse(completion(shared, first.text, first.finish_reason, counts))(scope, receive, send)
            self._count_answer(prepared, first)
        finally:
            job.is_cancelled = True

    async def _stream(
        self,
        first: Delta | Done,
        events: "asyncio.Queue[Event]",
        shared: dict[str, Any],
        query: Query,
        prepared: PreparedPrompt,
        send: Send,
    ) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        self._is_streaming = True

        async def send_event(content: bytes, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": content, "more_body": more})

        await send_event(_event(chunk(shared, {"role": "assistant", "content": ""})))
        sent = ""
        async for event in _events_until_done(first, events):
            text = event.text if isinstance(event, Delta) else event.text[len(sent) :]
            sent += text
            if text:
                await send_event(_event(chunk(shared, {"content": text})))
            if isinstance(event, Done):
                await send_event(_event(chunk(shared, {}, event.finish_reason)))
                if query.includes_usage:
                    counts = usage(prepared.prompt_tokens, event.completion_tokens)
                    await send_event(_event(usage_chunk(shared, counts)))
        await send_event(b"data: [DONE]\n\n", more=False)
        assert isinstance(event, Done)  # noqa: S101 an invariant of this code, no check of input
        self._count_answer(prepared, event)

    def _count_answer(self, prepared: PreparedPrompt, done: Done) -> None:
        seconds = time.monotonic() - self._started
        self._state.metrics.answer(seconds, prepared.prompt_tokens, done.completion_tokens)


async def _events_until_done(first: Delta | Done, events: "asyncio.Queue[Event]") -> AsyncIterator[Delta | Done]:
    """Events up to and with `Done`; raises RefusedError if the worker emits one."""
    event: Event = first
    while True:
        if isinstance(event, RefusedError):
            raise event
        yield event
        if isinstance(event, Done):
            return
        event = await events.get()


async def _cancel_on_disconnect(response: Any, receive: Receive) -> None:
    """Awaits `response`; cancels it and raises ClientDisconnect when the client disconnects."""
    tasks = [asyncio.ensure_future(response), asyncio.ensure_future(_wait_for_disconnect(receive))]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not tasks[0].done():
            raise ClientDisconnect
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    if isinstance(results[0], BaseException):
        raise results[0]


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _read_body(request: Request, body: Body, max_bytes: int) -> None:
    """Reads in chunks, because Content-Length may be missing or wrong; raises RefusedError for too many bytes."""
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > max_bytes:
        raise body_too_long(max_bytes)
    async for part in request.stream():
        body.append(part)


def _event(body: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n".encode()
