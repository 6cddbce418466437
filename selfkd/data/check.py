"""Whether folders of spoken questions are whole: every shard by its hash, every column by its type, every picture and
every clip decoded; and, with a model, which rows it can take."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from selfkd.data.dataset import ExampleFolder, check_columns, readable
from selfkd.data.example import (
    MANIFEST,
    SAMPLE_RATE_HZ,
    SCHEMA,
    SCHEMA_VERSION,
    Example,
    example_of_row,
    index_of,
    read_manifest,
)
from selfkd.errors import InputError
from selfkd.files import check_name, path_within, sha256


@dataclass
class CheckConfig:
    """Checks folders of spoken questions: hashes, columns, rows, pictures, sound; with a model, which rows it can take.

    Args:
        data: Folders that selfkd synthesize wrote.
        model: Model (a folder or a hub id, with what selfkd distill and evaluate take) whose processor and context each
            row is tried with, as training and evaluation would; reads no weights. None by default.
        max_new_tokens: Room that is kept for a response, as in selfkd evaluate.
    """

    data: list[Path]
    model: str = ""
    max_new_tokens: int = 128


def check(config: CheckConfig) -> dict[str, dict[str, Any]]:
    """Returns {folder: figures}; raises InputError naming the first file, row and field that is wrong, or, with a
    model, all rows that it cannot take."""
    if not config.data:
        raise InputError("data: names no folder")
    if config.max_new_tokens < 1:
        raise InputError(f"max_new_tokens: {config.max_new_tokens}: must be at least 1")
    if config.model:
        from selfkd.model.checkpoint import inspect_checkpoint

        info = inspect_checkpoint(config.model, weights=False)
    metrics: dict[str, dict[str, Any]] = {str(folder): _figures(folder) for folder in config.data}
    found: list[Any] = []
    total = 0
    if config.model:
        from selfkd.training.usable_rows import unusable_text  # with torch

        for folder in config.data:
            unusable = _unusable(config, info, ExampleFolder(folder))
            metrics[str(folder)]["usable"] = metrics[str(folder)]["examples"] - len(unusable)
            found, total = found + unusable, total + metrics[str(folder)]["examples"]
    for name, known in metrics.items():
        Console().print(_table(known))
        print(f"{name} is whole")
        print(f"{name}: {_gradable(ExampleFolder(Path(name)))}")
        if config.model:
            print(f"{name}: {known['usable']:,} of {known['examples']:,} rows can be used with {config.model}")
    if found:
        raise InputError(f"data: {unusable_text(found, total)} (--skip_unusable true of a command leaves them out)")
    return metrics


def _unusable(config: CheckConfig, info: Any, folder: ExampleFolder) -> list[Any]:
    """The rows that training, or evaluation in any view, could not take."""
    from selfkd.training.usable_rows import Use, find_unusable

    processor, model = info.processor, info.config
    learnt = None if model.ctc_token_ids is None else frozenset(model.ctc_token_ids)
    learns = Use(processor, model.context, trains=True, ctc_tokens=learnt)
    found = find_unusable([(folder, None)], learns, whole=True)
    asks = Use(processor, model.context, new_tokens=config.max_new_tokens)
    left = folder.without([u.position for u in found])
    return found + find_unusable([(left, None)], asks, decode=False)


def _gradable(folder: ExampleFolder) -> str:
    """Whether selfkd evaluate has a rule for its questions; a folder to train on need not have one."""
    from selfkd.evaluation.grading import check_gradable, check_source_name

    try:
        check_source_name(folder)
        check_gradable(folder.source, folder.columns("id", "question_type", "question", "target"))
    except InputError as error:
        return f"for training alone, selfkd evaluate refuses it ({error})"
    return "can be trained on and evaluated"


def _table(metrics: Mapping[str, Any]) -> Table:
    table = Table(show_header=False)
    for name, value in metrics.items():
        table.add_row(name, f"{value:,}")
    return table


def _figures(folder: Path) -> dict[str, Any]:
    manifest = read_manifest(folder)
    if manifest.get("schema_version") != SCHEMA_VERSION:
        raise InputError(f"{folder}: field schema_version: {manifest.get('schema_version')}, not {SCHEMA_VERSION}")
    missing = [f for f in ("rows", "shards", "rejected", "rejected_shards") if f not in manifest]
    if missing:
        raise InputError(f"{folder}: field {missing[0]}: not in the manifest")
    shards = manifest["shards"]
    for shard in (all_shards := [*shards, *manifest["rejected_shards"]]):
        for field, question_type in (("sha256", str), ("rows", int)):
            if not isinstance(shard.get(field), question_type) or isinstance(shard[field], bool):
                raise InputError(f"{folder / MANIFEST}: {shard['file']}: field {field}: {shard.get(field)!r:.60}")
    named = [shard["file"] for shard in all_shards]
    if twice := [name for name in named if named.count(name) > 1]:
        raise InputError(f"{folder / MANIFEST}: field shards: {twice[0]} is there twice")
    for path in sorted(folder.rglob("*.parquet")):  # others would read it with the rest
        if str(path.relative_to(folder)) not in named:
            raise InputError(f"{path}: there, though the manifest does not name it")
    seen: set[str] = set()
    seconds, images, voices = 0.0, set(), set()
    for shard in tqdm(all_shards, "checking", unit="shard"):
        path = _within(folder, shard["file"])
        if not path.is_file():
            raise InputError(f"{path}: not there, though the manifest names it")
        if sha256(path) != shard["sha256"]:
            raise InputError(f"{path}: field sha256: the file is not the one that the manifest was written for")
        number = 0  # of the rows of this shard
        with readable(path):
            file = pq.ParquetFile(path)
            _check_schema(path, file)
            for batch in file.iter_batches(batch_size=32):
                for row in batch.to_pylist():
                    example = _checked(f"{path}: row {number}", row, seen)
                    if bool(example.rejected) != (shard not in shards):
                        raise InputError(f"{path}: row {number}: field rejected: {example.rejected!r} is not so")
                    number += 1
                    if not example.rejected:
                        seconds += example.duration_seconds
                        images.add(row["image_hash"])
                        voices.add(example.voice)
        if number != shard["rows"]:
            raise InputError(f"{path}: field rows: {number} there, {shard['rows']} in the manifest")
    rows = sum(shard["rows"] for shard in shards)
    if manifest["rows"] != rows:
        raise InputError(f"{folder}: field rows: {manifest['rows']} in the manifest, {rows} in the shards")
    return {
        "examples": rows,
        "rejected": len(manifest["rejected"]),
        "pictures": len(images - {""}),
        "hours of speech": round(seconds / 3600, 2),
        "voices": len(voices),
        "shards": len(manifest["shards"]),
    }


def _check_schema(path: Path, file: pq.ParquetFile) -> None:
    """Raises InputError for a column that is missing, or of another type, or without a value that each row has."""
    schema = file.schema_arrow
    for field in SCHEMA:
        if field.name not in schema.names:
            raise InputError(f"{path}: field {field.name}: there is no such column")
    texts = [field.name for field in SCHEMA if not str(field.type).startswith("struct")]
    check_columns(path, file.schema_arrow.empty_table())
    check_columns(path, file.read(columns=texts))


def _within(folder: Path, name: str) -> Path:
    try:
        return path_within(folder, name)
    except InputError as error:
        raise InputError(f"{folder}: field shards: {error}") from error


def _checked(where: str, row: dict[str, Any], seen: set[str]) -> Example:
    example = example_of_row({name: value for name, value in row.items() if name in SCHEMA.names})
    if example.id in seen:
        raise InputError(f"{where}: field id: {example.id!r} is there twice")
    seen.add(example.id)
    try:
        check_name(example.source)
    except InputError as error:
        raise InputError(f"{where}: field source: {error}") from error
    for name in ("question", "source"):
        if not example.rejected and not getattr(example, name).strip():
            raise InputError(f"{where}: field {name}: is empty")
    if not example.rejected:
        from selfkd.evaluation.grading import details_of

        details_of(vars(example))
    for name, value in index_of(example).items():
        if row[name] != value:
            raise InputError(f"{where}: field {name}: {row[name]!r}, the picture has {value!r}")
    image, samples = example.load_image(), example.samples()  # name the example where they cannot be read
    if image is not None:
        image.load()
    if not abs(len(samples) / SAMPLE_RATE_HZ - example.duration_seconds) <= 1e-6:  # nor is NaN its length
        raise InputError(f"{where}: field duration_seconds: not the length of the speech")
    return example
