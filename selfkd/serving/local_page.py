"""What the pages have in common that a person opens on this machine: no other origin may use them, and a server that
prints its address."""

import socket
from collections.abc import Sequence
from urllib.parse import urlsplit

import uvicorn
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from selfkd.serving.config import LOOPBACK_NAMES

_SHUTDOWN_SECONDS = 8  # for a request that is running, after the signal to stop


class SameOriginMiddleware:
    """Refuses requests of pages from other origins.

    `selfkd serve` needs no such check: it accepts JSON only, for which a browser makes a CORS preflight. Uploads to a
    page are forms or plain bytes, which a browser sends to any site without one.
    """

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            headers = Headers(scope=scope)
            origin = headers.get("origin")  # absent for plain links and images
            if origin is not None and urlsplit(origin).netloc != headers.get("host"):
                await PlainTextResponse("requests from other origins are refused", 403)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def local_only(host: str) -> Sequence[Middleware]:
    """The middleware of a page on this machine, the outermost first."""
    return (
        Middleware(SameOriginMiddleware),
        # DNS rebinding: another site could point its own name here, and would then count as this page's origin
        Middleware(TrustedHostMiddleware, allowed_hosts=[host, *LOOPBACK_NAMES]),
    )


class LocalServer(uvicorn.Server):
    """Serves an application at an address of this machine, and prints it."""

    def __init__(self, app: ASGIApp, host: str, port: int):
        super().__init__(
            uvicorn.Config(
                app,
                host,
                port,
                server_header=False,
                log_level="warning",
                timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            print(f"{self.url}  (Ctrl-C to stop)", flush=True)

    @property
    def url(self) -> str:
        host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
        return f"http://{host}:{self.servers[0].sockets[0].getsockname()[1]}"
