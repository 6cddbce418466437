"""One reader of JSON: a text is a value or one error within limits; a file is named with the line and the field."""

import gzip
import json
import tracemalloc
from typing import NotRequired

import pytest
from damage import TEXTS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typing_extensions import TypedDict

from selfkd.errors import InputError
from selfkd.evaluation.backends.chat_response import parse_chat_response
from selfkd.json_files import MAX_DEPTH, MAX_DIGITS, lines_of, parse_json, read_json, read_json_lines
from selfkd.synthesis.sources.rows import json_records
from selfkd.synthesis.sources.tables import json_lines_records


class Record(TypedDict):
    name: str
    count: NotRequired[int]
    inner: NotRequired[dict[str, list[float]]]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**MAX_DIGITS) + 1, 10**MAX_DIGITS - 1) | st.floats() | st.text(),
    lambda part: st.lists(part) | st.dictionaries(st.text(), part),
    max_leaves=20,
)


@settings(derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(VALUES)
def test_values_within_the_limits_are_those_of_json(value):
    text = json.dumps(value)
    for given_text in (text, text.encode()):
        assert repr(parse_json(given_text)) == repr(json.loads(text))


@pytest.mark.parametrize("depth", [MAX_DEPTH - 1, MAX_DEPTH + 1, 900, 5_000, 100_000])
@pytest.mark.parametrize("unit", ["[]", '{"a":}'])
def test_depth_is_limited(depth, unit):
    opening, closing = unit[:-1], unit[-1]
    text = opening * depth + ("1" if closing == "}" else "") + closing * depth
    if depth <= MAX_DEPTH:
        parse_json(text)
    else:
        with pytest.raises(ValueError, match=f"nested more than {MAX_DEPTH} deep"):
            parse_json(text)
    parse_chat_response(text.encode())
    body = f'{{"choices": [{{"message": {{"content": null, "reasoning": {text}}}}}]}}'
    assert parse_chat_response(body.encode()).error


@pytest.mark.parametrize("content", TEXTS, ids=range(len(TEXTS)))
def test_any_file_is_read_or_refused_by_name(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    uses = (
        lambda: read_json(path),
        lambda: read_json(path, Record),
        lambda: list(read_json_lines(path)),
        lambda: list(json_lines_records(path)),
        lambda: list(json_records(path)),
    )
    for use in uses:
        try:
            use()
        except InputError as error:
            assert str(path) in str(error) and "\n" not in str(error)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"name": 1}, "field name: 1: Input should be a valid string"),
        ({}, "field name: missing; an older selfkd wrote this file"),
        ({"name": "a", "count": True}, "field count: True: "),
        ({"name": "a", "count": "1"}, "field count: '1': "),
        ({"name": "a", "count": 1.5}, "field count: 1.5: "),
        ({"name": "a", "inner": {"x": [1, None]}}, "field inner.x.1: None: "),
        ([], r"field \(whole\): \[\]: "),
        (None, r"field \(whole\): None: "),
    ],
)
def test_error_names_file_line_and_field(tmp_path, value, message):
    (tmp_path / "a.json").write_text(json.dumps(value))
    with pytest.raises(InputError, match=f"a.json: {message}"):
        read_json(tmp_path / "a.json", Record)
    (tmp_path / "a.jsonl").write_text(f'{{"name": "first", "more": 1}}\n{json.dumps(value)}\n')
    with pytest.raises(InputError, match=f"a.jsonl: line 2: {message}"):
        list(read_json_lines(tmp_path / "a.jsonl", Record))


def test_unfinished_line_of_a_partial_file_is_left_out(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"name": "a"}\n{"name": "b')
    assert list(read_json_lines(tmp_path / "a.jsonl", Record, partial=True)) == [{"name": "a"}]
    with pytest.raises(InputError, match=r"a.jsonl: line 2 is cut short or damaged"):
        list(read_json_lines(tmp_path / "a.jsonl", Record))


def test_line_of_a_compressed_file_is_limited(tmp_path, monkeypatch):
    """A kilobyte of gzip is a line of a megabyte."""
    monkeypatch.setattr("selfkd.json_files.MAX_LINE_BYTES", 1_000_000)
    with gzip.open(tmp_path / "a.gz", "wb") as file:
        file.write(b"{}\n" + b" " * 50_000_000)
    tracemalloc.start()
    with gzip.open(tmp_path / "a.gz") as file, pytest.raises(InputError, match=r"a.gz: line 2: longer than 1 MB"):
        list(lines_of(file, "a.gz"))
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()
