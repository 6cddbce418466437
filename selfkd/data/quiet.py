"""No lines of C libraries in the log: libmpg123 writes 90 bytes for each odd tag of an MP3 (30 MB for a file of 5),
libtiff some for each damaged strip, and neither has a setting that reaches it from here."""

import ctypes
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from threading import Lock
from typing import Any

_lock = Lock()
_depth = 0
_stderr = 0  # the stream that was replaced


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Sends what C libraries print to nowhere, in all threads. It replaces the variable `stderr` of the C library and
    not the file descriptor 2, so no line of Python's is lost; where that variable is constant, nothing changes."""
    global _depth, _stderr
    with _lock:
        if not _depth and (variable := _variable()) is not None:
            _stderr, variable.value = variable.value, _nowhere()
        _depth += 1
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if not _depth and (variable := _variable()) is not None:
                variable.value = _stderr


@cache
def _variable() -> Any:
    """The variable `stderr`, which may be assigned in glibc and on macOS."""
    name = "__stderrp" if sys.platform == "darwin" else "stderr"
    if sys.platform != "darwin" and platform.libc_ver()[0] != "glibc":
        return None
    return ctypes.c_void_p.in_dll(ctypes.CDLL(None), name)


@cache
def _nowhere() -> int:
    fopen = ctypes.CDLL(None).fopen
    fopen.restype = ctypes.c_void_p
    return fopen(os.devnull.encode(), b"w")
