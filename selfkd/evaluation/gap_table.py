"""Scores of an evaluation as a table for a terminal of 80 columns."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

VIEWS = {"text": "written", "speech": "spoken", "cascade": "cascade"}


def gap_table(result: Mapping[str, Any]) -> Table:
    """One row a benchmark: score and standard error of each view in percent, the gap with its interval. Last the
    average over public benchmarks, of mean scores (interval by the normal distribution) and of their own first figures.
    """
    views = [v for v in VIEWS if any(v in scores for scores in result.values())]
    table = Table(title="Score in % (standard error)")
    for column in ("benchmark", "n", *(VIEWS[v] for v in views), "gap (95%)", "p"):
        is_name = column == "benchmark"
        table.add_column(column, justify="left" if is_name else "right", overflow="fold" if is_name else "ellipsis")
    for name, scores in result.items():
        if "over_voices" in scores:
            over = scores["over_voices"]["accuracy"]
            spread = f"{100 * over['mean']:.1f} ± {100 * over['sd']:.1f}" if over["sd"] is not None else "–"
            cells = [spread if v == "speech" else "" for v in views]
            table.add_row(f"{name}, over voices", str(scores["over_voices"]["voices"]), *cells, "", "")
            continue
        if "over_benchmarks" in scores:
            over = scores["over_benchmarks"]
            count, gap = str(len(over["benchmarks"])), over.get("gap")
            table.add_section()
            cells = [accuracy_cell(over.get(v)) for v in views]
            table.add_row(name, count, *cells, _average_gap(gap) if gap else "–", "")
            cells = [f"{over[v]['headline']:.1f}" if v in over else "–" for v in views]
            own = gap["headline"] if gap else None
            table.add_row("own figures", count, *cells, "–" if own is None else f"{own:.1f}", "")
            continue
        counts = sorted({scores[v]["n"] for v in views if v in scores})
        cells = [accuracy_cell(scores.get(v)) for v in views]
        table.add_row(name, "/".join(map(str, counts)), *cells, *_gap_cells(scores.get("gap")))
    failed = sum(s["failed"] for scores in result.values() for v, s in scores.items() if v in VIEWS)
    if failed:
        table.caption = f"{failed} items have no reply and are not in n"
    return table


def _gap_cells(gap: Mapping[str, Any] | None) -> tuple[str, str]:
    if not gap or not gap["n"]:
        return "–", "–"
    low, high = (100 * side for side in gap["gap_interval"])
    return f"{100 * gap['gap']:.1f} ({low:.1f} to {high:.1f})", f"{gap['mcnemar_p']:.2g}"


def accuracy_cell(scores: Mapping[str, Any] | None) -> str:
    """Accuracy (standard error) in percent."""
    if not scores or not scores["n"]:
        return "–"
    error = scores["stderr"]
    return f"{100 * scores['accuracy']:.1f}" + (f" ({100 * error:.1f})" if error is not None else "")


def _average_gap(gap: Mapping[str, Any]) -> str:
    value, error = 100 * gap["gap"], gap["stderr"]
    interval = "" if error is None else f" ({value - 196 * error:.1f} to {value + 196 * error:.1f})"
    return f"{value:.1f}{interval}"
