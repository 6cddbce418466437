"""What both analyses share: named models, the items of dataset folders, a resumable file of items, and intervals.

Each model and benchmark has one file of items, which is complete or absent, so that an interrupted run resumes with the
missing ones. Means over items have 95% intervals, by measure and by layer (`evaluation/uncertainty.py`). The bootstrap
samples groups of items (those of an image, see `evaluation/grading.py`), not rows or layers; differences (two
modalities, two models) are paired.

Legend: n items, M measures of an item, L layers.
"""

import gc
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import send_to_device
from numpy.typing import NDArray

from selfkd.analysis.forward import text_query
from selfkd.data.dataset import ExampleFolder
from selfkd.data.example import Example
from selfkd.errors import InputError
from selfkd.evaluation.grading import group_of_example
from selfkd.evaluation.own_data import open_own_data
from selfkd.evaluation.uncertainty import Bounds, Groups, mean_intervals
from selfkd.files import path_within, write_text
from selfkd.input_hashes import hashes_of_checkpoint, hashes_of_data
from selfkd.json_files import read_json_lines
from selfkd.model.checkpoint import CheckpointInfo, inspect_checkpoint, ready
from selfkd.model.modeling_omni import OmniModel
from selfkd.progress import progress
from selfkd.run_dir import name_and_path
from selfkd.training.data import PairedCollator, PairedDataset, PairedItem
from selfkd.training.usable_rows import Use, find_unusable, unusable_text


def intervals(
    values: NDArray[np.float64], seed: int, groups: Groups = None, bounds: Sequence[Bounds | None] = (None,)
) -> dict[str, Any]:
    """{"n", "groups", "mean", "low", "high"} of values (n, M) or (n,): means and their intervals, None where not known.
    `bounds` are those of each measure, or one for all."""
    low, high = mean_intervals(values, groups, bounds, seed)
    ends = {"mean": values.mean(0), "low": low, "high": high}
    count = len(values if groups is None else set(groups))
    shaped = {name: np.reshape(end, values.shape[1:]) for name, end in ends.items()}
    return {"n": len(values), "groups": count, **{name: _without_nan(end) for name, end in shaped.items()}}


def _without_nan(values: NDArray[np.float64]) -> Any:
    """As nested lists, None for NaN."""
    as_objects = np.array(values, dtype=object)  # also of a scalar
    as_objects[np.isnan(values)] = None
    return as_objects.tolist()


def layer_intervals(values: Mapping[str, NDArray[np.float64]], seed: int, groups: Groups = None) -> dict[str, Any]:
    """For each measure (n, L): the means by layer, and over the early, middle and late third of the layers.

    All of them use the same resamples."""
    columns = []
    for items_nL in values.values():
        thirds = thirds_of(items_nL.shape[1])
        columns.append(
            np.concatenate([items_nL, *(items_nL[:, at].mean(1, keepdims=True) for at in thirds.values())], 1)
        )
    all_columns = intervals(np.concatenate(columns, 1), seed, groups)
    result, start = {}, 0
    for name, items_nL in values.items():
        layers, thirds = items_nL.shape[1], thirds_of(items_nL.shape[1])
        by_third = {third: _select(all_columns, start + layers + i) for i, third in enumerate(thirds)}
        result[name] = {"layers": _select(all_columns, slice(start, start + layers)), "thirds": by_third}
        start += layers + len(thirds)
    return result


def _select(found: Mapping[str, Any], columns: int | slice) -> dict[str, Any]:
    counts = {name: found[name] for name in ("n", "groups")}
    return counts | {end: found[end][columns] for end in ("mean", "low", "high")}


def thirds_of(layers: int) -> dict[str, list[int]]:
    """{third: its layers}; with fewer than three layers some thirds are missing."""
    parts = np.array_split(np.arange(layers), 3)
    return {name: p.tolist() for name, p in zip(("early", "middle", "late"), parts, strict=True) if len(p)}


def pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """(earlier, later) for each pair of models, in the given order."""
    return [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]


Record = dict[str, Any]
# (model, its processor, items, their examples, their batch, the questions in `text_ids`)
Measure = Callable[[OmniModel, Any, list[PairedItem], list[Example], dict[str, Any], list[slice]], list[Record]]


def named_paths(field: str, entries: Sequence[str]) -> dict[str, str]:
    """{name: path} of NAME=PATH or PATH; the default name is that of the run: runs/sft/model is "sft"."""
    paths: dict[str, str] = {}
    for entry in entries:
        name, path = name_and_path(entry)
        if not name:
            parts = [p for p in Path(path).parts if p != "model"]
            name = parts[-1] if parts else path
        if not name or "/" in name or name in paths:
            raise InputError(f"{field}: {entry}: give each a different name, NAME=PATH")
        paths[name] = path
    if not paths:
        raise InputError(f"{field}: give at least one")
    return paths


def named_models(entries: Sequence[str]) -> dict[str, CheckpointInfo]:
    """{name: checkpoint}; raises InputError, before anything is written, for a path that is no audio model."""
    return {name: inspect_checkpoint(path, "models") for name, path in named_paths("models", entries).items()}


