"""How far spoken answers are from written ones: by position, by layer, by whether the item flips, and the farthest."""

from collections.abc import Mapping
from typing import Any

from selfkd.evaluation.uncertainty import enough
from selfkd.evaluation.verdicts import too_few
from selfkd.files import path_within
from selfkd.report.charts import Figure, Line, Table, band, decimal, line_chart, percent, with_interval
from selfkd.report.html import Styles, titled
from selfkd.report.inputs import RunFolder, groups_stated, read_lines

_FIGURES = {"kl": "KL, nats per row", "same_top": "Same top token", "rank": "Rank of the written top token"}
_BY_LAYER = {"cosine": "Cosine of hidden states", "distance": "Relative distance of hidden states"}
_FARTHEST = 8  # items of a model
_FEWEST = 5  # items whose response is so long, for a point by position


def agreement_section(runs: list[RunFolder], styles: Styles) -> dict[str, Any] | None:
    found = [
        _benchmark(run, name, of["models"], styles)
        for run in runs
        if run.kind == "agreement"
        for name, of in run.result["benchmarks"].items()
    ]
    return {"benchmarks": found, "headlines": [b["finding"] for b in found]} if found else None


def _benchmark(run: RunFolder, name: str, models: Mapping[str, Any], styles: Styles) -> dict[str, Any]:
    metrics = [
        *(_by_position(key, models, styles) for key in _FIGURES),
        *(_by_layer(k, models, styles) for k in _BY_LAYER),
    ]
    by = [_by(name, models, group) for group in ("kind", "voice")]
    tables = [*by, _outcomes(name, models), _farthest(run, name, list(models))]
    groups = min(groups_stated(model, run) for model in models.values())
    few = "" if enough(groups) else f" These are {too_few(groups)}."
    return {
        "title": name,
        "n": max(model["n"] for model in models.values()),
        "finding": {
            "title": f"{name}: how far spoken answers are from written ones",
            "figure": "",
            "text": f"{finding(models)}{few}",
        },
        "figures": metrics,
        "tables": [table for table in tables if table.rows],
        "notes": [f"{key.replace('_', ' ')}: {what}" for key, what in run.result["about"]["figures"].items()],
    }


def finding(models: Mapping[str, Any]) -> str:
    said = [
        f"{titled(m)} {of['kl']['mean']:.2f} nats per response row{_between(of['kl'])}, "
        f"the same top token in {percent(of['same_top']['mean'])}"
        for m, of in models.items()
    ]
    return f"From written to spoken: {'; '.join(said)}."


def _between(kl: Mapping[str, float | None]) -> str:
    return "" if kl["low"] is None else f" ({kl['low']:.2f} to {kl['high']:.2f})"


def _by_position(key: str, models: Mapping[str, Any], styles: Styles) -> Figure:
    lines = []
    for name, model in models.items():
        found = [p for p in model["by_position"] if p["n"] >= min(_FEWEST, model["n"])]
        points = [(float(p["position"] + 1), p[key]["mean"]) for p in found]
        ends = band([p[key]["low"] for p in found], [p[key]["high"] for p in found])
        lines.append(Line(titled(name), points, styles.of(name), ends))
    return line_chart(_FIGURES[key], lines, "position in the response")


def _by_layer(key: str, models: Mapping[str, Any], styles: Styles) -> Figure:
    lines = []
    for name, model in models.items():
        layers = model["by_layer"][key]["layers"]
        points = [(float(i), mean) for i, mean in enumerate(layers["mean"])]
        lines.append(Line(titled(name), points, styles.of(name), band(layers["low"], layers["high"])))
    return line_chart(_BY_LAYER[key], lines, "layer")


def _cells(of: Mapping[str, Any]) -> list[str]:
    return [str(of["n"]), *(with_interval(of[key], of["groups"], decimal) for key in _FIGURES)]


def _by(name: str, models: Mapping[str, Any], group: str) -> Table:
    rows = []
    for model, of in models.items():
        rows.append([titled(model), "all", *_cells(of)])
        rows += [[titled(model), value or "–", *_cells(some)] for value, some in of[f"by_{group}"].items()]
    note = "Means over items, an item's being the mean over its response rows, with 95% intervals over images."
    columns = ["Model", group.capitalize(), "n", *_FIGURES.values()]
    return Table(f"{name}: agreement by {group}", columns, rows, note=note)


def _outcomes(name: str, models: Mapping[str, Any]) -> Table:
    rows = [
        [titled(model), outcome, *_cells(some)]
        for model, of in models.items()
        for outcome, some in of.get("by_outcome", {}).items()
    ]
    return Table(f"{name}: items that flip, and those that do not", ["Model", "Outcome", "n", *_FIGURES.values()], rows)


def _farthest(run: RunFolder, name: str, models: list[str]) -> Table:
    rows = []
    for model in models:
        items = read_lines(path_within(run.folder / "items", f"{name}.{model}.jsonl"))
        means = [(sum(i["kl"]) / len(i["kl"]), sum(i["same_top"]) / len(i["same_top"]), i) for i in items]
        for kl, same, item in sorted(means, key=lambda m: (-m[0], m[2]["id"]))[:_FARTHEST]:
            rows.append([titled(model), item["id"], item["kind"], item["voice"], f"{kl:.2f}", percent(same, 0)])
    columns = ["Model", "Item", "Kind", "Voice", "KL", "Same top token"]
    return Table(f"{name}: items whose two views are farthest apart", columns, rows, words=4)
