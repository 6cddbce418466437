"""`selfkd serve`: loads a model and serves it until stopped."""

from selfkd.errors import InputError
from selfkd.model.checkpoint import inspect_checkpoint, ready
from selfkd.model.tiny import TINY_MODEL, note_tiny_llm
from selfkd.serving.config import ServeConfig, check_address_free

_SHUTDOWN_SECONDS = 8  # for active requests, after the signal to stop; then they are ended, which takes a moment


def serve(config: ServeConfig) -> None:
    """Runs on the GPU if there is one. Returns after SIGINT or SIGTERM, when active requests have ended."""
    try:
        import uvicorn

        from selfkd.serving.connections import limited_protocol, reserve_descriptors
        from selfkd.serving.server import create_app
    except ImportError as error:
        raise InputError(f"{error}; pip install 'selfkd[serve]'") from error
    checkpoint = inspect_checkpoint(config.model or TINY_MODEL)
    check_address_free(config.host, config.port)
    reserve_descriptors(config.max_connections)
    note_tiny_llm(checkpoint.config)
    model, processor = checkpoint.load()
    app = create_app(config, ready(model), processor)
    settings = uvicorn.Config(
        app,
        config.host,
        config.port,
        http=limited_protocol(config.max_connections),
        ssl_certfile=config.ssl_certfile or None,
        ssl_keyfile=config.ssl_keyfile or None,
        server_header=False,
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
    )
    try:
        uvicorn.Server(settings).run()
    except KeyboardInterrupt:  # uvicorn raises the signal again after its shutdown
        return
