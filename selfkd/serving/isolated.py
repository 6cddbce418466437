"""Functions that read untrusted bytes, called in a child process: bounded in time and memory, and ended at once.

A thread that decodes an image cannot be stopped, and what a parser allocates is charged to the whole server. A child
process can be killed, and has a limit of its own. Should hostile bytes take it over, its answers are data and no code.
"""

import io
import os
import pickle  # nosec B403 of processes of our own
import signal
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from selfkd.errors import InputError
from selfkd.serving.schema import RefusedError
from selfkd.synthesis.answers import AnswerUnpickler
from selfkd.synthesis.workers import STOP_SECONDS, ProcessState, end_with_parent, limit_memory, server_context

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
        """`function(*arguments)`, importable and picklable; its result has plain values, arrays and a `Query` only.
        Raises an InputError or RefusedError as it does, RuntimeError for any other, TooCostlyError after `seconds`."""
        with self._lock:
            try:
                self._start()
                _send(self._pipe, (function, arguments))
                if not self._pipe.poll(seconds):
                    raise TooCostlyError(f"not decoded within {seconds:g} s")
                result, error = _receive(self._pipe, AnswerUnpickler)
            except (EOFError, OSError, pickle.UnpicklingError) as ended:
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
        _receive(self._pipe, AnswerUnpickler)

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join(STOP_SECONDS)  # not for ever: a process in the kernel may outlive even this signal
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
            function, arguments = _receive(pipe, pickle.Unpickler)
        except EOFError:
            return
        limit_memory(max_bytes)
        result: Any = None
        error: Exception | None = None
        try:
            result = function(*arguments)
        except MemoryError:
            error = TooCostlyError(f"takes over {max_bytes // 1_000_000} MB to decode")
        except (InputError, RefusedError) as raised:
            error = raised if type(raised) in _ERRORS else InputError(raised)
        except Exception:
            error = RuntimeError(traceback.format_exc())
        del arguments  # an idle process keeps no request
        _send(pipe, (result, error))
        del result, error


def _send(pipe: Connection, value: Any) -> None:
    """Arrays and `pickle.PickleBuffer`s are not copied, because they are large."""
    buffers: list[pickle.PickleBuffer] = []
    content = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    pipe.send_bytes(len(buffers).to_bytes(4))
    pipe.send_bytes(content)
    for buffer in buffers:
        pipe.send_bytes(buffer.raw())


def _receive(pipe: Connection, unpickler: type[pickle.Unpickler]) -> Any:
    count = int.from_bytes(pipe.recv_bytes())
    content = io.BytesIO(pipe.recv_bytes())
    return unpickler(content, buffers=[pipe.recv_bytes() for _ in range(count)]).load()


_ERRORS = (InputError, RefusedError, TooCostlyError)
