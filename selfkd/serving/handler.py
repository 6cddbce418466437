"""One request and its reply over the wire, from the first byte of the body to the last of the reply.

Its time, its place in the house and whether its client is still there are watched the whole way, so what ends it early
ends all of it: the reading, the waiting, the row in the batch.
"""

import asyncio
import json
import logging
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from selfkd.serving.batching import Done, Event, Job, Piece
from selfkd.serving.prompts import Prepared
from selfkd.serving.schema import ChatRequest, RefusedError, chunk, completion, now, usage, usage_chunk
from selfkd.serving.state import ServerState

log = logging.getLogger("selfkd.serving")
_LAST_SECONDS = 1.0  # for the words that say why a stream ends early


def error_response(refused: RefusedError) -> JSONResponse:
    return JSONResponse(refused.body, refused.status, refused.headers)


class ChatCompletionHandler(Response):
    """A response that reads its request itself: so that waiting for the body counts as well."""

    def __init__(self, state: ServerState):
        super().__init__()
        self._house, self._config = state, state.config
        self._has_body = False
        self._is_streaming = False  # the head of a stream has been sent

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request, refused = Request(scope, receive), None
        try:
            with self._house.place():
                async with asyncio.timeout(self._config.timeout_seconds):
                    body = await _body(request, self._config.max_body_bytes)
                    self._has_body = True
                    await _unless_left(self._answer(body, scope, receive, send), receive)
        except ClientDisconnect:
            return
        except RefusedError as error:
            refused = error
        except TimeoutError:
            status, what = (504, "reply") if self._has_body else (408, "request")
            refused = RefusedError(status, f"no whole {what} within {self._config.timeout_seconds:g} s", code="timeout")
        except Exception:
            log.exception("a request failed")
            refused = RefusedError(500, "the server failed on this request", code="server_failed")
        if refused is None:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_SECONDS):
                if self._is_streaming:
                    await send({"type": "http.response.body", "body": _event(refused.body), "more_body": False})
                else:
                    await error_response(refused)(scope, receive, send)

    async def _answer(self, body: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        request, prepared = await self._house.prepared(body)
        loop, events = asyncio.get_running_loop(), asyncio.Queue[Event]()

        def put(event: Event) -> None:
            with suppress(RuntimeError):  # the loop has been closed: nobody is there
                loop.call_soon_threadsafe(events.put_nowait, event)

        job = Job(prepared, put, bool(request.stream))
        head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": now(), "model": self._config.served_name}
        try:
            self._house.worker.submit(job)
            first = await events.get()  # before the head of a stream: what fails until here has a status of its own
            if isinstance(first, RefusedError):
                raise first
            if request.stream:
                await self._stream(first, events, head, request, prepared, send)
                return
            assert isinstance(first, Done)
            counts = usage(prepared.prompt_tokens, first.completion_tokens)
            await JSONResponse(completion(head, first.text, first.finish, counts))(scope, receive, send)
        finally:
            job.is_gone = True

    async def _stream(
        self,
        first: Piece | Done,
        events: "asyncio.Queue[Event]",
        head: dict[str, Any],
        request: ChatRequest,
        prepared: Prepared,
        send: Send,
    ) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        self._is_streaming = True

        async def say(content: bytes, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": content, "more_body": more})

        await say(_event(chunk(head, {"role": "assistant", "content": ""})))
        sent = ""
        async for event in _following(first, events):
            text = event.text if isinstance(event, Piece) else event.text[len(sent) :]
            sent += text
            if text:
                await say(_event(chunk(head, {"content": text})))
            if isinstance(event, Done):
                await say(_event(chunk(head, {}, event.finish)))
                if request.includes_usage:
                    counts = usage(prepared.prompt_tokens, event.completion_tokens)
                    await say(_event(usage_chunk(head, counts)))
        await say(b"data: [DONE]\n\n", more=False)


async def _following(first: Piece | Done, events: "asyncio.Queue[Event]") -> AsyncIterator[Piece | Done]:
    """Events up to the one that ends a reply; raises RefusedError where that is a refusal."""
    event: Event = first
    while True:
        if isinstance(event, RefusedError):
            raise event
        yield event
        if isinstance(event, Done):
            return
        event = await events.get()


async def _unless_left(answering: Any, receive: Receive) -> None:
    """Awaits `answering`; cancels it and raises ClientDisconnect when the client goes."""
    tasks = [asyncio.ensure_future(answering), asyncio.ensure_future(_left(receive))]
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


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _body(request: Request, max_bytes: int) -> bytes:
    """Read piece by piece: a body need not say how long it is, or say it rightly."""
    too_long = RefusedError(413, f"the body is longer than {max_bytes} bytes", code="body_too_long")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > max_bytes:
        raise too_long
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > max_bytes:
            raise too_long
    return bytes(body)


def _event(body: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n".encode()
