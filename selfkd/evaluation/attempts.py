"""The HTTP client under the `openai` client; needs the extra `selfkd[openai]`.

Every attempt passes here, first ones and the client's own retries, so this is where they wait for their turn and end.
"""

import asyncio
import importlib
from collections.abc import Awaitable, Callable
from typing import Any

import openai


class Attempts(openai.DefaultAsyncHttpxClient):
    """`before(is_retry)` is awaited before each attempt; `timeout_seconds` is from then to the response's last byte."""

    def __init__(self, timeout_seconds: float, before: Callable[[bool], Awaitable[None]]):
        super().__init__(timeout=timeout_seconds)
        self._timeout_seconds, self._before = timeout_seconds, before

    async def send(self, request: Any, *arguments: Any, **options: Any) -> Any:
        await self._before(request.headers.get("x-stainless-retry-count", "0") != "0")
        try:
            # the library's own timeout starts anew with every byte: a server that drips would hold an item for ever
            async with asyncio.timeout(self._timeout_seconds):
                return await super().send(request, *arguments, **options)
        except TimeoutError as error:
            # openai stands on httpx or httpx2, by its version, and retries after the timeouts of that one
            library = importlib.import_module(type(request).__module__)
            reason = f"no whole response within {self._timeout_seconds:g} s"
            raise library.ReadTimeout(reason, request=request) from error
