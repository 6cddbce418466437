"""Parquet: each column of a data folder without values, of another type, with extreme values; and damaged shards.

`selfkd data check` refuses what any other reader would fall over, and whatever it calls whole, the others read."""

import json
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fuzzing import Malformed
from hypothesis import strategies as st
from malformed import ODD_TEXTS, short

from selfkd.check_data import CheckConfig, check
from selfkd.data.dataset import ExampleFolder
from selfkd.data.example import CONVERSATIONS, HISTORY, MANIFEST, SCHEMA
from selfkd.data.turns import TurnFolder
from selfkd.errors import InputError
from selfkd.evaluation.grading import check_gradable, check_source_name
from selfkd.evaluation.response import Prediction
from selfkd.evaluation.samples import sample
from selfkd.files import sha256, write_json
from selfkd.publish import PublishDataConfig, publish_data
from selfkd.report.sections.audio_quality import AudioQualityConfig, audio_quality_report

pytestmark = pytest.mark.slow

ROWS = 4
# values of a type that no column of the schema has
OTHER_TYPES: dict[str, Callable[[], pa.Array]] = {
    "booleans": lambda: pa.array([True, False] * 2),
    "lists": lambda: pa.array([["a"], ["b"], [], None]),
    "times": lambda: pa.array([0] * ROWS, pa.timestamp("us")),
    "maps": lambda: pa.array([[("a", 1)]] * ROWS, pa.map_(pa.string(), pa.int64())),
    "other structs": lambda: pa.array([{"x": 1}] * ROWS),
    "nulls": lambda: pa.nulls(ROWS),
}
TYPES: dict[str, Callable[[], pa.Array]] = {
    "whole numbers": lambda: pa.array([1, 2, 3, 2**62]),
    "unsigned": lambda: pa.array([2**64 - 1] * ROWS, pa.uint64()),
    "small numbers": lambda: pa.array([1, 2, 3, -128], pa.int8()),
    "numbers": lambda: pa.array([1.5, float("nan"), float("inf"), -1e308]),
    "halves": lambda: pa.array([1.0] * ROWS, pa.float32()),
    "bytes": lambda: pa.array([b"\xff", b"b", b"", b"\0"]),
    "large texts": lambda: pa.array(["a", "b", "c", "d"], pa.large_string()),
    "dictionary": lambda: pa.array(["a", "b", "a", "b"]).dictionary_encode(),
    "decimals": lambda: pa.array([1, 2, 3, 4], pa.decimal128(9, 2)),
}
NUMBERS = [0.0, -1.0, 1e308, -1e308, float("nan"), float("inf"), 1e-300]
WHOLE = [0, -1, 1, 2**31 - 1, -(2**31)]


@st.composite
def columns(draw: st.DrawFn) -> Malformed:
    """(column, its values; None to remove it)."""
    name = draw(st.sampled_from(SCHEMA.names))
    type_ = SCHEMA.field(name).type
    is_binary = pa.types.is_struct(type_)
    kind = draw(st.sampled_from(["gone", "null", "one null", "other type", "type", "extreme", "extreme", "extreme"]))
    if kind == "gone":
        return Malformed((name, None), f"no column {name}", "a column of the schema that is missing")
    if kind == "null":
        wrong = "" if name == "image" else "a column without values"
        return Malformed((name, pa.nulls(ROWS, type_)), f"{name} is null", wrong)
    if kind in ("other type", "type"):
        types = OTHER_TYPES if kind == "other type" else TYPES
        of = draw(st.sampled_from(sorted(types)))
        return Malformed((name, types[of]()), f"{name} is {of}", "a column of another type" * (kind == "other type"))
    values = draw(st.lists(extreme_values(type_), min_size=ROWS, max_size=ROWS))
    at = draw(st.integers(0, ROWS - 1))
    if kind == "one null":
        values[at] = None
    wrong = "a row without a value" if kind == "one null" and not is_binary else ""
    return Malformed((name, (values, at, kind)), f"{name} of row {at} = {short(values[at])} ({kind})", wrong)


def extreme_values(type_: pa.DataType) -> st.SearchStrategy[Any]:
    if pa.types.is_struct(type_):
        content = (
            st.binary(max_size=8)
            | st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"fLaC" + bytes(40), b"RIFF"])
            | st.none()
        )
        return st.fixed_dictionaries({"bytes": content, "path": st.none() | st.sampled_from(["../x", "/etc/hostname"])})
    if pa.types.is_string(type_):
        details = ['{"options": 1}', '{"options": []}', "[1]", "[" * 5_000, '{"image": null}', "1" * 5_000]
        texts = st.sampled_from([text for text in ODD_TEXTS if "\ud800" not in text] + details)
        return texts | st.text(st.characters(codec="utf-8"), max_size=8)
    return st.sampled_from(WHOLE if pa.types.is_integer(type_) else NUMBERS)


@st.composite
def turns(draw: st.DrawFn) -> Malformed:
    """(the column of earlier turns, a field of the first one, its value)."""
    field = draw(st.sampled_from(list(CONVERSATIONS.field(HISTORY).type.value_type)))
    value = draw(st.none() | extreme_values(field.type))
    return Malformed((HISTORY, (field.name, value)), f"{field.name} of a turn = {short(value)}")


