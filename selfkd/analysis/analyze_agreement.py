"""Agreement of the spoken with the written view of models, side by side: KL, top tokens, hidden states by layer.

Writes into a run directory `items/BENCHMARK.MODEL.jsonl` (one item a line) and last `result.json`: means over items
with their intervals, by benchmark, kind, category, voice, position in the response, and, where evaluation runs are
given, by whether the written and the spoken reply were right, and which items flip; differences of models on the same
items.

An item's figure is the mean over its response rows, so items weigh alike, however long their responses.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfkd.analysis.agreement import agreement_of_batch
from selfkd.analysis.runner import (
    Record,
    about,
    check_numbers,
    check_usable,
    inputs_of,
    intervals,
    layer_intervals,
    measure_missing,
    named,
    named_models,
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
    "kl": "KL(p_text || p_speech), nats per response row",
    "same_top": "share of response rows whose top token is the same in both views",
    "rank": "place of the written view's top token in the spoken view; 1 is its top",
}
_BOUNDS = {"kl": None, "same_top": SCORE, "rank": None}
BY_LAYER = {
    "cosine": "cosine between the two views' hidden states at response rows",
    "distance": "|speech - text| / |text| of those hidden states",
}
MAX_POSITIONS = 32  # of a response, in the table by position
OUTCOMES = {
    (True, True): "both right",
    (True, False): "written alone right",
    (False, True): "spoken alone right",
    (False, False): "neither right",
}


_FLIPS = OUTCOMES[True, False], OUTCOMES[False, True]


@dataclass
class AgreementConfig:
    """How far the spoken view's answers are from the written view's, by token and by layer.

    Args:
        models: Models to put side by side, NAME=PATH or PATH (the name is then the run's): a model of selfkd, or a
            native omni model.
        data: Folders of spoken questions, one a benchmark.
        output: Run directory.
        limit: At most so many items of each benchmark; 0 takes all.
        batch_size: Items that are read together.
        seed: Seed of the bootstrap.
        written_run: Evaluation run with the view text, for whether an item flips; none by default.
        spoken_runs: Evaluation runs with the view speech, NAME=PATH for each of the models.
    """

    models: list[str]
    data: list[str]
    output: Path
    limit: int = 0
    batch_size: int = 16
    seed: int = 0
    written_run: str = ""
    spoken_runs: list[str] = field(default_factory=list)


def analyze_agreement(config: AgreementConfig) -> dict[str, Any]:
    """Returns {benchmark: {"models": ..., "between_models": ...}}, as in `result.json` under "benchmarks"."""
    check_numbers(config.batch_size, config.limit)
    models, folders = named_models(config.models), read_folders(config.data)
    benchmarks = with_images(folders, config.limit)
    outcomes = {b: _outcomes(config, b, examples, list(models)) for b, examples in benchmarks.items()}

    def measure(
        model: OmniModel, _: list[PairedItem], examples: list[Example], batch: Any, questions: list[slice]
    ) -> list[Record]:
        found = agreement_of_batch(model, batch, questions)
        return [
            about(e)
            | {"kl": rounded(a.kl), "same_top": a.same_top, "rank": a.rank}
            | {"cosine": rounded(a.cosine), "distance": rounded(a.distance)}
            for e, a in zip(examples, found, strict=True)
        ]

    with Run.open(config.output, "agreement", config, inputs=lambda: inputs_of(models, folders)) as run:
        check_usable(models, folders, config.limit)
        measure_missing(run.folder, models, benchmarks, config.batch_size, measure)
        result = {
            b: summarize_agreement(read_items(run.folder, b, models), outcomes[b], config.seed) for b in benchmarks
        }
        what = {"figures": METRICS | BY_LAYER, "level": LEVEL, "resamples": RESAMPLES, "seed": config.seed}
        run.finish(benchmarks=result, inputs=run.inputs, about=what)
        return result


def summarize_agreement(
    records: dict[str, list[Record]], outcomes: dict[str, dict[str, str]], seed: int
) -> dict[str, Any]:
    """{"models": {model: {figure: interval, "by_layer", "by_kind", ...}}, "between_models": {"B minus A": ...}};
    `outcomes` is {model: {item's id: one of `OUTCOMES`}}, and may lack models."""
    result: dict[str, Any] = {"models": {}, "between_models": {}}
    for model, items in records.items():
        result["models"][model] = {
            **_figure_intervals(_figures(items), seed, groups_in(items)),
            "by_layer": layer_intervals(_layers(items), seed, groups_in(items)),
            "by_position": _by_position(items, seed),
            **{f"by_{name}": _by(items, _field(name), seed) for name in ("question_type", "category", "voice")},
        }
        if model in outcomes:
            by_id = outcomes[model]
            result["models"][model]["by_outcome"] = _by(items, _outcome(by_id), seed)
            result["models"][model]["flips"] = {o: [i["id"] for i in items if by_id.get(i["id"]) == o] for o in _FLIPS}
    for a, b in pairs(list(records)):
        moved, groups = _figures(records[b]) - _figures(records[a]), groups_in(records[a])
        bounds = [None if of is None else DIFFERENCE for of in _BOUNDS.values()]
        between: dict[str, Any] = _figure_intervals(moved, seed, groups, bounds)
        first, second = _layers(records[a]), _layers(records[b])
        if first["cosine"].shape == second["cosine"].shape:
            between["by_layer"] = layer_intervals({m: second[m] - first[m] for m in BY_LAYER}, seed, groups)
        result["between_models"][f"{b} minus {a}"] = between
    return result


def _figures(items: list[Record]) -> NDArray[np.float64]:
    """(n, 3): `METRICS` of each item, mean over its response rows."""
    return np.array([[np.mean(item[name]) for name in METRICS] for item in items])


def _layers(items: list[Record]) -> dict[str, NDArray[np.float64]]:
    return {name: np.array([item[name] for item in items]) for name in BY_LAYER}


def _figure_intervals(
    values_n3: NDArray[np.float64],
    seed: int,
    groups: Groups,
    bounds: Sequence[Bounds | None] = tuple(_BOUNDS.values()),
) -> dict[str, Any]:
    found = intervals(values_n3, seed, groups, bounds)
    metrics = {name: {metric: found[metric][i] for metric in ("mean", "low", "high")} for i, name in enumerate(METRICS)}
    return {"n": found["n"], "groups": found["groups"], **metrics}


def _by(items: list[Record], kind_of: Callable[[Record], str | None], seed: int) -> dict[str, Any]:
    question_types: dict[str, list[Record]] = {}
    for item in items:
        if (question_type := kind_of(item)) is not None:
            question_types.setdefault(question_type, []).append(item)
    return {name: _figure_intervals(_figures(of), seed, groups_in(of)) for name, of in sorted(question_types.items())}


def _field(name: str) -> Callable[[Record], str]:
    return lambda item: item[name]


def _outcome(by_id: dict[str, str]) -> Callable[[Record], str | None]:
    return lambda item: by_id.get(item["id"])  # none where one of the views has no reply


def _by_position(items: list[Record], seed: int) -> list[dict[str, Any]]:
    """By place in the response, 0 the first token; over the items whose response is that long."""
    longest = min(max(len(item["kl"]) for item in items), MAX_POSITIONS)
    found = []
    for position in range(longest):
        there = [item for item in items if len(item["kl"]) > position]
        values = np.array([[item[name][position] for name in METRICS] for item in there], dtype=float)
        found.append({"position": position, **_figure_intervals(values, seed, groups_in(there))})
    return found


def _outcomes(
    config: AgreementConfig, benchmark: str, examples: list[Example], models: list[str]
) -> dict[str, dict[str, str]]:
    """{model: {item's id: outcome}} from the samples of evaluation runs; raises InputError where they do not fit."""
    if bool(config.written_run) != bool(config.spoken_runs):
        raise InputError("written_run, spoken_runs: an item flips between the two: give both or neither")
    if not config.written_run:
        return {}
    spoken = named("spoken_runs", config.spoken_runs)
    unknown = sorted(set(spoken) - set(models))
    if unknown:
        raise InputError(f"spoken_runs: {unknown[0]}: not the name of a model ({', '.join(models)})")
    questions = {e.id: e.question for e in examples}
    written = _right("written_run", config.written_run, benchmark, "text", questions)
    found = {}
    for model, run in spoken.items():
        right = _right("spoken_runs", run, benchmark, "audio", questions)
        found[model] = {
            i: OUTCOMES[w, s] for i in questions if (w := written[i]) is not None and (s := right[i]) is not None
        }
    return found


def _right(name: str, run: str, benchmark: str, modality: str, questions: dict[str, str]) -> dict[str, bool | None]:
    """None for an item without a reply."""
    samples = read_samples(samples_path(Path(run), benchmark, modality))
    right = {s["id"]: s["correct"] for s in samples if s["question"] == questions.get(s["id"])}
    missing = [i for i in questions if i not in right]
    if missing:
        raise InputError(f"{name}: {run}: {benchmark} lacks item {missing[0]}")
    return right
