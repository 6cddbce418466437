"""The benchmarks by name, and how the copy of one becomes a source of questions."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from selfkd.data.lazy_images import parquet_rows
from selfkd.errors import InputError
from selfkd.evaluation.benchmarks.base import Benchmark, whole_groups
from selfkd.evaluation.benchmarks.multiple_choice import AI2D, MMBENCH, MMSTAR, REALWORLDQA
from selfkd.evaluation.benchmarks.short_answer import CHARTQA, DOCVQA, INFOVQA, OCRBENCH, TEXTVQA
from selfkd.evaluation.benchmarks.yes_no import HALLUSIONBENCH, MME, POPE
from selfkd.synthesis.sources.rows import Row, RowSource, sample_rows

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        *(MME, HALLUSIONBENCH, TEXTVQA, POPE, REALWORLDQA, AI2D, CHARTQA, MMSTAR),
        *(DOCVQA, INFOVQA, OCRBENCH, MMBENCH),
    )
}
# the paper averages over eight and names the first three; the other five are our choice (docs/benchmarks.md)
PAPER8 = ("mme", "hallusionbench", "textvqa", "pope", "realworldqa", "ai2d", "chartqa", "mmstar")


def open_benchmark(
    name: str,
    path: str = "",
    revision: str | None = None,
    limit: int = 0,
    seed: int = 0,
    spoken_instruction: bool = False,
) -> RowSource:
    """The questions of a benchmark, from its hub copy or from `path`, a Parquet file or a folder that `datasets` reads.

    `revision` is a commit of the hub copy, the benchmark's own by default. `limit` takes at most so many, drawn by the
    seed in whole groups. With `spoken_instruction` the sentence on the form of the answer becomes part of the question,
    and so is spoken with it. Pictures are read when an example is. Raises InputError.
    """
    if name not in BENCHMARKS:
        raise InputError(f"benchmark: {name!r} is not known; there are {', '.join(BENCHMARKS)}")
    benchmark, where = BENCHMARKS[name], path or BENCHMARKS[name].hub
    from datasets.exceptions import DatasetNotFoundError

    try:
        files = _files(benchmark, path, revision)
        for file in files:
            _check_columns(benchmark, pq.read_schema(file))
        every = sample_rows(benchmark.rows(parquet_rows(files, benchmark.columns, "image")), 0, seed)
    except (OSError, ValueError, DatasetNotFoundError) as error:
        raise InputError(f"{name}: path: {where}: {(str(error).splitlines() or ['?'])[0]}") from error
    rows = tuple(every[i] for i in whole_groups(list(_groups(benchmark, every)), limit, seed))
    if spoken_instruction:
        rows = tuple(row._replace(question=row.question + row.answer_format, answer_format="") for row in rows)
    return RowSource(name, rows, benchmark.license)


def _check_columns(benchmark: Benchmark, schema: pa.Schema) -> None:
    """Raises InputError for a column that is not there or holds something else: what is no longer a list of answers
    would else be scored letter by letter."""
    for column in benchmark.columns:
        if column not in schema.names:
            raise InputError(f"column {column!r} is missing; there are {', '.join(schema.names)}")
        question_type = schema.field(column).type
        is_texts = pa.types.is_list(question_type) or pa.types.is_large_list(question_type)
        is_texts = is_texts and _is_text(question_type.value_type)
        wanted = "a picture" if column == "image" else benchmark.holds.get(column, "text")
        fits = {
            "a picture": pa.types.is_struct(question_type) and question_type.get_field_index("bytes") >= 0,
            "text": _is_text(question_type),
            "text or number": _is_text(question_type) or pa.types.is_integer(question_type),
            "texts": is_texts,
            "text or texts": is_texts or _is_text(question_type),
        }
        if not fits[wanted]:
            raise InputError(f"column {column!r} holds {question_type}, expected {wanted}")


def _is_text(question_type: pa.DataType) -> bool:
    return pa.types.is_string(question_type) or pa.types.is_large_string(question_type)


def _groups(benchmark: Benchmark, rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        of = {"category": row.category, "details": json.loads(row.details)}
        yield benchmark.group(of) if benchmark.group else row.id


def _files(benchmark: Benchmark, path: str, revision: str | None) -> list[str]:
    """The Parquet files of a copy; what the hub has is brought here."""
    from datasets import DownloadManager, get_dataset_config_names, load_dataset_builder

    if Path(path).is_file():
        return [path]
    if path and not Path(path).is_dir():
        raise InputError("no such file or folder")
    config, split = benchmark.config, benchmark.split
    if path:  # a downloaded copy has the hub's names; a folder with one table alone needs none
        config = _named("config", config, get_dataset_config_names(path))
    builder = load_dataset_builder(
        path or benchmark.hub, config, revision=None if path else revision or benchmark.revision
    )
    files = builder.config.data_files or {}
    files = files[_named("split", split, [str(name) for name in files])]
    if not all(file.endswith(".parquet") for file in files):
        raise InputError(f"{files[0]} is not Parquet")
    return DownloadManager().download(list(files))


def _named(what: str, wanted: str | None, there: list[str]) -> str:
    if wanted in there:
        return str(wanted)
    if len(there) == 1:
        return there[0]
    raise InputError(f"no {what} {wanted!r}; there are {', '.join(there)}")
