"""The progress of a loop on stderr: a bar that redraws itself on a terminal, a line every few seconds where stderr is a
file or a pipe.

A bar is never wider than the terminal, and is drawn only when the loop advances, without a thread: loops fork workers.
"""

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from selfkd.terminal import is_terminal, plain, plain_output, raw_stream

LINE_SECONDS = 10.0  # between two lines
DRAW_SECONDS = 0.2  # between two states of a bar
SLOW_SECONDS = 3.0  # a delay, for loops that are mostly over by then
_BAR_WIDTH, _TITLE_WIDTH = 12, 26

T = TypeVar("T")


class Progress:
    """Counts what a loop has done, and shows it as a line now and then. `advance(1, "loss 0.2")` shows the note too."""

    interval = LINE_SECONDS

    def __init__(self, title: str, total: int, unit: str, delay_seconds: float):
        self.title, self.total, self.unit, self.note = plain(title), total, unit, ""
        self.done, self._before = 0, 0  # in all; by an earlier process
        self._shown = -1  # how much was done when it was shown last
        self._began = time.monotonic()
        self._next = self._began + (delay_seconds or self.interval)
        self._closes = not delay_seconds  # a loop that ends within the delay shows nothing

    def resume_at(self, done: int) -> None:
        """`done` of the total were done by an earlier process, and count for no rate."""
        self.done = self._before = done
        self._began = time.monotonic()

    def skip(self, count: int) -> None:
        """`count` more of the total turn out to be done by an earlier process: they count for no rate."""
        self.done += count
        self._before += count
        self.note = f"{self._before:,} from before" if self._before else self.note

    def advance(self, count: int = 1, note: str = "") -> None:
        """`note` replaces the last one."""
        self.done += count
        self.note = plain(note) or self.note
        if (now := time.monotonic()) >= self._next:
            self._next, self._closes, self._shown = now + self.interval, True, self.done
            self.show()

    def over(self, items: Iterable[T]) -> Iterator[T]:
        """The items; advances with each."""
        for item in items:
            yield item
            self.advance()

    def close(self) -> None:
        if self._closes and self._shown != self.done:
            self.show()

    def show(self) -> None:
        parts = [f"{self.done:,} of {self.total:,} {self.unit}", self.note, self.rate_text(), self.time_text()]
        print(f"{self.title}: {', '.join(filter(None, parts))}", file=sys.stderr, flush=True)

    def rate_text(self) -> str:
        rate = self._rate
        return "" if not rate else f"{rate:,.3g}/s" if rate >= 1 else f"{1 / rate:,.3g} s each"

    def time_text(self) -> str:
        """The time left; at the end the time that the loop took."""
        if self.done >= self.total:
            return f"took {_clock(time.monotonic() - self._began)}"
        return f"{_clock((self.total - self.done) / self._rate)} left" if self._rate else ""

    @property
    def _rate(self) -> float:
        """In a second; 0 before anything is done."""
        return (self.done - self._before) / max(time.monotonic() - self._began, 1e-9)


class _Bar(Progress):
    """The same as a bar that redraws itself."""

    interval = DRAW_SECONDS

    def __init__(self, title: str, total: int, unit: str, delay_seconds: float, ending: ExitStack):
        """`ending` takes the bar from the terminal at its end, if it was ever drawn."""
        super().__init__(title, total, unit, delay_seconds)
        console = Console(file=raw_stream(sys.stderr), markup=False, highlight=False, emoji=False)
        self._live = Live(console=console, auto_refresh=False, redirect_stdout=is_terminal(sys.stdout))
        self._ending = ending
        if self._closes:
            self.show()

    def show(self) -> None:
        if not self._live.is_started:
            self._ending.enter_context(self._live)
            self._ending.enter_context(plain_output(sys.stdout, sys.stderr))
        row = Table.grid(padding=(0, 1))
        row.add_column(no_wrap=True, overflow="ellipsis", max_width=_TITLE_WIDTH)
        cells: list[Any] = [self.title, ProgressBar(max(self.total, 1), min(self.done, self.total), _BAR_WIDTH)]
        cells += filter(None, [f"{self.done:,}/{self.total:,}", self.note, self.rate_text(), self.time_text()])
        for _ in cells[1:]:
            row.add_column(no_wrap=True, overflow="ellipsis")
        row.add_row(*cells)
        self._live.update(row, refresh=True)


class _Hidden(Progress):
    def show(self) -> None:
        pass


@contextmanager
def progress(title: str, total: int, unit: str, delay_seconds: float = 0.0, shown: bool = True) -> Iterator[Progress]:
    """Shows how much of `total` is done while the context lasts: nothing within the first `delay_seconds`, nor where
    not `shown`, as on all processes of a launch but the first. What is printed meanwhile appears above a bar."""
    if not shown or not is_terminal(sys.stderr):
        lines = (Progress if shown else _Hidden)(title, total, unit, delay_seconds)
        yield lines
        lines.close()
        return
    with ExitStack() as ending:
        bar = _Bar(title, total, unit, delay_seconds, ending)
        yield bar
        bar.close()


def _clock(seconds: float) -> str:
    """`0:07`, `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
