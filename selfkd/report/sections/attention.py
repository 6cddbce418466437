"""Attention to the image by layer, in text and in audio: curves, what their intervals show, heads, and maps over the
image."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from markupsafe import Markup

from selfkd.analysis.schemas import AttentionMap, Heads
from selfkd.analysis.trace_table import left_out_lines
from selfkd.data.dataset import ExampleFolder
from selfkd.errors import InputError
from selfkd.evaluation.compare import TEXT
from selfkd.evaluation.uncertainty import MIN_GROUPS, enough
from selfkd.evaluation.verdicts import too_few
from selfkd.files import path_within
from selfkd.json_files import read_json, read_json_lines
from selfkd.report.charts import Figure, Line, Table, band, line_chart, mean_with_interval, percent, signed
from selfkd.report.html import Styles, heat_map_uri, image_uri, join_titles, run_title
from selfkd.report.inputs import RunFolder, data_folder, group_count

MAIN = "query_to_image", "response_to_image", "response_to_query"
THIRDS = "middle", "late"  # where attention falls according to the paper
_MODALITIES = ("text", "audio")
_TRACE_ROWS = {
    score: (measure, f"{measure}_above_other_words", f"{measure}_above_other_images")
    for score, measure in (("AUC", "auc"), ("NSS", "nss"))
}
_CHANGES = "log_prob_change", "exact_change"
_MAX_MAPS = 4  # items per benchmark
Interval = Mapping[str, Any]


def attention_section(runs: list[RunFolder], styles: Styles) -> dict[str, Any] | None:
    benchmarks = [
        _benchmark(run, name, result, styles)
        for run in runs
        if run.kind == "attention"
        for name, result in run.result["benchmarks"].items()
    ]
    return {"benchmarks": benchmarks, "findings": [b["finding"] for b in benchmarks]} if benchmarks else None


def _benchmark(run: RunFolder, name: str, result: Mapping[str, Any], styles: Styles) -> dict[str, Any]:
    models, measures = result["models"], run.result["about"]["measures"]
    charts = {m: curves(m, models, styles) for m in measures}
    n = max(model["tokens"]["n"] for model in models.values())
    groups = min(group_count(m["modalities"]["audio"][MAIN[0]]["layers"], run) for m in models.values())
    few = too_few(groups)
    text = " ".join(attention_findings(result)) if enough(groups) else f"{few[0].upper()}{few[1:]}."
    return {
        "title": name,
        "n": n,
        "finding": {"title": f"{name}: attention to the image", "highlight": "", "text": text},
        "main": [{"figure": charts[m], "note": measures[m]} for m in MAIN],
        "others": [{"figure": charts[m], "note": measures[m]} for m in measures if m not in MAIN],
        "tables": _difference_tables(name, result, measures),
        "interventions": _intervention_table(name, models),
        "trace": _trace_table(name, models),
        "tokens": _token_table(name, models),
        "models": [run_title(m) for m in models],
        "heads": _head_maps(run, name, list(models)),
        "maps": _image_maps(run, name, list(models)),
    }


def attention_findings(result: Mapping[str, Any]) -> list[str]:
    """Sentences on query-to-image attention, by its intervals: audio minus text for each model, and for audio the later
    model minus the one before it."""
    models_by_trend: dict[str, list[str]] = {}
    for name, model in result["models"].items():
        trend = trend_by_third(model["audio_minus_text"]["query_to_image"]["thirds"])
        models_by_trend.setdefault(trend, []).append(name)
    sentences = [
        f"From text to audio, attention from query to image {trend} with {join_titles(names)}."
        for trend, names in models_by_trend.items()
    ]
    pair = _compared_models(list(result["models"]))
    difference = _audio_difference(result["between_models"], *pair) if pair else None
    if pair and difference:
        sentences.append(
            f"{_recovery_text(difference)} from {run_title(pair[0])} to {run_title(pair[1])}: for audio queries it "
            f"{trend_by_third(difference)} ({_intervals_text(difference)})."
        )
    return sentences


def _audio_difference(between: Mapping[str, Any], a: str, b: str) -> dict[str, Interval] | None:
    """b minus a on the same audio queries, by third; None for models of different depth."""
    if f"{b} minus {a}" in between:
        return between[f"{b} minus {a}"]["audio"]["query_to_image"]["thirds"]
    if f"{a} minus {b}" in between:
        reverse = between[f"{a} minus {b}"]["audio"]["query_to_image"]["thirds"]
        return {third: _negated(interval) for third, interval in reverse.items()}
    return None


def _negated(interval: Interval) -> Interval:
    low, high = (None if end is None else -end for end in (interval["high"], interval["low"]))
    return {**interval, "mean": -interval["mean"], "low": low, "high": high}


def _compared_models(models: list[str]) -> tuple[str, str] | None:
    """SFT and Self-KD by their names, else the last two."""
    if {"sft", "selfkd"} <= set(models):
        return "sft", "selfkd"
    return (models[-2], models[-1]) if len(models) > 1 else None


def direction(difference: Interval) -> str:
    """ "falls" or "rises" where the interval of a difference excludes zero."""
    if difference["low"] is None:  # all items have the same difference
        return "shows no clear difference"
    return "falls" if difference["high"] < 0 else "rises" if difference["low"] > 0 else "shows no clear difference"


def _recovery_text(thirds: Mapping[str, Interval]) -> str:
    directions = {direction(thirds[t]) for t in THIRDS if t in thirds}
    if directions == {"rises"}:
        return "It rises again"
    return "It does not rise again" if directions == {"falls"} else "It does not clearly rise again"


def trend_by_third(thirds: Mapping[str, Interval]) -> str:
    """ "falls in the middle and the late third of the layers", or each third by itself where they differ."""
    by_direction: dict[str, list[str]] = {}
    for third in THIRDS:
        if third in thirds:
            by_direction.setdefault(direction(thirds[third]), []).append(f"the {third}")
    parts = (f"{trend} in {' and '.join(names)} third of the layers" for trend, names in by_direction.items())
    return " and ".join(parts)


def _intervals_text(thirds: Mapping[str, Interval]) -> str:
    # with fewer groups there is no such sentence
    return "; ".join(mean_with_interval(i, MIN_GROUPS, signed) for t in THIRDS if (i := thirds.get(t)))


def curves(measure: str, models: Mapping[str, Any], styles: Styles) -> Figure:
    """Text and audio by layer, each with its 95% band. Text is one line where all models share it, else one line per
    model, each in its own style."""
    text = {name: model["modalities"]["text"][measure]["layers"] for name, model in models.items()}
    shared = len(models) > 1 and len({str(layers["mean"]) for layers in text.values()}) == 1
    lines: list[Line] = []
    for name, layers in text.items():
        if not shared or not lines:
            style = styles.of(TEXT if shared or len(models) == 1 else f"{name}, text")
            lines.append(_line(f"Text, {'all models' if shared else run_title(name)}", layers, style))
    for name, model in models.items():
        layers = model["modalities"]["audio"][measure]["layers"]
        lines.append(_line(f"Audio, {run_title(name)}", layers, styles.of(name)))
    return line_chart(measure.replace("_", " "), lines, "layer")


def _line(name: str, layers: Mapping[str, Any], style: int) -> Line:
    points = [(float(i), mean) for i, mean in enumerate(layers["mean"])]
    return Line(name, points, style, band(layers["low"], layers["high"]))


def _difference_tables(name: str, result: Mapping[str, Any], measures: Sequence[str]) -> list[Table]:
    """Query to image, then all measures."""
    rows, depths = [], [model["thirds"] for model in result["models"].values()]
    thirds = depths[0]
    for measure in measures:
        for model, metrics in result["models"].items():
            rows.append(_row(f"{run_title(model)}: audio minus text", measure, metrics["audio_minus_text"], thirds))
        for pair, metrics in result["between_models"].items():
            b, _, a = pair.partition(" minus ")
            rows.append(_row(f"{run_title(b)} minus {run_title(a)}, audio", measure, metrics["audio"], thirds))
    third_columns = [t.capitalize() for t in thirds]
    if all(depth == thirds for depth in depths):
        third_columns = [f"{t.capitalize()} (layers {at[0]} to {at[-1]})" for t, at in thirds.items()]
    note = "Means over items with the 95% interval over images."
    main = [row for row in rows if row[1] == MAIN[0].replace("_", " ")]
    columns = ["Difference", "Measure", *third_columns]
    return [
        Table(f"{name}: query to image", columns, main, note=note),
        Table(f"{name}: all measures", columns, rows, note=note),
    ]


def _intervention_table(name: str, models: Mapping[str, Any]) -> Table | None:
    """What interventions do to the response, by model and modality; none for a run without them."""
    rows = []
    for model, metrics in models.items():
        for modality, by_name in metrics.get("interventions", {}).items():
            for intervention, found in by_name.items():
                kind, of_rows, layers = intervention.split(".")
                changes = [mean_with_interval(found[k], found[k]["groups"], signed) for k in _CHANGES]
                exact = percent(found["exact"]["mean"])
                rows.append([run_title(model), modality, kind.replace("_", " "), of_rows, layers, *changes, exact])
    columns = ["Model", "Query", "Intervention", "Rows", "Layers", "Log-probability", "Exact, change", "Exact"]
    note = (
        "Changes against the plain pass, with the 95% interval over images. Exact: greedy decoding gives the response."
    )
    return Table(f"{name}: interventions", columns, rows, note=note, text_columns=5) if rows else None


def _trace_table(name: str, models: Mapping[str, Any]) -> Table | None:
    """Attention of a word's rows against its mouse trace, by model, modality and score; none without traces."""
    traced = {model: metrics["trace"] for model, metrics in models.items() if "trace" in metrics}
    rows, notes = [], []
    for model, trace in traced.items():
        notes += [f"{run_title(model)}: {trace['items']} items, {trace['words']} words", *left_out_lines(trace)]
        for modality, measures in trace.get("modalities", {}).items():
            for score, (measure, *differences) in _TRACE_ROWS.items():
                for third, found in measures[measure]["thirds"].items():
                    intervals = (measures[difference]["thirds"][third] for difference in differences)
                    above = [mean_with_interval(i, i["groups"], signed) for i in intervals]
                    rows.append([run_title(model), modality, score, third, f"{found['mean']:.2f}", *above])
    columns = ["Model", "Query", "Score", "Layers", "Own trace", "Above other words", "Above other images"]
    note = (
        "AUC: probability that a cell that the speaker points at during a word has more of that word's attention than "
        "another cell (chance 0.5). NSS: that attention in standard deviations over the image (chance 0). Above: minus "
        "the score of the same attention against the traces of other words, with the 95% interval over images. "
    )
    return (
        Table(f"{name}: attention by word", columns, rows, note=f"{note}{'. '.join(notes)}.", text_columns=4)
        if notes
        else None
    )


