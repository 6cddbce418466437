"""What all requests of a server share: the worker, the threads that prepare prompts, and how many may be inside."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import deepcopy
from queue import SimpleQueue
from typing import TypeVar

from selfkd.model.modeling_omni import OmniModel
from selfkd.model.processing_omni import OmniProcessor
from selfkd.serving.batching import Worker
from selfkd.serving.config import ServeConfig, api_key
from selfkd.serving.prompts import Prepared, asked_in, is_remote, prepare
from selfkd.serving.remote_images import fetch
from selfkd.serving.schema import ChatRequest, RefusedError, now, overloaded, read_request

Made = TypeVar("Made")


class ServerState:
    """A model in evaluation mode behind its worker. `start` before the first request, `close` after the last."""

    def __init__(self, config: ServeConfig, model: OmniModel, processor: OmniProcessor):
        self.config, self.key, self.started_at = config, api_key(), now()
        self.worker = Worker(model, processor, config.max_batch, config.batch_wait_seconds)
        self.inside = 0  # requests that are being read, waiting or answered
        self._context = model.context
        self._local = threading.local()
        # a processor for each thread: their tokenizers are not for two at once
        local_datasets: SimpleQueue[OmniProcessor] = SimpleQueue()
        for _ in range(config.preparing_threads):
            local_datasets.put(deepcopy(processor))
        self._threads = ThreadPoolExecutor(config.preparing_threads, "prepare", self._take_processor, (local_datasets,))

    def start(self) -> None:
        self.worker.start()

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)
        self.worker.close()

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place among the requests inside; raises RefusedError (503) where all are taken."""
        if self.inside >= self.config.max_requests:
            raise overloaded(f"{self.inside} requests are being answered; try again")
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1

    async def prepared(self, body: bytes) -> tuple[ChatRequest, Prepared]:
        """Reads a body and makes its prompt, away from the event loop; raises RefusedError."""
        request = await self._in_thread(lambda: read_request(body))
        if request.model != self.config.served_name:
            raise no_such_model(request.model, self.config)
        asked = asked_in(request)
        image = None
        if is_remote(asked, self.config.remote_images):
            # in threads of its own: a slow server must not keep others' prompts from being made
            image = await asyncio.to_thread(fetch, asked.image_url or "", self.config.max_body_bytes)
        return request, await self._in_thread(
            lambda: prepare(asked, image, request, self.config, self._local.processor, self._context)
        )

    def _take_processor(self, local_datasets: "SimpleQueue[OmniProcessor]") -> None:
        self._local.processor = local_datasets.get()

    async def _in_thread(self, make: Callable[[], Made]) -> Made:
        return await asyncio.get_running_loop().run_in_executor(self._threads, make)


def no_such_model(name: str, config: ServeConfig) -> RefusedError:
    message = f"model: there is no model {name[:100]!r}, this one is {config.served_name!r}"
    return RefusedError(404, message, "model", "model_not_found")
