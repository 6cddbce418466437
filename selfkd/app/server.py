"""The page behind HTTP: Gradio with everything off that is not this page."""

import os
from pathlib import Path

# read by Gradio when it is imported: it tells nobody, and asks nobody whether there is a newer one
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio as gr
from fastapi import FastAPI
from starlette.middleware.trustedhost import TrustedHostMiddleware

from selfkd.app.page import build_page, style, theme
from selfkd.app.panel import Panel

_OWN_NAMES = ("127.0.0.1", "localhost", "::1", "[::1]")


def create_app(panel: Panel, folder: Path) -> FastAPI:
    """`folder` takes files of the page, and has to stay while it is shown."""
    # no docs of FastAPI's own: they load scripts from elsewhere
    outer = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    # a page elsewhere could have its own name lead here, and would then count as this one
    outer.add_middleware(TrustedHostMiddleware, allowed_hosts=[panel.config.host, *_OWN_NAMES])
    return gr.mount_gradio_app(
        outer,
        build_page(panel, folder),
        path="/",
        server_name=panel.config.host,
        server_port=panel.config.port,
        footer_links=[],
        run_history=False,
        show_error=True,
        max_file_size=panel.config.max_upload_bytes,
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        pwa=False,
        theme=theme(),
        css=style(),
    )
