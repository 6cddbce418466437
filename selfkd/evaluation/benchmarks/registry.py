"""The benchmarks by name, and a benchmark as a source of questions."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from selfkd.data.lazy_images import parquet_rows
from selfkd.errors import InputError
from selfkd.evaluation.benchmarks.base import Benchmark, whole_groups
from selfkd.evaluation.benchmarks.multiple_choice import AI2D, MMBENCH, MMSTAR, REALWORLDQA
from selfkd.evaluation.benchmarks.open_ended import MMVET
from selfkd.evaluation.benchmarks.short_answer import CHARTQA, DOCVQA, INFOVQA, OCRBENCH, TEXTVQA
from selfkd.evaluation.benchmarks.yes_no import HALLUSIONBENCH, MME, POPE
from selfkd.synthesis.sources.rows import Row, RowSource, Whole, sample_rows

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        *(MME, HALLUSIONBENCH, TEXTVQA, POPE, REALWORLDQA, AI2D, CHARTQA, MMSTAR),
        *(DOCVQA, INFOVQA, OCRBENCH, MMBENCH, MMVET),
    )
}
# the paper averages over eight benchmarks and names the first three; the other five are our choice (docs/benchmarks.md)
PAPER8 = ("mme", "hallusionbench", "textvqa", "pope", "realworldqa", "ai2d", "chartqa", "mmstar")


def open_benchmark(
    name: str,
    path: str = "",
    limit: int = 0,
    seed: int = 0,
    audio_instruction: bool = False,
) -> RowSource:
    """The questions of a benchmark, from the hub or from `path`, a Parquet file or a folder that `datasets` reads.

    `limit` takes at most so many, random whole groups by the seed; `whole` of the source says of how many. With
    `audio_instruction` the instruction on the answer format becomes part of the question and is synthesized with it.
    Images are read when an example is. Raises InputError.
    """
    if name not in BENCHMARKS:
        raise InputError(f"benchmark: {name!r} is not known; there are {', '.join(BENCHMARKS)}")
    benchmark, where = BENCHMARKS[name], path or BENCHMARKS[name].hub
    from datasets.exceptions import DatasetNotFoundError

    try:
        files = _parquet_files(benchmark, path)
        for file in files:
            _check_columns(benchmark, pq.read_schema(file))
        all_rows = sample_rows(benchmark.rows(parquet_rows(files, benchmark.columns, "image")), 0, seed)
    except (OSError, ValueError, DatasetNotFoundError) as error:
        raise InputError(f"{name}: path: {where}: {(str(error).splitlines() or ['?'])[0]}") from error
    groups = list(_group_names(benchmark, all_rows))
    rows = tuple(all_rows[i] for i in whole_groups(groups, limit, seed))
    if audio_instruction:
        rows = tuple(row._replace(question=row.question + row.answer_format, answer_format="") for row in rows)
    whole = Whole(len(groups), len(set(groups))) if len(rows) < len(groups) else None
    return RowSource(name, rows, benchmark.license, whole=whole)


def _check_columns(benchmark: Benchmark, schema: pa.Schema) -> None:
    """Raises InputError for a column that is missing or of another type: answers that are no longer a list would be
    compared character by character."""
    for column in benchmark.columns:
        if column not in schema.names:
            raise InputError(f"column {column!r} is missing; there are {', '.join(schema.names)}")
        column_type = schema.field(column).type
        is_texts = pa.types.is_list(column_type) or pa.types.is_large_list(column_type)
        is_texts = is_texts and _is_text(column_type.value_type)
        expected = "an image" if column == "image" else benchmark.column_types.get(column, "text")
        matches = {
            "an image": pa.types.is_struct(column_type) and column_type.get_field_index("bytes") >= 0,
            "text": _is_text(column_type),
            "text or number": _is_text(column_type) or pa.types.is_integer(column_type),
            "texts": is_texts,
            "text or texts": is_texts or _is_text(column_type),
        }
        if not matches[expected]:
            raise InputError(f"column {column!r} is {column_type}, expected {expected}")


def _is_text(column_type: pa.DataType) -> bool:
    return pa.types.is_string(column_type) or pa.types.is_large_string(column_type)


def _group_names(benchmark: Benchmark, rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        sample = {"category": row.category, "details": json.loads(row.details)}
        yield benchmark.group(sample) if benchmark.group else row.id


def _parquet_files(benchmark: Benchmark, path: str) -> list[str]:
    """The Parquet files of a local dataset or of the hub; those of the hub are downloaded."""
    from datasets import DownloadManager, get_dataset_config_names, load_dataset_builder

    if Path(path).is_file():
        return [path]
    if path and not Path(path).is_dir():
        raise InputError("no such file or folder")
    config, split = benchmark.config, benchmark.split
    if path:  # a downloaded repository has the names of the hub; a folder with a single table needs none
        config = _named_or_only("config", config, get_dataset_config_names(path))
    builder = load_dataset_builder(path or benchmark.hub, config, revision=None if path else benchmark.revision)
    files = builder.config.data_files or {}
    files = files[_named_or_only("split", split, [str(name) for name in files])]
    if not all(file.endswith(".parquet") for file in files):
        raise InputError(f"{files[0]} is not Parquet")
    return DownloadManager().download(list(files))


def _named_or_only(field: str, name: str | None, available: list[str]) -> str:
    if name in available:
        return str(name)
    if len(available) == 1:
        return available[0]
    raise InputError(f"no {field} {name!r}; there are {', '.join(available)}")
