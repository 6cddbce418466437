"""Functions that read untrusted bytes, called in a child process: bounded in time and memory, and ended at once.

A thread that decodes an image cannot be stopped, and what a parser allocates is charged to the whole server. A child
process can be killed, and has a limit of its own.
"""

import os
import pickle
import resource
import signal
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from selfkd.errors import InputError
from selfkd.synthesis.workers import ProcessState, end_with_parent, server_context

Result = TypeVar("Result")
PRELOAD = ["selfkd.serving.decoding", "scipy.signal"]  # modules that the fork server imports
START_SECONDS = 60.0
DECODE_SECONDS = 10.0  # an image of 20 megapixels takes about one


class TooCostlyError(InputError):
    """The call took too long, or ended its process, as a want of memory does."""


class IsolatedProcess:
    """A child process that makes one call at a time, for any thread. It is started again after it was killed.

    `max_bytes`: memory that a call may allocate.
    """

    def __init__(self, max_bytes: int):
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._process: Any = None
        self._pipe: Any = None

    def start(self) -> None:
        """Starts the process now and not with the first call."""
        with self._lock:
            self._start()

    def call(self, function: Callable[..., Result], *arguments: Any, seconds: float) -> Result:
        """`function(*arguments)`, both importable or picklable. Raises what it raises where that is an InputError or
        another error that can be pickled, and TooCostlyError after `seconds`."""
        with self._lock:
            try:
                self._start()
                _send(self._pipe, (function, arguments))
                if not self._pipe.poll(seconds):
                    raise TooCostlyError(f"not decoded within {seconds:g} s")
                result, error = _receive(self._pipe)
            except (EOFError, OSError) as ended:
                self._stop()
                raise TooCostlyError("its decoder ended, which takes no more than it may allocate") from ended
            except BaseException:
                self._stop()  # a later call would get this one's result
                raise
        if error is not None:
            raise error
        return result

    def kill(self) -> None:
        """Ends the running call, which then raises TooCostlyError. Does not wait."""
        process = self._process
        if process is not None:
            with suppress(ValueError):  # it was closed meanwhile
                process.kill()

    def close(self) -> None:
        self.kill()
        with self._lock:
            self._stop()

    def _start(self) -> None:
        if self._process is not None:
            return
        context = server_context(PRELOAD)
        self._pipe, child_pipe = context.Pipe()
        arguments = child_pipe, self._max_bytes, ProcessState.current()
        self._process = context.Process(target=_serve_calls, args=arguments, daemon=True)
        self._process.start()
        child_pipe.close()
        if not self._pipe.poll(START_SECONDS):
            raise TooCostlyError(f"the decoder did not start within {START_SECONDS:g} s")
        _receive(self._pipe)

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
            self._process = None


def _serve_calls(pipe: Connection, max_bytes: int, state: ProcessState) -> None:
    state.apply()
    end_with_parent(state.sockets)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a service manager sends it to all: the parent decides what ends
    # C libraries write there as much as a hostile file makes them; errors go to the parent
    with open(os.devnull, "w") as nothing:  # noqa: PTH123
        os.dup2(nothing.fileno(), 2)
    _send(pipe, "started")
    while True:
        try:
            function, arguments = _receive(pipe)
        except EOFError:
            return
        _limit_memory(max_bytes)
        result: Any = None
        error: Exception | None = None
        try:
            result = function(*arguments)
        except MemoryError:
            error = TooCostlyError(f"takes over {max_bytes // 1_000_000} MB to decode")
        except Exception as raised:
            error = raised if _can_be_pickled(raised) else RuntimeError(traceback.format_exc())
        del arguments  # an idle process keeps no request
        _send(pipe, (result, error))
        del result, error


def _limit_memory(max_bytes: int) -> None:
    """Allows `max_bytes` beyond what this process holds now. Without Linux's /proc there is no such limit."""
    status = Path("/proc/self/statm")
    if status.exists():
        held = int(status.read_text().split()[5]) * resource.getpagesize()
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        resource.setrlimit(resource.RLIMIT_DATA, (held + max_bytes, hard))


def _can_be_pickled(error: Exception) -> bool:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return False
    return True


def _send(pipe: Connection, value: Any) -> None:
    """Arrays and `pickle.PickleBuffer`s are not copied, because they are large."""
    buffers: list[pickle.PickleBuffer] = []
    content = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    pipe.send(len(buffers))
    pipe.send_bytes(content)
    for buffer in buffers:
        pipe.send_bytes(buffer.raw())


def _receive(pipe: Connection) -> Any:
    count = pipe.recv()
    content = pipe.recv_bytes()
    return pickle.loads(content, buffers=[pipe.recv_bytes() for _ in range(count)])
