"""`selfkd` as a process of its own, forked from a server that has imported torch and transformers once.

A child is what a user's command is: its own memory, environment, folder, streams and signals. It only skips the seconds
of importing, which most tests of whole commands spend their time on. Tests whose subject is the start of the
interpreter itself (hash seeds, a launcher, what is imported when) start one with `subprocess`.
"""

import atexit
import fcntl
import gc
import multiprocessing
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

# selfkd.cli first: it sets how threads wait, which torch reads when it is imported
PRELOAD = ["selfkd.cli", "torch", "transformers", "peft", "accelerate", "datasets", "selfkd.training.distill"]
PRELOAD += ["selfkd.training.align", "selfkd.evaluation.evaluate", "selfkd.synthesis.synthesize"]


def _call(
    arguments: list[str],
    folder: str,
    environment: dict[str, str],
    streams: Sequence[str],
    begin: Callable[[], None] | None,
) -> None:
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number, path in zip((1, 2), streams, strict=True):
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdin = open(os.devnull)  # noqa: SIM115, PTH123
    sys.argv = ["selfkd", *arguments]
    gc.freeze()
    import torch

    torch.set_num_threads(int(environment.get("OMP_NUM_THREADS", "1")))
    from selfkd.cli import main

    try:
        if begin is not None:
            begin()
        code = main()
    finally:
        atexit._run_exitfuncs()
    sys.exit(code)


@cache
def _context() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    return context


def forked_process(target: Callable[..., None], *arguments: Any) -> Any:
    """A started process, forked from the server, that calls `target(*arguments)`; `join` it and see its `exitcode`."""
    process = _context().Process(target=target, args=arguments)
    process.start()
    return process


def run_in_terminal(*arguments: Any, cwd: Path, columns: int = 80, rows: int = 24, timeout: float = 300) -> str:
    """All that `selfkd ARGUMENTS` writes to a terminal of this size, control sequences included; it must succeed."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
    given = list(map(str, arguments)), str(cwd), environment | {"TERM": "xterm-256color"}
    process = forked_process(_call, *given, [os.ttyname(theirs)] * 2, None)
    written, ends = bytearray(), time.monotonic() + timeout
    while process.is_alive() or select.select([ours], [], [], 0)[0]:
        assert time.monotonic() < ends, bytes(written[-2000:])
        if select.select([ours], [], [], 0.1)[0]:
            written += os.read(ours, 65536)
    os.close(theirs)
    os.close(ours)
    process.join()
    assert process.exitcode == 0, bytes(written[-2000:])
    return written.decode()


class Command:
    """`selfkd ARGUMENTS` in the background, as `subprocess.Popen` has it: `pid`, `poll`, `wait`, `kill`, streams.
    `begin` is called in the process before the command."""

    def __init__(
        self,
        arguments: Sequence[Any],
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        begin: Callable[[], None] | None = None,
    ) -> None:
        self._streams = [tempfile.NamedTemporaryFile(suffix=".txt") for _ in range(2)]  # noqa: SIM115
        given = list(map(str, arguments)), str(cwd or Path.cwd()), dict(os.environ if env is None else env)
        names = [stream.name for stream in self._streams]
        self._process = _context().Process(target=_call, args=(*given, names, begin))
        self._process.start()
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float = 300) -> int:
        if not wait([self._process.sentinel], timeout):
            self.kill()
            raise subprocess.TimeoutExpired("selfkd", timeout)
        self._process.join()
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()

    @property
    def stdout(self) -> str:
        return Path(self._streams[0].name).read_text()

    @property
    def stderr(self) -> str:
        return Path(self._streams[1].name).read_text()

    def __enter__(self) -> "Command":
        return self

    def __exit__(self, *_: object) -> None:
        if self.poll() is None:
            self.kill()
            self._process.join()


def run_selfkd(
    *arguments: Any, cwd: Path | None = None, env: Mapping[str, str] | None = None, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """`selfkd ARGUMENTS`, waited for: exit code and both streams, as `subprocess.run` has them."""
    with Command(arguments, cwd, env) as command:
        code = command.wait(timeout)
        return subprocess.CompletedProcess(list(arguments), code, command.stdout, command.stderr)
