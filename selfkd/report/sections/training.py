"""Training curves: a chart for each stage and logged loss, and a table of the runs."""

from math import isfinite
from typing import Any

from selfkd.json_files import read_json
from selfkd.report.charts import Figure, Line, Table, line_chart
from selfkd.report.html import Styles, run_title
from selfkd.report.inputs import RunFolder
from selfkd.run_dir import VALIDATION, StepScores, read_log

_STAGES = {"align": "Stage 1", "distill": "Stage 2"}
_CURVES = {
    "sft_per_token": "cross-entropy with the labels",
    "kd_per_token": "KL divergence from the teacher",
    "hidden_mse_per_token": "MSE to the teacher’s hidden states",
    "ctc_per_token": "CTC loss",
    "character_ctc_per_token": "character-level CTC loss",
    "soft_dtw_per_token": "soft-DTW to the question embeddings",
    "contrastive_per_token": "InfoNCE of audio and question embeddings",
}


def _points(log: list[dict[str, Any]], key: str) -> list[tuple[float, float]]:
    """(step, loss); zero, missing and non-finite values are left out."""
    return [(e["step"], e[key]) for e in log if e.get(key) and isfinite(e[key])]


def _accuracies(run: RunFolder, modality: str) -> list[tuple[float, float]]:
    """(step, accuracy in %) on the held-out questions that a run was scored on."""
    path = run.folder / VALIDATION
    scores: list[Any] = read_json(path, list[StepScores]) if path.is_file() else []
    return [(entry["step"], 100 * entry[modality]) for entry in scores]


def training_section(runs: list[RunFolder], styles: Styles) -> dict[str, Any] | None:
    trained = [run for run in runs if run.kind in _STAGES]
    if not trained:
        return None
    curves: list[Figure] = []
    for stage, title in _STAGES.items():
        logs = {run.name: read_log(run.folder) for run in trained if run.kind == stage}
        for key, name in _CURVES.items():
            lines = [Line(run_title(run), _points(log, key), styles.of(run)) for run, log in logs.items()]
            if any(line.points for line in lines):
                curves.append(line_chart(f"{title}: {name}", lines, "optimizer step"))
        for modality in ("audio", "text"):
            of_stage = [run for run in trained if run.kind == stage]
            lines = [Line(run_title(run.name), _accuracies(run, modality), styles.of(run.name)) for run in of_stage]
            if any(line.points for line in lines):
                name = f"accuracy of {modality} queries on held-out questions, %"
                curves.append(line_chart(f"{title}: {name}", lines, "optimizer step"))
    rows = [
        [
            run_title(run.name), _STAGES[run.kind], _alpha(run.config), f"{run.result['examples']:,}",
            f"{run.result['steps']:,}", f"{run.result['trained_parameters']:,}", f"{run.result['final_loss']:.3f}",
            f"{run.result['seconds']:,.0f}", str(run.config["seed"]),
        ]
        for run in trained
    ]  # fmt: skip
    columns = "Run", "Stage", "alpha", "Examples", "Steps", "Trained parameters", "Mean loss", "Seconds", "Seed"
    return {"curves": curves, "tables": [Table("Training runs", columns, rows)]}


def _alpha(config: dict[str, Any]) -> str:
    """The weight of distillation; "–" for a run without a loss on responses."""
    return str(config.get("alpha", "–")) if config.get("response_weight", 1) else "–"
