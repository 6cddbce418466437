"""Functions that never return, end their process, or take all memory: what a decoder may do with hostile bytes."""

import os
import sys
import time
from pathlib import Path


def hang(*_):
    time.sleep(1_000)


def end(*_):
    os._exit(3)


def allocate(count):
    return len(bytes(count))


def write_to_stderr(text):
    os.write(2, text.encode())
    print(text, file=sys.stderr)
    return len(text)


def raise_unpicklable(*_):
    class LocalError(Exception):
        pass

    raise LocalError("of this call only")


def raise_refused(*_):
    from selfkd.serving.schema import RefusedError

    raise RefusedError(418, "a teapot", "pot", "short_and_stout")


class _Call:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def answer_with_a_call(path):
    return [_Call(path)]


def answer_with_a_class(path):
    return [Path(path)]


def opened(function):
    """As an `open_worker` of `IsolatedWorker`."""
    return function
