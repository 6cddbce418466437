"""State that all requests of a server share: the worker, the threads that prepare prompts, and the active requests."""

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
from selfkd.serving.prompts import PreparedPrompt, has_remote_image, parse_message, prepare
from selfkd.serving.remote_images import fetch
from selfkd.serving.schema import ChatRequest, RefusedError, now, overloaded, read_request

Result = TypeVar("Result")


class ServerState:
    """A model in evaluation mode behind its worker. `start` before the first request, `close` after the last."""

    def __init__(self, config: ServeConfig, model: OmniModel, processor: OmniProcessor):
        self.config, self.key, self.started_at = config, api_key(), now()
        self.worker = Worker(model, processor, config.max_batch, config.batch_wait_seconds)
        self.num_active = 0  # requests that are being read, waiting or generated
        self._context = model.context
        self._local = threading.local()
        # one processor for each thread, because tokenizers are not thread-safe
        processors: SimpleQueue[OmniProcessor] = SimpleQueue()
        for _ in range(config.preparing_threads):
            processors.put(deepcopy(processor))
        self._threads = ThreadPoolExecutor(config.preparing_threads, "prepare", self._take_processor, (processors,))

    def start(self) -> None:
        self.worker.start()

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)
        self.worker.close()

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Counts a request as active; raises RefusedError (503) at `max_requests`."""
        if self.num_active >= self.config.max_requests:
            raise overloaded(f"{self.num_active} requests are active; try again")
        self.num_active += 1
        try:
            yield
        finally:
            self.num_active -= 1

    async def prepare(self, body: bytes) -> tuple[ChatRequest, PreparedPrompt]:
        """Parses a body and builds its prompt outside the event loop; raises RefusedError."""
        request = await self._in_thread(lambda: read_request(body))
        if request.model != self.config.served_name:
            raise unknown_model(request.model, self.config)
        query = parse_message(request)
        image = None
        if has_remote_image(query, self.config.remote_images):
            # in a thread of its own: a slow remote server must not delay the prompts of other requests
            image = await asyncio.to_thread(fetch, query.image_url or "", self.config.max_body_bytes)
        return request, await self._in_thread(
            lambda: prepare(query, image, request, self.config, self._local.processor, self._context)
        )

    def _take_processor(self, processors: "SimpleQueue[OmniProcessor]") -> None:
        self._local.processor = processors.get()

    async def _in_thread(self, function: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function)


def unknown_model(name: str, config: ServeConfig) -> RefusedError:
    message = f"model: {name[:100]!r} does not exist; this server has {config.served_name!r}"
    return RefusedError(404, message, "model", "model_not_found")
