"""`selfkd app`: loads one or two models and serves the page until stopped."""

import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

from selfkd.app.config import AppConfig
from selfkd.errors import InputError
from selfkd.recording.folder import RecordingFolder, existing
from selfkd.serving.config import check_address_free


def app(config: AppConfig) -> None:
    """Runs on the GPU if there is one. Returns after SIGINT or SIGTERM."""
    try:
        from selfkd.app.server import PageServer
        from selfkd.app.session import Session
    except ImportError as error:
        raise InputError(f"{error}; pip install 'selfkd[app]'") from error
    check_address_free(config.host, config.port)
    session = Session.load(config)
    with _recordings(config) as recordings, TemporaryDirectory(prefix="selfkd-app-") as folder:
        # Gradio's default folder is shared by all Gradio apps of this machine, and keeps uploads
        os.environ.setdefault("GRADIO_TEMP_DIR", str(Path(folder) / "uploads"))
        try:
            PageServer(session, Path(folder), recordings).run()
        except KeyboardInterrupt:  # uvicorn raises the signal again after its shutdown
            return
        finally:
            session.close()


def _recordings(config: AppConfig) -> AbstractContextManager[RecordingFolder | None]:
    return existing(Path(config.recordings)) if config.recordings else nullcontext()
