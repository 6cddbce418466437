"""The Gradio page behind uvicorn, without Gradio's analytics, sharing and remote files."""

import os
import re
import socket
from pathlib import Path

# read by Gradio on import: no analytics, no check for new versions
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio as gr
from fastapi import FastAPI
from gradio.routes import App
from gradio.utils import get_upload_folder
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from selfkd.app.session import Session
from selfkd.app.ui import RECORD_PATH, build_page, page_css, theme
from selfkd.app.uploads import FORM_BYTES, has_room
from selfkd.recording.folder import RecordingFolder
from selfkd.recording.pages import recording_pages
from selfkd.serving.local_page import LocalServer, local_only

# routes of Gradio that fetch a URL, or write files for components that this page does not have
_DISABLED_ROUTES = re.compile(
    r"/gradio_api/(file[=/]/*[a-z][a-z0-9+.-]*:/|proxy=|process_recording|vibe|undo-vibe|run-history)", re.IGNORECASE
)
_UPLOAD_ROUTE = re.compile("(/gradio_api)?/upload/?$")


class DisabledRoutesMiddleware:
    """Refuses the routes that this page does not have."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and _DISABLED_ROUTES.match(scope["path"]):
            await PlainTextResponse("this route is disabled", 403)(scope, receive, send)
            return
        await self._app(scope, receive, send)


class UploadLimitMiddleware:
    """Refuses uploads that are too large, of unknown size, or for which there is no room. Gradio's own limit is one of
    each file, and a form may have many."""

    def __init__(self, app: ASGIApp, max_bytes: int, max_total_bytes: int):
        self._app, self._max_bytes, self._max_total_bytes = app, max_bytes, max_total_bytes
        self._arriving = 0  # bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _UPLOAD_ROUTE.match(scope["path"]):
            await self._app(scope, receive, send)
            return
        length = Headers(scope=scope).get("content-length", "")
        size = int(length) if re.fullmatch("[0-9]{1,15}", length) else None
        if size is None:
            await PlainTextResponse("an upload needs a Content-Length", 411)(scope, receive, send)
        elif size > self._max_bytes + FORM_BYTES:
            await PlainTextResponse(f"over {self._max_bytes} bytes", 413)(scope, receive, send)
        elif not has_room(Path(get_upload_folder()), self._arriving + size, self._max_total_bytes):
            message = f"the uploads have over {self._max_total_bytes} bytes; they are deleted after an hour"
            await PlainTextResponse(message, 507)(scope, receive, send)
        else:
            self._arriving += size
            try:
                await self._app(scope, receive, send)
            finally:
                self._arriving -= size


class PageServer(LocalServer):
    """`folder` holds files of the page, and must exist as long as the server runs."""

    def __init__(self, session: Session, folder: Path, recordings: RecordingFolder | None = None):
        config = session.config
        page = build_page(session, folder, has_recordings=recordings is not None)
        # without FastAPI's docs pages, which load scripts from other sites
        outer = FastAPI(
            docs_url=None,
            redoc_url=None,
            openapi_url=None,
            middleware=[
                *local_only(config.host),
                Middleware(DisabledRoutesMiddleware),
                Middleware(
                    UploadLimitMiddleware,
                    max_bytes=config.max_upload_bytes,
                    max_total_bytes=config.max_total_upload_bytes,
                ),
            ],
        )
        if recordings is not None:
            outer.mount(f"/{RECORD_PATH}", recording_pages(recordings, session.decoder, config.max_upload_bytes))
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
            css=page_css(),
        )
        (self._mounted,) = [r.app for r in outer.routes if isinstance(r, Mount) and isinstance(r.app, App)]
        super().__init__(outer, config.host, config.port)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._mounted.stop_event.set()  # ends the event streams of open pages, which uvicorn would wait for
        await super().shutdown(sockets)
