"""The examples of a dataset folder, read from disk on demand, and weighted mixtures of folders.

Memory use does not depend on the size of the folder. A sampler needs the length and the image hash of each example but
not the image's bytes: `ExampleMetadata` is read from small columns of the shards.
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
from threading import Lock
from typing import Any, overload

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from selfkd.data.example import (
    CONVERSATIONS,
    HISTORY,
    IMAGE_COLUMNS,
    MANIFEST,
    SCHEMA_VERSION,
    Example,
    example_from_row,
    image_columns,
    read_manifest,
)
from selfkd.errors import InputError
from selfkd.files import check_name, path_within

ROW_GROUP_BYTES = 64 * 2**20  # of those that a process keeps: a shuffled epoch reads one for nearly each row
IMAGE_SIZES = ("image_width", "image_height")
_RANGES = {
    "duration_seconds": (0.0, 1e6),
    "word_error_rate": (-1.0, 1e6),  # -1 without an ASR filter
    **dict.fromkeys(IMAGE_SIZES, (0, 1_000_000)),
}
EXAMPLES_KEPT = 64  # of a process: those of a batch are read again when their responses are graded


@dataclass(frozen=True)
class ExampleMetadata:
    """What small columns tell of an example: no image is decoded and no audio read."""

    image: str  # hash of the image; the example's id without one
    width: int  # of the image, pixels; 0 without one
    height: int
    speech_seconds: float  # of all turns, as the characters
    question_characters: int
    answer_characters: int
    turns: int = 1


def example_metadata(example: Example) -> ExampleMetadata:
    return _metadata(vars(example) | image_columns(example) | {HISTORY: list(map(vars, example.history))})


def _metadata(row: dict[str, Any]) -> ExampleMetadata:
    turns = [*row[HISTORY], row]
    return ExampleMetadata(
        row["image_hash"] or row["id"],
        row["image_width"],
        row["image_height"],
        sum(turn["duration_seconds"] for turn in turns),
        sum(len(turn["question"]) for turn in turns),
        sum(len(turn["answer"]) for turn in turns),
        len(turns),
    )


@contextmanager
def shard_errors(path: Path) -> Iterator[None]:
    """Turns an error of reading a shard into an InputError that names the shard."""
    try:
        yield
    except InputError:
        raise
    # text that is not UTF-8 is a ValueError; a footer may claim gigabytes
    except (OSError, KeyError, TypeError, ValueError, MemoryError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{path}: not a readable shard of schema {SCHEMA_VERSION} ({reason})") from error


class Examples(Sequence[Example]):
    """A sequence of examples that are read one at a time; subclasses give its length and read one example."""

    @abstractmethod
    def read(self, position: int) -> Example: ...

    @abstractmethod
    def metadata(self) -> list[ExampleMetadata]:
        """The metadata of every example; reads no image."""

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
    """A complete folder as a sequence. Raises InputError where there is none or a shard cannot be read.

    It can be pickled to a data loader's workers: each opens the shards itself and caches the last row groups it read.
    """

    def __init__(self, folder: str | Path, rejected: bool = False):
        """With `rejected` the rejected examples: no images, a reason in the field of that name."""
        folder = Path(folder)
        manifest = read_manifest(folder)
        shards = manifest.get("rejected_shards", []) if rejected else manifest["shards"]
        self.language: str = manifest.get("language", "en")
        self.folder = folder
        try:
            self.paths = [path_within(folder, shard["file"]) for shard in shards]
        except InputError as error:
            raise InputError(f"{folder / MANIFEST}: field shards: {error}") from error
        self._groups: list[tuple[Path, int]] = []  # shard, row group in the shard
        rows = []
        for path in self.paths:
            with shard_errors(path):
                metadata = pq.read_metadata(path)
            for number in range(metadata.num_row_groups):
                self._groups.append((path, number))
                rows.append(metadata.row_group(number).num_rows)
        self._ends = list(accumulate(rows))
        self.positions: Sequence[int] = range(self._ends[-1] if rows else 0)  # of the rows in use

    def without(self, left_out: Collection[int]) -> "ExampleFolder":
        """The same folder without the rows at these positions."""
        kept, dropped = copy(self), set(left_out)
        kept.positions = [p for p in self.positions if p not in dropped] if dropped else self.positions
        return kept

    def __len__(self) -> int:
        return len(self.positions)

    def read(self, position: int) -> Example:
        return self._stored(self.positions[position])

    def _stored(self, position: int) -> Example:
        group = bisect_right(self._ends, position)
        start = self._ends[group - 1] if group else 0
        path, number = self._groups[group]
        with shard_errors(path):
            return _example(path, number, position - start)

    @property
    def source(self) -> str:
        """The source of the first example; "" for a folder without examples. Files of samples are named by it: raises
        InputError for one that cannot name a file."""
        source = next((row["source"] for row in self.columns("source")), "")
        try:
            check_name(source or "none")
        except InputError as error:
            raise InputError(f"{self.folder}: row 0: field source: {error}") from error
        return source

    def metadata(self) -> list[ExampleMetadata]:
        names = "id", "question", "answer", "duration_seconds", *IMAGE_COLUMNS, HISTORY
        return [_metadata(row) for row in self.columns(*names)]

    def columns(self, *names: str) -> list[dict[str, Any]]:
        """Some fields of all examples; other fields are not read from disk. `HISTORY` has a list of {name: value} of
        the texts and durations of each earlier turn."""
        rows = self._all_columns(*names)
        return rows if len(rows) == len(self.positions) else [rows[p] for p in self.positions]

    def _all_columns(self, *names: str) -> list[dict[str, Any]]:
        flat = [name for name in names if name != HISTORY]
        rows = []
        for path in self.paths:
            with shard_errors(path):
                table = pq.read_table(path, columns=flat).select(flat)
                check_columns(path, table)
                some = table.to_pylist()
                if HISTORY in names:
                    some = [row | {HISTORY: turns} for row, turns in zip(some, _texts_of_turns(path), strict=True)]
                rows += some
        return rows


TURN_TEXTS = ("question", "answer", "question_type", "target", "instruction", "answer_format", "duration_seconds")


def _texts_of_turns(path: Path) -> list[list[dict[str, Any]]]:
    """`TURN_TEXTS` of the earlier turns of each row; no audio is read."""
    metadata = _footer(path)
    paths = [metadata.schema.column(i).path for i in range(metadata.num_columns)]
    wanted = [p for p in paths if p.startswith(f"{HISTORY}.") and p.rpartition(".")[2] in TURN_TEXTS]
    with pq.ParquetFile(path, metadata=metadata) as file:
        if HISTORY not in file.schema_arrow.names:
            return [[] for _ in range(metadata.num_rows)]
        check_columns(path, file.schema_arrow.empty_table().select([HISTORY]))
        table = file.read(columns=wanted)
    check_columns(path, table)
    return table.column(HISTORY).to_pylist()


def check_columns(path: Path, table: pa.Table) -> None:
    """Raises InputError where a column has another type than in the schema, or null where each example has a value:
    other tools may have written the shard, and a later error would name no row."""
    for field in table.schema:
        if field.name not in CONVERSATIONS.names:
            continue
        column, wanted = table.column(field.name), CONVERSATIONS.field(field.name).type
        if field.name == HISTORY:
            _check_turns(path, column)
            continue
        if _type_class(field.type) != _type_class(wanted):
            raise InputError(f"{path}: field {field.name}: is of type {field.type}, expected {wanted}")
        if column.null_count and not pa.types.is_struct(field.type):
            row = column.is_null().to_pylist().index(True)
            raise InputError(f"{path}: row {row}: field {field.name}: holds no value (null)")
        if pa.types.is_floating(field.type) or field.name in IMAGE_SIZES:
            _check_numbers(path, field.name, column)


def _check_turns(path: Path, column: pa.ChunkedArray) -> None:
    """`check_columns` for the earlier turns."""
    is_list = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
    if not is_list or not pa.types.is_struct(column.type.value_type):
        raise InputError(f"{path}: field {HISTORY}: is of type {column.type}, expected a list of turns")
    known = {field.name for field in CONVERSATIONS.field(HISTORY).type.value_type}
    own = [field.name for field in column.type.value_type]
    missing = [name for name in TURN_TEXTS if name not in own]
    unknown = [name for name in own if name not in known]
    if unknown:
        raise InputError(f"{path}: field {HISTORY}: has a field {unknown[0]!r}; there are {', '.join(sorted(known))}")
    if missing:
        raise InputError(f"{path}: field {HISTORY}: has no field {missing[0]!r}")
    turns = pc.list_flatten(column)
    if column.null_count or turns.null_count:
        empty = column if column.null_count else turns
        row = empty.is_null().to_pylist().index(True)
        where = f"row {row}" if column.null_count else f"turn {row} of all"
        raise InputError(f"{path}: {where}: field {HISTORY}: holds no value (null)")
    try:
        check_columns(path, pa.table([pc.struct_field(turns, name) for name in own], own))
    except InputError as error:
        raise InputError(f"{path}: field {HISTORY}: of all turns,{str(error).removeprefix(f'{path}:')}") from error


def _check_numbers(path: Path, name: str, column: pa.ChunkedArray) -> None:
    """Raises InputError for a number that is not finite, or out of the range of its field."""
    low, high = _RANGES[name]
    for row, number in enumerate(column.to_pylist()):
        if not low <= number <= high:  # nor is NaN
            raise InputError(f"{path}: row {row}: field {name}: {number}, expected {low:g} to {high:g}")


def _type_class(type_: pa.DataType) -> str:
    """A type without its width: other tools write strings and numbers of any width, and texts as a dictionary."""
    if pa.types.is_dictionary(type_):
        return _type_class(type_.value_type)
    if pa.types.is_string(type_) or pa.types.is_large_string(type_):
        return "string"
    if pa.types.is_struct(type_) and any(f.name == "bytes" and "binary" in str(f.type) for f in type_):
        return "bytes"
    if pa.types.is_integer(type_):
        return "integer"
    return "float" if pa.types.is_floating(type_) else str(type_)


@lru_cache(maxsize=EXAMPLES_KEPT)
def _example(path: Path, group: int, row: int) -> Example:
    return example_from_row(_row_groups.get(path, group).slice(row, 1).to_pylist()[0])


class _RowGroups:
    """The row groups read last, up to `ROW_GROUP_BYTES` of them and at least one: small folders are read once."""

    def __init__(self) -> None:
        self._kept: dict[tuple[Path, int], tuple[pa.Table, int]] = {}
        self._bytes = 0
        self._lock = Lock()

    def get(self, path: Path, number: int) -> pa.Table:
        with self._lock:
            if (path, number) in self._kept:
                self._kept[path, number] = self._kept.pop((path, number))  # now the last one to leave
                return self._kept[path, number][0]
        table = _row_group(path, number)
        with self._lock:
            self._drop((path, number))  # of another thread
            self._kept[path, number] = table, table.nbytes
            self._bytes += table.nbytes
            while self._bytes > ROW_GROUP_BYTES and len(self._kept) > 1:
                self._drop(next(iter(self._kept)))
        return table

    def _drop(self, key: tuple[Path, int]) -> None:
        self._bytes -= self._kept.pop(key, (None, 0))[1]

    def clear(self) -> None:
        self._kept.clear()
        self._bytes = 0


_row_groups = _RowGroups()


def _row_group(path: Path, number: int) -> pa.Table:
    # without a buffer of the whole group, which is there for remote files: a third of the time
    with pq.ParquetFile(path, metadata=_footer(path), pre_buffer=False) as file:
        names = [
            name for name in file.schema_arrow.names if name in CONVERSATIONS.names
        ]  # other tools may have added more
        table = file.read_row_group(number, names, use_threads=False)  # 0.8 MB: threads cost more than they save
    check_columns(path, table)
    return table


@lru_cache
def _footer(path: Path) -> pq.FileMetaData:
    return pq.read_metadata(path)


class Mixture(Examples):
    """The examples of all folders, one folder after the other, and the examples of each epoch.

    An epoch has as many examples as the folders hold together. Each folder contributes its weight's share, exact to
    within one example over any number of epochs. A folder is traversed in a random order of the seed and begins a new
    order at its end, so that no example repeats before all were used once.
    """

    def __init__(self, folders: Sequence[ExampleFolder], weights: Sequence[float], seed: int = 0):
        self.folders, self.seed = list(folders), seed
        self._ends = list(accumulate(map(len, self.folders)))
        exact = [Fraction(str(weight)) for weight in weights]  # 0.1 is exactly 1/10
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
        return self.folders[number][position - self._ends[number]]  # a negative index, from the folder's end

    def metadata(self) -> list[ExampleMetadata]:
        return [one for folder in self.folders for one in folder.metadata()]

    def samples_before(self, number: int) -> list[int]:
        """How many examples of each folder the epochs before `number` use: its share rounded down, plus one for the
        folders with the largest remainders until the epochs are full."""
        shares = [number * quota for quota in self.quotas]
        counts = [int(share) for share in shares]
        by_remainder = sorted(range(len(counts)), key=lambda folder: counts[folder] - shares[folder])
        for folder in by_remainder[: number * len(self) - sum(counts)]:
            counts[folder] += 1
        return counts

    def epoch(self, number: int) -> list[int]:
        """Indices of the examples of an epoch; a sampler orders them."""
        indices = []
        bounds = zip(self._ends, self.samples_before(number), self.samples_before(number + 1), strict=True)
        for folder, (end, first, last) in enumerate(bounds):
            size = len(self.folders[folder])
            for turn in range(first // size, -(-last // size)):
                order = random.Random(f"mixture/{self.seed}/{folder}/{turn}").sample(range(size), size)  # noqa: S311 seeded, for the same data in every run; nothing secret
                indices += [end - size + i for i in order[max(0, first - turn * size) : last - turn * size]]
        return indices


def open_mixture(data: Sequence[str], seed: int, left_out: Mapping[Path, Collection[int]] | None = None) -> Examples:
    """The folders of a setting `data`, each FOLDER or FOLDER:WEIGHT. `left_out` gives positions of rows to skip, by
    folder. Raises InputError naming the entry that is wrong.

    Without weights an epoch uses each example once.
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


def open_folders(data: Sequence[str]) -> list[ExampleFolder]:
    """The folders of a setting `data`, without their weights."""
    return [ExampleFolder(split_weight(entry)[0]) for entry in data]


def split_weight(entry: str) -> tuple[Path, float | None]:
    """("runs/data", 2.0) of "runs/data:2"."""
    path, colon, weight = entry.rpartition(":")
    if colon and re.fullmatch(r"\d+(\.\d+)?", weight):
        return Path(path), float(weight)
    return Path(entry), None
