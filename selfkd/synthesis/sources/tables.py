"""Questions in a table: a text file and a folder of images, or any dataset of `datasets`, with names for its columns.
With a column of recordings the questions are these, and no engine runs.

Text files are JSON lines, a JSON list of objects, CSV or TSV. Values are kept verbatim: the digits of a number, and
words that other readers take for a missing value.
"""

import csv
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from selfkd.data.as_text import (
    VERBATIM_DECODER,
    IntegerColumns,
    as_published,
    as_text,
    is_blank,
    refuse_utf16,
    single_value,
)
from selfkd.data.lazy_images import FileInDataset, ImageInFolder, LazyImage, dataset_rows
from selfkd.errors import InputError
from selfkd.hub import is_hub_id, split_revision
from selfkd.json_files import lines_of, parse_json
from selfkd.synthesis.config import TurnsForm
from selfkd.synthesis.sources.messages import rows_of_messages
from selfkd.synthesis.sources.rows import UNANSWERED, Clip, Row, RowSource, json_records, sample_rows

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
TEXT_TABLES = (*_DELIMITERS, ".json", ".jsonl")


def text_table(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file whose name ends in one of TEXT_TABLES. Raises InputError, naming file and line."""
    if path.suffix.lower() in _DELIMITERS:
        return delimited(path)
    return json_lines_records(path) if path.suffix.lower() == ".jsonl" else json_objects(path)


def json_lines_records(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        raise InputError(f"path: {path}: no such file")
    refuse_utf16(path)
    with path.open("rb") as file:
        for number, line in enumerate(lines_of(file, f"path: {path}"), 1):
            if not line.strip():  # often the last one
                continue
            try:
                row = parse_json(line.decode("utf-8-sig" if number == 1 else "utf-8"), VERBATIM_DECODER.decode)
            except ValueError as error:
                raise InputError(f"path: {path}: line {number}: not JSON in UTF-8 ({error})") from error
            if not isinstance(row, dict):
                raise InputError(f"path: {path}: line {number}: not a JSON object")
            yield row


def json_objects(path: Path) -> Iterator[dict[str, Any]]:
    for number, record in enumerate(json_records(path, decoder=VERBATIM_DECODER)):
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


FIELDS = (
    *("id", "question", "answer", "image", "speech", "speaker", "instruction", "answer_format", "category"),
    *("question_type", "messages"),
)
MESSAGES = "messages"  # field of a whole conversation, in place of question and answer
NEEDED = ("question", "answer")
NUMBERED = ("id", "answer", "category", "question_type", "speaker")  # columns that may be of integers
NO_RECORDING = "no recording"  # why a row is skipped where others have one
_FILES = ("image", "speech")
_TABLES = (*TEXT_TABLES, ".parquet")
_NARROW = {"float16": np.float16, "float32": np.float32}


class Folders(NamedTuple):
    """Where the images and recordings are that a table names by paths; recordings without a folder are in the
    table's own."""

    images: Path
    recordings: Path | None = None


class Table(NamedTuple):
    """The records of a file or a dataset; images and recordings in `datasets`' layout stay on disk. `recordings` is the
    folder of those that are named by paths."""

    records: Iterable[Mapping[str, Any]]
    name: str
    where: str  # in errors
    recordings: Path
    license: str = "not stated"


def json_lines(
    path: Path, folders: Folders, columns: Mapping[str, str], count: int, seed: int, turns: TurnsForm = "split"
) -> RowSource:
    """One JSON object a line; `image` and `speech` are paths within the folders. `columns` gives the names of columns,
    by field."""
    return _listed(_text_table(json_lines_records(path), path, folders), folders, columns, count, seed, turns)


def dataset(
    name: str,
    folders: Folders,
    split: str,
    columns: Mapping[str, str],
    count: int,
    seed: int,
    turns: TurnsForm = "split",
) -> RowSource:
    """A dataset by hub id or local folder, as NAME, NAME:CONFIG or NAME:CONFIG:SPLIT for a split of another name (dev,
    train_sft), or one file, all of it; images and recordings as in its `Image` and `Audio` columns, or paths within the
    folders. Raises InputError where it cannot be read."""
    wanted = _checked(columns)
    files = {wanted[field]: field for field in _FILES}
    table = open_table(
        name, split, wanted.values(), files, folders, lambda found: _check_needed(found, wanted, name, 0)
    )
    return _listed(table, folders, columns, count, seed, turns)


def open_table(
    name: str,
    split: str,
    columns: Collection[str],
    files: Mapping[str, str],
    folders: Folders,
    check: Callable[[Sequence[str]], None],
) -> Table:
    """The `columns` of a text file, a Parquet file, a folder or a dataset of the hub (see `dataset`). `files` are the
    columns of images and recordings, {column: field}. `check` raises InputError for the names of the columns there are,
    which in a text file are those of each record. Raises InputError where the table cannot be read."""
    from datasets import Audio, Dataset
    from datasets.exceptions import DatasetsError

    file = Path(name)
    if file.is_file() and file.suffix.lower() in TEXT_TABLES:
        return _text_table(text_table(file), file, folders)
    try:
        if file.is_file():
            if file.suffix.lower() != ".parquet":
                raise InputError(f"path: {name}: no file format of a table; {', '.join(_TABLES)} are read")
            data = Dataset.from_parquet(name)
        else:
            data = _loaded(name, split, columns)
    except InputError:
        raise
    except (OSError, DatasetsError, ValueError, NotImplementedError) as error:
        why = error.__cause__ or error  # "an error occurred while generating the dataset", and its cause
        raise InputError(f"path: {name}: {(str(why).splitlines() or [type(why).__name__])[0]}") from error
    check(data.column_names)
    if data.info.builder_name == "json":
        _check_numbers(data, columns, name)
    # other columns would be decoded too, video and audio without their packages
    data = data.select_columns([column for column in data.column_names if column in columns])
    for column, feature in data.features.items():
        if isinstance(feature, Audio):
            data = data.cast_column(column, Audio(decode=False))
    source = name if file.exists() else name.partition(":")[0]
    of_images, of_recordings = (_folders_of(source, folder) for folder in (folders.images, folders.recordings))
    stored: dict[str, tuple[str, tuple[Path, ...]]] = {}
    for column, field in files.items():
        if column in data.column_names and (feature := _file_feature(data.features[column], field)):
            data = data.cast_column(column, feature)
            stored[column] = field, of_images if field == "image" else of_recordings
    short_name = file.stem if file.is_file() else Path(source).resolve().name if Path(source).exists() else source
    return Table(
        _typed(dataset_rows(data, stored) if stored else data, data.features),
        short_name.rpartition("/")[2],
        name,
        of_recordings[0],
        data.info.license or "not stated",
    )


def _text_table(records: Iterable[Mapping[str, Any]], path: Path, folders: Folders) -> Table:
    return Table(records, path.stem, str(path), folders.recordings or path.parent)


def _file_feature(feature: Any, field: str) -> Any:
    """The feature of `datasets` to read a column of images or recordings as; None for a column of paths or bytes."""
    from datasets import Audio, Image, List

    if isinstance(feature, List):
        inner = _file_feature(feature.feature, field)
        return None if inner is None else List(inner)
    # Parquet without the metadata of such a column, and bytes of recordings
    is_stored = isinstance(feature, dict) and "bytes" in feature
    is_stored |= field == "speech" and getattr(feature, "dtype", "") in ("binary", "large_binary")
    if isinstance(feature, Audio | Image) or is_stored:
        return Image() if field == "image" else Audio(decode=False)
    return None


def _listed(
    table: Table, folders: Folders, columns: Mapping[str, str], count: int, seed: int, turns: TurnsForm
) -> RowSource:
    """The questions of a table's records."""
    skipped: Counter[str] = Counter()
    numbers = IntegerColumns(NUMBERED)
    rows = sample_rows(_rows(table, folders.images, _checked(columns), turns, skipped, numbers), count, seed)
    # whether a column holds integers is known after the last record
    rows = tuple(Row(**row._asdict() | {n: numbers.restore(n, getattr(row, n)) for n in NUMBERED}) for row in rows)
    return RowSource(table.name, rows, table.license, skipped=dict(skipped))


def _folders_of(source: str, given: Path | None) -> tuple[Path, ...]:
    """Folders of files that a dataset names by paths: the `given` one; the dataset's own, or where `datasets` unpacks
    files of the hub."""
    from datasets import config
    from huggingface_hub.constants import HF_HUB_CACHE

    own, first = Path(source), [] if given is None else [given]
    if own.exists():
        return *first, own if own.is_dir() else own.parent
    return *first, Path(config.DOWNLOADED_DATASETS_PATH), Path(HF_HUB_CACHE)


def _checked(columns: Mapping[str, str]) -> dict[str, str]:
    """{field: column}; raises InputError for an unknown field."""
    unknown = [name for name in columns if name not in FIELDS]
    if unknown:
        raise InputError(f"columns: {unknown[0]!r} is no field; there are {', '.join(FIELDS)}")
    return {name: columns.get(name, name) for name in FIELDS}


def _check_needed(available: Iterable[str], columns: Mapping[str, str], where: str, number: int) -> None:
    if columns[MESSAGES] in available:
        return
    missing = [columns[name] for name in NEEDED if columns[name] not in available]
    if missing:
        raise InputError(f"columns: {where}: row {number} has no {missing[0]!r}; there are {', '.join(available)}")


def _rows(
    table: Table,
    images: Path,
    columns: Mapping[str, str],
    turns: TurnsForm,
    skipped: Counter[str],
    numbers: IntegerColumns,
) -> Iterator[Row]:
    where, is_recorded = table.where, False
    for number, record in enumerate(table.records):
        _check_needed(record, columns, where, number)
        positions = {name: f"columns: {where}: row {number}: {column!r}" for name, column in columns.items()}
        image = image_of(record.get(columns["image"]), images, positions["image"])
        clips = clips_of(record.get(columns["speech"]), table.recordings, positions["speech"])
        is_recorded |= number == 0 and columns["speech"] in record
        if clips and not is_recorded:
            raise InputError(f"{positions['speech']}: a recording, where row 0 has none; give both a column for it")
        fields = [(n, c) for n, c in columns.items() if n not in (*_FILES, MESSAGES)]
        values = {n: single_value(record.get(c), positions[n], "text") for n, c in fields}
        numbers.observe(values)
        text = {name: as_text(value, positions[name]) for name, value in values.items()}
        name = text["id"] or f"{Path(where).stem}-{number:06d}"
        if record.get(columns[MESSAGES]) is not None:
            base = Row(name, "", "", image=image, category=text["category"], speaker=text["speaker"])
            clips_within = partial(_clips_within, table.recordings)
            yield from rows_of_messages(record[columns[MESSAGES]], base, turns, positions[MESSAGES], clips_within)
            continue
        if not text["question"] or not text["answer"]:
            skipped[UNANSWERED] += 1
            continue
        if is_recorded and not clips:
            skipped[NO_RECORDING] += 1
            continue
        yield Row(
            id=name,
            question=text["question"],
            answer=text["answer"],
            instruction=text["instruction"] and f"{text['instruction']}\n",
            answer_format=text["answer_format"] and f"\n{text['answer_format']}",
            image=image,
            clips=clips,
            category=text["category"],
            speaker=text["speaker"],
            question_type=text["question_type"] or "open",
        )


def image_of(value: Any, folder: Path, where: str) -> bytes | LazyImage | None:
    """An image's bytes, or a path within `folder`; also in the layout of `datasets` ({bytes, path})."""
    if isinstance(value, list | tuple) and len(value) == 1:
        (value,) = value
    value = _stored_file(value)
    if isinstance(value, LazyImage):
        return value
    value = single_value(value, where, "an image or its path")
    if is_blank(value):
        return None
    return value if isinstance(value, bytes) else ImageInFolder(folder, as_published(value, where).strip())


def clips_of(value: Any, folder: Path, where: str) -> tuple[Clip, ...]:
    """Recorded speech: a path within `folder`, bytes, or as in `datasets` ({bytes, path}), or a list of these, one
    after another; none for a blank."""
    if isinstance(value, list | tuple):
        return tuple(clip for one in value for clip in clips_of(one, folder, where))
    value = _stored_file(value)
    if isinstance(value, FileInDataset):
        return (Clip(value),)
    value = single_value(value, where, "a recording or its path")
    if is_blank(value):
        return ()
    return (Clip(value if isinstance(value, bytes) else folder / as_published(value, where).strip(), folder=folder),)


def _clips_within(folder: Path, value: Any, where: str) -> tuple[Clip, ...]:
    return clips_of(value, folder, where)


def _stored_file(value: Any) -> Any:
    """The bytes or the path of a file in the layout of `datasets`; any other value as it is."""
    if isinstance(value, dict) and value.keys() <= {"bytes", "path"}:
        return value.get("bytes") or value.get("path")
    return value


def _loaded(name: str, split: str, columns: Collection[str]) -> Any:
    from datasets import load_dataset, load_dataset_builder
    from pandas.errors import ParserWarning

    source, config, its_split, *_ = [*([name] if Path(name).exists() else name.split(":", 2)), "", ""]
    if "://" in name:
        raise InputError(f"path: {name}: a URL, not the id of a dataset; download it and give its file or folder")
    if not Path(source).exists() and (
        not is_hub_id(source, with_owner=False) or Path(source).suffix.lower() in _TABLES
    ):
        raise InputError(f"path: {source}: no such file or folder")
    source, revision = split_revision(source)
    settings: dict[str, Any] = {}
    if hasattr(load_dataset_builder(source, config or None, revision=revision).config, "keep_default_na"):
        # CSV verbatim: pandas would take "None" and "NA" for missing and 007 for 7
        verbatim: dict[str, Callable[[Any], Any]] = dict.fromkeys(columns, str)
        settings = {"keep_default_na": False, "na_filter": False, "converters": verbatim, "index_col": False}
    with warnings.catch_warnings():
        warnings.simplefilter("error", ParserWarning)  # a line with too many columns would be cut
        return load_dataset(source, config or None, split=its_split or split, revision=revision, **settings)


def _check_numbers(data: Any, columns: Iterable[str], name: str) -> None:
    """Raises InputError for a column in which JSON has both 3 and 2.5: `datasets` makes 3.0 of 3, and the original text
    is lost."""
    for column in columns:
        if column in data.column_names and str(getattr(data.features[column], "dtype", "")).startswith("float"):
            numbers = [value for value in data[column] if value is not None]
            whole = sum(float(value).is_integer() for value in numbers)
            if 0 < whole < len(numbers):
                raise InputError(
                    f"columns: {name}: {column!r}: holds numbers with and without a point, and 3 would be read as 3.0; "
                    "give the file itself, or write them as text"
                )


def _typed(table: Iterable[Mapping[str, Any]], features: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Records with the names of labels, and numbers in the width in which they are stored."""
    changed = {name: change for name, feature in features.items() if (change := _change(feature))}
    for record in table:
        yield {**record, **{name: change(record[name]) for name, change in changed.items()}} if changed else record


def _change(feature: Any) -> Callable[[Any], Any] | None:
    from datasets import ClassLabel, List

    if isinstance(feature, ClassLabel):
        return lambda label: None if label is None or label < 0 else feature.int2str(label)  # -1: no label
    if isinstance(feature, List) and (inner := _change(feature.feature)):
        return lambda values: values and [inner(value) for value in values]
    width = _NARROW.get(getattr(feature, "dtype", ""))
    return (lambda value: None if value is None else width(value)) if width else None