def _row(title: str, measure: str, metrics: Mapping[str, Any], thirds: Iterable[str]) -> list[str]:
    by_third = metrics[measure]["thirds"]
    cells = [mean_with_interval(by_third[t], by_third[t]["groups"], signed) if t in by_third else "–" for t in thirds]
    return [title, measure.replace("_", " "), *cells]


def _token_table(name: str, models: Mapping[str, Any]) -> Table:
    keys = "n", "image", "query_text", "query_audio", "response_rows"
    rows = [[run_title(m), *(f"{model['tokens'][k]:.4g}" for k in keys)] for m, model in models.items()]
    columns = ["Model", "Items", "Image", "Text query", "Audio query", "Response"]
    return Table(f"{name}: tokens, mean over items", columns, rows, text_columns=1)


def _head_maps(run: RunFolder, benchmark: str, models: list[str]) -> list[dict[str, Any]]:
    """For each model and modality a heat map of query to image by layer and head, all on one scale."""
    grids: dict[tuple[str, str], list[list[float]]] = {}
    for model in models:
        by_modality = read_json(path_within(run.folder / "heads", f"{benchmark}.{model}.json"), Heads)
        grids |= {(model, modality): by_modality[modality][MAIN[0]]["mean"] for modality in _MODALITIES}
    maximum = max(max(map(max, grid)) for grid in grids.values())
    cells = []
    for (model, modality), grid in grids.items():
        highest, lowest = max(map(max, grid)), min(map(min, grid))
        layer = next(i for i, heads in enumerate(grid) if highest in heads)
        span = f"{percent(lowest, 0)} to {percent(highest, 0)}"
        words = f"{run_title(model)}, {modality}: {span} by head, highest in layer {layer}, "
        words += f"head {grid[layer].index(highest)}"
        cells.append({"uri": heat_map_uri(grid, maximum), "words": words, "range": span})
    return cells


