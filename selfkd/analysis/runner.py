"""What the two analyses share: named models, the items of dataset folders, a resumable file of items, and intervals.

Each model and benchmark has one file of items, which is whole or absent, so that an interrupted run resumes with the
missing ones. Means over items have 95% intervals, by measure and by layer (`evaluation/bootstrap.py`). Groups of items
are drawn (those of an image, see `evaluation/grading.py`), not rows or layers: a difference of the same items (two
modalities, two models) is that of pairs.

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
from tqdm import tqdm
from transformers.utils import logging as transformers_logging

from selfkd.analysis.forward import text_query
from selfkd.data.dataset import ExampleFolder
from selfkd.data.example import Example
from selfkd.errors import InputError
from selfkd.evaluation.grading import check_name, group_of_example
from selfkd.evaluation.uncertainty import Bounds, Groups, mean_intervals
from selfkd.files import path_within, write_text
from selfkd.input_hashes import hashes_of_checkpoint, hashes_of_data
from selfkd.model.checkpoint import CheckpointInfo, inspect_checkpoint, ready
from selfkd.model.modeling_omni import OmniModel
from selfkd.run_dir import name_and_path
from selfkd.training.data import PairedCollator, PairedDataset, PairedItem
from selfkd.training.usable_rows import Use, find_unusable, told


def intervals(
    values: NDArray[np.float64], seed: int, groups: Groups = None, bounds: Sequence[Bounds | None] = (None,)
) -> dict[str, Any]:
    """{"n", "groups", "mean", "low", "high"} of items (n, M) or (n,): the interval of the mean, by figure; None for the
    ends of one of which nothing is known. `bounds` are those of each figure, or one for all."""
    low, high = mean_intervals(values, groups, bounds, seed)
    metrics = {"mean": values.mean(0), "low": low, "high": high}
    count = len(values if groups is None else set(groups))
    shaped = {name: np.reshape(metric, values.shape[1:]) for name, metric in metrics.items()}
    return {"n": len(values), "groups": count, **{name: _known(metric) for name, metric in shaped.items()}}


def _known(metrics: NDArray[np.float64]) -> Any:
    """As lists, None for NaN."""
    known = np.array(metrics, dtype=object)  # of a single figure too
    known[np.isnan(metrics)] = None
    return known.tolist()


def layer_intervals(values: Mapping[str, NDArray[np.float64]], seed: int, groups: Groups = None) -> dict[str, Any]:
    """Of items (n, L) by measure: the means by layer, and those over the early, middle and late third of the layers.

    All of them with the same resamples, drawn once."""
    columns = []
    for items_nL in values.values():
        thirds = thirds_of(items_nL.shape[1])
        columns.append(
            np.concatenate([items_nL, *(items_nL[:, at].mean(1, keepdims=True) for at in thirds.values())], 1)
        )
    found = intervals(np.concatenate(columns, 1), seed, groups)
    result, start = {}, 0
    for name, items_nL in values.items():
        layers, thirds = items_nL.shape[1], thirds_of(items_nL.shape[1])
        by_third = {third: _some(found, start + layers + i) for i, third in enumerate(thirds)}
        result[name] = {"layers": _some(found, slice(start, start + layers)), "thirds": by_third}
        start += layers + len(thirds)
    return result


def _some(found: Mapping[str, Any], at: int | slice) -> dict[str, Any]:
    counts = {name: found[name] for name in ("n", "groups")}
    return counts | {metric: found[metric][at] for metric in ("mean", "low", "high")}


def thirds_of(layers: int) -> dict[str, list[int]]:
    """Layers by depth; where fewer than three, some thirds are not there."""
    parts = np.array_split(np.arange(layers), 3)
    return {name: p.tolist() for name, p in zip(("early", "middle", "late"), parts, strict=True) if len(p)}


def pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """(earlier, later) of each two models, in the order in which they were given."""
    return [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]


Record = dict[str, Any]
Measure = Callable[[OmniModel, list[PairedItem], list[Example], dict[str, Any], list[slice]], list[Record]]


def named(field: str, entries: Sequence[str]) -> dict[str, str]:
    """{name: path} of NAME=PATH or PATH; a path's own name is that of its run: runs/sft/model is "sft"."""
    found: dict[str, str] = {}
    for entry in entries:
        name, path = name_and_path(entry)
        if not name:
            parts = [p for p in Path(path).parts if p != "model"]
            name = parts[-1] if parts else path
        if not name or "/" in name or name in found:
            raise InputError(f"{field}: {entry}: give each a name of its own, NAME=PATH")
        found[name] = path
    if not found:
        raise InputError(f"{field}: give at least one")
    return found


