"""`selfkd app`: loads one or two models and serves the page until stopped; Gradio with everything else off."""

import os
import re
import socket
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

from transformers.utils import logging as transformers_logging

from selfkd.app.config import AppConfig
from selfkd.errors import InputError
from selfkd.serving.config import check_free

# read by Gradio when it is imported: it tells nobody, and asks nobody whether there is a newer one
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio as gr
import uvicorn
from fastapi import FastAPI
from gradio.routes import App
from starlette.datastructures import Headers
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from selfkd.app.session import Session
from selfkd.app.ui import build_page, style, theme
from selfkd.serving.config import OWN_NAMES

# of Gradio's paths, that fetch what a URL names, or write files for parts that are not on this page
_OFF = re.compile(
    r"/gradio_api/(file[=/]/*[a-z][a-z0-9+.-]*:/|proxy=|process_recording|vibe|undo-vibe|run-history)", re.IGNORECASE
)
_STOP_SECONDS = 10  # for an answer under way, once the server is told to stop


class OwnPagesMiddleware:
    """Refuses what a page from elsewhere sends, and what this page does not need. The endpoint needs no such thing: it
    takes JSON alone, which a browser sends to another site only with leave; here uploads are forms, for which it asks
    nobody."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            headers = Headers(scope=scope)
            origin = headers.get("origin")  # a browser names the page's, unless it is a plain link or picture
            if origin is not None and urlsplit(origin).netloc != headers.get("host"):
                await PlainTextResponse("only this server's own page may ask", 403)(scope, receive, send)
                return
            if _OFF.match(scope["path"]):
                await PlainTextResponse("this is off here", 403)(scope, receive, send)
                return
        await self._app(scope, receive, send)


class PageServer(uvicorn.Server):
    """`folder` takes files of the page, and has to stay while it is shown."""

    def __init__(self, session: Session, folder: Path):
        page, config = build_page(session, folder), session.config
        # no docs of FastAPI's own: they load scripts from elsewhere
        outer = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
        # a page elsewhere could have its own name lead here, and would then count as this one
        outer.add_middleware(TrustedHostMiddleware, allowed_hosts=[config.host, *OWN_NAMES])
        outer.add_middleware(OwnPagesMiddleware)
        gr.mount_gradio_app(
            outer,
            page,
            path="/",
            server_name=config.host,
            server_port=config.port,
            footer_links=[],
            run_history=False,
            show_error=True,
            max_file_size=config.max_upload_bytes,
            ssr_mode=False,
            enable_monitoring=False,
            mcp_server=False,
            pwa=False,
            theme=theme(),
            css=style(),
        )
        (mounted,) = [route.app for route in outer.routes if isinstance(route, Mount)]
        assert isinstance(mounted, App)
        self._mounted = mounted
        settings = uvicorn.Config(
            outer,
            config.host,
            config.port,
            server_header=False,
            log_level="warning",
            timeout_graceful_shutdown=_STOP_SECONDS,
        )
        super().__init__(settings)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            print(f"{self.url}  (Ctrl-C ends it)", flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._mounted.stop_event.set()  # open pages hold a stream each, which would be waited for
        await super().shutdown(sockets)

    @property
    def url(self) -> str:
        host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
        return f"http://{host}:{self.servers[0].sockets[0].getsockname()[1]}"


def app(config: AppConfig) -> None:
    """Comes back after SIGINT or SIGTERM."""
    try:
        from selfkd.app.session import Session

        pass
    except ImportError as error:
        raise InputError(f"{error}; pip install 'selfkd[app]'") from error
    check_free(config.host, config.port)
    transformers_logging.disable_progress_bar()
    session = Session.load(config)
    with TemporaryDirectory(prefix="selfkd-app-") as folder:
        # else Gradio takes a folder that all of its pages on this machine share, and keeps what was uploaded
        os.environ.setdefault("GRADIO_TEMP_DIR", str(Path(folder) / "uploads"))
        try:
            PageServer(session, Path(folder)).run()
        except KeyboardInterrupt:  # it stops in good order first, then says it again
            return
