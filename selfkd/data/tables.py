"""Questions in a table: JSON lines beside a folder of pictures, or any dataset of `datasets`, its columns named."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from selfkd.data.listed import UNANSWERED, Listed, Row, drawn
from selfkd.data.stored import InFolder, Stored, dataset_rows
from selfkd.errors import InputError

FIELDS = ("id", "question", "answer", "image", "instruction", "answer_format", "category", "kind")
NEEDED = ("question", "answer")


def json_lines(path: Path, images: Path, columns: Mapping[str, str], count: int, seed: int) -> Listed:
    """One JSON object a line; `image` is a path within `images`. `columns` names fields that are called otherwise."""
    skipped: Counter[str] = Counter()
    rows = _rows(_lines(path), images, _checked(columns), str(path), skipped)
    return Listed(path.stem, drawn(rows, count, seed), skipped=dict(skipped))


def dataset(name: str, images: Path, split: str, columns: Mapping[str, str], count: int, seed: int) -> Listed:
    """A dataset by hub id or local path, as NAME, NAME:CONFIG or NAME:CONFIG:SPLIT, where its split is called otherwise
    (dev, train_sft); pictures as its `Image` columns hold them, or paths within `images`."""
    from datasets import Audio, Image, load_dataset
    from datasets.exceptions import DatasetNotFoundError

    source, config, its_split, *_ = [*name.split(":", 2), "", ""]
    try:
        data = load_dataset(source, config or None, split=its_split or split)
    except (FileNotFoundError, DatasetNotFoundError, ValueError, ConnectionError) as error:
        raise InputError(f"path: {name}: {str(error).splitlines()[0]}") from error
    wanted = _checked(columns)
    _check_needed(data.column_names, wanted, name, 0)
    # the others would be decoded too, a video or sound where nothing can
    data = data.select_columns([column for column in data.column_names if column in wanted.values()])
    for column, feature in data.features.items():
        if isinstance(feature, Audio):
            data = data.cast_column(column, Audio(decode=False))
    image, table = wanted["image"], data
    feature = data.features.get(image)
    if isinstance(feature, dict) and "bytes" in feature:  # Parquet that does not say that these are pictures
        data = data.cast_column(image, Image())
        feature = data.features[image]
    if isinstance(feature, Image):
        table = dataset_rows(data, image)
    skipped: Counter[str] = Counter()
    rows = drawn(_rows(table, images, wanted, name, skipped), count, seed)
    called = Path(source).resolve().name if Path(source).exists() else source.rpartition("/")[2]
    return Listed(called, rows, data.info.license or "not stated", skipped=dict(skipped))


def _checked(columns: Mapping[str, str]) -> dict[str, str]:
    unknown = [name for name in columns if name not in FIELDS]
    if unknown:
        raise InputError(f"columns: {unknown[0]!r} is no field; there are {', '.join(FIELDS)}")
    return {name: columns.get(name, name) for name in FIELDS}


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        raise InputError(f"path: {path}: no such file")
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():  # often the last one
                continue
            try:
                row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except (UnicodeDecodeError, json.JSONDecodeError) as error:
                raise InputError(f"path: {path}: line {number}: not JSON in UTF-8 ({error})") from error
            if not isinstance(row, dict):
                raise InputError(f"path: {path}: line {number}: not a JSON object")
            yield row


def _rows(
    table: Iterable[Mapping[str, Any]],
    images: Path,
    columns: Mapping[str, str],
    where: str,
    skipped: Counter[str],
) -> Iterator[Row]:
    for number, record in enumerate(table):
        _check_needed(record, columns, where, number)
        values = {name: record.get(column) for name, column in columns.items()}
        if _is_blank(values["question"]) or _is_blank(values["answer"]):
            skipped[UNANSWERED] += 1
            continue
        for name, value in values.items():
            if isinstance(value, list | dict):
                wanted = "a picture or its path" if name == "image" else "text"
                raise InputError(
                    f"columns: {where}: row {number}: {columns[name]!r} is a {type(value).__name__}, not {wanted}"
                )
        yield Row(
            id=str(values["id"] if values["id"] is not None else f"{Path(where).stem}-{number:06d}"),
            question=str(values["question"]).strip(),
            answer=str(values["answer"]).strip(),
            instruction="" if _is_blank(values["instruction"]) else f"{str(values['instruction']).strip()}\n",
            answer_format="" if _is_blank(values["answer_format"]) else f"\n{str(values['answer_format']).strip()}",
            image=_image(values["image"], images),
            category="" if _is_blank(values["category"]) else str(values["category"]),
            kind="open" if _is_blank(values["kind"]) else str(values["kind"]),
        )


def _check_needed(there: Iterable[str], columns: Mapping[str, str], where: str, number: int) -> None:
    missing = [columns[name] for name in NEEDED if columns[name] not in there]
    if missing:
        raise InputError(f"columns: {where}: row {number} has no {missing[0]!r}; there are {', '.join(there)}")


def _is_blank(value: Any) -> bool:
    """Nothing there; 0 and false are answers."""
    return value in (None, [], {}) or not str(value).strip()


def _image(value: Any, folder: Path) -> bytes | Stored | None:
    if isinstance(value, bytes | Stored):
        return value
    return None if _is_blank(value) else InFolder(folder, str(value))
