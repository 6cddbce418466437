"""Tables, and charts as inline SVG: bars, lines with bands, points.

Colours come from the page's style sheet; lines also differ by dashes and points by shape. Every chart has a description
in words (`desc`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from math import ceil, floor, log10
from typing import Any

from markupsafe import Markup

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


WIDTH, HEIGHT = 344, 216  # fits a phone as it is: text keeps its size
_LEFT, _RIGHT, _TOP, _BOTTOM = 42, 18, 10, 36
_BAR_ROW = 38
_MARK_ROW, _MARK_LETTER = 12.0, 6.2  # height of a word beside a point, and width of its letters, about
_MAX_MARKERS = 24  # on a line
Point = tuple[float, float]


@dataclass(frozen=True)
class Figure:
    title: str
    svg: Markup
    legend: Sequence[tuple[str, int]] = ()  # names and styles, where the chart does not name them itself


@dataclass(frozen=True)
class Bar:
    name: str
    value: float
    interval: Sequence[float] | None  # None where nothing is known of it
    style: int
    few: bool = False  # too few groups for a verdict


@dataclass(frozen=True)
class Line:
    name: str
    points: Sequence[Point]
    style: int
    band: Sequence[Point] = field(default=())  # low and high at each point


def band(low: Sequence[float | None], high: Sequence[float | None]) -> list[Point]:
    """What lies between the ends of intervals; none where one of them is not known."""
    ends = [(a, b) for a, b in zip(low, high, strict=True) if a is not None and b is not None]
    return ends if len(ends) == len(low) else []


@dataclass(frozen=True)
class Dot:
    name: str
    at: Point
    style: int
    mark: str = ""  # what stands beside it


def bar_chart(
    title: str, bars: Sequence[Bar], low: float = 0.0, high: float = 1.0, chance: float | None = None
) -> Figure:
    """A row for each bar, named, from zero, with its interval; a line through all of them at the floor of chance."""
    span, height = high - low, _BAR_ROW * len(bars) + 4

    def x_of(value: float) -> float:
        return 2 + (WIDTH - 4) * (min(max(value, low), high) - low) / span

    parts = []
    for i, bar in enumerate(bars):
        y, zero, end = i * _BAR_ROW + 18, x_of(0), x_of(bar.value)
        box = f'x="{min(zero, end):.1f}" y="{y}" width="{abs(end - zero):.1f}" height="12" rx="2"'
        parts.append(f'<text class="name" x="2" y="{y - 5}">{escape(bar.name)}</text>')
        parts.append(f'<text class="value" x="{WIDTH - 2}" y="{y - 5}">{percent(bar.value)}</text>')
        parts.append(f'<rect class="track" x="2" y="{y}" width="{WIDTH - 4}" height="12" rx="2"/>')
        parts.append(f'<rect class="fill-{bar.style}" {box}><title>{escape(_bar_words(bar))}</title></rect>')
        if bar.interval is not None:
            whisker = f'd="M{x_of(bar.interval[0]):.1f} {y + 6}H{x_of(bar.interval[1]):.1f}"'
            parts.append(f'<path class="halo" {whisker}/><path class="whisker" {whisker}/>')
    if low < 0:
        parts.append(f'<path class="zero" d="M{x_of(0):.1f} 4V{height}"/>')
    words = list(map(_bar_words, bars))
    if chance is not None:
        words.append(f"chance: {percent(chance)}")
        parts.append(f'<path class="even" d="M{x_of(chance):.1f} 4V{height}"><title>{words[-1]}</title></path>')
    return Figure(title, _svg(WIDTH, height, title, "; ".join(words), parts))


def _bar_words(bar: Bar) -> str:
    few = "too few: " if bar.few else ""
    return f"{bar.name}: {percent(bar.value)}" + (f" ({few}{percents(bar.interval)})" if bar.interval else "")


def line_chart(title: str, lines: Sequence[Line], across: str, text: Callable[[float], str] | None = None) -> Figure:
    """Lines over whole numbers, y from zero or below; `across` says what they run over."""
    lines = [line for line in lines if line.points]
    heights = [y for line in lines for _, y in line.points] + [y for line in lines for pair in line.band for y in pair]
    ticks = nice_ticks(min(0.0, *heights), max(heights)) if heights else [0.0, 1.0]
    xs = [x for line in lines for x, _ in line.points] or [0.0, 1.0]
    x_ticks = [x for x in nice_ticks(min(xs), max(xs), 6) if x == int(x) and min(xs) <= x <= max(xs)]
    write = text or (lambda value: minus(f"{value:g}"))
    place = _Place(min(xs), max(xs), ticks[0], ticks[-1])
    parts = [*_y_axis(place, ticks, write), *_x_axis(place, x_ticks, across)]
    for line in lines:
        if line.band:
            lower = [place.at(x, low) for (x, _), (low, _) in zip(line.points, line.band, strict=True)]
            upper = [place.at(x, high) for (x, _), (_, high) in zip(line.points, line.band, strict=True)]
            parts.append(f'<polygon class="band-{line.style}" points="{_path([*lower, *reversed(upper)])}"/>')
    for line in lines:
        spots = [place.at(x, y) for x, y in line.points]
        parts.append(f'<polyline class="line-{line.style}" points="{_path(spots)}"/>')
        if len(spots) <= _MAX_MARKERS:
            for (x, y), spot in zip(line.points, spots, strict=True):
                tip = f"{line.name}, {across} {x:g}: {write(round(y, 4))}"
                parts.append(_marker(line.style, spot, tip))
    words = "; ".join(
        f"{n.name}: {write(round(n.points[0][1], 4))} at {across} {n.points[0][0]:g}"
        + (f", {write(round(n.points[-1][1], 4))} at {n.points[-1][0]:g}" if len(n.points) > 1 else "")
        for n in lines
    )
    return Figure(title, _svg(WIDTH, HEIGHT, title, words, parts), [(line.name, line.style) for line in lines])


def scatter(title: str, dots: Sequence[Dot], across: str, up: str) -> Figure:
    """Shares against shares, from 0 to 1, with the line on which both are alike."""
    side, ticks = WIDTH, [i / 4 for i in range(5)]
    place = _Place(0, 1, 0, 1, height=side)
    parts = [*_y_axis(place, ticks, lambda v: percent(v, 0)), *_x_axis(place, ticks, across, lambda v: percent(v, 0))]
    (x1, y1), (x2, y2) = place.at(0, 0), place.at(1, 1)
    parts.append(f'<path class="even" d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}"/>')
    parts.append(f'<text class="tick start" x="{_LEFT + 6}" y="{_TOP + 12}">{escape(up)} ↑</text>')
    for dot in dots:
        parts.append(_marker(dot.style, place.at(*dot.at), _dot_words(dot, across, up), 5.5))
    parts += _marks([(place.at(*dot.at), dot.mark) for dot in dots])
    words = "; ".join(_dot_words(dot, across, up) for dot in dots)
    legend = list(dict.fromkeys((dot.name.rpartition(" on ")[0], dot.style) for dot in dots))
    return Figure(title, _svg(side, side, title, words, parts), legend)


def _dot_words(dot: Dot, across: str, up: str) -> str:
    return f"{dot.name}: {across} {percent(dot.at[0])}, {up} {percent(dot.at[1])}"


def _marks(spots: Sequence[tuple[Point, str]]) -> list[str]:
    """What stands beside points, on the side where there is room, moved down where it would lie on another."""
    parts: list[str] = []
    taken: list[tuple[float, float, float]] = []  # left, right, height
    for (x, y), mark in sorted(spots, key=lambda s: s[0][1]):
        is_right, width = x > WIDTH / 2, len(mark) * _MARK_LETTER
        left, y = x - 9 - width if is_right else x + 9, y + 4
        for start, end, height in sorted(taken, key=lambda t: t[2]):
            if left < end and start < left + width and abs(y - height) < _MARK_ROW:
                y = height + _MARK_ROW
        taken.append((left, left + width, y))
        where = f'class="mark{" end" if is_right else ""}" x="{x + (-9 if is_right else 9):.1f}" y="{y:.1f}"'
        parts.append(f"<text {where}>{escape(mark)}</text>")
    return parts


def swatch(style: int) -> Markup:
    """What a legend shows of a style: its line and its marker."""
    parts = f'<path class="line-{style}" d="M1 7H27"/>{_marker(style, (14, 7))}'
    return Markup(f'<svg class="swatch" width="28" height="14" aria-hidden="true">{parts}</svg>')


@dataclass(frozen=True)
class _Place:
    left: float
    right: float
    bottom: float
    top: float
    height: int = HEIGHT

    def at(self, x: float, y: float) -> Point:
        across = (x - self.left) / ((self.right - self.left) or 1)
        up = (y - self.bottom) / ((self.top - self.bottom) or 1)
        plot_width, plot_height = WIDTH - _LEFT - _RIGHT, self.height - _TOP - _BOTTOM
        return _LEFT + across * plot_width, self.height - _BOTTOM - up * plot_height


def nice_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from at most `low` to at least `high`."""
    span = (high - low) or 1.0
    size = 10 ** floor(log10(span / about))
    step = next(size * m for m in (1, 2, 2.5, 5, 10) if span / (size * m) <= about)
    return [round(i * step, 10) for i in range(floor(low / step + 1e-9), ceil(high / step - 1e-9) + 1)]


