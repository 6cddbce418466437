"""Shards in parallel: a map over jobs, by a process pool of this machine or by a Ray cluster (`selfkd[ray]`).

All processes of a command are forked from one server that has imported this package once (`PRELOAD`): a worker starts
in milliseconds, also for the second folder. A TTS engine, and what decodes images and recordings, run in child
processes of the job's process, so that one that hangs or dies costs a row and not the job.
"""

import io
import os
import pickle  # nosec B403 for processes of our own
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor
from concurrent.futures import wait as wait_for_jobs
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from importlib.util import find_spec
from multiprocessing import active_children, current_process, forkserver, get_context, parent_process, util
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from threading import Lock, Thread, current_thread, main_thread
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from selfkd.errors import EngineError, InputError, reason_of
from selfkd.synthesis.answers import AnswerUnpickler
from selfkd.synthesis.config import PoolName
from selfkd.synthesis.tts.base import TTSEngine, Utterance

PRELOAD = ["selfkd.synthesis.shards", "scipy.signal"]  # modules that the fork server imports
MAX_TEMP_FOLDER = 70  # characters of TMPDIR: the path of a socket in a folder of it has at most 107
COUNT_SECONDS = 0.2  # between two looks at the rows that are finished
ROWS_AHEAD = 4  # rows for each worker that may be in memory
_MADE, _RESUMED = b"m", b"r"
STOP_SECONDS = 10.0  # limit for the end of a process that was killed, or whose pipe is closed
START_SECONDS = 120  # limit for importing an engine and reading its weights
_KILLED = "a process was killed, usually for want of memory: fewer --processes; the same command resumes"


def check_pool(pool: PoolName) -> None:
    if pool == "ray" and find_spec("ray") is None:
        raise InputError("pool: ray is not installed; pip install 'selfkd[ray]'")


def run_jobs(
    stage: Callable[..., Any],
    jobs: Sequence[tuple[Any, ...]],
    pool: PoolName,
    processes: int,
    address: str,
    on_rows: Callable[[int, int], None] = lambda made, resumed: None,
) -> Iterator[Any]:
    """`stage(*job)` of each job in order of completion. An exception of a job is raised here; jobs that have not begun
    are dropped then. `on_rows` gets what the jobs of this machine report (`report_rows`), several times a second."""
    run = _on_ray(stage, jobs, address) if pool == "ray" else _on_processes(stage, jobs, processes, on_rows)
    yield from run


def available_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_MAIN = "__main__"
_main_lock = Lock()


class _ServerProcess(ForkServerProcess):
    """A process that does not run the parent's script: one that calls `synthesize` without `if __name__ == "__main__"`
    would begin the same work in each of its workers, which Python ends."""

    @staticmethod
    def _Popen(process_obj: Any) -> Any:  # noqa: N802 the name that multiprocessing calls
        with _main_lock:
            script = sys.modules[_MAIN]
            sys.modules[_MAIN] = ModuleType(_MAIN)  # has no file that the process could run
            try:
                return ForkServerProcess._Popen(process_obj)
            finally:
                sys.modules[_MAIN] = script


class _ServerContext(ForkServerContext):
    Process = _ServerProcess


def server_context(preload: Sequence[str] = PRELOAD) -> Any:
    """The multiprocessing context of the fork server, which imports `preload`. It is started once and has no threads: a
    fork of this process, which may hold torch's threads, could hang."""
    context = _ServerContext()
    context.set_forkserver_preload(list(preload))
    settings = current_process()._config  # type: ignore[attr-defined]
    if len(tempfile.gettempdir()) > MAX_TEMP_FOLDER and "tempdir" not in settings:
        settings["tempdir"] = folder = tempfile.mkdtemp(prefix="pymp-", dir="/tmp")  # nosec B108 a folder of mode 700 with a random name
        util.Finalize(None, shutil.rmtree, args=(folder, True), exitpriority=-100)
    if current_thread() is main_thread():
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server inherits it: ctrl-C is this process's
        try:
            forkserver.ensure_running()
        finally:
            signal.signal(signal.SIGINT, handler or signal.SIG_DFL)
    return context


