"""`selfkd serve`: loads a model and answers until it is stopped."""

from transformers.utils import logging as transformers_logging

from selfkd.errors import InputError
from selfkd.model.bundled import load_bundled
from selfkd.model.checkpoint import is_ours, load_omni, ready
from selfkd.model.checkpoint_files import check_checkpoint
from selfkd.serving.settings import ServeConfig, check_free

_STOP_SECONDS = 10  # for replies under way, once the server is told to stop


def serve(config: ServeConfig) -> None:
    """Runs on the GPU where there is one. Comes back after SIGINT or SIGTERM, when replies under way have ended."""
    try:
        import uvicorn

        from selfkd.serving.app import create_app
    except ImportError as error:
        raise InputError(f"{error}; pip install 'selfkd[serve]'") from error
    if config.model:
        is_ours(config.model)  # before anything is loaded
        check_checkpoint(config.model, "model")
    check_free(config.host, config.port)
    transformers_logging.disable_progress_bar()
    model, processor = load_omni(config.model) if config.model else load_bundled()
    app = create_app(config, ready(model), processor)
    settings = uvicorn.Config(
        app, config.host, config.port, server_header=False, timeout_graceful_shutdown=_STOP_SECONDS
    )
    try:
        uvicorn.Server(settings).run()
    except KeyboardInterrupt:  # it stops in good order first, then says it again
        return
