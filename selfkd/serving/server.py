"""`selfkd serve`: loads a model and serves it until stopped, at /v1/chat/completions, /v1/models and /health."""

import hmac
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Header, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from transformers.utils import logging as transformers_logging

from selfkd.errors import InputError
from selfkd.model.checkpoint import inspect_checkpoint, ready
from selfkd.model.modeling_omni import OmniModel
from selfkd.model.processing_omni import OmniProcessor
from selfkd.model.tiny import TINY_MODEL
from selfkd.serving.config import KEY_VARIABLE, OWN_NAMES, ServeConfig, check_free
from selfkd.serving.handler import ChatCompletionHandler, error_response
from selfkd.serving.schema import RefusedError, model_card
from selfkd.serving.state import ServerState, no_such_model


def create_app(config: ServeConfig, model: OmniModel, processor: OmniProcessor) -> FastAPI:
    """The application; its worker begins and ends with it. `model` is taken over, in evaluation mode."""
    state = ServerState(config, model.eval(), processor)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        state.start()
        yield
        state.close()

    # no pages of its own making: they load scripts from elsewhere
    app = FastAPI(title="selfkd", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.state = state
    app.include_router(_routes(state))
    app.add_exception_handler(RefusedError, _refused)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _failed)
    return app


def _routes(state: ServerState) -> APIRouter:
    config, router = state.config, APIRouter()

    def check_key(authorization: Annotated[str, Header()] = "") -> None:
        kind, _, key = authorization.partition(" ")
        # in a time that does not say how much of the key was right
        is_right = hmac.compare_digest(key.strip().encode(), state.key.encode())
        if state.key and not (is_right and kind.lower() == "bearer"):
            raise RefusedError(
                401, f"Authorization: expected 'Bearer' and the server's {KEY_VARIABLE}", code="wrong_key"
            )

    def check_content_type(content_type: Annotated[str, Header()] = "") -> None:
        # a page in a browser can send anything else to this machine without being asked
        if content_type.partition(";")[0].strip().lower() != "application/json":
            raise RefusedError(415, "Content-Type: expected application/json")

    def check_host(host: Annotated[str, Header()] = "") -> None:
        # a page elsewhere could have its own name lead here, and would then count as one of this machine's
        name = re.sub(r":\d+$", "", host.lower())
        if not state.key and host and name not in (config.host, *OWN_NAMES):
            raise RefusedError(403, f"Host: {host}: without a key only this machine's own names are served")

    checked = [Depends(check_key), Depends(check_host)]

    @router.post("/v1/chat/completions", dependencies=[*checked, Depends(check_content_type)])
    async def chat() -> ChatCompletionHandler:
        return ChatCompletionHandler(state)

    @router.get("/v1/models", dependencies=checked)
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [model_card(config.served_name, state.started_at)]}

    @router.get("/v1/models/{name:path}", dependencies=checked)
    async def model(name: str) -> dict[str, Any]:
        if name != config.served_name:
            raise no_such_model(name, config)
        return model_card(config.served_name, state.started_at)

    @router.get("/health")
    async def health() -> JSONResponse:
        is_well = state.worker.is_alive
        return JSONResponse({"status": "ok" if is_well else "the worker has ended"}, 200 if is_well else 503)

    return router


async def _refused(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RefusedError)
    return error_response(error)


async def _http_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return error_response(RefusedError(error.status_code, str(error.detail)))


async def _failed(_: Request, error: Exception) -> JSONResponse:
    return error_response(RefusedError(500, "the server failed on this request", code="server_failed"))


_STOP_SECONDS = 10  # for replies under way, once the server is told to stop


def serve(config: ServeConfig) -> None:
    """Runs on the GPU where there is one. Comes back after SIGINT or SIGTERM, when replies under way have ended."""
    try:
        import uvicorn

        pass
    except ImportError as error:
        raise InputError(f"{error}; pip install 'selfkd[serve]'") from error
    info = inspect_checkpoint(config.model or TINY_MODEL)
    check_free(config.host, config.port)
    transformers_logging.disable_progress_bar()
    model, processor = info.load()
    app = create_app(config, ready(model), processor)
    settings = uvicorn.Config(
        app, config.host, config.port, server_header=False, timeout_graceful_shutdown=_STOP_SECONDS
    )
    try:
        uvicorn.Server(settings).run()
    except KeyboardInterrupt:  # it stops in good order first, then says it again
        return