class ProcessState(NamedTuple):
    """What a child would inherit from the process that starts it, were it not forked from a server started earlier."""

    environment: dict[str, str]
    umask: int
    sockets: str  # folder of the fork server's sockets; "" where it belongs to another process

    @classmethod
    def current(cls) -> "ProcessState":
        os.umask(umask := os.umask(0o077))
        return cls(dict(os.environ), umask, "" if parent_process() else util.get_temp_dir())

    def apply(self) -> None:
        if self.environment != dict(os.environ):
            os.environ.clear()
            os.environ.update(self.environment)
        os.umask(self.umask)


_is_pool_worker = False
_row_counter: Connection | None = None  # of a pool's worker: a pipe to the command's process


def _begin_worker(state: ProcessState, row_counter: Connection) -> None:
    global _is_pool_worker, _row_counter
    _is_pool_worker, _row_counter = True, row_counter
    state.apply()
    end_with_parent(state.sockets)


def report_rows(made: int = 0, resumed: int = 0) -> None:
    """Tells the command's process that rows are finished, or that an earlier run had finished them; elsewhere, as on a
    node of Ray, it does nothing."""
    if _row_counter is None:
        return
    content = _MADE * made + _RESUMED * resumed
    for start in range(0, len(content), select.PIPE_BUF):  # of which no other worker's byte gets in between
        with suppress(BlockingIOError, BrokenPipeError):  # a count may be too low: no row waits for a full pipe
            os.write(_row_counter.fileno(), content[start : start + select.PIPE_BUF])


