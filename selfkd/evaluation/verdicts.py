"""What may be said of a gap and of the share of it that is closed: one rule for tables, comparison, report and app.

Nothing is said of fewer groups than `MIN_GROUPS`, nor of a text modality that is not above chance.
"""

from collections.abc import Callable, Sequence
from typing import Literal

from selfkd.evaluation.uncertainty import MIN_GROUPS, enough

AT_CHANCE = "the text modality is at chance: there is no gap to measure"
GapVerdict = Literal["loses", "gains", "no clear gap", "too few", "at chance"]
ShareVerdict = Literal["closed", "no clear share", "no clear gap", "too few", "at chance"]
Silent = Literal["", "too few", "at chance"]
Interval = Sequence[float] | None
_SAME = 1e-9


def too_few(count: int, what: str = "images") -> str:
    """ "too few images (3, a verdict takes 10)"; an image stands for a group of items, which it is of nearly all."""
    return f"too few {what} ({count}, a verdict takes {MIN_GROUPS})"


def no_verdict_reason(groups: int, text: float | None, text_interval: Interval, chance: float | None) -> Silent:
    """Why no verdict may be given: `text` is the accuracy of the text modality, `chance` the floor under it. Of few
    groups it is at chance where its accuracy is no more than that, of enough also where its interval reaches it."""
    if text is None or chance is None:
        return "" if enough(groups) else "too few"
    if text <= chance + _SAME:
        return "at chance"
    if text_interval is None or not enough(groups):
        return "too few"
    return "at chance" if text_interval[0] <= chance + _SAME else ""


def gap_verdict(silent: Silent, interval: Interval) -> GapVerdict:
    """Whether the audio modality loses: said where the interval of the gap leaves out none."""
    if silent or interval is None:
        return silent or "too few"
    return "loses" if interval[0] > 0 else "gains" if interval[1] < 0 else "no clear gap"


def share_verdict(silent: Silent, interval: Interval) -> ShareVerdict:
    """Whether a share of the gap is closed; `interval` is None where the gap is not clear."""
    if silent:
        return silent
    if interval is None:
        return "no clear gap"
    return "closed" if interval[0] > 0 else "no clear share"


def format_interval(pair: Interval, groups: int, write: Callable[[float], str]) -> str:
    """ "12.1 to 20.3", "too few (12.1 to 20.3)" of few groups, "–" where there is none; `write` writes an end."""
    if pair is None:
        return "–"
    low_to_high = f"{write(pair[0])} to {write(pair[1])}"
    return low_to_high if enough(groups) else f"too few ({low_to_high})"
