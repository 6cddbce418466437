"""Pictures that stay in a dataset of `datasets`, on disk, until one is asked for: a benchmark's can be gigabytes."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc


@dataclass(frozen=True)
class Stored:
    """The picture of a row. Sent to another process it is the name of the dataset's file, not what is in it."""

    pictures: Any  # a dataset of one column, memory-mapped
    row: int

    def read(self) -> Path | bytes:
        (value,) = self.pictures[self.row].values()
        return value["bytes"] or Path(value["path"])


def without_pictures(data: Any, column: str) -> Iterator[dict[str, Any]]:
    """The rows of a dataset with `Stored` in its column of pictures, None where a row has none."""
    from datasets import Image

    pictures = data.select_columns([column]).cast_column(column, Image(decode=False))
    others = data.remove_columns([column])
    for row, there in enumerate(_is_there(pictures, column)):
        yield {**(others[row] if others.column_names else {}), column: Stored(pictures, row) if there else None}


def _is_there(pictures: Any, column: str) -> Iterator[bool]:
    """By the lengths of what is stored, without reading it."""
    for chunk in pictures.data.column(column).chunks:
        held, path = (pc.fill_null(pc.binary_length(pc.struct_field(chunk, f)), 0) for f in ("bytes", "path"))
        yield from pc.greater(pc.add(held, path), 0).to_pylist()
