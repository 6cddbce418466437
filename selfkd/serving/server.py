"""The FastAPI application: /v1/chat/completions, /v1/models, /metrics and /health, with their access checks."""

import hmac
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Header, Request
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.exceptions import HTTPException

from selfkd.model.modeling_omni import OmniModel
from selfkd.model.processing_omni import OmniProcessor
from selfkd.serving.config import KEY_VARIABLE, LOOPBACK_NAMES, ServeConfig
from selfkd.serving.decoding import unknown_model
from selfkd.serving.handler import ChatCompletionHandler, error_response
from selfkd.serving.metrics import CONTENT_TYPE
from selfkd.serving.schema import RefusedError, model_entry
from selfkd.serving.state import ServerState


def create_app(config: ServeConfig, model: OmniModel, processor: OmniProcessor) -> FastAPI:
    """The application, whose lifespan starts and stops the worker. Puts `model` into evaluation mode."""
    state = ServerState(config, model.eval(), processor)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        state.start()
        yield
        state.close()

    # without FastAPI's docs pages, which load scripts from other sites, and its redirects of `/v1/models/`, which go to
    # any host that the client names
    app = FastAPI(
        title="selfkd", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False
    )
    app.state.state = state
    app.include_router(_routes(state))

    def refuse(error: RefusedError) -> JSONResponse:
        state.metrics.refuse(error)
        return error_response(error)

    @app.exception_handler(RefusedError)
    async def refused_error(_: Request, error: RefusedError) -> JSONResponse:
        return refuse(error)

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> JSONResponse:
        return refuse(RefusedError(error.status_code, str(error.detail)))

    @app.exception_handler(Exception)
    async def server_error(_: Request, error: Exception) -> JSONResponse:
        return refuse(RefusedError(500, "the server failed on this request", code="server_failed"))

    return app


def _routes(state: ServerState) -> APIRouter:
    config, router = state.config, APIRouter()

    def check_key(authorization: Annotated[str, Header()] = "") -> None:
        scheme, _, key = authorization.partition(" ")
        # in constant time
        is_correct = hmac.compare_digest(key.strip().encode(), state.key.encode())
        if state.key and not (is_correct and scheme.lower() == "bearer"):
            raise RefusedError(
                401, f"Authorization: expected 'Bearer' and the server's {KEY_VARIABLE}", code="wrong_key"
            )

    def check_content_type(content_type: Annotated[str, Header()] = "") -> None:
        # a web page can send any other type to this machine without a CORS preflight
        if content_type.partition(";")[0].strip().lower() != "application/json":
            raise RefusedError(415, "Content-Type: expected application/json")

    def check_host(host: Annotated[str, Header()] = "") -> None:
        # DNS rebinding: another site could point its own name here, and would then count as this machine
        name = re.sub(r":\d+$", "", host.lower())
        if not state.key and host and name not in (config.host, *LOOPBACK_NAMES):
            raise RefusedError(403, f"Host: {host}: without an API key only loopback names are served")

    checked = [Depends(check_key), Depends(check_host)]

    @router.post("/v1/chat/completions", dependencies=[*checked, Depends(check_content_type)])
    async def chat() -> ChatCompletionHandler:
        return ChatCompletionHandler(state)

    @router.get("/v1/models", dependencies=checked)
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [model_entry(config.served_name, state.started_at)]}

    @router.get("/v1/models/{name:path}", dependencies=checked)
    async def model(name: str) -> dict[str, Any]:
        if name != config.served_name:
            raise unknown_model(name, config)
        return model_entry(config.served_name, state.started_at)

    @router.get("/metrics", dependencies=checked)
    async def metrics() -> PlainTextResponse:
        return PlainTextResponse(state.metrics_text(), media_type=CONTENT_TYPE)

    @router.get("/health")
    async def health() -> JSONResponse:
        is_alive = state.worker.is_alive
        return JSONResponse({"status": "ok" if is_alive else "the worker has ended"}, 200 if is_alive else 503)

    return router
