"""State that all requests of a server share: the worker, the processes that decode, threads that prepare prompts, and
the requests that are active."""

import asyncio
import pickle  # nosec B403 of processes of our own
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from queue import SimpleQueue
from typing import Any, TypeVar

from selfkd.model.modeling_omni import OmniModel
from selfkd.model.processing_omni import OmniProcessor
from selfkd.serving.batching import Worker
from selfkd.serving.config import ServeConfig, api_key, decoder_bytes
from selfkd.serving.decoding import Query, read_pixels, read_query
from selfkd.serving.isolated import DECODE_SECONDS, IsolatedProcess, TooCostlyError
from selfkd.serving.metrics import Metrics
from selfkd.serving.prompts import PreparedPrompt, prepare
from selfkd.serving.remote_images import fetch
from selfkd.serving.schema import RefusedError, located, now, overloaded

Result = TypeVar("Result")
MAX_BODIES = 8  # of the maximum size, in memory at once


class Body:
    """The body of one request. Its bytes count for the server's limit until `release`."""

    def __init__(self, state: "ServerState"):
        self._state = state
        self.content = bytearray()

    def append(self, part: bytes) -> None:
        """Raises RefusedError over the limit of one body (413), or of all (503)."""
        limit = self._state.config.max_body_bytes
        if len(self.content) + len(part) > limit:
            raise body_too_long(limit)
        if self._state.num_body_bytes + len(part) > MAX_BODIES * limit:
            raise overloaded("too many bytes of other requests are being read; try again")
        self._state.num_body_bytes += len(part)
        self.content += part

    def release(self) -> None:
        self._state.num_body_bytes -= len(self.content)
        self.content = bytearray()  # not cleared: a process may still be receiving it


class ServerState:
    """A model in evaluation mode behind its worker. `start` before the first request, `close` after the last."""

    def __init__(self, config: ServeConfig, model: OmniModel, processor: OmniProcessor):
        self.config, self.key, self.started_at = config, api_key(), now()
        self.metrics = Metrics()
        self.worker = Worker(model, processor, config.max_batch, config.batch_wait_seconds)
        self.num_active = 0  # requests that are being read, waiting or generated
        self.num_body_bytes = 0  # of bodies that are not decoded yet
        self._context = model.context
        num_bytes = decoder_bytes(config.max_body_bytes, config.max_pixels)
        self._decoders = [IsolatedProcess(num_bytes) for _ in range(config.decoding_processes)]
        self._free_decoders: asyncio.Queue[IsolatedProcess] = asyncio.Queue()
        for decoder in self._decoders:
            self._free_decoders.put_nowait(decoder)
        self._decoder_threads = ThreadPoolExecutor(config.decoding_processes, "decode")  # each waits for a process
        self._local = threading.local()
        # one processor for each thread, because tokenizers are not thread-safe
        processors: SimpleQueue[OmniProcessor] = SimpleQueue()
        for _ in range(config.decoding_processes):
            processors.put(deepcopy(processor))
        self._threads = ThreadPoolExecutor(config.decoding_processes, "prepare", self._take_processor, (processors,))

    def start(self) -> None:
        for decoder in self._decoders:
            decoder.start()
        self.worker.start()

    def close(self) -> None:
        for decoder in self._decoders:
            decoder.close()
        for threads in (self._decoder_threads, self._threads):
            threads.shutdown(cancel_futures=True)
        self.worker.close()

    @contextmanager
    def admit(self) -> Iterator[Body]:
        """Counts a request as active; raises RefusedError (503) at `max_requests`."""
        if self.num_active >= self.config.max_requests:
            raise overloaded(f"{self.num_active} requests are active; try again")
        self.num_active += 1
        body = Body(self)
        try:
            yield body
        finally:
            body.release()
            self.num_active -= 1

    async def prepare(self, body: Body) -> tuple[Query, PreparedPrompt]:
        """Decodes a body, which it releases, and builds its prompt outside the event loop; raises RefusedError."""
        try:
            query = await self._decode(read_query, pickle.PickleBuffer(body.content), self.config, self._context)
        finally:
            body.release()
        query = await self._fetch_images(query)
        loop = asyncio.get_running_loop()
        prepared = await loop.run_in_executor(
            self._threads, lambda: prepare(query, self.config, self._local.processor, self._context)
        )
        return replace(query, turns=()), prepared  # without its media

    async def _fetch_images(self, query: Query) -> Query:
        """The query with its remote images, one after another; together they have the limits of one."""
        turns, num_bytes = list(query.turns), self.config.max_body_bytes
        for index, turn in enumerate(turns):
            if not turn.image_url:
                continue
            with located(turn.image_path):
                # in a thread of its own: a slow remote server must not delay the prompts of other requests
                content = await asyncio.to_thread(fetch, turn.image_url, num_bytes)
                num_bytes -= len(content)
                used = sum(other.num_pixels for other in turns)
                image = await self._decode(read_pixels, pickle.PickleBuffer(content), self.config.max_pixels, used)
            turns[index] = replace(turn, image=image)
        return replace(query, turns=tuple(turns))

    def metrics_text(self) -> str:
        return self.metrics.text({"requests_active": self.num_active, "requests_waiting": self.worker.num_waiting})

    def _take_processor(self, processors: "SimpleQueue[OmniProcessor]") -> None:
        self._local.processor = processors.get()

    async def _decode(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """`function(*arguments)` in a process, which ends with a request that timed out or whose client is gone."""
        decoder = await self._free_decoders.get()
        call = self._decoder_threads.submit(decoder.call, function, *arguments, seconds=DECODE_SECONDS)
        try:
            return await asyncio.wrap_future(call)
        except asyncio.CancelledError:
            decoder.kill()
            raise
        except TooCostlyError as error:
            raise RefusedError(400, f"messages: {error}", "messages", "too_costly") from error
        finally:
            self._free_decoders.put_nowait(decoder)


def body_too_long(limit: int) -> RefusedError:
    return RefusedError(413, f"the body is longer than {limit} bytes", code="body_too_long")
