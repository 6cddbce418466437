"""Agreement between text and audio of one or more models: KL divergence, top tokens, hidden states by layer.

Writes into a run directory `items/BENCHMARK.MODEL.jsonl` (one item per line) and last `result.json`: means over items
with their intervals, by benchmark, question type, category, voice and position in the response, differences of models
on the same items, and, where evaluation runs are given, by whether the text and the audio response were correct, and
which items flip.

The value of an item is the mean over its response rows, so that all items weigh the same.
"""

from collections.abc import Callable, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfkd.analysis.agreement import agreement_of_batch
from selfkd.analysis.config import AgreementConfig
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
    named_paths,
    pairs,
    read_folders,
    read_items,
    rounded,
    with_images,
)
from selfkd.data.example import Example
from selfkd.errors import InputError
from selfkd.evaluation.metrics import groups_in
from selfkd.evaluation.samples import read_samples, samples_path
from selfkd.evaluation.uncertainty import DIFFERENCE, LEVEL, RESAMPLES, SCORE, Bounds, Groups
from selfkd.model.modeling_omni import OmniModel
from selfkd.run_dir import Run
from selfkd.training.data import PairedItem

METRICS = {
    "kl": "KL(p_text || p_audio), nats per response row",
    "same_top": "share of response rows with the same top token in text and audio",
    "rank": "rank in audio of the top token of text; 1 is the top",
}
_BOUNDS = {"kl": None, "same_top": SCORE, "rank": None}
LAYER_METRICS = {
    "cosine": "cosine between the hidden states of text and audio at response rows",
    "distance": "|audio - text| / |text| of those hidden states",
}
MAX_POSITIONS = 32  # positions of a response that are reported
OUTCOMES = {
    (True, True): "both correct",
    (True, False): "only text correct",
    (False, True): "only audio correct",
    (False, False): "neither correct",
}
_BREAKDOWNS = ("question_type", "category", "voice")
_FLIPS = OUTCOMES[True, False], OUTCOMES[False, True]


def analyze_agreement(config: AgreementConfig) -> dict[str, Any]:
    """Returns {benchmark: {"models": ..., "between_models": ...}}, as in `result.json` under "benchmarks"."""
    check_numbers(config.batch_size, config.limit)
    models, folders = named_models(config.models), read_folders(config.data)
    benchmarks = with_images(folders, config.limit)
    outcomes = {b: _outcomes(config, b, examples, list(models)) for b, examples in benchmarks.items()}

    def measure(
        model: OmniModel, _: Any, __: list[PairedItem], examples: list[Example], batch: Any, questions: list[slice]
    ) -> list[Record]:
        agreements = agreement_of_batch(model, batch, questions)
        return [
            item_fields(e)
            | {"kl": rounded(a.kl), "same_top": a.same_top, "rank": a.rank}
            | {"cosine": rounded(a.cosine), "distance": rounded(a.distance)}
            for e, a in zip(examples, agreements, strict=True)
        ]

    with Run.open(config.output, "agreement", config, inputs=lambda: inputs_of(models, folders)) as run:
        check_usable(models, folders, config.limit)
        measure_missing(run.folder, models, benchmarks, config.batch_size, measure)
        result = {
            b: summarize_agreement(read_items(run.folder, b, models), outcomes[b], config.seed) for b in benchmarks
        }
        about = {"metrics": METRICS | LAYER_METRICS, "level": LEVEL, "resamples": RESAMPLES, "seed": config.seed}
        run.finish(benchmarks=result, inputs=run.inputs, about=about)
        return result


def summarize_agreement(
    records: dict[str, list[Record]], outcomes: dict[str, dict[str, str]], seed: int
) -> dict[str, Any]:
    """{"models": {model: {metric: interval, "by_layer", ...}}, "between_models": {"B minus A": ...}}. `outcomes` is
    {model: {item id: one of `OUTCOMES`}} and may lack models."""
    result: dict[str, Any] = {"models": {}, "between_models": {}}
    for model, items in records.items():
        result["models"][model] = {
            **_metric_intervals(_item_metrics(items), seed, groups_in(items)),
            "by_layer": layer_intervals(_item_layers(items), seed, groups_in(items)),
            "by_position": _by_position(items, seed),
            **{f"by_{name}": _grouped_intervals(items, itemgetter(name), seed) for name in _BREAKDOWNS},
        }
        if model in outcomes:
            by_id = outcomes[model]
            result["models"][model]["by_outcome"] = _grouped_intervals(items, _outcome(by_id), seed)
            flips = {outcome: [i["id"] for i in items if by_id.get(i["id"]) == outcome] for outcome in _FLIPS}
            result["models"][model]["flips"] = flips
    for a, b in pairs(list(records)):
        difference, groups = _item_metrics(records[b]) - _item_metrics(records[a]), groups_in(records[a])
        bounds = [None if bound is None else DIFFERENCE for bound in _BOUNDS.values()]
        between: dict[str, Any] = _metric_intervals(difference, seed, groups, bounds)
        first, second = _item_layers(records[a]), _item_layers(records[b])
        if first["cosine"].shape == second["cosine"].shape:
            between["by_layer"] = layer_intervals({m: second[m] - first[m] for m in LAYER_METRICS}, seed, groups)
        result["between_models"][f"{b} minus {a}"] = between
    return result


