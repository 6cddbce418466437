"""The records of a table in a text file: JSON lines, a JSON list of objects, CSV, TSV. All of it as it stands, the
digits of a number too, and words that other readers take for "nothing there"."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selfkd.data.as_text import AS_WRITTEN, refuse_utf16
from selfkd.data.json_list import json_records
from selfkd.errors import InputError

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
TEXT_TABLES = (*_DELIMITERS, ".json", ".jsonl")


def text_table(path: Path) -> Iterator[dict[str, Any]]:
    """Of a file whose name ends in one of TEXT_TABLES. Raises InputError, naming file and line, for what is none."""
    if path.suffix.lower() in _DELIMITERS:
        return delimited(path)
    return json_lines_records(path) if path.suffix.lower() == ".jsonl" else json_objects(path)


def json_lines_records(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        raise InputError(f"path: {path}: no such file")
    refuse_utf16(path)
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():  # often the last one
                continue
            try:
                row = AS_WRITTEN.decode(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
                raise InputError(f"path: {path}: line {number}: not JSON in UTF-8 ({error})") from error
            if not isinstance(row, dict):
                raise InputError(f"path: {path}: line {number}: not a JSON object")
            yield row


def json_objects(path: Path) -> Iterator[dict[str, Any]]:
    for number, record in enumerate(json_records(path, decoder=AS_WRITTEN)):
        if not isinstance(record, dict):
            raise InputError(f"path: {path}: record {number}: not a JSON object")
        yield record


def delimited(path: Path) -> Iterator[dict[str, str]]:
    refuse_utf16(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file, delimiter=_DELIMITERS[path.suffix.lower()], strict=True)
            for row in table:
                if None in row or None in row.values():
                    raise InputError(
                        f"path: {path}: line {table.line_num}: other columns than the {len(table.fieldnames or ())} "
                        "that the first line names"
                    )
                yield row
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"path: {path}: not a table in UTF-8 ({error})") from error
