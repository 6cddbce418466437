"""Whether a folder of spoken questions is whole: every shard by its hash, every picture and every clip decoded."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from selfkd.data.example import SAMPLE_RATE_HZ, SCHEMA_VERSION, Example, example_of_row, index_of, read_manifest
from selfkd.data.folder import readable
from selfkd.errors import InputError
from selfkd.files import check_name, path_within, sha256


@dataclass
class CheckConfig:
    """Checks a folder of spoken questions: hashes, rows, pictures, sound.

    Args:
        data: Folder that selfkd synthesize wrote.
    """

    data: Path


def check(config: CheckConfig) -> dict[str, Any]:
    """Returns figures of the folder; raises InputError naming the first file, row and field that is wrong."""
    manifest = read_manifest(config.data)
    if manifest.get("schema_version") != SCHEMA_VERSION:
        raise InputError(f"{config.data}: field schema_version: {manifest.get('schema_version')}, not {SCHEMA_VERSION}")
    missing = [f for f in ("rows", "shards", "rejected", "rejected_shards") if f not in manifest]
    if missing:
        raise InputError(f"{config.data}: field {missing[0]}: not in the manifest")
    named = {shard["file"] for shard in [*manifest["shards"], *manifest["rejected_shards"]]}
    for path in sorted(config.data.rglob("*.parquet")):  # others would read it with the rest
        if str(path.relative_to(config.data)) not in named:
            raise InputError(f"{path}: there, though the manifest does not name it")
    seen: set[str] = set()
    seconds, pictures, voices = 0.0, set(), set()
    shards = manifest["shards"]
    for shard in tqdm([*shards, *manifest["rejected_shards"]], "checking", unit="shard"):
        path = _within(config.data, shard["file"])
        if not path.is_file():
            raise InputError(f"{path}: not there, though the manifest names it")
        if sha256(path) != shard["sha256"]:
            raise InputError(f"{path}: field sha256: the file is not the one that the manifest was written for")
        number = 0  # of the rows of this shard
        with readable(path):
            for batch in pq.ParquetFile(path).iter_batches(batch_size=32):
                for row in batch.to_pylist():
                    example = _checked(f"{path}: row {number}", row, seen)
                    if bool(example.rejected) != (shard not in shards):
                        raise InputError(f"{path}: row {number}: field rejected: {example.rejected!r} is not so")
                    number += 1
                    if not example.rejected:
                        seconds += example.duration_seconds
                        pictures.add(row["image_hash"])
                        voices.add(example.voice)
        if number != shard["rows"]:
            raise InputError(f"{path}: field rows: {number} there, {shard['rows']} in the manifest")
    rows = sum(shard["rows"] for shard in shards)
    if manifest["rows"] != rows:
        raise InputError(f"{config.data}: field rows: {manifest['rows']} in the manifest, {rows} in the shards")
    figures = {
        "examples": rows,
        "rejected": len(manifest["rejected"]),
        "pictures": len(pictures - {""}),
        "hours of speech": round(seconds / 3600, 2),
        "voices": len(voices),
        "shards": len(manifest["shards"]),
    }
    table = Table(show_header=False)
    for name, value in figures.items():
        table.add_row(name, f"{value:,}")
    Console().print(table)
    print(f"{config.data} is whole")
    return figures


def _within(folder: Path, name: str) -> Path:
    try:
        return path_within(folder, name)
    except InputError as error:
        raise InputError(f"{folder}: field shards: {error}") from error


def _checked(where: str, row: dict[str, Any], seen: set[str]) -> Example:
    example = example_of_row(row)
    if example.id in seen:
        raise InputError(f"{where}: field id: {example.id!r} is there twice")
    seen.add(example.id)
    try:
        check_name(example.source)
    except InputError as error:
        raise InputError(f"{where}: field source: {error}") from error
    for name, value in index_of(example).items():
        if row[name] != value:
            raise InputError(f"{where}: field {name}: {row[name]!r}, the picture has {value!r}")
    picture, samples = example.picture(), example.samples()  # name the example where they cannot be read
    if picture is not None:
        picture.load()
    if abs(len(samples) / SAMPLE_RATE_HZ - example.duration_seconds) > 1e-6:
        raise InputError(f"{where}: field duration_seconds: not the length of the speech")
    return example
