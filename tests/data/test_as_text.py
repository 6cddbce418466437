"""A value of any table as text: as its author meant it, the same from every reader, or refused by its position."""

import csv
import io
import json
import math
import unicodedata
from datetime import date, datetime, time
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from examples import tone, toy_examples
from hypothesis import given, settings
from hypothesis import strategies as st

from selfkd.cli import main
from selfkd.data.as_text import IntegerColumns, as_published, as_text, check_text
from selfkd.data.image_placeholders import IMAGE_PLACEHOLDER, strip_audio_placeholder, strip_image_placeholder
from selfkd.errors import InputError
from selfkd.synthesis.sources.registry import open_source
from selfkd.synthesis.sources.rows import Row, RowSource, json_records, sample_rows
from selfkd.synthesis.sources.tables import Folders, dataset, json_lines
from selfkd.synthesis.synthesize import SynthesizeConfig
from selfkd.synthesis.text_normalization import spoken_form
from selfkd.training.data import paired_item

IMAGE = toy_examples(1)[0].image
FAST = settings(deadline=None, max_examples=40, derandomize=True)
ORDINARY = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=12)
MISSING_WORDS = ("None", "NA", "N/A", "null", "nan", "NaN", "NULL", "n/a", "<NA>", "#N/A", "TRUE", "007", "1.0", "1e5")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("red", "red"),
        (" red\r\n", "red"),
        ("\ufeffred", "red"),
        ("re\u200bd\u00a0cup", "red cup"),
        ("cafe\u0301", "café"),
        (b"red", "red"),
        (b"\xef\xbb\xbfred", "red"),
        (0, "0"),
        (False, "false"),
        (np.True_, "true"),
        (np.int8(3), "3"),
        (np.float32(0.1), "0.1"),
        (np.float16(0.1), "0.1"),
        (0.1, "0.1"),
        (0.00001, "0.00001"),
        (1e20, "100000000000000000000.0"),
        (Decimal("3.50"), "3.50"),
        (Decimal("1E+3"), "1000"),
        (date(2020, 1, 2), "2020-01-02"),
        (datetime(2020, 1, 2), "2020-01-02"),
        (pd.Timestamp("2020-01-02"), "2020-01-02"),
        (np.datetime64("2020-01-02"), "2020-01-02"),
        (["red"], "red"),
        (np.array(["red"]), "red"),
        (np.str_("red"), "red"),
        (None, ""),
        (math.nan, ""),
        (np.float32("nan"), ""),
        (Decimal("nan"), ""),
        (pd.NA, ""),
        (pd.NaT, ""),
        (np.datetime64("NaT"), ""),
        (" \n", ""),
        ([], ""),
        ([None], ""),
        ({}, ""),
        (np.array([]), ""),
        *((word, word) for word in MISSING_WORDS),
    ],
)
def test_a_value_keeps_its_authors_meaning(value, text):
    assert as_text(value, "here") == text


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (["a", "b"], "is a list, not text"),
        (("a", "b"), "is a list, not text"),
        (np.array([1, 2]), "is a list, not text"),
        ({"a": 1}, "is a dict, not text"),
        (b"\xff\xfe", "holds bytes that are not text in UTF-8"),
        (math.inf, "is a float, not text"),
        (Decimal("Infinity"), "is a Decimal, not text"),
        (datetime(2020, 1, 2, 10, 30), "is a datetime, not text"),
        (time(10, 30), "is a time, not text"),
        (pd.Timedelta("1D"), "is a Timedelta, not text"),
        (1 + 2j, "is a complex, not text"),
    ],
)
def test_a_value_without_a_unique_text_is_refused_by_its_position(value, reason):
    with pytest.raises(InputError, match=f"^columns: f: row 3: 'answer' {reason}"):
        as_text(value, "columns: f: row 3: 'answer'")


@FAST
@given(st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.decimals(allow_nan=False,
       allow_infinity=False, places=3), st.text(), st.binary(), st.booleans(), st.none(), st.dates()))  # fmt: skip
def test_any_value_is_text_blank_or_refused(value):
    """Never Python's own repr (b'..', None, nan, False), and a number is parsed to the same value."""
    try:
        text = as_text(value, "here")
    except InputError:
        assert isinstance(value, bytes)
        return
    assert as_text(text, "here") == text == unicodedata.normalize("NFC", text)
    assert not text.startswith(("b'", "Decimal(", "datetime.")) or isinstance(value, str | bytes)
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        assert type(value)(text) == value


