"""Charts as inline SVG: bars with error whiskers, and lines. Colours and fonts come from the page's style sheet."""

from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 720, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 12, 34


def bar_chart(groups: Mapping[str, Mapping[str, tuple[float, float]]], label: str) -> str:
    """{group: {series: (share, standard error)}} as grouped bars from 0 to 1, whiskers of one standard error."""
    plot_width, plot_height = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM
    parts = [_axis(1 - i / 4, f"{i * 25}%") for i in range(5)]
    slot = plot_width / len(groups)
    for g, (group, series) in enumerate(groups.items()):
        bar = slot * 0.8 / len(series)
        for s, (name, (value, error)) in enumerate(series.items()):
            x = _LEFT + g * slot + slot * 0.1 + s * bar
            y, height = _TOP + plot_height * (1 - value), plot_height * value
            title = f"<title>{escape(group)}, {escape(name)}: {value:.1%} ± {error:.1%}</title>"
            box = f'x="{x:.1f}" y="{y:.1f}" width="{bar - 3:.1f}" height="{height:.1f}"'
            parts.append(f'<rect class="series-{s}" {box}>{title}</rect>')
            middle, up, down = x + (bar - 3) / 2, y - plot_height * error, y + plot_height * error
            parts.append(f'<line class="whisker" x1="{middle:.1f}" x2="{middle:.1f}" y1="{up:.1f}" y2="{down:.1f}"/>')
            parts.append(f'<text class="value" x="{middle:.1f}" y="{max(up - 4, 10):.1f}">{value * 100:.0f}</text>')
        parts.append(f'<text class="tick" x="{_LEFT + (g + 0.5) * slot:.1f}" y="{HEIGHT - 12}">{escape(group)}</text>')
    return _svg(parts, label)


def line_chart(series: Mapping[str, Sequence[tuple[float, float]]], label: str) -> str:
    """{name: [(x, y), ...]} as lines, y from 0."""
    points = [p for line in series.values() for p in line]
    if not points:
        return ""
    right, top = max(p[0] for p in points) or 1, max(p[1] for p in points) or 1
    plot_width, plot_height = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM
    parts = [_axis(1 - i / 4, f"{top * i / 4:.2g}") for i in range(5)]
    for s, line in enumerate(series.values()):
        if not line:
            continue  # its colour is kept for it
        path = " ".join(
            f"{_LEFT + x / right * plot_width:.1f},{_TOP + plot_height * (1 - y / top):.1f}" for x, y in line
        )
        parts.append(f'<polyline class="line-{s}" points="{path}"/>')
    for i in range(5):
        x = _LEFT + i / 4 * plot_width
        parts.append(f'<text class="tick" x="{x:.1f}" y="{HEIGHT - 12}">{right * i / 4:.0f}</text>')
    return _svg(parts, label)


def _axis(from_top: float, text: str) -> str:
    y = _TOP + (HEIGHT - _TOP - _BOTTOM) * from_top
    line = f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
    return line + f'<text class="axis" x="{_LEFT - 6}" y="{y + 4:.1f}">{text}</text>'


def _svg(parts: Sequence[str], label: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'