def _on_processes(
    stage: Callable[..., Any],
    jobs: Sequence[tuple[Any, ...]],
    processes: int,
    on_rows: Callable[[int, int], None],
) -> Iterator[Any]:
    others = active_children()
    size = max(1, min(processes, len(jobs)))
    context = server_context()
    if stage.__module__ == _MAIN:  # the workers must run the script to have it
        context = get_context("forkserver")
    # bytes in a pipe, one a row: unlike a lock or a queue, a worker that is killed cannot leave it unusable
    reader, writer = context.Pipe(duplex=False)
    for end in (reader, writer):
        os.set_blocking(end.fileno(), False)

    def count() -> None:
        content = b""
        with suppress(BlockingIOError):
            content = os.read(reader.fileno(), 1 << 16)
        on_rows(content.count(_MADE), content.count(_RESUMED))

    with reader, writer, ProcessPoolExecutor(size, context, _begin_worker, (ProcessState.current(), writer)) as pool:
        try:
            waiting = {pool.submit(stage, *job) for job in jobs}
            while waiting:
                ended, waiting = wait_for_jobs(waiting, COUNT_SECONDS, FIRST_COMPLETED)
                count()
                for done in ended:
                    yield done.result()
        except BrokenProcessPool as error:
            raise InputError(_KILLED) from error
        except Exception:
            raise
        except BaseException:  # ctrl-C: a worker would finish its shard and begin one more
            for process in active_children():
                if process not in others:
                    process.terminate()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def end_with_parent(sockets: str) -> None:
    """Ends this process as soon as its parent is gone, and removes the folder of the fork server's `sockets`, which a
    killed command leaves. After a SIGKILL this process would otherwise work on the jobs in the queue, concurrently with
    the resumed command, and then wait for ever. Ctrl-C, which a terminal sends to all processes, is handled by the
    parent only: an engine that it ended would cost a row."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None  # noqa: S101 an invariant of this code, no check of input

    def watch() -> None:
        wait([parent.sentinel])
        if sockets:
            shutil.rmtree(sockets, ignore_errors=True)
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def _on_ray(stage: Callable[..., Any], jobs: Sequence[tuple[Any, ...]], address: str) -> Iterator[Any]:
    """One core of the cluster for each job. Nodes share the output folder, and each has this package."""
    import ray

    was_initialized = ray.is_initialized()
    if not was_initialized:
        try:
            ray.init(address=address or None, include_dashboard=False, log_to_driver=False, configure_logging=False)
        except ConnectionError as error:
            raise InputError(f"address: {address}: {error}") from error
    try:
        remote = ray.remote(stage)
        waiting = [remote.remote(*job) for job in jobs]
        while waiting:
            (done,), waiting = ray.wait(waiting)
            try:
                yield ray.get(done)
            except ray.exceptions.RayError as error:
                for other in waiting:
                    ray.cancel(other)
                if isinstance(error, ray.exceptions.RayTaskError):
                    raise error.cause from error
                raise InputError(_KILLED) from error
    finally:
        if not was_initialized:
            ray.shutdown()


class IsolatedWorker:
    """The function `open_worker(*arguments)`, of one argument, in a child process that is ended over a time limit, and
    that may allocate `max_bytes`. Raises InputError for a row that it cannot work on, `timeout_error` over the time
    limit, EngineError where it is of no use for any row. Messages begin with `part` and name the `result`."""

    def __init__(
        self,
        part: str,
        result: str,
        open_worker: Callable[..., Callable[[Any], Any]],
        arguments: tuple[Any, ...],
        time_limit_seconds: float,
        timeout_error: type[InputError] = InputError,
        max_bytes: int | None = None,
    ):
        self._part, self._result_name = part, result
        self._open = open_worker, arguments, part, max_bytes
        self._time_limit, self._timeout_error = time_limit_seconds, timeout_error
        self._process: Any = None
        self._pipe: Any = None
        self._until = 0.0  # monotonic seconds

    def call(self, argument: Any) -> Any:
        try:
            self.submit(argument)
            return self.result()
        except InputError:
            raise
        except BaseException:  # as ctrl-C: the pending result would be taken for that of the next row
            self.close()
            raise

    def submit(self, argument: Any) -> None:
        """Begins to work on a row; `result` must follow, or `close`."""
        if self._process is None:
            self._start()
        self._until = time.monotonic() + self._time_limit
        with suppress(BrokenPipeError, ConnectionResetError):  # `result` says so, next to the exit code
            self._pipe.send(argument)

    def result(self) -> Any:
        """The result of the row of `submit`, which this waits for. The time limit counts from there."""
        try:
            if not self._pipe.poll(self.seconds_left()):
                self.close()
                raise self._timeout_error(
                    f"{self._part}: no {self._result_name} in {self._time_limit:.0f} s, the time limit of a row"
                )
            result = AnswerUnpickler(io.BytesIO(self._pipe.recv_bytes())).load()
        except pickle.UnpicklingError as error:
            self.close()
            raise InputError(f"{self._part}: its answer is no {self._result_name}") from error
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:
            self._process.join(STOP_SECONDS)
            code = self._process.exitcode
            self.close()
            raise InputError(f"{self._part}: died on this row (exit code {code})") from error
        if isinstance(result, InputError):
            raise result
        return result

    def seconds_left(self) -> float:
        """Until the time limit of the row of `submit`."""
        return max(0.0, self._until - time.monotonic())

    @property
    def pipe(self) -> Connection:
        """Readable as soon as the result of the row of `submit` is there, or the process has died."""
        return self._pipe

    def close(self) -> None:
        """Ends the child process; the next row starts another."""
        if self._process is not None:
            self._process.kill()
            self._process.join(STOP_SECONDS)  # not for ever: a process in the kernel may outlive even this signal
            self._pipe.close()
            self._process = None

    def _start(self) -> None:
        # a pool's worker is itself a fork of the server, so its fork is safe; of any other process that is not known
        context = get_context("fork") if _is_pool_worker else server_context()
        self._pipe, child_pipe = context.Pipe()
        arguments = child_pipe, *self._open, ProcessState.current()
        self._process = context.Process(target=_serve_worker, args=arguments, name=self._part, daemon=True)
        self._process.start()
        child_pipe.close()
        if not self._pipe.poll(START_SECONDS):
            self.close()
            raise EngineError(f"{self._part}: did not start within {START_SECONDS} s")
        try:
            message = AnswerUnpickler(io.BytesIO(self._pipe.recv_bytes())).load()
        except EOFError as error:
            self.close()
            raise EngineError(f"{self._part}: died at its start") from error
        if message:
            self.close()
            raise EngineError(message)


def _serve_worker(
    pipe: Connection,
    open_worker: Callable[..., Callable[[Any], Any]],
    arguments: tuple[Any, ...],
    part: str,
    max_bytes: int | None,
    state: ProcessState,
) -> None:
    state.apply()
    end_with_parent(state.sockets)
    try:
        work = open_worker(*arguments)
        pipe.send("")
    except InputError as error:
        pipe.send(str(error))
        return
    while True:
        try:
            argument = pipe.recv()
        except EOFError:
            return
        if max_bytes is not None:
            limit_memory(max_bytes)
        try:
            pipe.send(work(argument))
        except InputError as error:
            pipe.send(error)
        except MemoryError:
            pipe.send(InputError(f"{part}: takes over {(max_bytes or 0) // 1_000_000} MB"))
        except Exception as error:  # of the engine itself: the row is lost, its reason is kept
            pipe.send(InputError(f"{part}: {reason_of(error)}"))


def limit_memory(max_bytes: int) -> None:
    """Allows `max_bytes` beyond what this process holds now. Without Linux's /proc there is no such limit."""
    status = Path("/proc/self/statm")
    if status.exists():
        held = int(status.read_text().split()[5]) * resource.getpagesize()
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        resource.setrlimit(resource.RLIMIT_DATA, (held + max_bytes, hard))