@FAST
@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_a_narrow_number_has_the_digits_of_its_width(value):
    text = as_text(np.float32(value), "here")
    assert np.float32(text) == np.float32(value)
    assert len(text) <= len(str(value)) + 60 and "0000000000001" not in text.strip("0")


def rows_by(tmp_path, records):
    """The answers of the same records from each reader of a table."""
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, records)))
    (tmp_path / "q.json").write_text(json.dumps(records))
    fields = list(records[0])
    for name, delimiter in (("q.csv", ","), ("q.tsv", "\t")):
        table = io.StringIO()
        writer = csv.DictWriter(table, fields, delimiter=delimiter)
        writer.writeheader()
        writer.writerows(records)
        (tmp_path / name).write_text(table.getvalue(), newline="")
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "q.parquet")
    found = {"jsonl": json_lines(tmp_path / "q.jsonl", Folders(tmp_path), {}, 0, 0)}
    for name in ("q.jsonl", "q.json", "q.csv", "q.tsv", "q.parquet"):
        found[name] = dataset(str(tmp_path / name), Folders(tmp_path), "train", {}, 0, 0)
    return {name: [(row.question, row.answer) for row in listed.rows] for name, listed in found.items()}


@settings(deadline=None, max_examples=15, derandomize=True)
@given(st.lists(st.tuples(ORDINARY, ORDINARY | st.sampled_from(MISSING_WORDS)), min_size=1, max_size=4))
def test_a_table_has_the_same_text_in_every_format(tmp_path_factory, pairs):
    records = [{"question": q, "answer": a} for q, a in pairs]
    by_reader = rows_by(tmp_path_factory.mktemp("t"), records)
    expected = [(as_text(q, ""), as_text(a, "")) for q, a in pairs]
    expected = [pair for pair in expected if all(pair)]
    assert all(rows == expected for rows in by_reader.values()), by_reader


def test_a_folder_of_csv_keeps_its_text(tmp_path):
    """As data_07_typed_answers: pandas, by which `datasets` reads it, reads missing values or other numbers."""
    lines = "".join(f"How is it?,{word}\n" for word in MISSING_WORDS)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "train.csv").write_text(f"\ufeffquestion,answer\n{lines}How is it?,\n", encoding="utf-8")
    source = dataset(str(tmp_path / "mine"), Folders(tmp_path), "train", {}, 0, 0)
    assert [row.answer for row in source.rows] == list(MISSING_WORDS)
    assert source.skipped == {"no question or answer": 1}


@pytest.mark.parametrize(("answers", "kept"), [((3, 2.5), None), ((3, 2), ["3", "2"]), ((3.5, 2.5), ["3.5", "2.5"])])
def test_numbers_of_a_folder_of_json_are_verbatim_or_refused(tmp_path, answers, kept):
    (tmp_path / "mine").mkdir()
    lines = [json.dumps({"question": "How many?", "answer": answer}) for answer in answers]
    (tmp_path / "mine" / "train.jsonl").write_text("\n".join(lines))
    if kept is None:
        with pytest.raises(InputError, match="'answer': holds numbers with and without a point"):
            dataset(str(tmp_path / "mine"), Folders(tmp_path), "train", {}, 0, 0)
        rows = dataset(str(tmp_path / "mine" / "train.jsonl"), Folders(tmp_path), "train", {}, 0, 0).rows
        assert [row.answer for row in rows] == ["3", "2.5"]
    else:
        assert [
            row.answer for row in dataset(str(tmp_path / "mine"), Folders(tmp_path), "train", {}, 0, 0).rows
        ] == kept


def test_typed_answers_of_a_dataset(tmp_path):
    """data_07_typed_answers: labels by their names, bytes as text, float32 in its own digits, 3 and a blank."""
    questions = ["How many cups?"] * 3

    def answers(values, feature=None):
        features = Features({"question": Value("string"), "answer": feature}) if feature else None
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        Dataset.from_dict({"question": questions, "answer": values}, features).to_parquet(folder / "train.parquet")
        return [row.answer for row in dataset(str(folder), Folders(tmp_path), "train", {}, 0, 0).rows]

    assert answers([0, 1, -1], ClassLabel(names=["red", "blue"])) == ["red", "blue"]
    assert answers([[0], [1], []], List(ClassLabel(names=["red", "blue"]))) == ["red", "blue"]
    assert answers([b"red", None, b"blue"], Value("binary")) == ["red", "blue"]
    assert answers([0.1, 2.0, 0.7], Value("float32")) == ["0.1", "2.0", "0.7"]
    assert answers([0.1, None, 0.7], Value("float16")) == ["0.1", "0.7"]
    assert answers([3.0, None, 10.0]) == ["3", "10"]
    assert answers([3.0, math.nan, 10.0]) == ["3", "10"]
    assert answers([3.0, 4.0, 10.0]) == ["3.0", "4.0", "10.0"]
    assert answers([3.5, None, 10.0]) == ["3.5", "10.0"]
    assert answers([date(2020, 1, 2)] * 3) == ["2020-01-02"] * 3
    with pytest.raises(InputError, match=r"row 0: 'answer' is a datetime, not text"):
        answers([datetime(2020, 1, 2, 10)] * 3)


