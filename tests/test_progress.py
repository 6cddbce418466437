"""Progress: a bar within the width of a terminal, lines without control sequences in a file."""

import io
import re
import time

import pytest
from processes import run_in_terminal, run_selfkd
from rich.cells import cell_len

from selfkd import progress as module
from selfkd.progress import progress
from selfkd.terminal import plain_output

SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is set."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def lines_of(written: str) -> list[str]:
    """What stood in each line of a terminal at any time, without control sequences."""
    return [SEQUENCE.sub("", part).rstrip() for part in re.split(r"[\r\n]+", written)]


def test_a_file_gets_a_line_every_ten_seconds_and_the_last(clock, capsys):
    with progress("run: training", 40, "steps") as shown:
        for second in range(40):
            clock[0] += 1
            shown.advance(note=f"loss {second}")
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "run: training: 10 of 40 steps, loss 9, 1/s, 0:30 left",
        "run: training: 20 of 40 steps, loss 19, 1/s, 0:20 left",
        "run: training: 30 of 40 steps, loss 29, 1/s, 0:10 left",
        "run: training: 40 of 40 steps, loss 39, 1/s, took 0:40",
    ]


def test_steps_of_an_earlier_process_count_for_no_rate(clock, capsys):
    with progress("x", 1000, "steps") as shown:
        clock[0] += 50  # the model is loaded
        shown.resume_at(990)
        clock[0] += 20
        shown.advance(5)
    assert capsys.readouterr().err.splitlines()[-1] == "x: 995 of 1,000 steps, 4 s each, 0:20 left"


@pytest.mark.parametrize(("delay", "shown", "lines"), [(3, True, 0), (0, True, 1), (0, False, 0)])
def test_a_loop_within_the_delay_and_another_process_show_nothing(delay, shown, lines, clock, capsys):
    with progress("x", 2, "rows", delay, shown) as counted:
        assert list(counted.over("ab")) == ["a", "b"]
    assert len(capsys.readouterr().err.splitlines()) == lines


@pytest.mark.parametrize("columns", [20, 40, 80, 200])
def test_a_bar_is_never_wider_than_the_terminal(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(module, "DRAW_SECONDS", 0)
    monkeypatch.setattr(module._Bar, "interval", 0)
    stream, title = Terminal(), "a long title \x1b[31m" + "中" * 11
    with (
        plain_output(io.StringIO(), stream),
        progress(title, 10**7, "steps") as shown,
    ):
        for note in ("loss 0.1", "loss 123456.7890", "[red]loss[/red]"):
            shown.advance(3 * 10**6, note)
    assert max(map(cell_len, lines_of(stream.getvalue()))) <= columns
    assert "\x1b[31m中" not in stream.getvalue() and stream.getvalue().endswith("\x1b[?25h"), "the cursor is back"
    if columns == 200:
        assert "[red]loss[/red]" in stream.getvalue() and "9,000,000/10,000,000" in stream.getvalue()


def test_a_bar_that_never_shows_writes_nothing():
    stream = Terminal()
    with plain_output(io.StringIO(), stream), progress("x", 2, "rows", 3) as counted:
        assert list(counted.over("ab")) == ["a", "b"]
    assert stream.getvalue() == ""


def test_text_printed_meanwhile_is_whole_and_plain(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with plain_output(stream, stream):
        with progress("x", 3, "steps") as shown:
            for i in shown.over(range(3)):
                print(f"line {i} \x1b]0;title\x07")
        print("after")
    assert [line for line in lines_of(stream.getvalue()) if line.startswith(("line", "after"))] == [
        "line 0 ]0;title", "line 1 ]0;title", "line 2 ]0;title", "after"
    ]  # fmt: skip
    assert "\x07" not in stream.getvalue() and "\x1b]" not in stream.getvalue()


def test_an_error_leaves_the_terminal_as_it_was(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with plain_output(io.StringIO(), stream):
        with pytest.raises(ValueError, match="broken"), progress("x", 3, "steps"):
            raise ValueError("broken")
        import sys

        print("after", file=sys.stderr)
    assert stream.getvalue().endswith("\x1b[?25hafter\n")


@pytest.mark.slow
def test_commands_show_bars_in_a_terminal_and_lines_in_a_file(start, tmp_path):
    """Training and evaluation at 80 x 24: no line is too wide, no dictionary, no message of a library."""
    train = ["distill", "--data", start / "data", "--model", start / "model", "--steps", "3", "--batch_size", "2"]
    score = ["evaluate", start / "model", "--data", start / "data", "--limit", "2"]
    shown = run_in_terminal(*train, "--output", "trained", cwd=tmp_path)
    scored = run_in_terminal(*score, "--output", "scored", cwd=tmp_path)
    assert max(map(cell_len, lines_of(shown + scored))) <= 80
    assert "trained: training" in shown and "3/3" in shown and "loss " in shown and "took 0:" in shown
    assert "trained/model: 3 steps" in shown and "4/4" in scored
    for noise in ("{'loss'", "Warning", "Loading weights", "[transformers]"):
        assert noise not in shown + scored
    for arguments in ([*train, "--output", "trained-2"], [*score, "--output", "scored-2"]):
        piped = run_selfkd(*arguments, cwd=tmp_path)
        assert piped.returncode == 0 and "\x1b" not in piped.stdout + piped.stderr and "\r" not in piped.stderr
        assert re.fullmatch(r".+: \d of \d (?:steps|predictions), .*took 0:\d\d\n", piped.stderr), piped.stderr
