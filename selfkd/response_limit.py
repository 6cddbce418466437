"""A limit on the bytes of an HTTP response, counted after decompression: 1.5 MB of gzip can hold 1.5 GB.

The clients of the `openai` package (built on httpx, or httpx2, by its version) take event hooks. These run before a
client reads a response, those of redirects included, whatever proxy it came through.
"""

import importlib
import zlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from typing import Any

from selfkd.errors import InputError

ENCODINGS = "gzip, deflate"  # for Accept-Encoding: those that can be decompressed up to a limit
_PIECE = 1 << 16  # bytes that are decompressed at once


def read_up_to(limit: int) -> Callable[[Any], None]:
    """A hook for the responses of a client; it raises InputError for one of more than `limit` bytes, and for one in
    another encoding than `ENCODINGS`."""

    def hook(response: Any) -> None:
        body = _Body(response, limit)
        try:
            for chunk in response.iter_raw():
                body.add(chunk)
        finally:
            response.close()
        body.replace()

    return hook


def aread_up_to(limit: int) -> Callable[[Any], Awaitable[None]]:
    """The same for an asynchronous client."""

    async def hook(response: Any) -> None:
        body = _Body(response, limit)
        async with aclosing(response.aiter_raw()) as chunks:
            async for chunk in chunks:
                body.add(chunk)
        body.replace()

    return hook


class _Body:
    def __init__(self, response: Any, limit: int):
        encoding = response.headers.get("content-encoding", "identity").strip().lower()
        if encoding not in ("gzip", "deflate", "identity", ""):
            raise InputError(f"the response has the encoding {encoding!r:.80}; {ENCODINGS} was asked for")
        self._response, self._limit, self._content = response, limit, bytearray()
        # 47: gzip or zlib, by the header
        self._decoder = zlib.decompressobj(47) if encoding in ("gzip", "deflate") else None

    def add(self, chunk: bytes) -> None:
        for piece in self._decoded(chunk):
            self._content += piece
            if len(self._content) > self._limit:
                raise InputError(f"the response has more than {self._limit / 1e6:g} MB")

    def _decoded(self, chunk: bytes) -> Iterator[bytes]:
        if self._decoder is None:
            yield chunk
            return
        piece = b"" if self._decoder.eof else b"more"
        while piece:
            try:
                piece = self._decoder.decompress(chunk, _PIECE)
            except zlib.error as error:
                raise InputError(f"the response cannot be decompressed ({error})") from error
            yield piece
            chunk = self._decoder.unconsumed_tail

    def replace(self) -> None:
        """Gives the response its content in place of the stream that was read."""
        if self._decoder is not None and self._content and not self._decoder.eof:
            raise InputError("the response cannot be decompressed (it is cut short)")
        response = self._response
        library = importlib.import_module(type(response).__module__.partition(".")[0])
        response.headers.pop("content-encoding", None)
        response.elapsed = response.elapsed  # in httpx2 it is the stream's
        response.stream = library.ByteStream(bytes(self._content))
        response.is_stream_consumed = response.is_closed = False
