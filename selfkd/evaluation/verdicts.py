"""Verdicts on a gap and on the share of it that is closed: one rule for tables, comparison, report and app.

There is no verdict on fewer groups than `MIN_GROUPS`, nor where the text modality is not above chance.
"""

from collections.abc import Callable, Sequence
from typing import Literal

from selfkd.evaluation.uncertainty import MIN_GROUPS, enough

AT_CHANCE = "the text modality is at chance: there is no gap to measure"
GapVerdict = Literal["loses", "gains", "no clear gap", "too few", "at chance"]
ShareVerdict = Literal["closed", "no clear share", "no clear gap", "too few", "at chance"]
NoVerdict = Literal["", "too few", "at chance"]
Interval = Sequence[float] | None
_SAME = 1e-9


def too_few(count: int, unit: str = "images") -> str:
    """ "too few images (3, a verdict takes 10)"; nearly all groups are the questions about one image."""
    return f"too few {unit} ({count}, a verdict takes {MIN_GROUPS})"


def no_verdict_reason(groups: int, text: float | None, text_interval: Interval, chance: float | None) -> NoVerdict:
    """Why there is no verdict; "" where there may be one. `text` is the accuracy of the text modality. It is at chance
    where it is at most `chance` and, with enough groups, where its interval reaches `chance`."""
    if text is None or chance is None:
        return "" if enough(groups) else "too few"
    if text <= chance + _SAME:
        return "at chance"
    if text_interval is None or not enough(groups):
        return "too few"
    return "at chance" if text_interval[0] <= chance + _SAME else ""


def gap_verdict(reason: NoVerdict, interval: Interval) -> GapVerdict:
    """Whether the audio modality loses accuracy: where the interval of the gap excludes zero."""
    if reason or interval is None:
        return reason or "too few"
    return "loses" if interval[0] > 0 else "gains" if interval[1] < 0 else "no clear gap"


def share_verdict(reason: NoVerdict, interval: Interval) -> ShareVerdict:
    """Whether a share of the gap is closed; `interval` is None where the gap is not clear."""
    if reason:
        return reason
    if interval is None:
        return "no clear gap"
    return "closed" if interval[0] > 0 else "no clear share"


def format_interval(pair: Interval, groups: int, write: Callable[[float], str]) -> str:
    """ "12.1 to 20.3", "too few (12.1 to 20.3)" with few groups, "–" without an interval; `write` formats an end."""
    if pair is None:
        return "–"
    low_to_high = f"{write(pair[0])} to {write(pair[1])}"
    return low_to_high if enough(groups) else f"too few ({low_to_high})"
