"""A disk without space, and a command that ends before its Nth operation on files: as if killed, without cleanup."""

import os
import resource
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from processes import forked_process

KILLED = 137
_CHANGES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.chmod", "os.link")


def _run(arguments: list[str], folder: str, number: int, counted: str) -> None:
    operations = 0

    def before(event: str, values: tuple[Any, ...]) -> None:
        nonlocal operations
        writes = event == "open" and isinstance(values[2], int) and values[2] & (os.O_WRONLY | os.O_RDWR)
        if not (writes or event in _CHANGES) or folder not in str(values[0]):
            return
        operations += 1
        if operations == number:
            os._exit(KILLED)

    import torch

    torch.set_num_threads(1)
    from selfkd.cli import main

    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115, PTH123
    sys.addaudithook(before)
    code = main(arguments)
    if counted:
        total, number = operations, 0
        Path(counted).write_text(str(total))
    os._exit(code)


def run_until(arguments: Sequence[Any], folder: Path, number: int, counted: Path | None = None) -> int:
    """The exit code: KILLED where the command has that many operations on files of `folder`. Writes the number of all
    to `counted`."""
    process = forked_process(_run, list(map(str, arguments)), str(folder), number, str(counted or ""))
    process.join(300)
    return process.exitcode


def operations_of(arguments: Sequence[Any], folder: Path, scratch: Path) -> int:
    """The number of operations of a whole command, whose outputs are in `folder`."""
    assert run_until(arguments, folder, 0, scratch) == 0, arguments
    return int(scratch.read_text())


@contextmanager
def files_at_most(size: int) -> Iterator[None]:
    """As `ulimit -f`, and as a full disk: each write beyond fails, also those of libraries that are no Python."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
