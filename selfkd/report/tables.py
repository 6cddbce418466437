"""A table of the page, and how numbers are written in it."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Cells are text, or Markup where they hold a link. The first `words` columns are words, the others numbers."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: int = 2
    note: str = ""


def percent(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else minus(f"{100 * value:.{digits}f}%")


def percents(pair: Sequence[float] | None) -> str:
    """An interval."""
    return "–" if pair is None else f"{percent(pair[0])} to {percent(pair[1])}"


def signed(value: float) -> str:
    return minus(f"{value:+.3f}")


def decimal(value: float) -> str:
    return minus(f"{value:.3f}")


def signed_interval(mean: float, low: float, high: float) -> str:
    return f"{signed(mean)} [{signed(low)}, {signed(high)}]"


def interval(mean: float, low: float, high: float) -> str:
    return f"{decimal(mean)} [{decimal(low)}, {decimal(high)}]"


def minus(text: str) -> str:
    """With the sign that is as wide as the plus."""
    return text.replace("-", "−")