@FAST
@given(st.lists(st.none() | st.integers(-99, 99), min_size=1, max_size=6), st.booleans())
def test_integers_with_blanks_stay_integers(values, as_nan):
    """Where a reader has made floats of them: NaN or null and 3.0, in JSON as in Parquet."""
    blank = math.nan if as_nan else None
    floats = [blank if value is None else float(value) for value in values]
    numbers = IntegerColumns(("answer",))
    for value in floats:
        numbers.observe({"answer": value})
    restored = [numbers.restore("answer", as_text(value, "")) for value in floats]
    has_blank = None in values
    assert restored == ["" if v is None else str(v) if has_blank else f"{v}.0" for v in values]


def test_a_pandas_row_written_as_json(tmp_path):
    """data_06_nan, and what pandas makes of integers with a blank among them."""
    nan = math.nan
    rows = [
        {"id": "a", "question": "How many cups?", "answer": nan},
        {"id": "b", "question": nan, "answer": 1.0},
        {"id": "c", "question": "Is it red?", "answer": 3.0, "instruction": nan, "question_type": nan, "image": nan},
        {"id": "d", "question": "Is it 1e5?", "answer": 4.0, "category": nan},
    ]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = json_lines(tmp_path / "q.jsonl", Folders(tmp_path), {}, 0, 0)
    assert [(r.id, r.answer, r.question_type, r.instruction, r.image) for r in found.rows] == [
        ("c", "3", "open", "", None), ("d", "4", "open", "", None),
    ]  # fmt: skip
    assert found.skipped == {"no question or answer": 2}
    (tmp_path / "n.jsonl").write_text('{"question": "a", "answer": 1e5}\n{"question": "b", "answer": 0.50}\n')
    assert [r.answer for r in json_lines(tmp_path / "n.jsonl", Folders(tmp_path), {}, 0, 0).rows] == ["1e5", "0.50"]


@pytest.mark.parametrize("image", [["a.png"], {"path": "a.png"}, {"bytes": None, "path": "a.png"}, [{"path": "a.png"}]])
def test_an_image_given_as_a_list_of_one_is_that_image(tmp_path, image):
    (tmp_path / "a.png").write_bytes(IMAGE)
    (tmp_path / "q.jsonl").write_text(json.dumps({"question": "a", "answer": "b", "image": image}))
    assert json_lines(tmp_path / "q.jsonl", Folders(tmp_path), {}, 0, 0).example(0).image == IMAGE
    (tmp_path / "q.jsonl").write_text(json.dumps({"question": "a", "answer": "b", "image": [image, image]}))
    with pytest.raises(InputError, match=r"q.jsonl: row 0: 'image' is a list, not an image or its path"):
        json_lines(tmp_path / "q.jsonl", Folders(tmp_path), {}, 0, 0)


def test_lists_of_images_in_a_dataset(tmp_path):
    features = Features({"question": Value("string"), "answer": Value("string"), "images": List(Image())})
    rows = {"question": ["a", "b"], "answer": ["c", "d"], "images": [[{"bytes": IMAGE}], []]}
    Dataset.from_dict(rows, features).to_parquet(tmp_path / "one" / "train.parquet")
    source = dataset(str(tmp_path / "one"), Folders(tmp_path), "train", {"image": "images"}, 0, 0)
    assert [source.example(i).image for i in range(2)] == [IMAGE, None]
    rows["images"][1] = [{"bytes": IMAGE}] * 2
    Dataset.from_dict(rows, features).to_parquet(tmp_path / "two" / "train.parquet")
    with pytest.raises(InputError, match=r"row 1: 'images' is a list, not an image or its path"):
        dataset(str(tmp_path / "two"), Folders(tmp_path), "train", {"image": "images"}, 0, 0)


