"""Control sequences that come from outside reach no terminal; names are no markup."""

import io
import json
import re
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.table import Table
from tqdm import tqdm

from selfkd.cli import main
from selfkd.terminal import PlainStream, plain, plain_output, table_console

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\u2028\u2029]")
attacks = st.sampled_from(
    ["\x1b[31m", "\x1b[2J", "\x1b]0;title\x07", "\x1b]52;c;aGk=\x1b\\", "\x9b31m", "\u202e", "\u2066", "\x08\x08",
     "\rx", "\x1bP1\x1b\\", "\x1b[8m", "\x07", "\x1b", "\x1b[A", "\x1b[", "\x7f"]
)  # fmt: skip
texts = st.lists(st.one_of(attacks, st.text(max_size=5)), max_size=8).map("".join)
few = settings(deadline=None, max_examples=60, derandomize=True)


@few
@given(text=texts)
def test_no_control_character_is_printed(text):
    stream = io.TextIOWrapper(io.BytesIO(), "utf-8")
    with plain_output(stream, stream):
        print(f"a {text} b")
        print(f"a {text} b", file=sys.stderr)
        assert table_console().file is not stream
    stream.flush()
    shown = stream.buffer.getvalue().decode()
    assert not CONTROL.search(shown), shown
    assert shown.startswith("a ") and shown.count(" b\n") >= 2


@few
@given(text=texts)
def test_it_is_the_same_when_made_plain_twice_and_keeps_all_else(text):
    assert plain(plain(text)) == plain(text)
    harmless = re.sub(r"[^a-zA-Z0-9 \n\täß中😀]", "", text)
    assert plain(harmless) == harmless


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_character_that_the_terminal_lacks_is_escaped(encoding):
    stream = io.TextIOWrapper(io.BytesIO(), encoding)
    PlainStream(stream).write("中\ud800")
    stream.flush()
    assert stream.buffer.getvalue().decode(encoding) in ("\\u4e2d\\ud800", "中\\ud800")


def test_it_takes_linear_time():
    for text in ("\x1b[" * 200_000, "\x1b[" + "1;" * 200_000, "\r" * 400_000, "\x1b[" + " " * 400_000):
        started = time.perf_counter()
        plain(text)
        assert time.perf_counter() - started < 5


def test_progress_bars_of_libraries_still_draw_over_themselves():
    stream = io.StringIO()
    for _ in tqdm(range(3), "x", file=PlainStream(stream), position=1, mininterval=0):
        pass
    assert "\r" in stream.getvalue() and "\x1b[A" in stream.getvalue() and "3/3" in stream.getvalue()


def test_names_are_no_markup(capsys):
    table = Table()
    table.add_column("name")
    table.add_row("[red]a[/foo] :smile:")
    table_console().print(table)
    assert "[red]a[/foo] :smile:" in capsys.readouterr().out


@few
@given(text=texts.filter(lambda text: "\x00" not in text))
def test_an_error_about_a_name_from_outside_is_one_plain_line(tmp_path_factory, text):
    """A file name on the command line, and a field of a file."""
    folder = tmp_path_factory.mktemp("odd")
    (folder / "manifest.json").write_text(json.dumps({text: 1, "shards": text, "rows": text}))
    for arguments in (["compare", f"none{text}", "--output", "x"], ["data", "check", str(folder)]):
        out, err = io.StringIO(), io.StringIO()
        with plain_output(out, err):
            assert main(arguments) == 2
        assert not CONTROL.search(err.getvalue()) and err.getvalue().count("\n") == 1
