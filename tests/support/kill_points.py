"""Ends a command before its Nth change of a file, as a machine that is switched off, for tests that run it again; and a
disk without space.

In the process of the command, and in each worker that it starts, an audit hook counts the changes of files in a folder:
opened for writing, renamed, removed, linked, folders made and removed, and `os.fsync`. Libraries in other languages
change files without events; a kill at a random moment meets these.
"""

import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing import parent_process
from pathlib import Path
from typing import Any

from selfkd.synthesis import workers

KILLED = 128 + signal.SIGKILL
_RECORD_BYTES = 100
_EVENTS = {
    "os.rename": 2, "os.remove": 1, "os.rmdir": 1, "os.mkdir": 1, "os.link": 2, "os.symlink": 2, "os.truncate": 1,
    "os.chmod": 1, "open": 1,
}  # fmt: skip  # event -> number of its leading arguments that are paths
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def watch(folder: Path, log: Path, kill_at: int = 0) -> None:
    """Writes the changes of files in `folder` to `log`, and ends the command before number `kill_at` of them; with 0
    it only counts. For the process of a command, before it begins: no audit hook can be removed."""
    _count_here(folder, log, kill_at)
    # the workers of synthesis are no children of this process, so they inherit no hook
    workers._begin_worker = partial(_begin_worker, folder, log, kill_at)


def _begin_worker(folder: Path, log: Path, kill_at: int, *arguments: Any) -> None:
    workers._begin_worker(*arguments)
    _count_here(folder, log, kill_at)


def _count_here(folder: Path, log: Path, kill_at: int) -> None:
    root = folder.resolve()
    descriptor = os.open(log, os.O_RDWR | os.O_CREAT | os.O_APPEND)

    def count(name: str, path: Path) -> None:
        record = f"{name} {os.path.relpath(path, root)}".encode()[: _RECORD_BYTES - 1]
        os.write(descriptor, record.ljust(_RECORD_BYTES - 1) + b"\n")
        if os.lseek(descriptor, 0, os.SEEK_END) // _RECORD_BYTES == kill_at:
            command = parent_process()
            if workers._is_pool_worker and command is not None:
                os.kill(command.pid, signal.SIGKILL)
            os._exit(KILLED)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in _EVENTS:
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & _WRITING):
            return
        folder = arguments[-1] if event not in ("open", "os.truncate") else -1  # a descriptor, -1 for none
        base = Path(f"/proc/self/fd/{folder}") if folder >= 0 else Path()
        for path in arguments[: _EVENTS[event]]:
            if isinstance(path, str | bytes | os.PathLike) and is_within(base / os.fsdecode(path)):
                return count(event, base / os.fsdecode(path))

    def is_within(path: Path) -> bool:
        return (path.parent.resolve() / path.name).is_relative_to(root)

    def fsync(file: Any) -> None:
        path = Path(f"/proc/self/fd/{file if isinstance(file, int) else file.fileno()}").resolve()
        if is_within(path):
            count("fsync", path)
        plain_fsync(file)

    plain_fsync, os.fsync = os.fsync, fsync
    sys.addaudithook(hook)


def changes(log: Path) -> list[str]:
    """The changes that were counted, in their order."""
    return [line.strip() for line in log.read_text(errors="replace").splitlines()] if log.is_file() else []


@contextmanager
def files_at_most(size: int) -> Iterator[None]:
    """As `ulimit -f`, and as a full disk: each write beyond fails, also those of libraries that are no Python."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