TEXT_FILES = {
    "jsonl": ("q.jsonl", '{"question": "Is it?", "answer": "b"}'),
    "datasets": ("q.csv", "question,answer\nIs it?,b\n"),
    "llava": ("q.json", json.dumps([{"image": "a.png", "conversations": [
        {"from": "human", "value": "Is it?"}, {"from": "gpt", "value": "b"}]}])),
    "common-voice": ("q.tsv", "client_id\tpath\tsentence\nx\ta.mp3\tIs it?\n"),
    "librispeech": ("1-2.trans.txt", "1-2-0 IS IT?\n"),
    "gigaspeech": ("g.json", json.dumps({"audios": [{"aid": "a", "path": "b", "segments": [
        {"sid": "a", "begin_time": 1.0, "end_time": 3.0, "text_tn": "IS IT?"}]}]})),
    "lhotse": ("c.jsonl", json.dumps({"id": "a", "start": 0, "duration": 1, "supervisions": [{"text": "Is it?"}],
        "recording": {"sources": [{"type": "file", "source": "a.flac"}]}})),
}  # fmt: skip


@pytest.mark.parametrize("source", TEXT_FILES)
def test_a_byte_order_mark_is_removed_and_utf_16_is_refused(tmp_path, source):
    name, text = TEXT_FILES[source]
    path = tmp_path if source == "librispeech" else tmp_path / name
    config = SynthesizeConfig(tmp_path / "out", source, str(path), count=0)
    for encoding in ("utf-8", "utf-8-sig"):
        (tmp_path / name).write_text(text, encoding=encoding)
        (row,) = open_source(config).rows
        assert row.question.casefold() == "is it?" and "\ufeff" not in row.id
    for encoding in ("utf-16", "utf-16-le", "utf-32"):
        (tmp_path / name).write_text(text, encoding=encoding)
        with pytest.raises(InputError, match=f"{name}: not text in UTF-8 but UTF-16 or UTF-32.*save it as UTF-8"):
            open_source(config)


@pytest.mark.parametrize("source", TEXT_FILES)
def test_query_audio_and_ctc_labels_have_one_text(tmp_path, source, processor):
    """Of every source in files: the audio has the spoken form of the teacher's query, the CTC labels are the tokens of
    the same text, and all sources normalize it alike."""
    name, text = TEXT_FILES[source]
    untidy = "Is\u200b it\u00a0\u2028so?" if source not in ("common-voice", "librispeech") else "Is\u200b it\u00a0so?"
    written = text.replace("Is it?", json.dumps(untidy)[1:-1] if source in ("jsonl", "llava", "lhotse") else untidy)
    (tmp_path / name).write_text(written.replace("IS IT?", untidy.replace("\u2028", " ")), encoding="utf-8")
    (tmp_path / "a.png").write_bytes(IMAGE)
    path = tmp_path if source == "librispeech" else tmp_path / name
    images = {"images": str(tmp_path)} if source in ("llava", "jsonl", "datasets") else {}
    listed = open_source(SynthesizeConfig(tmp_path / "out", source, str(path), count=0, **images))
    example = listed.example(0)
    assert example.question.split() == ["Is", "it", "so?"] and "\u00a0" not in example.question
    item = paired_item(processor, example.with_audio(tone(1.0), "x"), with_image=False)
    assert item.transcript == example.question and item.transcript_ids == processor.text_ids(example.question)
    assert spoken_form(example.question).replace(".", "").split() == ["Is", "it", "so?"]


PLACEHOLDERS = (
    *("<image>", "<Image>", "<image-placeholder>", "<ImageHere>", "<|image|>", "<|image_1|>", "<img>a.png</img>"),
    *("<start_of_image>", "<|vision_start|><|image_pad|><|vision_end|>", "[IMG]", '<img src="a.png"/>'),
)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("<image>\nWhat color is it?", "What color is it?"),
        ("What color is it?\n<image>", "What color is it?"),
        ("Is<image>it red?", "Is it red?"),
        ("Look. <image> What is it?", "Look. What is it?"),
        ("One\n<image>\ntwo", "One\ntwo"),
        ("<image>", ""),
        ("What is in <image>?", "What is in <image>?"),
        ("What does <image> show?", "What does <image> show?"),
        ("Is it in <image 1>?", "Is it in <image 1>?"),
        ("<image><image>\nWhat?", "<image><image>\nWhat?"),
    ],
)
def test_the_image_placeholder_is_removed(text, left):
    assert strip_image_placeholder(text) == left