def check_usable(models: Mapping[str, CheckpointInfo], folders: Mapping[str, ExampleFolder], limit: int) -> None:
    """Raises InputError, before a model is loaded, with the items that one of the models cannot take."""
    rows_by_folder = []
    for folder in folders.values():
        rows = folder.columns("image_hash")[: limit or None]
        rows_by_folder.append((folder, [i for i, row in enumerate(rows) if row["image_hash"]]))
    for name, info in models.items():
        use = Use(info.processor, info.config.context, trains=True)
        if found := find_unusable(rows_by_folder, use):
            raise InputError(f"data: {name}: {unusable_text(found, sum(len(some) for _, some in rows_by_folder))}")


def read_folders(data: Sequence[str]) -> dict[str, ExampleFolder]:
    """{benchmark: folder}; raises InputError without any."""
    folders = open_own_data(data)
    if not folders:
        raise InputError("data: give at least one dataset folder")
    for folder in folders.values():
        if any(row.turns > 1 for row in folder.metadata()):
            raise InputError(f"data: {folder.folder}: holds conversations; single questions are analyzed")
    return folders


def inputs_of(models: Mapping[str, CheckpointInfo], folders: Mapping[str, ExampleFolder]) -> dict[str, str]:
    """Hashes of the data and models that an analysis depends on."""
    hashes = hashes_of_data({str(folder.folder): folder for folder in folders.values()})
    for path in (path for info in models.values() for path in info.paths):
        hashes |= hashes_of_checkpoint("models", path)
    return hashes


def with_images(folders: Mapping[str, ExampleFolder], limit: int) -> dict[str, list[Example]]:
    """{source: its first `limit` examples (0: all), those with an image}; raises InputError where none is left."""
    benchmarks = {
        source: [e for e in folder[: limit or None] if e.image is not None] for source, folder in folders.items()
    }
    if empty := [source for source, examples in benchmarks.items() if not examples]:
        raise InputError(f"data: {folders[empty[0]].folder}: no example with an image")
    return benchmarks


def check_numbers(batch_size: int, limit: int) -> None:
    if batch_size < 1 or limit < 0:
        raise InputError("batch_size, limit: must not be negative, and batch_size not 0")


def items_path(folder: Path, benchmark: str, model: str) -> Path:
    return path_within(folder / "items", f"{benchmark}.{model}.jsonl")


def measure_missing(
    folder: Path,
    models: Mapping[str, CheckpointInfo],
    benchmarks: dict[str, list[Example]],
    batch_size: int,
    measure: Measure,
    before_write: Callable[[str, str, list[Record]], None] = lambda *_: None,
) -> None:
    """Writes the missing item files. `measure` returns a record for each item of a batch; `before_write(benchmark,
    model, records)` may take parts out of the records and write them elsewhere."""
    for name, info in models.items():
        missing = [b for b in benchmarks if not items_path(folder, b, name).is_file()]
        if not missing:
            continue
        model, processor = info.load()
        ready(model)
        for benchmark in missing:
            records: list[Record] = []
            for batch in _batches(model, processor, benchmarks[benchmark], batch_size, f"{benchmark}, {name}"):
                records += measure(model, processor, *batch)
            before_write(benchmark, name, records)
            lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
            write_text(items_path(folder, benchmark, name), "".join(lines))
        del model  # before the next one is loaded
        gc.collect()


def _batches(
    model: OmniModel, processor: Any, examples: list[Example], batch_size: int, title: str
) -> Iterator[tuple[list[PairedItem], list[Example], dict[str, Any], list[slice]]]:
    dataset, collate = PairedDataset(examples, processor, model.context), PairedCollator(processor)
    with progress(title, len(examples), "items") as shown, torch.no_grad():
        for start in range(0, len(examples), batch_size):
            chunk = examples[start : start + batch_size]
            items = [dataset[start + i] for i in range(len(chunk))]
            questions = [text_query(processor, e, i) for e, i in zip(chunk, items, strict=True)]
            yield items, chunk, send_to_device(collate(items), model.device), questions
            shown.advance(len(chunk))


def item_fields(example: Example) -> Record:
    """The fields of a record that identify its item; `group` as in the samples of an evaluation."""
    fields = {name: getattr(example, name) for name in ("id", "question_type", "category", "voice")}
    return fields | {"group": group_of_example(example)}


def rounded(numbers: Iterable[float]) -> list[float]:
    """Six significant digits, about the precision of fp32."""
    return [float(f"{x:.6g}") for x in numbers]


def read_items(folder: Path, benchmark: str, models: Iterable[str]) -> dict[str, list[Record]]:
    """{model: its records}; raises InputError where models have different items: records are paired by position."""
    records: dict[str, list[Record]] = {}
    for model in models:
        records[model] = list(read_json_lines(items_path(folder, benchmark, model)))
    ids = {model: [record["id"] for record in items] for model, items in records.items()}
    first = next(iter(ids))
    for model in ids:
        if ids[model] != ids[first]:
            raise InputError(f"{items_path(folder, benchmark, model)}: has different items than {first}; delete one")
    return records
