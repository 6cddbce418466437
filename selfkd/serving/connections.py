"""Limits of connections, whether or not they send a request: uvicorn's own limits count requests.

Each connection takes a file descriptor. Without a limit, idle ones take all of a process, which then can open neither
a file nor a pipe.
"""

import asyncio
import resource
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

from selfkd.errors import InputError
from selfkd.serving.handler import refusal_bytes
from selfkd.serving.schema import overloaded

IDLE_SECONDS = 10.0  # from a connection, or from a response, to the head of the next request; twice that at most
_RESERVED_DESCRIPTORS = 100  # for pipes of processes, files, and connections that are being refused


def reserve_descriptors(max_connections: int) -> None:
    """Raises this process's limit of open files, where that is allowed; raises InputError where it is too low."""
    needed = max_connections + _RESERVED_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY != soft < needed:
        if resource.RLIM_INFINITY != hard < needed:
            raise InputError(f"max_connections: {max_connections}: this process may open {hard} files, see ulimit -n")
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def limited_protocol(max_connections: int, idle_seconds: float = IDLE_SECONDS) -> type[asyncio.Protocol]:
    """uvicorn's HTTP protocol, which refuses (503) connections beyond `max_connections` and closes idle ones."""

    class LimitedProtocol(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
        _seen_request: Any = None  # the last request, at the last check
        _check: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > max_connections:
                transport.write(refusal_bytes(overloaded(f"{max_connections} connections are open; try again")))
                transport.close()
                return
            self._check = self.loop.call_later(idle_seconds, self._close_if_idle)

        def connection_lost(self, exc: Exception | None) -> None:
            if self._check is not None:
                self._check.cancel()
            super().connection_lost(exc)

        def _close_if_idle(self) -> None:
            is_idle = self.cycle is None or self.cycle.response_complete
            if is_idle and self.cycle is self._seen_request:
                self.transport.close()
                return
            self._seen_request = self.cycle
            self._check = self.loop.call_later(idle_seconds, self._close_if_idle)

    return LimitedProtocol
