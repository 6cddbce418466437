"""The examples of a dataset folder, read from disk on demand, and weighted mixtures of folders.

Memory stays flat however large the folder. A sampler needs the length and the image of each example but not the image's
bytes: small columns of the shards hold both, and are read at once (`Sketch`).
"""

import random
import re
from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, overload

import pyarrow as pa
import pyarrow.parquet as pq

from selfkd.data.example import (
    INDEX_COLUMNS,
    MANIFEST,
    SCHEMA,
    SCHEMA_VERSION,
    Example,
    example_of_row,
    index_of,
    read_manifest,
)
from selfkd.errors import InputError
from selfkd.files import check_name, path_within

ROW_GROUPS_KEPT = 4  # of a process
EXAMPLES_KEPT = 64  # of a process: a batch's, which are looked at once more when their replies are there


@dataclass(frozen=True)
class Sketch:
    """What is known of an example without its picture and its sound."""

    image: str  # the same for examples with the same picture; the example's id where there is none
    width: int  # of the picture, pixels; 0 without one
    height: int
    speech_seconds: float
    question_characters: int
    answer_characters: int


def sketch(example: Example) -> Sketch:
    return _sketch(vars(example) | index_of(example))


def _sketch(row: dict[str, Any]) -> Sketch:
    return Sketch(
        row["image_hash"] or row["id"],
        row["image_width"],
        row["image_height"],
        row["duration_seconds"],
        len(row["question"]),
        len(row["answer"]),
    )


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns what goes wrong with a shard within it into an InputError that names the shard."""
    try:
        yield
    except (OSError, KeyError, TypeError, pa.ArrowException) as error:
        raise InputError(f"{path}: not a readable shard of schema {SCHEMA_VERSION} ({error})") from error


class Examples(Sequence[Example]):
    """Examples that are read one at a time: a class says how many there are and how to read one of them."""

    @abstractmethod
    def read(self, position: int) -> Example: ...

    @abstractmethod
    def sketches(self) -> list[Sketch]:
        """Of all of them, without reading a picture."""

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self.read(index % len(self))


class ExampleFolder(Examples):
    """A complete folder as a sequence; raises InputError where there is none or a shard cannot be read.

    It can be sent to a loader's workers: each opens the shards for itself and keeps the last row groups that it read.
    """

    def __init__(self, folder: str | Path, rejected: bool = False):
        """With `rejected` what was spoken and refused: no pictures, a reason in the field of that name."""
        folder = Path(folder)
        manifest = read_manifest(folder)
        shards = manifest["rejected_shards" if rejected else "shards"]
        self.language: str = manifest.get("language", "en")
        self.folder = folder
        try:
            self.paths = [path_within(folder, shard["file"]) for shard in shards]
        except InputError as error:
            raise InputError(f"{folder / MANIFEST}: field shards: {error}") from error
        self._groups: list[tuple[Path, int]] = []  # shard and number in it
        rows = []
        for path in self.paths:
            with readable(path):
                metadata = pq.read_metadata(path)
            for number in range(metadata.num_row_groups):
                self._groups.append((path, number))
                rows.append(metadata.row_group(number).num_rows)
        self._ends = list(accumulate(rows))
        self.positions: Sequence[int] = range(self._ends[-1] if rows else 0)  # of the rows that are taken

    def without(self, left_out: Collection[int]) -> "ExampleFolder":
        """The same folder, but for the rows at these places in it."""
        taken, dropped = copy(self), set(left_out)
        taken.positions = [p for p in self.positions if p not in dropped] if dropped else self.positions
        return taken

    def __len__(self) -> int:
        return len(self.positions)

    def read(self, position: int) -> Example:
        position = self.positions[position]
        group = bisect_right(self._ends, position)
        start = self._ends[group - 1] if group else 0
        path, number = self._groups[group]
        with readable(path):
            return _example(path, number, position - start)

    @property
    def source(self) -> str:
        """Where the first example says that it is from; "" for a folder without examples. Records are named by it, so
        that InputError is raised for one that cannot name a file."""
        source = next((row["source"] for row in self.columns("source")), "")
        try:
            check_name(source or "none")
        except InputError as error:
            raise InputError(f"{self.folder}: row 0: field source: {error}") from error
        return source

    def sketches(self) -> list[Sketch]:
        return [_sketch(row) for row in self.columns("id", "question", "answer", "duration_seconds", *INDEX_COLUMNS)]

    def columns(self, *names: str) -> list[dict[str, Any]]:
        """Some fields of all examples; the others are not read from the disk."""
        rows = []
        for path in self.paths:
            with readable(path):
                table = pq.read_table(path, columns=list(names)).select(names)
            check_columns(path, table)
            rows += table.to_pylist()
        return rows if len(rows) == len(self.positions) else [rows[p] for p in self.positions]


def check_columns(path: Path, table: pa.Table) -> None:
    """Raises InputError where a column of a shard, which others may have written, is of another type than ours, or
    lacks a value that each example has: it would end in some computation as an error that names no row."""
    for field in table.schema:
        if field.name not in SCHEMA.names:
            continue
        if _kind_of(field.type) != _kind_of(SCHEMA.field(field.name).type):
            wanted = SCHEMA.field(field.name).type
            raise InputError(f"{path}: field {field.name}: is of type {field.type}, expected {wanted}")
        column = table.column(field.name)
        if column.null_count and not pa.types.is_struct(field.type):
            row = column.is_null().to_pylist().index(True)
            raise InputError(f"{path}: row {row}: field {field.name}: holds no value (null)")


def _kind_of(question_type: pa.DataType) -> str:
    """text, whole or broken numbers, in whatever width other tools write them."""
    if pa.types.is_string(question_type) or pa.types.is_large_string(question_type):
        return "text"
    if pa.types.is_struct(question_type):
        return (
            "bytes" if any(f.name == "bytes" and "binary" in str(f.type) for f in question_type) else str(question_type)
        )
    return (
        "whole"
        if pa.types.is_integer(question_type)
        else "number"
        if pa.types.is_floating(question_type)
        else str(question_type)
    )


@lru_cache(maxsize=EXAMPLES_KEPT)
def _example(path: Path, group: int, row: int) -> Example:
    return example_of_row(_row_group(path, group).slice(row, 1).to_pylist()[0])


@lru_cache(maxsize=ROW_GROUPS_KEPT)
def _row_group(path: Path, number: int) -> pa.Table:
    with pq.ParquetFile(path, metadata=_footer(path)) as file:
        table = file.read_row_group(number, use_threads=False)  # 0.8 MB: threads cost twice what they save
    check_columns(path, table)
    return table


@lru_cache
def _footer(path: Path) -> pq.FileMetaData:
    return pq.read_metadata(path)


class Mixture(Examples):
    """The examples of all folders, one folder after the other, and which of them an epoch takes.

    An epoch has as many examples as the folders hold together. With weights a folder gives its share of them, over any
    number of epochs to within one example: it walks through its examples in an order that the seed draws, and begins a
    new one when all have been taken, so that over the epochs none is taken twice before all were taken once.
    """

    def __init__(self, folders: Sequence[ExampleFolder], weights: Sequence[float], seed: int = 0):
        self.folders, self.seed = list(folders), seed
        self._ends = list(accumulate(map(len, self.folders)))
        exact = [Fraction(str(weight)) for weight in weights]  # 0.1 as it is written
        self.quotas = [len(self) * weight / sum(exact) for weight in exact]  # examples an epoch, on average
        for folder, quota in zip(self.folders, self.quotas, strict=True):
            if quota < 1:
                raise InputError(
                    f"data: {folder.folder}: its weight gives it {float(quota):.2g} of the {len(self)} examples of an "
                    "epoch; it must be at least one"
                )

    def __len__(self) -> int:
        return self._ends[-1]

    def read(self, position: int) -> Example:
        number = next(i for i, end in enumerate(self._ends) if position < end)
        return self.folders[number][position - self._ends[number]]  # counted from the folder's end

    def sketches(self) -> list[Sketch]:
        return [sketch for folder in self.folders for sketch in folder.sketches()]

    def taken_before(self, number: int) -> list[int]:
        """How many examples of each folder the epochs before this one take: the whole part of its share, and of what is
        then left of the epochs' length one more to those that miss most of theirs."""
        shares = [number * quota for quota in self.quotas]
        counts = [int(share) for share in shares]
        by_missing = sorted(range(len(counts)), key=lambda folder: counts[folder] - shares[folder])
        for folder in by_missing[: number * len(self) - sum(counts)]:
            counts[folder] += 1
        return counts

    def epoch(self, number: int) -> list[int]:
        """Indices of the examples of an epoch, in no order that matters."""
        taken = []
        bounds = zip(self._ends, self.taken_before(number), self.taken_before(number + 1), strict=True)
        for folder, (end, first, last) in enumerate(bounds):
            size = len(self.folders[folder])
            for turn in range(first // size, -(-last // size)):
                order = random.Random(f"mixture/{self.seed}/{folder}/{turn}").sample(range(size), size)
                taken += [end - size + i for i in order[max(0, first - turn * size) : last - turn * size]]
        return taken


def open_mixture(data: Sequence[str], seed: int, left_out: Mapping[Path, Collection[int]] | None = None) -> Examples:
    """The folders of a setting `data`, each FOLDER or FOLDER:WEIGHT; raises InputError naming the one that is wrong.
    `left_out` are the positions of rows that are not taken, by folder.

    Without weights each example is taken once an epoch.
    """
    if not data:
        raise InputError("data: names no folder")
    folders, weights = [], []
    for entry in data:
        path, weight = split_weight(entry)
        folder = ExampleFolder(path).without((left_out or {}).get(path, ()))
        if not len(folder):
            raise InputError(f"data: {path}: holds no examples")
        if weight is not None and weight <= 0:
            raise InputError(f"data: {entry}: a weight must be above 0")
        folders.append(folder)
        weights.append(weight)
    if len(folders) == 1:
        return folders[0]
    given = [w for w in weights if w is not None]
    if given and len(given) < len(weights):
        raise InputError("data: some folders have a weight and some have none")
    return Mixture(folders, given or [float(len(f)) for f in folders], seed)


def folders_of(data: Sequence[str]) -> list[ExampleFolder]:
    """The folders of a setting `data`, whatever they weigh."""
    return [ExampleFolder(split_weight(entry)[0]) for entry in data]


def split_weight(entry: str) -> tuple[Path, float | None]:
    """("runs/data", 2.0) of "runs/data:2"."""
    path, colon, weight = entry.rpartition(":")
    if colon and re.fullmatch(r"\d+(\.\d+)?", weight):
        return Path(path), float(weight)
    return Path(entry), None
