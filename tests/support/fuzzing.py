"""Fuzzing: what holds for any input, however malformed, and a table of where it does not.

A generator is a hypothesis strategy of `Malformed` inputs, and a use of them. For each input the use succeeds, or
raises one InputError; where the input is wrong for sure, it raises. It takes no longer than `MAX_SECONDS` of CPU time,
or `MAX_WAIT_SECONDS` of a busy machine's, and no more than `MAX_GROWTH_BYTES` of further memory.

In CI a generator has a few inputs, always the same ones, and stops at the first failure, which hypothesis makes as
small as it can. `make fuzz` gives the generators an hour, with other inputs in each run: failures are collected by
exception and location, each with its smallest input, and fail the test at its end.
"""

import signal
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy

from selfkd.errors import InputError

MAX_SECONDS, MAX_WAIT_SECONDS = 10, 100
MAX_GROWTH_BYTES = 512 * 2**20
TRACEBACK, HANG, GROWTH, ACCEPTED = "tracebacks", "hangs over 10 s", "growth over 512 MB", "wrongly accepted"
KINDS = (TRACEBACK, HANG, GROWTH, ACCEPTED)
_PACKAGE = str(Path(__file__).parents[2] / "selfkd")
_STATUS, _CLEAR_PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Malformed:
    """An input as the use takes it, and its name in a failure. `wrong` says why it must be refused; "" for an
    input that may be valid."""

    value: Any
    label: str
    wrong: str = ""

    def __repr__(self) -> str:
        return self.label


class HangError(BaseException):
    """Not an Exception, so that no code takes it for an error of its input."""


class Failure(NamedTuple):
    kind: str
    location: str  # exception, and the innermost line of the package
    text: str


@dataclass
class Tally:
    """What a generator has found."""

    inputs: int = 0
    refused: int = 0
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    smallest: dict[tuple[str, str], str] = field(default_factory=dict)  # of (kind, location)

    def add(self, failure: Failure, label: str) -> None:
        self.counts[failure.kind] += 1
        text = f"{label}\n    {failure.text}"
        before = self.smallest.get(failure[:2])
        if before is None or len(label) < len(before.partition("\n    ")[0]):
            self.smallest[failure[:2]] = text

    def __str__(self) -> str:
        return "\n".join(f"{kind}, {location}: {text}" for (kind, location), text in sorted(self.smallest.items()))


@dataclass
class KillTally:
    """What the kills of a command have left, once it was run again."""

    kills: int = 0
    differing_bytes: int = 0
    lost_rows: int = 0
    problems: list[str] = field(default_factory=list)

    def add(self, label: str, problem: str, differing: list[str], differing_bytes: int, lost_rows: int) -> None:
        self.kills += 1
        self.differing_bytes += differing_bytes
        self.lost_rows += max(0, lost_rows)
        if problem or differing or lost_rows:
            self.problems.append(
                f"killed {label}: {problem}, {lost_rows} rows lost, differing: {', '.join(sorted(differing)[:9])}"
            )


class Fuzzer:
    """Runs generators for `seconds` each; with 0, as in CI, for the few inputs that each asks for."""

    def __init__(self, seconds: float = 0):
        self.seconds = seconds
        self.tallies: dict[str, Tally] = defaultdict(Tally)

    def run(
        self,
        generator: str,
        inputs: SearchStrategy[Malformed],
        use: Callable[[Any], object],
        examples: int,
    ) -> None:
        """Raises AssertionError where an input fails; `examples` is the number of inputs in CI."""

        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            derandomize=not self.seconds,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, *([] if self.seconds else [Phase.shrink])],
        )
        @given(inputs)
        def check(malformed: Malformed) -> None:
            self.check(generator, malformed, use)

        end = time.monotonic() + self.seconds
        check()
        while time.monotonic() < end:
            check()
        tally = self.tallies[generator]
        assert not tally.smallest, f"{generator}, {tally.inputs} inputs\n{tally}"

    def check(self, generator: str, malformed: Malformed, use: Callable[[Any], object]) -> None:
        tally = self.tallies[generator]
        tally.inputs += 1
        failure = None
        try:
            with limits() as exceeded:
                use(malformed.value)
            if malformed.wrong:
                failure = Failure(ACCEPTED, malformed.wrong, "accepted")
        except InputError:
            tally.refused += 1
        except HangError as error:
            failure = Failure(HANG, _location(error), "")
        except Exception as error:
            failure = Failure(TRACEBACK, f"{type(error).__name__} at {_location(error)}", _last_line(error))
        failure = failure or next(iter(exceeded), None)
        if failure is None:
            return
        if not self.seconds:
            raise AssertionError(f"{malformed}: {failure.kind}, {failure.location}: {failure.text}")
        tally.add(failure, repr(malformed)[:2000])

    def rows(self) -> list[list[Any]]:
        """A row for each generator, with the counts of what was found."""
        return [[name, t.inputs, t.refused, *t.counts.values()] for name, t in self.tallies.items()]


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Rows of a name and numbers, and their sums."""
    rows = [*rows, ["all", *(sum(column) for column in list(zip(*rows, strict=True))[1:])]]
    widths = [max(len(str(row[i])) for row in (head, *rows)) for i in range(len(head))]
    lines = (
        "  ".join(
            f"{cell:<{w}}" if i == 0 else f"{cell:>{w}}" for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in (head, *rows)
    )
    return "\n".join(lines)


@contextmanager
def limits() -> Iterator[list[Failure]]:
    """Raises HangError in a block that takes longer; the list that it yields then holds what else was exceeded, such as
    the time in a library that no signal interrupts."""
    exceeded: list[Failure] = []

    def hang(*_: object) -> None:
        raise HangError

    timers = ((signal.ITIMER_PROF, signal.SIGPROF, MAX_SECONDS), (signal.ITIMER_REAL, signal.SIGALRM, MAX_WAIT_SECONDS))
    before = [signal.signal(number, hang) for _, number, _ in timers]
    began, resident = time.process_time(), _reset_peak()
    for timer, _, seconds in timers:
        signal.setitimer(timer, seconds)
    try:
        yield exceeded
    finally:
        for (timer, number, _), handler in zip(timers, before, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, handler)
        if (taken := time.process_time() - began) > MAX_SECONDS:
            exceeded.append(Failure(HANG, "a library", f"{taken:.0f} s"))
        if (growth := _memory("VmHWM") - resident) > MAX_GROWTH_BYTES:
            exceeded.append(Failure(GROWTH, "", f"{growth / 2**20:.0f} MB"))


def _reset_peak() -> int:
    """Sets the peak of resident memory to what is resident now, and returns it in bytes; 0 where there is no /proc."""
    if not _CLEAR_PEAK.exists():
        return 0
    _CLEAR_PEAK.write_text("5")
    return _memory("VmRSS")


def _memory(name: str) -> int:
    if not _STATUS.exists():
        return 0
    return next(int(line.split()[1]) for line in _STATUS.read_text().splitlines() if line.startswith(f"{name}:")) * 1024


def _location(error: BaseException) -> str:
    """The innermost function of this package in the traceback of an exception."""
    frames = traceback.extract_tb(error.__traceback__)
    frame = ([f for f in frames if f.filename.startswith(_PACKAGE)] or frames)[-1]
    return f"{frame.filename.removeprefix(_PACKAGE).lstrip('/')}:{frame.name}"


def _last_line(error: BaseException) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{' '.join(str(error).split())[:300]} ({Path(frame.filename).name}:{frame.lineno})"
