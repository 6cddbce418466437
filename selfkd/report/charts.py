"""Tables, and charts as inline SVG: bars, lines with bands, scatter plots.

Colours come from the style sheet of the page; lines also differ in dashes and points in shape. Every chart has a
description in words (`desc`).
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
    """Cells are text, or Markup where they hold a link. The first `text_columns` columns are text, others numbers."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    text_columns: int = 2
    note: str = ""


def percent(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else minus(f"{100 * value:.{digits}f}%")


def percent_interval(interval: Sequence[float] | None) -> str:
    """ "12.1% to 20.3%"; "–" for None."""
    return "–" if interval is None else f"{percent(interval[0])} to {percent(interval[1])}"


def points(share: float) -> str:
    """ "3.1 points", of 100."""
    return minus(f"{100 * share:.1f} points")


def signed(value: float) -> str:
    return minus(f"{value:+.3f}")


def decimal(value: float) -> str:
    return minus(f"{value:.3f}")


def mean_with_interval(interval: Mapping[str, Any], groups: int, number_text: Callable[[float], str]) -> str:
    """ "0.512 [0.498, 0.526]": a mean and its interval. " (too few)" follows where there are too few groups for a
    verdict; the mean stands without an interval where the interval is not known."""
    if interval["low"] is None:
        return number_text(interval["mean"])
    few = "" if enough(groups) else " (too few)"
    low, high = number_text(interval["low"]), number_text(interval["high"])
    return f"{number_text(interval['mean'])} [{low}, {high}]{few}"


def minus(text: str) -> str:
    """Replaces hyphens by the minus sign, which is as wide as the plus."""
    return text.replace("-", "−")


WIDTH, HEIGHT = 344, 216  # fits a phone without scaling, so text keeps its size
_LEFT, _RIGHT, _TOP, _BOTTOM = 42, 18, 10, 36
_BAR_ROW = 38
_LABEL_HEIGHT, _CHARACTER_WIDTH = 12.0, 6.2  # of the label of a point, approximate
_MAX_MARKERS = 24  # on a line
Point = tuple[float, float]


@dataclass(frozen=True)
class Figure:
    title: str
    svg: Markup
    legend: Sequence[tuple[str, int]] = ()  # names and styles; empty where the chart itself names them


@dataclass(frozen=True)
class Bar:
    name: str
    value: float
    interval: Sequence[float] | None  # None where it is not known
    style: int
    too_few: bool = False  # groups for a verdict


@dataclass(frozen=True)
class Line:
    name: str
    points: Sequence[Point]
    style: int
    band: Sequence[Point] = field(default=())  # low and high at each point


def band(low: Sequence[float | None], high: Sequence[float | None]) -> list[Point]:
    """(low, high) at each point; empty where one of them is not known."""
    ends = [(a, b) for a, b in zip(low, high, strict=True) if a is not None and b is not None]
    return ends if len(ends) == len(low) else []


@dataclass(frozen=True)
class Dot:
    name: str
    at: Point
    style: int
    label: str = ""  # next to the point


def bar_chart(
    title: str, bars: Sequence[Bar], low: float = 0.0, high: float = 1.0, chance: float | None = None
) -> Figure:
    """One row per bar with its name, value and interval. `chance` is a dotted line through all rows."""
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
        parts.append(f'<rect class="fill-{bar.style}" {box}><title>{escape(_bar_text(bar))}</title></rect>')
        if bar.interval is not None:
            whisker = f'd="M{x_of(bar.interval[0]):.1f} {y + 6}H{x_of(bar.interval[1]):.1f}"'
            parts.append(f'<path class="halo" {whisker}/><path class="whisker" {whisker}/>')
    if low < 0:
        parts.append(f'<path class="zero" d="M{x_of(0):.1f} 4V{height}"/>')
    words = list(map(_bar_text, bars))
    if chance is not None:
        words.append(f"chance: {percent(chance)}")
        parts.append(f'<path class="even" d="M{x_of(chance):.1f} 4V{height}"><title>{words[-1]}</title></path>')
    return Figure(title, _svg(WIDTH, height, title, "; ".join(words), parts))


def _bar_text(bar: Bar) -> str:
    few = "too few: " if bar.too_few else ""
    return f"{bar.name}: {percent(bar.value)}" + (f" ({few}{percent_interval(bar.interval)})" if bar.interval else "")


def line_chart(title: str, lines: Sequence[Line], x_label: str) -> Figure:
    """Lines over integers; the y axis starts at zero or below. `x_label` names the x axis."""
    lines = [line for line in lines if line.points]
    y_values = [y for line in lines for _, y in line.points] + [y for line in lines for pair in line.band for y in pair]
    ticks = nice_ticks(min(0.0, *y_values), max(y_values)) if y_values else [0.0, 1.0]
    xs = [x for line in lines for x, _ in line.points] or [0.0, 1.0]
    x_ticks = [x for x in nice_ticks(min(xs), max(xs), 6) if x == int(x) and min(xs) <= x <= max(xs)]
    axes = _Axes(min(xs), max(xs), ticks[0], ticks[-1])
    parts = [*_y_axis(axes, ticks, _number_text), *_x_axis(axes, x_ticks, x_label)]
    for line in lines:
        if line.band:
            lower = [axes.at(x, low) for (x, _), (low, _) in zip(line.points, line.band, strict=True)]
            upper = [axes.at(x, high) for (x, _), (_, high) in zip(line.points, line.band, strict=True)]
            parts.append(f'<polygon class="band-{line.style}" points="{_points_text([*lower, *reversed(upper)])}"/>')
    for line in lines:
        pixels = [axes.at(x, y) for x, y in line.points]
        parts.append(f'<polyline class="line-{line.style}" points="{_points_text(pixels)}"/>')
        if len(pixels) <= _MAX_MARKERS:
            for (x, y), pixel in zip(line.points, pixels, strict=True):
                tip = f"{line.name}, {x_label} {x:g}: {_number_text(round(y, 4))}"
                parts.append(_marker(line.style, pixel, tip))
    words = "; ".join(
        f"{n.name}: {_number_text(round(n.points[0][1], 4))} at {x_label} {n.points[0][0]:g}"
        + (f", {_number_text(round(n.points[-1][1], 4))} at {n.points[-1][0]:g}" if len(n.points) > 1 else "")
        for n in lines
    )
    return Figure(title, _svg(WIDTH, HEIGHT, title, words, parts), [(line.name, line.style) for line in lines])


def _number_text(value: float) -> str:
    return minus(f"{value:g}")


def scatter(title: str, dots: Sequence[Dot], x_label: str, y_label: str) -> Figure:
    """Shares against shares, both axes from 0 to 1, with the diagonal."""
    side, ticks = WIDTH, [i / 4 for i in range(5)]
    axes = _Axes(0, 1, 0, 1, height=side)
    parts = [*_y_axis(axes, ticks, lambda v: percent(v, 0)), *_x_axis(axes, ticks, x_label, lambda v: percent(v, 0))]
    (x1, y1), (x2, y2) = axes.at(0, 0), axes.at(1, 1)
    parts.append(f'<path class="even" d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}"/>')
    parts.append(f'<text class="tick start" x="{_LEFT + 6}" y="{_TOP + 12}">{escape(y_label)} ↑</text>')
    for dot in dots:
        parts.append(_marker(dot.style, axes.at(*dot.at), _dot_text(dot, x_label, y_label), 5.5))
    parts += _point_labels([(axes.at(*dot.at), dot.label) for dot in dots])
    words = "; ".join(_dot_text(dot, x_label, y_label) for dot in dots)
    legend = list(dict.fromkeys((dot.name.rpartition(" on ")[0], dot.style) for dot in dots))
    return Figure(title, _svg(side, side, title, words, parts), legend)


def _dot_text(dot: Dot, x_label: str, y_label: str) -> str:
    return f"{dot.name}: {x_label} {percent(dot.at[0])}, {y_label} {percent(dot.at[1])}"


def _point_labels(labels: Sequence[tuple[Point, str]]) -> list[str]:
    """Labels of points, on the side where there is room; a label that would overlap another is moved down."""
    parts: list[str] = []
    taken: list[tuple[float, float, float]] = []  # left, right, height
    for (x, y), label in sorted(labels, key=lambda s: s[0][1]):
        is_right, width = x > WIDTH / 2, len(label) * _CHARACTER_WIDTH
        left, y = x - 9 - width if is_right else x + 9, y + 4
        for start, end, height in sorted(taken, key=lambda t: t[2]):
            if left < end and start < left + width and abs(y - height) < _LABEL_HEIGHT:
                y = height + _LABEL_HEIGHT
        taken.append((left, left + width, y))
        where = f'class="label{" end" if is_right else ""}" x="{x + (-9 if is_right else 9):.1f}" y="{y:.1f}"'
        parts.append(f"<text {where}>{escape(label)}</text>")
    return parts


def legend_swatch(style: int) -> Markup:
    """The line and the marker of a style, for legends."""
    parts = f'<path class="line-{style}" d="M1 7H27"/>{_marker(style, (14, 7))}'
    return Markup(f'<svg class="swatch" width="28" height="14" aria-hidden="true">{parts}</svg>')  # noqa: S704  # nosec B704 made here of numbers


@dataclass(frozen=True)
class _Axes:
    """The plot area: from data to pixels."""

    left: float
    right: float
    bottom: float
    top: float
    height: int = HEIGHT

    def at(self, x: float, y: float) -> Point:
        right_share = (x - self.left) / ((self.right - self.left) or 1)
        up_share = (y - self.bottom) / ((self.top - self.bottom) or 1)
        plot_width, plot_height = WIDTH - _LEFT - _RIGHT, self.height - _TOP - _BOTTOM
        return _LEFT + right_share * plot_width, self.height - _BOTTOM - up_share * plot_height


def nice_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from at most `low` to at least `high`."""
    span = (high - low) or 1.0
    size = 10 ** floor(log10(span / about))
    step = next(size * m for m in (1, 2, 2.5, 5, 10) if span / (size * m) <= about)
    return [round(i * step, 10) for i in range(floor(low / step + 1e-9), ceil(high / step - 1e-9) + 1)]


def _y_axis(axes: _Axes, ticks: Sequence[float], number_text: Callable[[float], str]) -> list[str]:
    parts = []
    for tick in ticks:
        _, y = axes.at(axes.left, tick)
        css_class = "zero" if tick == 0 else "grid"
        parts.append(f'<path class="{css_class}" d="M{_LEFT} {y:.1f}H{WIDTH - _RIGHT}"/>')
        parts.append(f'<text class="tick end" x="{_LEFT - 6}" y="{y + 4:.1f}">{number_text(tick)}</text>')
    return parts


def _x_axis(
    axes: _Axes, ticks: Sequence[float], x_label: str, number_text: Callable[[float], str] = lambda v: f"{v:g}"
) -> list[str]:
    parts = [
        f'<text class="tick" x="{axes.at(x, 0)[0]:.1f}" y="{axes.height - _BOTTOM + 15}">{number_text(x)}</text>'
        for x in ticks
    ]
    return [*parts, f'<text class="tick" x="{(_LEFT + WIDTH) / 2:.0f}" y="{axes.height - 4}">{escape(x_label)}</text>']


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


def _points_text(pixels: Sequence[Point]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in pixels)


def _svg(width: int, height: int, title: str, words: str, parts: Sequence[str]) -> Markup:
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    about = f"<title>{escape(title)}</title><desc>{escape(words)}</desc>"
    return Markup(f'<svg {size} role="img" aria-label="{escape(f"{title}. {words}")}">{about}{"".join(parts)}</svg>')  # noqa: S704  # nosec B704 texts are escaped above
