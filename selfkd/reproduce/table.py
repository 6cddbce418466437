"""The end of a reproduction: this run's averages over the benchmarks next to the paper's, with intervals, the CTC
projector and the cascade, which the paper does not have.

Writes `table.json`, `table.md`, `comparison/` (`selfkd compare`) and `report.html` (`selfkd report`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from selfkd.errors import InputError
from selfkd.evaluation.compare import CASCADE, TEXT, compare
from selfkd.evaluation.config import CompareConfig
from selfkd.files import write_json, write_text
from selfkd.report.build import ReportConfig, report
from selfkd.reproduce.stages import TABLE
from selfkd.run_dir import MODEL
from selfkd.terminal import table_console

SFT, SELFKD, CTC = "SFT", "Self-KD", "CTC projector"
NAMES = {"text": "text queries", "sft": SFT, "selfkd": SELFKD, "ctc": CTC}  # of the systems, by their runs
AVERAGE = "average"
UNKNOWN = "not known"  # of the paper
NOT_MEASURED = (
    "Not a result of the paper's models: a rehearsal's weights are random, and a smoke run has a hundredth of the data."
)
_COLUMNS = ("", "paper", "this run", "accuracy (95%)")


def write_table(settings: Mapping[str, Any]) -> None:
    """`settings`: title, paper, runs {name: evaluation run}, output, is_measured."""
    out, runs = Path(settings["output"]), settings["runs"]
    named = [f"{NAMES[name]}={run}" for name, run in runs.items()]
    scores = compare(CompareConfig(named, out / "comparison"))
    rows = table_rows(scores, settings["paper"])
    note = "" if settings["is_measured"] else NOT_MEASURED
    found = {"title": settings["title"], "note": note, "rows": rows, "benchmarks": benchmark_rows(scores)}
    write_text(out / "table.md", _markdown(found))
    trained = [str(out / name) for name in ("align", "sft", "selfkd", "ctc") if (out / name / MODEL).is_dir()]
    intro = ["Each benchmark's questions are synthesized; docs/differences_from_paper.md has our choices.", note]
    report(ReportConfig([*named, *trained], out / "report.html", settings["title"], [line for line in intro if line]))
    table_console().print(_console_table(found))
    write_json(out / TABLE, found)


def table_rows(scores: Mapping[str, Any], paper: Mapping[str, float]) -> list[dict[str, Any]]:
    """A row for each system: its name, the paper's score in percent (None where not known), this run's headline metrics
    in percent, accuracy and its interval, both 0 to 1; last the share of SFT's gap that the others close."""
    if AVERAGE not in scores:
        raise InputError("evaluate.benchmarks: no average: fewer than two public benchmarks have scores")
    average = scores[AVERAGE]
    known = {TEXT: paper["text"], SFT: paper["sft"], SELFKD: paper["selfkd"]}
    rows = [
        {
            "name": name,
            "paper": known.get(name),
            "headline": of["headline"],
            "accuracy": of["accuracy"],
            "interval": of["interval"],
        }
        for name, of in average["systems"].items()
    ]
    share = 100 * (paper["selfkd"] - paper["sft"]) / (paper["text"] - paper["sft"])
    for name, closed in average["gap_closed"].items():
        headline = None if closed["headline"] is None else 100 * closed["headline"]
        rows.append(
            {
                "name": f"share of the gap closed, {name}",
                "paper": round(share, 1) if name == SELFKD else None,
                "headline": headline,
                "accuracy": closed["share"],
                "interval": closed["interval"],
            }
        )
    return rows


def benchmark_rows(scores: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """{benchmark: {system: its first metric in percent}}."""
    return {
        name: {system: next(iter(of["metrics"].values())) for system, of in found["systems"].items()}
        for name, found in scores.items()
        if name != AVERAGE and found["systems"]
    }


def _cells(row: Mapping[str, Any]) -> tuple[str, str, str, str]:
    paper = UNKNOWN if row["paper"] is None else f"{row['paper']:.2f}".removesuffix("0")
    headline = "–" if row["headline"] is None else f"{row['headline']:.1f}"
    accuracy = "–" if row["accuracy"] is None else f"{100 * row['accuracy']:.1f}"
    if row["interval"] is not None:
        accuracy += " ({:.1f} to {:.1f})".format(*(100 * end for end in row["interval"]))
    return row["name"], paper, headline, accuracy


def _console_table(found: Mapping[str, Any]) -> Table:
    caption = f"averages in %, audio queries but text and cascade\n{found['note']}".strip()
    table = Table(title=found["title"], caption=caption)
    for column in _COLUMNS:
        table.add_column(column, justify="left" if not column else "right", overflow="fold")
    for row in found["rows"]:
        table.add_row(*_cells(row))
    return table


def _markdown(found: Mapping[str, Any]) -> str:
    systems = list(next(iter(found["benchmarks"].values())))
    lines = [f"# {found['title']}", "", *([found["note"], ""] if found["note"] else [])]
    lines += [
        "Averages over the benchmarks with equal weights, in %: of their own first metrics (this run), and of accuracy",
        "with its 95% interval. SFT, Self-KD and the CTC projector answer audio queries. The paper names three of its",
        f"eight benchmarks; its scores by benchmark, of a CTC projector and of a {CASCADE} are not known.",
        "",
        f"| {' | '.join(_COLUMNS)} |",
        "|---|---|---|---|",
        *(f"| {' | '.join(_cells(row))} |" for row in found["rows"]),
        "",
        f"| benchmark | {' | '.join(systems)} |",
        f"|---{'|---' * len(systems)}|",
    ]
    for name, by_system in found["benchmarks"].items():
        lines.append(f"| {name} | {' | '.join(f'{by_system[s]:.1f}' for s in systems)} |")
    return "\n".join(lines) + "\n"
