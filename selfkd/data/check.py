"""Whether a folder of synthesized questions is whole: every shard by its hash, every column by its type, every image
and every audio clip decoded. Knows no model; the command is in `selfkd/check_data.py`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from selfkd.data.dataset import check_columns, shard_errors
from selfkd.data.example import (
    CONVERSATIONS,
    HISTORY,
    MANIFEST,
    SAMPLE_RATE_HZ,
    SCHEMA,
    Example,
    check_schema_version,
    example_from_row,
    image_columns,
    read_manifest,
)
from selfkd.errors import InputError
from selfkd.files import check_name, path_within, sha256
from selfkd.progress import SLOW_SECONDS, progress


def check_folder(folder: Path, check_example: Callable[[Example], None] | None = None) -> dict[str, Any]:
    """{name: count} of a complete folder; `check_example` is called with every example that was not rejected. Raises
    InputError naming the first file, row and field that is wrong."""
    manifest = read_manifest(folder)
    check_schema_version(folder / MANIFEST, manifest.get("schema_version"))
    missing = [f for f in ("rows", "shards", "rejected", "rejected_shards") if f not in manifest]
    if missing:
        raise InputError(f"{folder}: field {missing[0]}: not in the manifest")
    shards = manifest["shards"]
    for shard in (all_shards := [*shards, *manifest["rejected_shards"]]):
        for field, type_ in (("sha256", str), ("rows", int)):
            if not isinstance(shard.get(field), type_) or isinstance(shard[field], bool):
                raise InputError(f"{folder / MANIFEST}: {shard['file']}: field {field}: {shard.get(field)!r:.60}")
    files = [shard["file"] for shard in all_shards]
    if duplicates := [name for name in files if files.count(name) > 1]:
        raise InputError(f"{folder / MANIFEST}: field shards: {duplicates[0]} is listed twice")
    for path in sorted(folder.rglob("*.parquet")):  # other tools would read it with the rest
        if str(path.relative_to(folder)) not in files:
            raise InputError(f"{path}: not in the manifest")
    ids: set[str] = set()
    seconds, turns, images, voices = 0.0, 0, set(), set()
    with progress("checking", len(all_shards), "shards", SLOW_SECONDS) as shown:
        for shard in shown.over(all_shards):
            path = _within(folder, shard["file"])
            if not path.is_file():
                raise InputError(f"{path}: in the manifest, but there is no such file")
            if sha256(path) != shard["sha256"]:
                raise InputError(f"{path}: field sha256: the file is not the one in the manifest")
            number = 0  # of the row in this shard
            with shard_errors(path):
                file = pq.ParquetFile(path)
                _check_schema(path, file)
                for batch in file.iter_batches(batch_size=32):
                    for row in batch.to_pylist():
                        example = _check_row(f"{path}: row {number}", row, ids)
                        if bool(example.rejected) != (shard not in shards):
                            raise InputError(
                                f"{path}: row {number}: field rejected: {example.rejected!r} in this shard"
                            )
                        if check_example is not None and not example.rejected:
                            check_example(example)
                        number += 1
                        if not example.rejected:
                            seconds += example.speech_seconds
                            turns += len(example.history) + 1
                            images.add(row["image_hash"])
                            voices.add(example.voice)
            if number != shard["rows"]:
                raise InputError(f"{path}: field rows: {number} in the file, {shard['rows']} in the manifest")
    rows = sum(shard["rows"] for shard in shards)
    if manifest["rows"] != rows:
        raise InputError(f"{folder}: field rows: {manifest['rows']} in the manifest, {rows} in the shards")
    return {
        "examples": rows,
        **({"turns": turns} if turns > rows else {}),  # of conversations
        "rejected": len(manifest["rejected"]),
        "images": len(images - {""}),
        "hours of audio": round(seconds / 3600, 2),
        "voices": len(voices),
        "shards": len(manifest["shards"]),
    }


def _check_schema(path: Path, file: pq.ParquetFile) -> None:
    """Raises InputError for a column that is missing, of another type, or null where each row has a value."""
    schema = file.schema_arrow
    for field in SCHEMA:
        if field.name not in schema.names:
            raise InputError(f"{path}: field {field.name}: no such column")
    texts = [field.name for field in SCHEMA if not str(field.type).startswith("struct")]
    check_columns(path, file.schema_arrow.empty_table())
    check_columns(path, file.read(columns=texts))
    if HISTORY in schema.names:
        check_columns(path, schema.empty_table().select([HISTORY]))
        paths = [file.metadata.schema.column(i).path for i in range(file.metadata.num_columns)]
        small = [p for p in paths if p.startswith(f"{HISTORY}.") and ".audio." not in p]
        check_columns(path, file.read(columns=small))


def _within(folder: Path, name: str) -> Path:
    try:
        return path_within(folder, name)
    except InputError as error:
        raise InputError(f"{folder}: field shards: {error}") from error


def _check_row(where: str, row: dict[str, Any], ids: set[str]) -> Example:
    example = example_from_row({name: value for name, value in row.items() if name in CONVERSATIONS.names})
    if example.id in ids:
        raise InputError(f"{where}: field id: {example.id!r} is not unique")
    ids.add(example.id)
    try:
        check_name(example.source)
    except InputError as error:
        raise InputError(f"{where}: field source: {error}") from error
    for name in ("question", "source"):
        if not example.rejected and not getattr(example, name).strip():
            raise InputError(f"{where}: field {name}: is empty")
    for name, value in image_columns(example).items():
        if row[name] != value:
            raise InputError(f"{where}: field {name}: {row[name]!r}, the image has {value!r}")
    for number, earlier in enumerate(example.history if not example.rejected else (), 1):
        for name in ("question", "answer"):
            if not getattr(earlier, name).strip():
                raise InputError(f"{where}: field {HISTORY}: turn {number}: field {name}: is empty")
    image = example.load_image()  # raises InputError naming the example
    if image is not None:
        image.load()
    for turn in example.turns():
        if not abs(len(turn.samples()) / SAMPLE_RATE_HZ - turn.duration_seconds) <= 1e-6:  # false for NaN too
            at = f"field {HISTORY}: turn {len(turn.history) + 1}: " if turn is not example else ""
            raise InputError(f"{where}: {at}field duration_seconds: not the length of the audio")
    return example
