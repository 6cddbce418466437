"""Training curves: a chart for each stage and figure that was logged; a run keeps its style in all of them."""

from math import isfinite
from typing import Any

from selfkd.report.charts import Figure, Line, Table, line_chart
from selfkd.report.html import Styles, titled
from selfkd.report.inputs import RunFolder
from selfkd.run_dir import read_log

_STAGES = {"align": "Stage 1", "distill": "Stage 2"}
_CURVES = {
    "sft_per_token": "cross-entropy to the labels",
    "kd_per_token": "divergence from the teacher",
    "hidden_per_token": "distance from the teacher’s hidden states",
    "transcript_per_token": "CTC on what was said",
    "characters_per_token": "CTC on its characters",
    "alignment_per_token": "soft-DTW to the question’s embeddings",
}


def _points(log: list[dict[str, Any]], key: str) -> list[tuple[float, float]]:
    """What was learnt from, by step; a run that diverged has figures that are none."""
    return [(e["step"], e[key]) for e in log if e.get(key) and isfinite(e[key])]


def training_section(runs: list[RunFolder], styles: Styles) -> dict[str, Any] | None:
    trained = [run for run in runs if run.kind in _STAGES]
    if not trained:
        return None
    curves: list[Figure] = []
    for stage, title in _STAGES.items():
        logs = {run.name: read_log(run.folder) for run in trained if run.kind == stage}
        for key, what in _CURVES.items():
            lines = [Line(titled(name), _points(log, key), styles.of(name)) for name, log in logs.items()]
            if any(line.points for line in lines):
                curves.append(line_chart(f"{title}: {what}", lines, "optimizer step"))
    rows = [
        [
            titled(run.name), _STAGES[run.kind], _alpha(run.config), f"{run.result['examples']:,}",
            f"{run.result['steps']:,}", f"{run.result['trained_parameters']:,}", f"{run.result['final_loss']:.3f}",
            f"{run.result['seconds']:,.0f}", str(run.config["seed"]),
        ]
        for run in trained
    ]  # fmt: skip
    columns = "Run", "Stage", "alpha", "Examples", "Steps", "Trained parameters", "Mean loss", "Seconds", "Seed"
    return {"curves": curves, "tables": [Table("What was trained", columns, rows)]}


def _alpha(config: dict[str, Any]) -> str:
    """Of a run that learns from responses."""
    return str(config.get("alpha", "–")) if config.get("response_weight", 1) else "–"
