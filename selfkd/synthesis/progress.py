"""How far a synthesis is, by rows: done of all, rows a second, time left. In a terminal a bar, elsewhere (a file, a
pipe, the log of a job) a line now and then."""

import sys
import time
from typing import Any

from tqdm import tqdm

LINE_SECONDS = 20.0  # between two lines


class RowProgress:
    """Counts `total` rows. Rows that an earlier run made count as done, and not for the rate."""

    def __init__(self, title: str, total: int):
        self._title, self._total, self._done, self._resumed = title, total, 0, 0
        self._begun = self._printed = time.monotonic()
        self._bar: Any = None
        if sys.stderr.isatty():
            # smoothing 0: the mean since the beginning, because rows come in bursts and take unequal times
            self._bar = tqdm(total=total, desc=title, unit="row", smoothing=0, dynamic_ncols=True)

    def add(self, made: int = 0, resumed: int = 0) -> None:
        """Rows that were made now, and rows that an earlier run had made; to be called now and then, also without."""
        self._done += made + resumed
        self._resumed += resumed
        if self._bar is not None:
            self._bar.initial += resumed
            self._bar.update(made + resumed)
        elif time.monotonic() - self._printed > LINE_SECONDS:
            self._printed = time.monotonic()
            print(self.line(), file=sys.stderr, flush=True)

    def line(self) -> str:
        """ "synthesizing world: 120 of 400 rows (40 from before), 3.1 rows/s, 01:30 left"."""
        seconds = time.monotonic() - self._begun
        rate = (self._done - self._resumed) / seconds if seconds else 0.0
        text = f"{self._title}: {self._done:,} of {self._total:,} rows"
        if self._resumed:
            text += f" ({self._resumed:,} from before)"
        if not rate:
            return text
        left = self._total - self._done
        time_text = f"{tqdm.format_interval(left / rate)} left" if left else f"in {tqdm.format_interval(seconds)}"
        return f"{text}, {rate:.3g} rows/s, {time_text}"

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self._total:
            print(self.line(), file=sys.stderr, flush=True)
