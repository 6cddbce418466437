"""`selfkd app`: loads one or two models and shows the page until it is stopped."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

from transformers.utils import logging as transformers_logging

from selfkd.app.settings import AppConfig
from selfkd.errors import InputError
from selfkd.serving.settings import check_free


def app(config: AppConfig) -> None:
    """Comes back after SIGINT or SIGTERM."""
    try:
        from selfkd.app.panel import Panel
        from selfkd.app.server import PageServer
    except ImportError as error:
        raise InputError(f"{error}; pip install 'selfkd[app]'") from error
    check_free(config.host, config.port)
    transformers_logging.disable_progress_bar()
    panel = Panel.load(config)
    with TemporaryDirectory(prefix="selfkd-app-") as folder:
        # else Gradio takes a folder that all of its pages on this machine share, and keeps what was uploaded
        os.environ.setdefault("GRADIO_TEMP_DIR", str(Path(folder) / "uploads"))
        try:
            PageServer(panel, Path(folder)).run()
        except KeyboardInterrupt:  # it stops in good order first, then says it again
            return