class IsolatedEngine(IsolatedWorker):
    """The engine `open_engine(*arguments)`, a `TTSEngine`, in a child process."""

    def __init__(
        self,
        open_engine: Callable[..., TTSEngine],
        arguments: tuple[Any, ...],
        time_limit_seconds: float,
        timeout_error: type[InputError] = InputError,
    ):
        opened = (open_engine, *arguments)
        super().__init__("engine", "audio", _open_engine, opened, time_limit_seconds, timeout_error)

    def synthesize_audio(self, utterance: Utterance) -> NDArray[np.float32]:
        return self.call(utterance)


RowT = TypeVar("RowT")


def in_order(
    workers: Sequence[IsolatedWorker], rows: Iterable[RowT], argument_of: Callable[[RowT], Any]
) -> Iterator[tuple[RowT, Any]]:
    """(row, result, or the InputError in its place) of each row in the order of `rows`, while the workers work on as
    many of the following ones. A row whose argument is None needs no worker; its result is None.

    A row is read when a worker is free for it; a slow one is waited for by at most `ROWS_AHEAD` a worker. An
    EngineError ends the reading: rows before it still come."""
    source, waiting = enumerate(rows), list(workers)[::-1]
    read: dict[int, RowT] = {}
    results: dict[int, Any] = {}
    busy: dict[IsolatedWorker, int] = {}
    following, is_at_end = 0, False
    try:
        while True:
            while waiting and not is_at_end and len(read) < ROWS_AHEAD * len(workers):
                number, row = next(source, (-1, None))
                if row is None:
                    is_at_end = True
                    break
                read[number] = row
                argument = argument_of(row)
                if argument is None:
                    results[number] = None
                    if number == following:
                        break  # with nothing to wait for
                    continue
                worker = waiting.pop()
                try:
                    worker.submit(argument)
                    busy[worker] = number
                except EngineError as error:
                    results[number], is_at_end = error, True
                    waiting.append(worker)
            while following in results:
                yield read.pop(following), results.pop(following)
                following += 1
            if not busy:
                if is_at_end:
                    return
                continue
            ready = wait([worker.pipe for worker in busy], min(worker.seconds_left() for worker in busy))
            for worker in [w for w in busy if w.pipe in ready or not w.seconds_left()]:
                number = busy.pop(worker)
                try:
                    results[number] = worker.result()
                except InputError as error:
                    results[number] = error
                    is_at_end = is_at_end or isinstance(error, EngineError)
                waiting.append(worker)
    finally:  # a pending result would be taken for that of another row
        for worker in busy:
            worker.close()


def _open_engine(open_engine: Callable[..., TTSEngine], *arguments: Any) -> Callable[[Utterance], Any]:
    return open_engine(*arguments).synthesize_audio