@FAST
@given(
    st.lists(st.sampled_from(["Is", "the", "cup", "red?", "It", "is."]), min_size=1, max_size=5),
    st.sampled_from(PLACEHOLDERS),
    st.integers(0, 5),
    st.sampled_from(["", " ", "\n"]),
    st.sampled_from(["", " ", "\n"]),
)
def test_removing_the_placeholder_keeps_all_words(words, placeholder, at, before, after):
    """None joined, none lost; where the placeholder is a word of the sentence, the row is refused."""
    first, rest = words[:at], words[at:]
    text = " ".join(first) + (before if first else "") + placeholder + (after if rest else "") + " ".join(rest)
    (row,) = sample_rows([Row("a", text, "yes", image=IMAGE)], 0, 0)
    if row.question == text:
        with pytest.raises(InputError, match=r"field question: .* stands for a word of the sentence"):
            RowSource("x", (row,)).example(0)
    else:
        assert row.question.split() == words and not IMAGE_PLACEHOLDER.search(row.question)


def test_two_placeholders_and_one_without_an_image_are_refused(tmp_path):
    """data_05_image_tag_in_jsonl."""
    (tmp_path / "a.png").write_bytes(IMAGE)
    rows = [
        {"image": "a.png", "question": "<image>\nWhat color is it?", "answer": "red"},
        {"image": "a.png", "question": "Is<image>it red, or is <image>?", "answer": "red"},
        {"image": "a.png", "question": "What?", "instruction": "<image>\nAnswer briefly.", "answer": "red"},
        {"question": "<image>\nWhat?", "answer": "red"},
    ]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = json_lines(tmp_path / "q.jsonl", Folders(tmp_path), {}, 0, 0)
    assert source.example(0).question == "What color is it?"
    assert source.example(2).instruction == "Answer briefly.\n"
    with pytest.raises(InputError, match="field question: 2 placeholders for one image"):
        source.example(1)
    with pytest.raises(InputError, match="field question: <image> stands for an image, and there is none"):
        source.example(3)
    assert strip_audio_placeholder("<|audio_1|>\nWho speaks?") == "Who speaks?"


def test_text_with_lost_characters_is_refused():
    """LaTeX in JSON whose backslashes are not doubled, and characters that a wrong decoding lost."""
    for broken in ("Is \frac{1}{2} more?", "Is \rho more?", "Is 2\times 3 six?", "Is it \beta?", "Is \x0bec{x} it?"):
        (row,) = sample_rows([Row("a", as_text(broken, ""), "b")], 0, 0)
        with pytest.raises(InputError, match="a LaTeX command whose backslash was not doubled"):
            RowSource("x", (row,)).example(0)
    with pytest.raises(InputError, match="field question: holds U\\+FFFD"):
        check_text("question", "caf\ufffd")
    check_text("question", as_text("one\ttwo\r\nthree\x00 four\rfive", ""))


def test_a_file_of_a_table_is_read_or_refused_in_one_line(tmp_path, capsys, monkeypatch):
    """data_27_csv_file: a file was taken for a hub id."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "csv").mkdir()  # which `datasets` would read in place of its own reader of that name
    (tmp_path / "q.CSV").write_text("question,answer\nWhat is it?,red\n")
    assert [r.answer for r in dataset("q.CSV", Folders(tmp_path), "train", {}, 0, 0).rows] == ["red"]
    (tmp_path / "q.xlsx").write_bytes(b"PK")
    for path, reason in (
        ("q.xlsx", "no file format of a table; .csv, .tsv, .json, .jsonl, .parquet are read"),
        ("none/q.csv", "no such file or folder"),
        ("./none", "no such file or folder"),
        ("https://example.com/q.csv", "a URL, not the id of a dataset"),
        ("hf://datasets/a/b", "a URL, not the id of a dataset"),
    ):
        assert main(["synthesize", "--source", "datasets", "--path", path, "--count", "0", "--output", "d"]) == 2
        assert f"path: {path}: {reason}" in capsys.readouterr().err
    (tmp_path / "bad.csv").write_text("question,answer\nWhat is it?,red,or blue\n")
    with pytest.raises(InputError, match=r"bad.csv: line 2: other columns than the 2 that the first line names"):
        dataset("bad.csv", Folders(tmp_path), "train", {}, 0, 0)
    (tmp_path / "bad.csv").rename(tmp_path / "csv" / "train.csv")
    with pytest.raises(InputError, match=r"path: csv: .*does not match length of data"):
        dataset("csv", Folders(tmp_path), "train", {}, 0, 0)


def test_a_public_benchmark_is_read_to_the_letter(tmp_path):
    assert as_published(" Is it\u00a0so? ", "") == " Is it\u00a0so? "
    (tmp_path / "l.json").write_text('[{"a": 1.5}]')
    assert list(json_records(tmp_path / "l.json")) == [{"a": 1.5}]