def _image_maps(run: RunFolder, benchmark: str, models: list[str]) -> list[dict[str, Any]]:
    """For each item its image and a heat map for each model, modality and layer; one scale per item and layer."""
    grids_by_item: dict[str, dict[tuple[str, str, int], list[list[float]]]] = {}
    for model in models:
        for m in read_json_lines(path_within(run.folder / "maps", f"{benchmark}.{model}.jsonl"), AttentionMap):
            grids_by_item.setdefault(m["id"], {})[model, m["modality"], m["layer"]] = m["grid"]
    shown = dict(list(grids_by_item.items())[:_MAX_MAPS])
    images = _questions_and_images(run, benchmark, set(shown))
    items = []
    for name, grids in shown.items():
        layers = sorted({layer for _, _, layer in grids})
        maxima = {layer: max(max(map(max, g)) for (_, _, at), g in grids.items() if at == layer) for layer in layers}
        rows = [
            (layer, [_cell(grids.get((m, v, layer)), maxima[layer], m, v) for m in models for v in _MODALITIES])
            for layer in layers
        ]
        question, image = images.get(name, ("", None))
        titles = [run_title(m) for m in models]
        items.append({"id": name, "question": question, "image": image, "rows": rows, "models": titles})
    return items


def _cell(grid: list[list[float]] | None, maximum: float, model: str, modality: str) -> dict[str, Any] | None:
    if grid is None:
        return None
    total, highest = sum(map(sum, grid)), max(map(max, grid))
    row = next(i for i, cells in enumerate(grid) if highest in cells)
    words = f"{run_title(model)}, {modality}: {percent(total)} of attention to the image, highest in row {row + 1} of "
    words += f"{len(grid)}, column {grid[row].index(highest) + 1} of {len(grid[row])}"
    return {"uri": heat_map_uri(grid, maximum), "words": words, "total": percent(total)}


def _questions_and_images(run: RunFolder, benchmark: str, ids: set[str]) -> dict[str, tuple[str, Markup | None]]:
    """{id: (question, image)}; empty where the dataset folder has been deleted."""
    for path in filter(None, (data_folder(run, path) for path in run.config["data"])):
        with suppress(InputError):  # folders that cannot be read are left out
            folder = ExampleFolder(path)
            if folder.source != benchmark:
                continue
            at = {row["id"]: i for i, row in enumerate(folder.columns("id"))}
            examples = [folder[at[name]] for name in ids if name in at]
            return {e.id: (e.question, image_uri(e)) for e in examples}
    return {}