def _y_axis(place: _Place, ticks: Sequence[float], write: Callable[[float], str]) -> list[str]:
    parts = []
    for tick in ticks:
        _, y = place.at(place.left, tick)
        kind = "zero" if tick == 0 else "grid"
        parts.append(f'<path class="{kind}" d="M{_LEFT} {y:.1f}H{WIDTH - _RIGHT}"/>')
        parts.append(f'<text class="tick end" x="{_LEFT - 6}" y="{y + 4:.1f}">{write(tick)}</text>')
    return parts


def _x_axis(
    place: _Place, ticks: Sequence[float], across: str, write: Callable[[float], str] = lambda v: f"{v:g}"
) -> list[str]:
    parts = [
        f'<text class="tick" x="{place.at(x, 0)[0]:.1f}" y="{place.height - _BOTTOM + 15}">{write(x)}</text>'
        for x in ticks
    ]
    return [*parts, f'<text class="tick" x="{(_LEFT + WIDTH) / 2:.0f}" y="{place.height - 4}">{escape(across)}</text>']


def _marker(style: int, at: Point, tip: str = "", size: float = 3.6) -> str:
    x, y, s = at[0], at[1], size
    shapes = (
        f"M{x - s:.1f} {y:.1f}a{s} {s} 0 1 0 {2 * s} 0a{s} {s} 0 1 0 {-2 * s} 0z",
        f"M{x - s:.1f} {y - s:.1f}h{2 * s}v{2 * s}h{-2 * s}z",
        f"M{x:.1f} {y - 1.2 * s:.1f}l{1.2 * s:.1f} {2.1 * s:.1f}h{-2.4 * s:.1f}z",
        f"M{x:.1f} {y - 1.35 * s:.1f}l{1.35 * s:.1f} {1.35 * s:.1f}l{-1.35 * s:.1f} {1.35 * s:.1f}"
        f"l{-1.35 * s:.1f} {-1.35 * s:.1f}z",
    )
    words = f"<title>{escape(tip)}</title>" if tip else ""
    return f'<path class="marker-{style}" d="{shapes[style % len(shapes)]}">{words}</path>'


def _path(spots: Sequence[Point]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)


def _svg(width: int, height: int, title: str, words: str, parts: Sequence[str]) -> Markup:
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    about = f"<title>{escape(title)}</title><desc>{escape(words)}</desc>"
    return Markup(f'<svg {size} role="img" aria-label="{escape(f"{title}. {words}")}">{about}{"".join(parts)}</svg>')
