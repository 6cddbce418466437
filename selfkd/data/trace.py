"""Where a speaker pointed while a word was said: the field `trace` of `Example.details`.

A source with mouse traces (Localized Narratives) writes it, `selfkd analyze attention` reads it. Times are in seconds
of the example's own audio; points are (x, y) from the left and the top, as shares of the image's width and height.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from selfkd.data.example import Example
from selfkd.errors import InputError
from selfkd.json_files import check_schema, parse_json

DIGITS = 3  # of a coordinate: a thousandth of the image, and a millisecond

_Seconds = Annotated[float, Field(allow_inf_nan=False)]
_Share = Annotated[float, Field(ge=0, le=1)]
_Point = Annotated[list[_Share], Field(min_length=2, max_length=2)]


class TracedWord(TypedDict):
    """A word, or a few that share their times, with the points while it is said; none where the mouse was still or
    outside of the image."""

    utterance: str
    start: _Seconds
    stop: _Seconds
    points: list[_Point]


class _Details(TypedDict):
    trace: NotRequired[list[TracedWord]]


Point = tuple[float, float, float]  # seconds, x, y


def points_in_order(traces: Iterable[Iterable[Mapping[str, Any]]]) -> list[Point]:
    """The points `{x, y, t}` of all strokes within the image, by time. Raises KeyError, TypeError or ValueError for
    others."""
    found = [(float(p["t"]), float(p["x"]), float(p["y"])) for stroke in traces for p in stroke]
    return sorted(p for p in found if math.isfinite(p[0]) and 0 <= p[1] <= 1 and 0 <= p[2] <= 1)


def traced_words(words: Sequence[tuple[str, float, float]], points: Sequence[Point], begin: float) -> list[TracedWord]:
    """The words (utterance, start, stop in seconds of the recording) of an audio that begins there at `begin`."""
    seconds = [point[0] for point in points]

    def traced() -> Iterator[TracedWord]:
        for utterance, start, stop in words:
            during = points[bisect_left(seconds, start) : bisect_right(seconds, stop)]
            xy = [[round(x, DIGITS), round(y, DIGITS)] for _, x, y in during]
            times = {"start": round(start - begin, DIGITS), "stop": round(stop - begin, DIGITS)}
            yield {"utterance": utterance, **times, "points": xy}  # type: ignore[typeddict-item]

    return list(traced())


def trace_of(example: Example) -> list[TracedWord]:
    """The words of an example with their traces; none for an example without. Raises InputError, naming the example,
    for a field of another form."""
    if '"trace"' not in example.details:
        return []
    where = f"example {example.id}: field details"
    try:
        details = parse_json(example.details)
    except ValueError as error:
        raise InputError(f"{where}: not JSON ({error})") from error
    check_schema(details, _Details, where)
    return details.get("trace", [])
