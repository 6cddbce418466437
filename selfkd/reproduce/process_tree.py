"""Runs a stage in a process of its own, and measures the memory of that process and its children."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

POLL_SECONDS = 0.1
_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux


@dataclass(frozen=True)
class Finished:
    code: int  # of the process's end
    seconds: float
    peak_bytes: int  # highest sum of resident memory over the process tree; shared pages count once for each process


def run_process(arguments: Sequence[str]) -> Finished:
    """Runs `python ARGUMENTS`; what it prints goes where this process prints. It ends with this process, however that
    ends, so that the next one finds no stage at work."""
    began, peak = time.monotonic(), 0
    with subprocess.Popen([sys.executable, *arguments], preexec_fn=_end_with_parent) as process:  # noqa: S603 the arguments are ours
        try:
            while process.poll() is None:
                peak = max(peak, tree_bytes(process.pid))
                time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:  # the process has got it too, and says what it leaves
            process.wait()
            raise
    return Finished(process.returncode, time.monotonic() - began, peak)


def tree_bytes(pid: int) -> int:
    """Resident memory of a process and all its descendants, in bytes; of those that have ended, 0."""
    try:
        root = psutil.Process(pid)
        processes = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    return sum(map(_resident_bytes, processes))


def _resident_bytes(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0


def _end_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGTERM)
        if os.getppid() == 1:  # it has ended before
            os._exit(1)
