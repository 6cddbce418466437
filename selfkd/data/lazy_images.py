"""Pictures that stay on disk until one is asked for: those of a benchmark can be gigabytes.

Rows of Parquet files are read as they lie there: `datasets.load_dataset` would hold a file at a time in memory to write
a second copy of it. `place` says which picture it is, and stays the same where all of them are moved together.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from selfkd.errors import InputError
from selfkd.files import path_within

ROW_GROUPS_KEPT = 2  # of a process: a benchmark's hold 100 pictures


@dataclass(frozen=True, slots=True)
class InFolder:
    """A picture by its name within a folder: a `Path` for each of a million rows would be several times as large."""

    folder: Path
    name: str

    @property
    def place(self) -> str:
        return self.name

    def read(self) -> Path:
        """Raises InputError where the name leads out of the folder."""
        return path_within(self.folder, self.name)


@dataclass(frozen=True)
class InParquet:
    """The picture of a row, in the layout of `datasets.Image`."""

    file: str
    group: int
    row: int
    column: str

    @property
    def place(self) -> str:
        return f"{Path(self.file).name} {self.group} {self.row}"

    def read(self) -> bytes:
        return _held(self.file, self.group, self.column)[self.row].as_py()


@dataclass(frozen=True)
class InDataset:
    """The picture of a row. Sent to another process it is the name of the dataset's file, not what is in it."""

    images: Any  # a dataset of one column, memory-mapped
    row: int
    folders: tuple[Path, ...]  # in which a picture may be that is there by its path alone

    @property
    def place(self) -> str:
        return str(self.row)

    def read(self) -> Path | bytes:
        """Raises InputError for a path that leads out of all of the folders."""
        (value,) = self.images[self.row].values()
        if isinstance(value, list):  # of one
            (value,) = value
        if value["bytes"]:
            return value["bytes"]
        for folder in self.folders:
            try:
                path = path_within(folder, value["path"])
            except InputError:
                continue
            if path.is_file():
                return path
        raise InputError(f"field image: {value['path']}: no file in {', '.join(map(str, self.folders))}")


Stored = InFolder | InParquet | InDataset


def footer_hash(path: str) -> str:
    """A hash of what a Parquet file says of itself (sizes and bounds of every column), without reading its rows."""
    with Path(path).open("rb") as file:
        file.seek(-8, os.SEEK_END)  # the length of the footer, and "PAR1"
        length = int.from_bytes(file.read(4), "little")
        file.seek(-8 - length, os.SEEK_END)
        return hashlib.sha256(file.read(length)).hexdigest()


def parquet_rows(files: Sequence[str], columns: Sequence[str], images: str) -> Iterator[dict[str, Any]]:
    """The rows of Parquet files with `InParquet` in their column of pictures, None where a row has none."""
    for path in files:
        with pq.ParquetFile(path) as file:
            for number in range(file.num_row_groups):
                rows = file.read_row_group(number, [c for c in columns if c != images]).to_pylist()
                there = _all_there(file.metadata.row_group(number), images) or _which_are_there(path, number, images)
                for at, row in enumerate(rows):
                    is_there = there is True or there[at]
                    yield {**row, images: InParquet(path, number, at, images) if is_there else None}


def dataset_rows(data: Any, images: str, folders: tuple[Path, ...]) -> Iterator[dict[str, Any]]:
    """The rows of a dataset of `datasets` with `InDataset` in their column of pictures, None where a row has none; of a
    column of lists, a list where it does not hold one picture. Those that are there by their paths alone have to be in
    one of `folders`."""
    from datasets import Image, List

    held, others = data.select_columns([images]), data.remove_columns([images])
    in_lists = isinstance(data.features[images], List)
    held, row = held.cast_column(images, List(Image(decode=False)) if in_lists else Image(decode=False)), 0
    for chunk in held.data.column(images).chunks:
        if in_lists:
            for number in pc.fill_null(pc.list_value_length(chunk), 0).to_pylist():
                # several are left as they are, for who reads the row to refuse
                yield {**others[row], images: InDataset(held, row, folders) if number == 1 else [None] * number}
                row += 1
            continue
        # by the lengths of what is there, without reading it
        lengths = (pc.fill_null(pc.binary_length(pc.struct_field(chunk, field)), 0) for field in ("bytes", "path"))
        for is_there in pc.greater(pc.add(*lengths), 0).to_pylist():
            yield {**others[row], images: InDataset(held, row, folders) if is_there else None}
            row += 1


def _all_there(group: Any, column: str) -> bool:
    """Whether the file says that no row of a row group is without a picture."""
    parts = (group.column(i) for i in range(group.num_columns))
    part = next((p for p in parts if p.path_in_schema == f"{column}.bytes"), None)
    if part is None or part.statistics is None or not part.statistics.has_null_count:
        return False
    return part.statistics.null_count == 0


def _which_are_there(path: str, group: int, column: str) -> list[bool]:
    return pc.fill_null(pc.greater(pc.binary_length(_held(path, group, column)), 0), False).to_pylist()


@lru_cache(maxsize=ROW_GROUPS_KEPT)
def _held(path: str, group: int, column: str) -> pa.ChunkedArray:
    with pq.ParquetFile(path) as file:
        return pc.struct_field(file.read_row_group(group, [f"{column}.bytes"]).column(column), "bytes")
