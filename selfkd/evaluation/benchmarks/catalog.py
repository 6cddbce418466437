"""The benchmarks by name, and how the copy of one becomes a source of questions."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from selfkd.data.listed import Listed, Row, drawn
from selfkd.data.stored import without_pictures
from selfkd.errors import InputError
from selfkd.evaluation.benchmarks.benchmark import Benchmark, whole_groups
from selfkd.evaluation.benchmarks.chart import CHARTQA
from selfkd.evaluation.benchmarks.choice import AI2D, MMBENCH, MMSTAR, REALWORLDQA
from selfkd.evaluation.benchmarks.documents import DOCVQA, INFOVQA
from selfkd.evaluation.benchmarks.ocr import OCRBENCH
from selfkd.evaluation.benchmarks.vqa import TEXTVQA
from selfkd.evaluation.benchmarks.yes_no import HALLUSIONBENCH, MME, POPE

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
    instruction_spoken: bool = False,
) -> Listed:
    """The questions of a benchmark, from its hub copy or from `path`, a Parquet file or a folder that `datasets` reads.

    `revision` is a commit of the hub copy, the benchmark's own by default. `limit` takes at most so many, drawn by the
    seed in whole groups. With `instruction_spoken` the sentence on the form of the answer becomes part of the question,
    and so is spoken with it. Pictures are read when an example is. Raises InputError.
    """
    if name not in BENCHMARKS:
        raise InputError(f"benchmark: {name!r} is not known; there are {', '.join(BENCHMARKS)}")
    benchmark = BENCHMARKS[name]
    from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError

    try:
        data = _load(benchmark, path, revision)
    except (OSError, ValueError, DatasetNotFoundError, DatasetGenerationError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{name}: path: {path or benchmark.hub}: {(str(error).splitlines() or ['?'])[0]}") from error
    missing = [column for column in benchmark.columns if column not in data.column_names]
    if missing:
        there = ", ".join(data.column_names)
        raise InputError(f"{name}: {path or benchmark.hub}: column {missing[0]!r} is missing; there are {there}")
    records = without_pictures(data.select_columns(list(benchmark.columns)), "image")
    try:
        every = drawn(benchmark.rows(records), 0, seed)
    except InputError as error:
        raise InputError(f"{name}: {path or benchmark.hub}: {error}") from error
    rows = tuple(every[i] for i in whole_groups(list(_groups(benchmark, every)), limit, seed))
    if instruction_spoken:
        rows = tuple(row._replace(question=row.question + row.answer_format, answer_format="") for row in rows)
    return Listed(name, rows, benchmark.license)


def _groups(benchmark: Benchmark, rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        of = {"category": row.category, "details": json.loads(row.details)}
        yield benchmark.group(of) if benchmark.group else row.id


def _load(benchmark: Benchmark, path: str, revision: str | None) -> Any:
    from datasets import get_dataset_config_names, get_dataset_split_names, load_dataset

    if not path:
        revision = revision or benchmark.revision
        return load_dataset(benchmark.hub, benchmark.config, split=benchmark.split, revision=revision)
    if Path(path).is_file():
        return load_dataset("parquet", data_files=path, split="train")
    if not Path(path).is_dir():
        raise InputError(f"{benchmark.name}: path: {path}: no such file or folder")
    # a downloaded copy has the hub's names; a folder with one table alone needs none
    config = _named("config", benchmark, benchmark.config, path, get_dataset_config_names(path))
    split = _named("split", benchmark, benchmark.split, path, get_dataset_split_names(path, config))
    return load_dataset(path, config, split=split)


def _named(what: str, benchmark: Benchmark, wanted: str | None, path: str, there: list[str]) -> str:
    if wanted in there:
        return str(wanted)
    if len(there) == 1:
        return there[0]
    raise InputError(f"{benchmark.name}: path: {path}: no {what} {wanted!r}; there are {', '.join(there)}")
