"""A table of the page, and how numbers are written in it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selfkd.evaluation.uncertainty import enough


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


def with_interval(of: Mapping[str, Any], groups: int, write: Callable[[float], str]) -> str:
    """ "0.512 [0.498, 0.526]" of a mean with the ends of its interval, "(too few)" after it where its groups are that,
    and the mean alone where nothing is known of it."""
    if of["low"] is None:
        return write(of["mean"])
    few = "" if enough(groups) else " (too few)"
    return f"{write(of['mean'])} [{write(of['low'])}, {write(of['high'])}]{few}"


def minus(text: str) -> str:
    """With the sign that is as wide as the plus."""
    return text.replace("-", "−")
