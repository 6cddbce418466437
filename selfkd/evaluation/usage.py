"""What asking an endpoint took, kept in a file."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from selfkd.files import read_json, write_json

USAGE = "usage.json"
KEPT_EVERY_SECONDS = 1.0


@dataclass
class Usage:
    """What was asked and what it cost. Askers that are given the same one share a budget."""

    requests: int = 0  # sent, retries among them
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    dollars: float = 0.0

    def spend(self, prompt_tokens: int, completion_tokens: int, dollars: float) -> None:
        self.prompt_tokens += prompt_tokens
        self.completion_tokens += completion_tokens
        self.dollars += dollars


class _Kept(Usage):
    """Usage that a file keeps as it grows: a process that is killed writes nothing at its end."""

    def __init__(self, path: Path):
        super().__init__(**(read_json(path) if path.is_file() else {}))
        self._path, self._written = path, time.monotonic()

    def spend(self, prompt_tokens: int, completion_tokens: int, dollars: float) -> None:
        super().spend(prompt_tokens, completion_tokens, dollars)
        if time.monotonic() - self._written > KEPT_EVERY_SECONDS:
            self.write()

    def write(self) -> None:
        write_json(self._path, asdict(self))
        self._written = time.monotonic()


@contextmanager
def kept_usage(path: Path, model: str) -> Iterator[Usage]:
    """The usage that a file keeps, so that a budget holds over repetitions of a command; says in the end what it is."""
    usage = _Kept(path)
    try:
        yield usage
    finally:
        usage.write()
        spent = f", ${usage.dollars:.2f}" if usage.dollars else ""
        tokens = f"{usage.prompt_tokens:,} + {usage.completion_tokens:,} tokens"
        print(f"{model}: {usage.requests:,} requests ({usage.retries:,} again), {tokens}{spent}")
