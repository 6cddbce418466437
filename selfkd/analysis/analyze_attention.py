"""Attention to the image of one or more models, in text and in audio.

Writes into a run directory for each benchmark and model `items/BENCHMARK.MODEL.jsonl` (one item per line: each of
`MEASURES` by layer, for both modalities), `heads/BENCHMARK.MODEL.json` (means over items with their intervals, by layer
and head), `maps/BENCHMARK.MODEL.jsonl` (grids of attention over the image), and last `result.json` (means over items,
differences of modalities and of models on the same items, with their intervals). Items with a mouse trace are scored
against it, too (`traces.py`), and the scores are printed.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from selfkd.analysis.attention import BY_HEAD, MEASURES, ModalityAttention, attention_of_batch, image_grid, image_map
from selfkd.analysis.config import AttentionConfig
from selfkd.analysis.forward import Continuation
from selfkd.analysis.interventions import interventions_of, outcomes_of_batch
from selfkd.analysis.runner import (
    Record,
    check_numbers,
    check_usable,
    inputs_of,
    intervals,
    item_fields,
    layer_intervals,
    measure_missing,
    named_models,
    pairs,
    read_folders,
    read_items,
    rounded,
    thirds_of,
    with_images,
)
from selfkd.analysis.trace_table import trace_table
from selfkd.analysis.traces import (
    NOT_ONE_GRID,
    TRACE_MEASURES,
    Traces,
    score_trace,
    summarize_traces,
    why_not_scored,
    word_rows,
)
from selfkd.data.example import Example
from selfkd.errors import InputError
from selfkd.evaluation.metrics import groups_in
from selfkd.evaluation.uncertainty import DIFFERENCE, LEVEL, RESAMPLES, SCORE, Groups, correlations
from selfkd.files import write_json, write_text
from selfkd.model.modeling_omni import OmniModel
from selfkd.run_dir import Run
from selfkd.terminal import table_console
from selfkd.training.data import MODALITIES, Modality, PairedItem

# compared with whether the response is right, item by item
MEASURED_WITH_EXACT = ("query_to_image", "query_to_image_sum", "query_to_image_of_context", "response_to_image")


def analyze_attention(config: AttentionConfig) -> dict[str, Any]:
    """Returns {benchmark: {"models": ..., "between_models": ...}}, as in `result.json` under "benchmarks"."""
    check_numbers(config.batch_size, config.limit)
    if config.maps < 0:
        raise InputError(f"maps: {config.maps}: must not be negative")
    models, folders = named_models(config.models), read_folders(config.data)
    benchmarks = with_images(folders, config.limit)
    ids_with_maps = {e.id for examples in benchmarks.values() for e in examples[: config.maps]}

    traces = {benchmark: Traces(examples, config.seed) for benchmark, examples in benchmarks.items()}
    traces_of = {name: of for of in traces.values() for name in of.words}

    def measure(
        model: OmniModel,
        processor: Any,
        items: list[PairedItem],
        examples: list[Example],
        batch: Any,
        questions: list[slice],
    ) -> list[Record]:
        count = len(model.vlm.get_decoder().layers)
        layers = sorted(set(config.map_layers or (count // 2, count - 1)))
        needs_maps = any(e.id in ids_with_maps for e in examples)
        words = [[] if why_not_scored(e) or e.id not in traces_of else traces_of[e.id].words[e.id] for e in examples]
        rows: dict[Modality, Any] = {}

        def rows_of_words(modality: Modality, continuation: Continuation) -> Any:
            rows[modality] = word_rows(model, processor, modality, continuation, examples, items, questions, words)
            return rows[modality]

        needed = rows_of_words if any(words) else None
        attention = attention_of_batch(model, batch, questions, layers if needs_maps else (), needed)
        interventions = interventions_of(config.interventions, thirds_of(count))
        outcomes = outcomes_of_batch(model, batch, questions, interventions) if config.interventions else None
        records = []
        for i, (item, example) in enumerate(zip(items, examples, strict=True)):
            modalities = {modality: attention[modality][i] for modality in MODALITIES}
            record = item_fields(example) | _measures(modalities)
            record["outcomes"] = {modality: v.outcome for modality, v in modalities.items()}
            if outcomes is not None:
                record["interventions"] = outcomes[i]
            if example.id in traces_of:
                record["trace"] = _trace(
                    model, item, traces_of[example.id], modalities, rows, i, why_not_scored(example)
                )
            record["heads"] = {modality: v.by_head() for modality, v in modalities.items()}
            record["maps"] = [
                {"id": item.id, "modality": modality, "layer": layer, "grid": grid}
                for modality, v in modalities.items()
                for layer in layers
                if item.id in ids_with_maps and (grid := _map(model, item, v, layer))
            ]
            records.append(record)
        return records

    for info in models.values():
        layers = info.config.get_text_config().num_hidden_layers
        if wrong := [layer for layer in config.map_layers if not 0 <= layer < layers]:
            raise InputError(f"map_layers: {wrong}: the model has layers 0 to {layers - 1} ({info.source})")
    with Run.open(config.output, "attention", config, inputs=lambda: inputs_of(models, folders)) as run:
        check_usable(models, folders, config.limit)

        def write_heads_and_maps(benchmark: str, model: str, records: list[Record]) -> None:
            heads = [record.pop("heads") for record in records]
            by_modality = {
                modality: {
                    m: intervals(np.stack([h[modality][m].numpy() for h in heads]), config.seed, groups_in(records))
                    for m in BY_HEAD
                }
                for modality in MODALITIES
            }
            write_json(run.folder / "heads" / f"{benchmark}.{model}.json", by_modality)
            maps = [m for record in records for m in record.pop("maps")]
            lines = "".join(json.dumps(m) + "\n" for m in maps)
            write_text(run.folder / "maps" / f"{benchmark}.{model}.jsonl", lines)

        measure_missing(run.folder, models, benchmarks, config.batch_size, measure, write_heads_and_maps)
        result = {
            benchmark: summarize_attention(read_items(run.folder, benchmark, models), config.seed)
            for benchmark in benchmarks
        }
        run.finish(benchmarks=result, inputs=run.inputs, about=_about(config))
        if any(any("trace" in found for found in of["models"].values()) for of in result.values()):
            table_console().print(trace_table(result))
        return result


def summarize_attention(records: dict[str, list[Record]], seed: int) -> dict[str, Any]:
    """{"models": {model: {"tokens", "modalities", "audio_minus_text"}}, "between_models": {"B minus A": ...}}: each of
    `MEASURES` by layer and by third of depth. Between models each modality and the gap (audio minus text) are compared
    on the same items; pairs of models of different depth are left out."""
    values = {
        model: {
            modality: {m: np.array([r["modalities"][modality][m] for r in items]) for m in MEASURES}
            for modality in MODALITIES
        }
        for model, items in records.items()
    }
    result: dict[str, Any] = {"models": {}, "between_models": {}}
    groups = groups_in(next(iter(records.values())))  # the items of all models are the same
    for model, modalities in values.items():
        gaps = {m: modalities["audio"][m] - modalities["text"][m] for m in MEASURES}
        result["models"][model] = {
            "tokens": _tokens(records[model]),
            "thirds": thirds_of(gaps["query_to_image"].shape[1]),
            "modalities": {modality: layer_intervals(modalities[modality], seed, groups) for modality in MODALITIES},
            "audio_minus_text": layer_intervals(gaps, seed, groups),
            "outcomes": _outcomes([r["outcomes"] for r in records[model]], seed, groups),
            "attention_and_exact": _attention_and_exact(records[model], modalities, seed, groups),
        }
        if trace := summarize_traces(records[model], seed):
            result["models"][model]["trace"] = trace
        if all("interventions" in record for record in records[model]):
            result["models"][model]["interventions"] = _interventions(records[model], seed, groups)
    for a, b in pairs(list(values)):
        first, second = values[a], values[b]
        if first["text"]["query_to_image"].shape == second["text"]["query_to_image"].shape:
            differences = {v: {m: second[v][m] - first[v][m] for m in MEASURES} for v in MODALITIES}
            gap = {m: differences["audio"][m] - differences["text"][m] for m in MEASURES}
            between = {modality: layer_intervals(differences[modality], seed, groups) for modality in MODALITIES}
            result["between_models"][f"{b} minus {a}"] = between | {"gap": layer_intervals(gap, seed, groups)}
    return result


def _outcomes(outcomes: Sequence[Mapping[str, Sequence[float]]], seed: int, groups: Groups) -> dict[str, Any]:
    """{modality: {"log_prob", "exact"}}: the mean log-probability of the response, and the share of items whose
    response is that of greedy decoding."""
    return {
        modality: {
            "log_prob": intervals(np.array([o[modality][0] for o in outcomes]), seed, groups),
            "exact": intervals(np.array([float(o[modality][1]) for o in outcomes]), seed, groups, [SCORE]),
        }
        for modality in MODALITIES
    }


def _attention_and_exact(
    items: list[Record], modalities: Mapping[Modality, Mapping[str, Any]], seed: int, groups: Groups
) -> dict[str, Any]:
    """{modality: {measure: {third: {"r", "low", "high"}}}}: do items with more attention have the right response?"""
    found: dict[str, Any] = {}
    for modality in MODALITIES:
        exact = [float(r["outcomes"][modality][1]) for r in items]
        thirds = thirds_of(modalities[modality][MEASURED_WITH_EXACT[0]].shape[1])
        columns = [modalities[modality][m][:, at].mean(1) for m in MEASURED_WITH_EXACT for at in thirds.values()]
        by_column = iter(correlations(np.stack(columns, 1), exact, seed, groups))
        found[modality] = {m: {third: next(by_column) for third in thirds} for m in MEASURED_WITH_EXACT}
    return found


def _interventions(items: list[Record], seed: int, groups: Groups) -> dict[str, Any]:
    """{modality: {intervention: {"log_prob_change", "exact", "exact_change"}}}: changes against the plain pass."""
    found: dict[str, Any] = {modality: {} for modality in MODALITIES}
    for modality in MODALITIES:
        plain = np.array([[float(x) for x in r["outcomes"][modality]] for r in items])
        for name in items[0]["interventions"][modality]:
            changed = np.array([[float(x) for x in r["interventions"][modality][name]] for r in items])
            found[modality][name] = {
                "log_prob_change": intervals(changed[:, 0] - plain[:, 0], seed, groups),
                "exact": intervals(changed[:, 1], seed, groups, [SCORE]),
                "exact_change": intervals(changed[:, 1] - plain[:, 1], seed, groups, [DIFFERENCE]),
            }
    return found


def _tokens(items: list[Record]) -> dict[str, float]:
    """Means over items: token counts by role, and the share for uniform attention."""
    text, audio = ([r["tokens"][modality] for r in items] for modality in MODALITIES)
    return {
        "n": len(items),
        "image": float(np.mean([t["image"] for t in text])),
        "response_rows": float(np.mean([t["response_rows"] for t in text])),
        **{
            f"{name}_{modality}": float(np.mean([t[name] for t in tokens]))
            for name in ("query", "uniform")
            for modality, tokens in zip(MODALITIES, (text, audio), strict=True)
        },
    }


def _measures(modalities: dict[Any, ModalityAttention]) -> Record:
    tokens = {
        modality: {
            "query": v.query_tokens,
            "image": v.image_tokens,
            "response_rows": v.response_rows,
            "uniform": rounded([v.uniform])[0],
        }
        for modality, v in modalities.items()
    }
    by_layer = {modality: {m: rounded(x) for m, x in v.by_layer().items()} for modality, v in modalities.items()}
    return {"tokens": tokens, "modalities": by_layer}


def _map(model: OmniModel, item: PairedItem, attention: ModalityAttention, layer: int) -> list[list[float]]:
    """Empty for an image of several tiles, whose tokens are not one grid."""
    try:
        grid = image_map(model, item, attention, layer)
    except InputError:
        return []
    return [rounded(row) for row in grid]


def _trace(
    model: OmniModel,
    item: PairedItem,
    traces: Traces,
    modalities: Mapping[Modality, ModalityAttention],
    rows: Mapping[Modality, Any],
    at: int,
    reason: str,
) -> dict[str, Any]:
    """The scores of the trace of item `at` of a batch, or why there are none."""
    if reason:
        return {"left_out": reason}
    try:
        grid = image_grid(model, item, modalities["audio"].image_tokens)
    except InputError:
        return {"left_out": NOT_ONE_GRID}
    count = len(traces.words[item.id])
    has_rows = np.logical_and(*((rows[m][at, :, :count].sum(0) > 0).numpy() for m in MODALITIES))
    maps = {m: v.word_maps_LWI[:, :count].numpy() for m, v in modalities.items() if v.word_maps_LWI is not None}
    return score_trace(traces, item.id, grid, maps, has_rows)


def _about(config: AttentionConfig) -> dict[str, Any]:
    return {
        "measures": MEASURES,
        "trace_measures": TRACE_MEASURES,
        "level": LEVEL,
        "resamples": RESAMPLES,
        "seed": config.seed,
    }
