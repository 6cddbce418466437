"""Images and recordings that stay on disk until they are read: those of a benchmark can be gigabytes.

Rows of Parquet files are read in place: `datasets.load_dataset` would hold a file at a time in memory to write a second
copy of it. `key` identifies an image or a recording and does not change when the whole dataset is moved.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import repeat
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from selfkd.errors import InputError
from selfkd.files import path_within

ROW_GROUPS_KEPT = 2  # of a process: those of a benchmark hold 100 images


@dataclass(frozen=True, slots=True)
class ImageInFolder:
    """An image by its name within a folder: a `Path` for each of a million rows would be several times as large."""

    folder: Path
    name: str

    @property
    def key(self) -> str:
        return self.name

    def read(self) -> Path:
        """Raises InputError where the name leads out of the folder."""
        return path_within(self.folder, self.name)


@dataclass(frozen=True)
class ImageInParquet:
    """The image of a row, in the layout of `datasets.Image`."""

    file: str
    group: int
    row: int
    column: str

    @property
    def key(self) -> str:
        return f"{Path(self.file).name} {self.group} {self.row}"

    def read(self) -> bytes:
        return _held(self.file, self.group, self.column)[self.row].as_py()


@dataclass(frozen=True)
class FileInDataset:
    """The image or the recording of a row. Pickled, it is the name of the dataset's file, not its content."""

    files: Any  # a dataset of one column, memory-mapped
    row: int
    folders: tuple[Path, ...]  # where a file that is stored as a path may be
    item: int = 0  # of a row that holds a list
    field: str = "image"

    @property
    def key(self) -> str:
        return f"{self.row} {self.item}" if self.item else str(self.row)

    def read(self) -> Path | bytes:
        """Raises InputError for a path that leads out of all of the folders."""
        (value,) = self.files[self.row].values()
        if isinstance(value, list):
            value = value[self.item]
        if value is not None and value["bytes"]:
            return value["bytes"]
        name = "" if value is None else value["path"] or ""
        for folder in self.folders if name else ():
            try:
                path = path_within(folder, name)
            except InputError:
                continue
            if path.is_file():
                return path
        raise InputError(f"field {self.field}: {name or 'empty'}: no file in {', '.join(map(str, self.folders))}")


LazyImage = ImageInFolder | ImageInParquet | FileInDataset


def footer_hash(path: str) -> str:
    """A hash of the footer of a Parquet file (sizes and statistics of every column), without reading its rows."""
    with Path(path).open("rb") as file:
        file.seek(-8, os.SEEK_END)  # the length of the footer, and "PAR1"
        length = int.from_bytes(file.read(4), "little")
        file.seek(-8 - length, os.SEEK_END)
        return hashlib.sha256(file.read(length)).hexdigest()


def parquet_rows(files: Sequence[str], columns: Sequence[str], images: str) -> Iterator[dict[str, Any]]:
    """The rows of Parquet files with `ImageInParquet` in the image column, None where a row has none."""
    for path in files:
        with pq.ParquetFile(path) as file:
            for number in range(file.num_row_groups):
                rows = file.read_row_group(number, [c for c in columns if c != images]).to_pylist()
                has_image = _all_present(file.metadata.row_group(number), images) or _present(path, number, images)
                for at, row in enumerate(rows):
                    is_present = has_image is True or has_image[at]
                    yield {**row, images: ImageInParquet(path, number, at, images) if is_present else None}


def dataset_rows(data: Any, columns: Mapping[str, tuple[str, tuple[Path, ...]]]) -> Iterator[dict[str, Any]]:
    """The rows of a dataset of `datasets` with `FileInDataset` in `columns` of images or recordings, {column: (field in
    errors, folders)}; None where a row has none, a list of them in a column of lists. Files that are stored as paths
    have to be in one of the column's folders."""
    others = data.remove_columns(list(columns))
    files_of = {name: _files_in(data, name, *given) for name, given in columns.items()}
    texts = iter(others) if others.column_names else repeat({}, len(data))
    for text in texts:
        yield {**text, **{name: next(values) for name, values in files_of.items()}}


def _files_in(data: Any, column: str, field: str, folders: tuple[Path, ...]) -> Iterator[Any]:
    """The values of a column: `FileInDataset`, None, or a list of them."""
    from datasets import List

    in_lists = isinstance(data.features[column], List)
    feature = type(data.features[column].feature if in_lists else data.features[column])(decode=False)
    held, row = data.select_columns([column]).cast_column(column, List(feature) if in_lists else feature), 0
    for chunk in held.data.column(column).chunks:
        if in_lists:
            for count in pc.fill_null(pc.list_value_length(chunk), 0).to_pylist():
                yield [FileInDataset(held, row, folders, item, field) for item in range(count)]
                row += 1
            continue
        # by the stored lengths, without reading the files
        lengths = (pc.fill_null(pc.binary_length(pc.struct_field(chunk, part)), 0) for part in ("bytes", "path"))
        for is_present in pc.greater(pc.add(*lengths), 0).to_pylist():
            yield FileInDataset(held, row, folders, field=field) if is_present else None
            row += 1


def _all_present(group: Any, column: str) -> bool:
    """Whether, by the statistics of the file, every row of a row group has an image."""
    parts = (group.column(i) for i in range(group.num_columns))
    part = next((p for p in parts if p.path_in_schema == f"{column}.bytes"), None)
    if part is None or part.statistics is None or not part.statistics.has_null_count:
        return False
    return part.statistics.null_count == 0


def _present(path: str, group: int, column: str) -> list[bool]:
    return pc.fill_null(pc.greater(pc.binary_length(_held(path, group, column)), 0), False).to_pylist()


@lru_cache(maxsize=ROW_GROUPS_KEPT)
def _held(path: str, group: int, column: str) -> pa.ChunkedArray:
    with pq.ParquetFile(path) as file:
        return pc.struct_field(file.read_row_group(group, [f"{column}.bytes"]).column(column), "bytes")