CHANGES: dict[str, Callable[[bytes, int], bytes]] = {
    "cut": lambda content, at: content[:at],
    "zeros": lambda content, at: content[:at] + bytes(8) + content[at + 8 :],
    "ones": lambda content, at: content[:at] + b"\xff" * 4 + content[at + 4 :],
    "footer": lambda content, at: content[: -8 - at % 2000] + b"\x7f" + content[-7 - at % 2000 :],
    "length of the footer": lambda content, at: content[:-8] + at.to_bytes(4, "little") + content[-4:],
    "more bytes": lambda content, at: content[:at] + b"more" + content[at:],
}


@st.composite
def shards(draw: st.DrawFn) -> Malformed:
    """(None, function of the shard's bytes, whether its hash in the manifest is corrected)."""
    change = draw(st.sampled_from(sorted(CHANGES)))
    at, is_hidden = draw(st.floats(0, 1)), draw(st.booleans())
    label = f"{change} at {at:.4f} of the shard, hash {'corrected' if is_hidden else 'as before'}"
    return Malformed((None, lambda content: CHANGES[change](content, int(at * (len(content) - 1))), is_hidden), label)


@st.composite
def footers(draw: st.DrawFn) -> Malformed:
    """The footer's own metadata, and row groups of other sizes."""
    value = draw(
        st.sampled_from([None, b"", b"{", b"[]", b'{"rows": "x"}', b'{"rejected": 1}', b'{"rejected": [1]}', b"\xff"])
    )
    group = draw(st.sampled_from([1, 3, 100]))
    return Malformed(("footer", value, group), f"metadata {value!r}, row groups of {group}")


def readers(folder: Path) -> dict[str, Callable[[], Any]]:
    """What commands read of a data folder, each by itself."""

    def graded() -> None:
        opened = ExampleFolder(folder)
        check_source_name(opened)
        check_gradable(opened.source, opened.columns("id", "question_type", "question", "target"))
        for modality in ("text", "audio", "cascade"):
            [sample(example, modality, Prediction("yes", "a transcript")) for example in opened]

    published = PublishDataConfig(folder, "me/data", "mit", dry_run=True)
    return {
        "rows": lambda: [(e.load_image(), e.samples()) for e in ExampleFolder(folder)],
        "turns": lambda: [[turn.samples() for turn in e.turns()] for e in TurnFolder(folder)],
        "metadata": lambda: ExampleFolder(folder).metadata(),
        "rejected rows": lambda: list(ExampleFolder(folder, rejected=True)),
        "grades": graded,
        "audio quality": lambda: audio_quality_report(
            AudioQualityConfig([str(folder)], folder.parent / "quality.html")
        ),
        "card": lambda: publish_data(published),
    }


# these may refuse a whole folder: one for training only, one without transcripts, one with other metadata in its footer
OTHER_NEEDS = ("grades", "audio quality", "card")


def read(base: Path, output: Path, given: tuple[Any, ...]) -> None:
    with tempfile.TemporaryDirectory(dir=output) as made:  # of another name each time: readers cache by path
        folder = shutil.copytree(base, Path(made) / "data")
        damage(folder, given)
        read_each(folder)


def read_each(folder: Path) -> None:
    refused: InputError | None = None
    try:
        check(CheckConfig([folder]))
    except InputError as error:
        refused = error
        assert str(folder) in str(error) or "example" in str(error), f"names no file or row: {error}"
    for name, reader in readers(folder).items():
        try:
            reader()
        except InputError as error:
            assert refused or name in OTHER_NEEDS, f"data check calls it whole; {name}: {error}"
    if refused:
        raise refused


def damage(folder: Path, given: tuple[Any, ...]) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    path = folder / manifest["shards"][0]["file"]
    name, values, *more = given
    if name is None:
        content = path.read_bytes()
        path.write_bytes(values(content))
        if not more[0]:
            return
    else:
        table = pq.read_table(path)
        assert len(table) == ROWS
        if name == "footer":
            table = table.replace_schema_metadata({"selfkd": values} if values is not None else {})
        elif name == HISTORY:
            rows = table.to_pylist()
            names = [field.name for field in CONVERSATIONS.field(HISTORY).type.value_type]
            column = [[{field: row[field] for field in names}] for row in rows]
            column[0][0] |= dict([values])
            table = table.append_column(HISTORY, pa.array(column, CONVERSATIONS.field(HISTORY).type))
        elif values is None:
            table = table.drop_columns([name])
        else:
            if isinstance(values, tuple):
                values, at, kind = values
                kept = table[name].to_pylist()
                kept = [values[i] if i == at else kept[i] for i in range(ROWS)] if kind == "one null" else values
                values = pa.array(kept, SCHEMA.field(name).type)
            table = table.set_column(table.schema.get_field_index(name), name, values)
        pq.write_table(table, path, row_group_size=more[0] if more else None)
    manifest["shards"][0]["sha256"] = sha256(path)
    write_json(folder / MANIFEST, manifest)


def test_parquet(fuzzer, data_folder, tmp_path):
    fuzzer.run(
        "Parquet",
        columns() | columns() | turns() | footers() | shards(),
        partial(read, data_folder, tmp_path),
        examples=60,
    )


def test_the_whole_folder_is_accepted(data_folder, tmp_path):
    read(data_folder, tmp_path, ("id", pa.array(list("abcd"))))
    read(data_folder, tmp_path, (HISTORY, ("transcript", "words")))