def named_models(entries: Sequence[str]) -> dict[str, CheckpointInfo]:
    """{name: checkpoint}; raises InputError, before anything is made, for what is no model that hears."""
    return {name: inspect_checkpoint(path, "models") for name, path in named("models", entries).items()}


def check_usable(models: Mapping[str, CheckpointInfo], folders: Mapping[str, ExampleFolder], limit: int) -> None:
    """Raises InputError, before a model is loaded, that lists the items which one of them cannot take."""
    asked = []
    for folder in folders.values():
        rows = folder.columns("image_hash")[: limit or None]
        asked.append((folder, [i for i, row in enumerate(rows) if row["image_hash"]]))
    for name, info in models.items():
        use = Use(info.processor, info.config.context, learns=True)
        if found := find_unusable(asked, use):
            raise InputError(f"data: {name}: {told(found, sum(len(some) for _, some in asked))}")


def read_folders(data: Sequence[str]) -> dict[str, ExampleFolder]:
    """{source: folder}, a benchmark each."""
    folders: dict[str, ExampleFolder] = {}
    for folder in map(ExampleFolder, map(Path, data)):
        check_name(folder)
        if folder.source in folders:
            raise InputError(f"data: {folder.folder}: a second folder of {folder.source}")
        folders[folder.source] = folder
    if not folders:
        raise InputError("data: give at least one folder of spoken questions")
    return folders


def inputs_of(models: Mapping[str, CheckpointInfo], folders: Mapping[str, ExampleFolder]) -> dict[str, str]:
    """What an analysis stands on beside its configuration."""
    found = hashes_of_data({str(folder.folder): folder for folder in folders.values()})
    for path in (path for info in models.values() for path in info.paths):
        found |= hashes_of_checkpoint("models", path)
    return found


def with_images(folders: Mapping[str, ExampleFolder], limit: int) -> dict[str, list[Example]]:
    """{source: its first `limit` examples that have a picture, 0 for all}; raises InputError where none is left."""
    benchmarks = {
        source: [e for e in folder[: limit or None] if e.image is not None] for source, folder in folders.items()
    }
    if empty := [source for source, examples in benchmarks.items() if not examples]:
        raise InputError(f"data: {folders[empty[0]].folder}: no example with a picture")
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
    also: Callable[[str, str, list[Record]], None] = lambda *_: None,
) -> None:
    """Writes the item files that are not there. `measure` gives a record for each item of a batch; `also(benchmark,
    model, records)` may take something out of them, and write it, before they are written."""
    transformers_logging.disable_progress_bar()
    for name, info in models.items():
        missing = [b for b in benchmarks if not items_path(folder, b, name).is_file()]
        if not missing:
            continue
        model, processor = info.load()
        ready(model)
        for benchmark in missing:
            records: list[Record] = []
            for batch in _batches(model, processor, benchmarks[benchmark], batch_size, f"{benchmark}, {name}"):
                records += measure(model, *batch)
            also(benchmark, name, records)
            lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
            write_text(items_path(folder, benchmark, name), "".join(lines))
        del model  # before the next one is loaded
        gc.collect()


def _batches(
    model: OmniModel, processor: Any, examples: list[Example], batch_size: int, title: str
) -> Iterator[tuple[list[PairedItem], list[Example], dict[str, Any], list[slice]]]:
    dataset, collate = PairedDataset(examples, processor, model.context), PairedCollator(processor)
    with tqdm(total=len(examples), desc=title, unit="item") as progress, torch.no_grad():
        for start in range(0, len(examples), batch_size):
            some = examples[start : start + batch_size]
            items = [dataset[start + i] for i in range(len(some))]
            questions = [text_query(processor, e, i) for e, i in zip(some, items, strict=True)]
            yield items, some, send_to_device(collate(items), model.device), questions
            progress.update(len(some))


def about(example: Example) -> Record:
    """What a record says of its item beside the figures; `group` as in the records of an evaluation."""
    known = {name: getattr(example, name) for name in ("id", "question_type", "category", "voice")}
    return known | {"group": group_of_example(example)}


def rounded(numbers: Iterable[float]) -> list[float]:
    """Six digits that count: what fp32 knows, and no more."""
    return [float(f"{x:.6g}") for x in numbers]


def read_items(folder: Path, benchmark: str, models: Iterable[str]) -> dict[str, list[Record]]:
    """{model: its records}; raises InputError where models were not measured on the same items, which are paired by
    their place."""
    records: dict[str, list[Record]] = {}
    for model in models:
        with items_path(folder, benchmark, model).open("rb") as file:
            records[model] = [json.loads(line) for line in file]
    ids = {model: [record["id"] for record in items] for model, items in records.items()}
    first = next(iter(ids))
    for model in ids:
        if ids[model] != ids[first]:
            raise InputError(f"{items_path(folder, benchmark, model)}: other items than those of {first}; delete one")
    return records
