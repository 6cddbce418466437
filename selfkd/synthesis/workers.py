"""Shards in parallel: a map over jobs, by a process pool of this machine or by a Ray cluster (`selfkd[ray]`).

A TTS engine runs in a process of its own within each job, so that an engine that hangs or dies costs a row, not the
job.
"""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from importlib.util import find_spec
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.connection import Connection, wait
from threading import Thread
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from selfkd.errors import EngineError, InputError, reason_of
from selfkd.synthesis.tts.base import TTSEngine, Utterance

PoolName = Literal["local", "ray"]
_KILLED = "a process was killed, usually for want of memory: fewer --processes; the same command goes on"


def check_pool(pool: PoolName) -> None:
    if pool == "ray" and find_spec("ray") is None:
        raise InputError("pool: ray is not installed; pip install 'selfkd[ray]'")


def run_jobs(
    stage: Callable[..., Any], jobs: Sequence[tuple[Any, ...]], pool: PoolName, processes: int, address: str
) -> Iterator[Any]:
    """`stage(*job)` of each job as they get done. What one raises is raised here, and those not begun are dropped."""
    run = _on_ray(stage, jobs, address) if pool == "ray" else _on_processes(stage, jobs, processes)
    yield from run


def _on_processes(stage: Callable[..., Any], jobs: Sequence[tuple[Any, ...]], processes: int) -> Iterator[Any]:
    others = active_children()
    # spawn: a fork of a process that holds torch's threads can hang
    with ProcessPoolExecutor(max(1, min(processes, len(jobs))), get_context("spawn"), end_with_parent) as pool:
        try:
            for done in as_completed([pool.submit(stage, *job) for job in jobs]):
                yield done.result()
        except BrokenProcessPool as error:
            raise InputError(_KILLED) from error
        except Exception:
            raise
        except BaseException:  # ctrl-C: a worker would go on with the shard that it is at, and with one more
            for process in active_children():
                if process not in others:
                    process.terminate()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def end_with_parent() -> None:
    """Ends this process as soon as the one that started it is gone. After a SIGKILL it would else go on with the jobs
    that are queued, beside those of the command that is given again, and then wait for ever. Ctrl-C, which a terminal
    sends to all of them, is the parent's alone: an engine that it ended would cost a row."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def _on_ray(stage: Callable[..., Any], jobs: Sequence[tuple[Any, ...]], address: str) -> Iterator[Any]:
    """A core of the cluster for each job. Nodes share the output folder, and each has this package."""
    import ray

    already = ray.is_initialized()
    if not already:
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
        if not already:
            ray.shutdown()


START_SECONDS = 120  # to import an engine and read its weights


class IsolatedEngine:
    """Speaks through `opened(*arguments)`, a `TTSEngine`, in a child process. Raises InputError for a row that it
    cannot say, `slow` where it says nothing in time, EngineError where the engine is of no use for any row."""

    def __init__(
        self,
        opened: Callable[..., TTSEngine],
        arguments: tuple[Any, ...],
        time_limit_seconds: float,
        slow: type[InputError] = InputError,
    ):
        self._opened, self._arguments, self._time_limit, self._slow = opened, arguments, time_limit_seconds, slow
        self._process: Any = None
        self._pipe: Any = None

    def synthesize_audio(self, utterance: Utterance) -> NDArray[np.float32]:
        try:
            return self._answer(utterance)
        except InputError:
            raise
        except BaseException:  # as ctrl-C: the answer that is still to come would be taken for that of the next row
            self.close()
            raise

    def _answer(self, utterance: Utterance) -> NDArray[np.float32]:
        if self._process is None:
            self._start()
        try:
            self._pipe.send(utterance)
            if not self._pipe.poll(self._time_limit):
                self.close()
                raise self._slow(f"engine: said nothing for {self._time_limit:.0f} s, the time limit of a row")
            answer = self._pipe.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:
            self._process.join(10)
            code = self._process.exitcode
            self.close()
            raise InputError(f"engine: died on this row (exit code {code})") from error
        if isinstance(answer, InputError):
            raise answer
        return answer

    def close(self) -> None:
        """Ends the child; the next row starts another."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
            self._process = None

    def _start(self) -> None:
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._opened, self._arguments), daemon=True)
        self._process.start()
        theirs.close()
        if not self._pipe.poll(START_SECONDS):
            self.close()
            raise EngineError(f"engine: did not start within {START_SECONDS} s")
        try:
            wrong = self._pipe.recv()
        except EOFError as error:
            self.close()
            raise EngineError("engine: died at its start") from error
        if wrong:
            self.close()
            raise EngineError(wrong)


def _serve(pipe: Connection, opened: Callable[..., TTSEngine], arguments: tuple[Any, ...]) -> None:
    end_with_parent()
    try:
        tts_engine = opened(*arguments)
        pipe.send("")
    except InputError as error:
        pipe.send(str(error))
        return
    while True:
        try:
            utterance = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(tts_engine.synthesize_audio(utterance))
        except InputError as error:
            pipe.send(error)
        except Exception as error:  # an engine's own: the row is lost, the reason is not
            pipe.send(InputError(f"engine: {reason_of(error)}"))
