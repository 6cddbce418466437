"""Shards side by side: a map over jobs, by processes of this machine or by a Ray cluster (`selfkd[ray]`)."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from importlib.util import find_spec
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.connection import wait
from threading import Thread
from typing import Any, Literal

from selfkd.errors import InputError

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
