"""Agreement between text and audio: by position, by layer, by whether an item flips, and the least similar items."""

from collections.abc import Mapping
from typing import Any

from selfkd.analysis.schemas import AgreementItem
from selfkd.evaluation.uncertainty import enough
from selfkd.evaluation.verdicts import too_few
from selfkd.files import path_within
from selfkd.json_files import read_json_lines
from selfkd.report.charts import Figure, Line, Table, band, decimal, line_chart, mean_with_interval, percent
from selfkd.report.html import Styles, run_title
from selfkd.report.inputs import RunFolder, group_count

_METRICS = {"kl": "KL, nats per token", "same_top": "Same top token", "rank": "Rank of the top token of text"}
_LAYER_METRICS = {"cosine": "Cosine of hidden states", "distance": "Relative distance of hidden states"}
_LEAST_SIMILAR = 8  # items per model
_MIN_ITEMS = 5  # for a point by position: only so many responses may be that long


def agreement_section(runs: list[RunFolder], styles: Styles) -> dict[str, Any] | None:
    benchmarks = [
        _benchmark(run, name, result["models"], styles)
        for run in runs
        if run.kind == "agreement"
        for name, result in run.result["benchmarks"].items()
    ]
    return {"benchmarks": benchmarks, "findings": [b["finding"] for b in benchmarks]} if benchmarks else None


def _benchmark(run: RunFolder, name: str, models: Mapping[str, Any], styles: Styles) -> dict[str, Any]:
    charts = [
        *(_position_chart(key, models, styles) for key in _METRICS),
        *(_layer_chart(key, models, styles) for key in _LAYER_METRICS),
    ]
    breakdowns = [_breakdown_table(name, models, by) for by in ("question_type", "voice")]
    tables = [*breakdowns, _outcome_table(name, models), _least_similar_table(run, name, list(models))]
    groups = min(group_count(model, run) for model in models.values())
    few = "" if enough(groups) else f" There are {too_few(groups)}."
    return {
        "title": name,
        "n": max(model["n"] for model in models.values()),
        "finding": {
            "title": f"{name}: agreement between audio and text",
            "highlight": "",
            "text": f"{agreement_finding(models)}{few}",
        },
        "charts": charts,
        "tables": [table for table in tables if table.rows],
        "notes": [f"{key.replace('_', ' ')}: {meaning}" for key, meaning in run.result["about"]["metrics"].items()],
    }


def agreement_finding(models: Mapping[str, Any]) -> str:
    per_model = [
        f"{run_title(name)} {model['kl']['mean']:.2f} nats per response token{_interval_text(model['kl'])}, "
        f"the same top token for {percent(model['same_top']['mean'])}"
        for name, model in models.items()
    ]
    return f"KL divergence of audio from text: {'; '.join(per_model)}."


def _interval_text(kl: Mapping[str, float | None]) -> str:
    return "" if kl["low"] is None else f" ({kl['low']:.2f} to {kl['high']:.2f})"


def _position_chart(key: str, models: Mapping[str, Any], styles: Styles) -> Figure:
    lines = []
    for name, model in models.items():
        positions = [p for p in model["by_position"] if p["n"] >= min(_MIN_ITEMS, model["n"])]
        points = [(float(p["position"] + 1), p[key]["mean"]) for p in positions]
        intervals = band([p[key]["low"] for p in positions], [p[key]["high"] for p in positions])
        lines.append(Line(run_title(name), points, styles.of(name), intervals))
    return line_chart(_METRICS[key], lines, "position in the response")


def _layer_chart(key: str, models: Mapping[str, Any], styles: Styles) -> Figure:
    lines = []
    for name, model in models.items():
        layers = model["by_layer"][key]["layers"]
        points = [(float(i), mean) for i, mean in enumerate(layers["mean"])]
        lines.append(Line(run_title(name), points, styles.of(name), band(layers["low"], layers["high"])))
    return line_chart(_LAYER_METRICS[key], lines, "layer")


def _cells(metrics: Mapping[str, Any]) -> list[str]:
    return [str(metrics["n"]), *(mean_with_interval(metrics[key], metrics["groups"], decimal) for key in _METRICS)]


def _breakdown_table(name: str, models: Mapping[str, Any], by: str) -> Table:
    rows = []
    for model, metrics in models.items():
        rows.append([run_title(model), "all", *_cells(metrics)])
        rows += [[run_title(model), value or "–", *_cells(part)] for value, part in metrics[f"by_{by}"].items()]
    title = by.replace("_", " ")
    note = "Means over items with 95% intervals over images; the value of an item is the mean over its response tokens."
    columns = ["Model", title.capitalize(), "n", *_METRICS.values()]
    return Table(f"{name}: agreement by {title}", columns, rows, note=note)


def _outcome_table(name: str, models: Mapping[str, Any]) -> Table:
    rows = [
        [run_title(model), outcome, *_cells(part)]
        for model, metrics in models.items()
        for outcome, part in metrics.get("by_outcome", {}).items()
    ]
    return Table(f"{name}: agreement by outcome", ["Model", "Outcome", "n", *_METRICS.values()], rows)


def _least_similar_table(run: RunFolder, name: str, models: list[str]) -> Table:
    rows = []
    for model in models:
        items = read_json_lines(path_within(run.folder / "items", f"{name}.{model}.jsonl"), AgreementItem)
        means = [(sum(i["kl"]) / len(i["kl"]), sum(i["same_top"]) / len(i["same_top"]), i) for i in items]
        for kl, same_top, item in sorted(means, key=lambda m: (-m[0], m[2]["id"]))[:_LEAST_SIMILAR]:
            fields = [item["id"], item["question_type"], item["voice"]]
            rows.append([run_title(model), *fields, f"{kl:.2f}", percent(same_top, 0)])
    columns = ["Model", "Item", "Question type", "Voice", "KL", "Same top token"]
    return Table(f"{name}: items on which the modalities agree least", columns, rows, text_columns=4)