def _item_metrics(items: list[Record]) -> NDArray[np.float64]:
    """(n, 3): the `METRICS` of each item, mean over its response rows."""
    return np.array([[np.mean(item[name]) for name in METRICS] for item in items])


def _item_layers(items: list[Record]) -> dict[str, NDArray[np.float64]]:
    return {name: np.array([item[name] for item in items]) for name in LAYER_METRICS}


def _metric_intervals(
    values_n3: NDArray[np.float64],
    seed: int,
    groups: Groups,
    bounds: Sequence[Bounds | None] = tuple(_BOUNDS.values()),
) -> dict[str, Any]:
    by_end = intervals(values_n3, seed, groups, bounds)
    metrics = {name: {end: by_end[end][i] for end in ("mean", "low", "high")} for i, name in enumerate(METRICS)}
    return {"n": by_end["n"], "groups": by_end["groups"], **metrics}


def _grouped_intervals(items: list[Record], key: Callable[[Record], str | None], seed: int) -> dict[str, Any]:
    by_key: dict[str, list[Record]] = {}
    for item in items:
        if (name := key(item)) is not None:
            by_key.setdefault(name, []).append(item)
    return {
        name: _metric_intervals(_item_metrics(part), seed, groups_in(part)) for name, part in sorted(by_key.items())
    }


def _outcome(by_id: dict[str, str]) -> Callable[[Record], str | None]:
    return lambda item: by_id.get(item["id"])  # None where a modality has no response


def _by_position(items: list[Record], seed: int) -> list[dict[str, Any]]:
    """By position in the response, 0 is the first token; over the items whose response is that long."""
    longest = min(max(len(item["kl"]) for item in items), MAX_POSITIONS)
    by_position = []
    for position in range(longest):
        long_enough = [item for item in items if len(item["kl"]) > position]
        values = np.array([[item[name][position] for name in METRICS] for item in long_enough], dtype=float)
        by_position.append({"position": position, **_metric_intervals(values, seed, groups_in(long_enough))})
    return by_position


def _outcomes(
    config: AgreementConfig, benchmark: str, examples: list[Example], models: list[str]
) -> dict[str, dict[str, str]]:
    """{model: {item id: outcome}} from the samples of evaluation runs; raises InputError where items are missing."""
    if bool(config.text_run) != bool(config.audio_runs):
        raise InputError("text_run, audio_runs: items flip from one to the other: give both or neither")
    if not config.text_run:
        return {}
    audio_runs = named_paths("audio_runs", config.audio_runs)
    unknown = sorted(set(audio_runs) - set(models))
    if unknown:
        raise InputError(f"audio_runs: {unknown[0]}: not the name of a model ({', '.join(models)})")
    questions = {e.id: e.question for e in examples}
    text = _correctness("text_run", config.text_run, benchmark, "text", questions)
    outcomes = {}
    for model, run in audio_runs.items():
        audio = _correctness("audio_runs", run, benchmark, "audio", questions)
        outcomes[model] = {
            i: OUTCOMES[t, a] for i in questions if (t := text[i]) is not None and (a := audio[i]) is not None
        }
    return outcomes


def _correctness(
    name: str, run: str, benchmark: str, modality: str, questions: dict[str, str]
) -> dict[str, bool | None]:
    """{item id: whether the response is correct}; None for an item without a response."""
    samples = read_samples(samples_path(Path(run), benchmark, modality))
    correct = {s["id"]: s["correct"] for s in samples if s["question"] == questions.get(s["id"])}
    missing = [i for i in questions if i not in correct]
    if missing:
        raise InputError(f"{name}: {run}: {benchmark} lacks item {missing[0]}")
    return correct
