"""Attention to the image by layer, written against spoken: curves, what follows from their intervals, and maps over the
picture."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from markupsafe import Markup

from selfkd.data.dataset import ExampleFolder
from selfkd.errors import InputError
from selfkd.evaluation.compare import TEXT
from selfkd.evaluation.gap_table import MODALITIES
from selfkd.evaluation.uncertainty import MIN_GROUPS, enough
from selfkd.evaluation.verdicts import too_few
from selfkd.files import path_within
from selfkd.report.charts import Figure, Line, Table, band, line_chart, percent, signed, with_interval
from selfkd.report.html import Styles, heat_uri, image_uri, listed, titled
from selfkd.report.inputs import RunFolder, data_folder, groups_stated, read_json, read_lines

MAIN = "query_to_image", "response_to_image", "response_to_query"
THIRDS = "middle", "late"  # where the paper says that attention falls
_WRITTEN, _SPOKEN = "text", "audio"
_BOTH = (_WRITTEN, _SPOKEN)
_MAX_MAPS = 4  # items of a benchmark
Interval = Mapping[str, Any]


def attention_section(runs: list[RunFolder], styles: Styles) -> dict[str, Any] | None:
    found = [
        _benchmark(run, name, of, styles)
        for run in runs
        if run.kind == "attention"
        for name, of in run.result["benchmarks"].items()
    ]
    return {"benchmarks": found, "headlines": [b["finding"] for b in found]} if found else None


def _benchmark(run: RunFolder, name: str, of: Mapping[str, Any], styles: Styles) -> dict[str, Any]:
    models, measures = of["models"], run.result["about"]["measures"]
    charts = {m: curves(m, models, styles) for m in measures}
    n = max(model["tokens"]["n"] for model in models.values())
    groups = min(groups_stated(of_model["modalities"][_SPOKEN][MAIN[0]]["layers"], run) for of_model in models.values())
    few = too_few(groups)
    found = " ".join(findings(of)) if enough(groups) else f"{few[0].upper()}{few[1:]} to say where attention goes."
    return {
        "title": name,
        "n": n,
        "finding": {"title": f"{name}: where questions look", "figure": "", "text": found},
        "main": [{"figure": charts[m], "note": measures[m]} for m in MAIN],
        "others": [{"figure": charts[m], "note": measures[m]} for m in measures if m not in MAIN],
        "tables": _tables(name, of, measures),
        "tokens": _tokens(name, models),
        "models": [titled(m) for m in models],
        "heads": _heads(run, name, list(models)),
        "maps": _maps(run, name, list(models)),
    }


def findings(of: Mapping[str, Any]) -> list[str]:
    """What the intervals of question-to-image attention say, in sentences: of models spoken against written, and of
    the later model against the one before it."""
    ways: dict[str, list[str]] = {}
    for name, model in of["models"].items():
        ways.setdefault(in_thirds(model["audio_minus_text"]["query_to_image"]["thirds"]), []).append(name)
    said = [f"Under speech, attention from question to image {way} with {listed(who)}." for way, who in ways.items()]
    pair = _pair(list(of["models"]))
    moved = _moved(of["between_models"], *pair) if pair else None
    if pair and moved:
        said.append(f"{_again(moved)} from {titled(pair[0])} to {titled(pair[1])}: for spoken questions it ")
        said[-1] += f"{in_thirds(moved)} ({_figures(moved)})."
    return said


def _moved(between: Mapping[str, Any], a: str, b: str) -> dict[str, Interval] | None:
    """From a to b on the same spoken questions, by third; None for models of other depth."""
    if f"{b} minus {a}" in between:
        return between[f"{b} minus {a}"]["audio"]["query_to_image"]["thirds"]
    if f"{a} minus {b}" in between:
        back = between[f"{a} minus {b}"]["audio"]["query_to_image"]["thirds"]
        return {t: i | {"mean": -i["mean"], "low": _less(i["high"]), "high": _less(i["low"])} for t, i in back.items()}
    return None


def _less(end: float | None) -> float | None:
    return None if end is None else -end


def _pair(models: list[str]) -> tuple[str, str] | None:
    """SFT and Self-KD where they are called so, else the last two."""
    if {"sft", "selfkd"} <= set(models):
        return "sft", "selfkd"
    return (models[-2], models[-1]) if len(models) > 1 else None


def direction(i: Interval) -> str:
    """Whether the interval of a difference leaves zero, and to which side."""
    if i["low"] is None:  # no item differs from another
        return "shows no clear difference"
    return "falls" if i["high"] < 0 else "rises" if i["low"] > 0 else "shows no clear difference"


def _again(thirds: Mapping[str, Interval]) -> str:
    ways = {direction(thirds[t]) for t in THIRDS if t in thirds}
    return {frozenset({"rises"}): "It rises again", frozenset({"falls"}): "It does not rise again"}.get(
        frozenset(ways), "It does not clearly rise again"
    )


def in_thirds(thirds: Mapping[str, Interval]) -> str:
    """ "falls in the middle and the late third of the layers", or each third by itself where they differ."""
    ways: dict[str, list[str]] = {}
    for third in THIRDS:
        if third in thirds:
            ways.setdefault(direction(thirds[third]), []).append(f"the {third}")
    return " and ".join(f"{way} in {' and '.join(where)} third of the layers" for way, where in ways.items())


def _figures(thirds: Mapping[str, Interval]) -> str:
    # of few groups nothing of this is said
    return "; ".join(with_interval(i, MIN_GROUPS, signed) for t in THIRDS if (i := thirds.get(t)))


def curves(measure: str, models: Mapping[str, Any], styles: Styles) -> Figure:
    """Written and spoken by layer, each with its 95% band; the written view once where it is the same for all, else
    each in a style of its own."""
    written = {name: model["modalities"][_WRITTEN][measure]["layers"] for name, model in models.items()}
    shared = len(models) > 1 and len({str(layers["mean"]) for layers in written.values()}) == 1
    lines: list[Line] = []
    for name, layers in written.items():
        if not shared or not lines:
            whose = "every model" if shared else titled(name)
            style = styles.of(TEXT if shared or len(models) == 1 else f"{name}, written")
            lines.append(_line(f"Written, {whose}", layers, style))
    for name, model in models.items():
        lines.append(_line(f"Spoken, {titled(name)}", model["modalities"][_SPOKEN][measure]["layers"], styles.of(name)))
    return line_chart(measure.replace("_", " "), lines, "layer")


def _line(name: str, layers: Mapping[str, Any], style: int) -> Line:
    points = [(float(i), mean) for i, mean in enumerate(layers["mean"])]
    return Line(name, points, style, band(layers["low"], layers["high"]))


def _tables(name: str, of: Mapping[str, Any], measures: Sequence[str]) -> list[Table]:
    """Question to image first, by itself; then every measure."""
    rows, depths = [], [model["thirds"] for model in of["models"].values()]
    thirds = depths[0]
    for measure in measures:
        for model, found in of["models"].items():
            rows.append(_row(f"{titled(model)}: spoken minus written", measure, found["audio_minus_text"], thirds))
        for pair, found in of["between_models"].items():
            b, _, a = pair.partition(" minus ")
            rows.append(_row(f"{titled(b)} minus {titled(a)}, spoken", measure, found["audio"], thirds))
    positions = [t.capitalize() for t in thirds]
    if all(depth == thirds for depth in depths):
        positions = [f"{t.capitalize()} (layers {at[0]} to {at[-1]})" for t, at in thirds.items()]
    note = "Means over items with the 95% interval over images."
    main = [row for row in rows if row[1] == MAIN[0].replace("_", " ")]
    columns = ["Difference", "Measure", *positions]
    return [
        Table(f"{name}: question to image", columns, main, note=note),
        Table(f"{name}: every measure", columns, rows, note=note),
    ]


def _row(title: str, measure: str, found: Mapping[str, Any], thirds: Iterable[str]) -> list[str]:
    there = found[measure]["thirds"]
    cells = [with_interval(there[t], there[t]["groups"], signed) if t in there else "–" for t in thirds]
    return [title, measure.replace("_", " "), *cells]


def _tokens(name: str, models: Mapping[str, Any]) -> Table:
    keys = "n", "image", "query_text", "query_audio", "response_rows"
    rows = [[titled(m), *(f"{model['tokens'][k]:.4g}" for k in keys)] for m, model in models.items()]
    columns = ["Model", "Items", "Image", "Question, written", "Question, spoken", "Response rows"]
    return Table(f"{name}: tokens, mean over items", columns, rows, words=1)


def _heads(run: RunFolder, benchmark: str, models: list[str]) -> list[dict[str, Any]]:
    """For each model, written and spoken, a heat map of question to image by layer and head, all on one scale."""
    grids: dict[tuple[str, str], list[list[float]]] = {}
    for model in models:
        by_modality = read_json(path_within(run.folder / "heads", f"{benchmark}.{model}.json"))
        grids |= {(model, modality): by_modality[modality][MAIN[0]]["mean"] for modality in _BOTH}
    top = max(max(map(max, grid)) for grid in grids.values())
    cells = []
    for (model, modality), grid in grids.items():
        most, least = max(map(max, grid)), min(map(min, grid))
        layer = next(i for i, heads in enumerate(grid) if most in heads)
        between = f"{percent(least, 0)} to {percent(most, 0)}"
        words = f"{titled(model)}, {MODALITIES[modality]}: {between} by head, most in layer {layer}, head {grid[layer].index(most)}"
        cells.append({"uri": heat_uri(grid, top), "words": words, "between": between})
    return cells


def _maps(run: RunFolder, benchmark: str, models: list[str]) -> list[dict[str, Any]]:
    """For each item a picture and a heat map of each model, view and layer, all on one scale by layer."""
    found: dict[str, dict[tuple[str, str, int], list[list[float]]]] = {}
    for model in models:
        for m in read_lines(path_within(run.folder / "maps", f"{benchmark}.{model}.jsonl")):
            found.setdefault(m["id"], {})[model, m["modality"], m["layer"]] = m["grid"]
    shown = dict(list(found.items())[:_MAX_MAPS])
    images = _pictures(run, benchmark, set(shown))
    items = []
    for name, grids in shown.items():
        layers = sorted({layer for _, _, layer in grids})
        tops = {layer: max(max(map(max, g)) for (_, _, of), g in grids.items() if of == layer) for layer in layers}
        rows = [
            (layer, [_cell(grids.get((m, v, layer)), tops[layer], m, v) for m in models for v in _BOTH])
            for layer in layers
        ]
        question, image = images.get(name, ("", None))
        items.append({"id": name, "question": question, "picture": image, "rows": rows,
                      "models": [titled(m) for m in models]})  # fmt: skip
    return items


def _cell(grid: list[list[float]] | None, top: float, model: str, modality: str) -> dict[str, Any] | None:
    if grid is None:
        return None
    total, most = sum(map(sum, grid)), max(map(max, grid))
    row = next(i for i, cells in enumerate(grid) if most in cells)
    words = f"{titled(model)}, {MODALITIES[modality]}: {percent(total)} of attention on the picture, most in row {row + 1} of "
    words += f"{len(grid)}, column {grid[row].index(most) + 1} of {len(grid[row])}"
    return {"uri": heat_uri(grid, top), "words": words, "total": percent(total)}


def _pictures(run: RunFolder, benchmark: str, ids: set[str]) -> dict[str, tuple[str, Markup | None]]:
    """{id: (question, picture)}; empty where the data have been deleted since."""
    for place in filter(None, (data_folder(run, path) for path in run.config["data"])):
        with suppress(InputError):  # what can be read of the data
            folder = ExampleFolder(place)
            if folder.source != benchmark:
                continue
            at = {row["id"]: i for i, row in enumerate(folder.columns("id"))}
            examples = [folder[at[name]] for name in ids if name in at]
            return {e.id: (e.question, image_uri(e)) for e in examples}
    return {}
