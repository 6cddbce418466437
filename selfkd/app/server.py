"""The page behind HTTP: Gradio with everything off that is not this page."""

import os
from pathlib import Path

# read by Gradio when it is imported: it tells nobody, and asks nobody whether there is a newer one
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio as gr
from fastapi import FastAPI

from selfkd.app.page import build_page, style, theme
from selfkd.app.panel import Panel


def create_app(panel: Panel, folder: Path) -> FastAPI:
    """`folder` takes files of the page, and has to stay while it is shown. No docs of FastAPI's own: they load scripts
    from elsewhere."""
    return gr.mount_gradio_app(
        FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
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
