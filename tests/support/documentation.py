"""Blocks of the documentation: reading them, running them, comparing what they print with what the page shows."""

import io
import os
import re
import shlex
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

from selfkd import cli

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
PAGE_IDS = [page.relative_to(ROOT).as_posix() for page in PAGES]
_BLOCK = re.compile(
    r"(?:<!-- not run: (?P<reason>[^\n]+) -->\n+)?```(?P<language>\w+)\n(?P<body>.*?)```"
    r"(?:\n+```text\n(?P<shown>.*?)```)?",
    re.DOTALL,
)
_REFUSED = re.compile(r"^\$ (.+)\n([^$]+)", re.MULTILINE)
# SELFKD_UPDATE_DOCS=1: a page's outputs are replaced by what its commands print now; those with "..." are left alone
UPDATE = os.environ.get("SELFKD_UPDATE_DOCS") == "1"


class Block(NamedTuple):
    reason: str | None  # why it is not run
    language: str
    body: str
    shown: str | None  # the output on the page


def read_blocks(page: Path) -> list[Block]:
    return [Block(**match.groupdict()) for match in _BLOCK.finditer(page.read_text())]


def documented_commands(page: Path) -> list[list[str]]:
    """The words of each `make` and `selfkd` command in a page's sh blocks."""
    bodies = "\n".join(b.body for b in read_blocks(page) if b.language == "sh")
    lines = bodies.replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith(("make ", "selfkd "))]


def call(line: str) -> tuple[int, str, str]:
    """(exit status, standard output, standard error) of a command, run in this process."""
    words = shlex.split(line, comments=True)
    assert words[0] == "selfkd", f"{line!r} cannot be run: mark its block"
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = cli.main(words[1:])
    return status, out.getvalue(), err.getvalue()


def run_page(page: Path) -> int:
    """Runs a page's blocks in the working directory; returns the number of commands. Outputs that differ from those on
    the page are raised at its end, so that later pages find the runs of this one."""
    count, differences = 0, []
    for block in read_blocks(page):
        if block.reason:
            continue
        if block.language == "python":
            exec(compile(block.body, str(page), "exec"), {"__name__": "__main__"})
        elif block.language == "sh":
            lines = [line for line in block.body.replace("\\\n", " ").splitlines() if line and line[0] != "#"]
            printed = ""
            for line in lines:
                status, out, err = call(line)
                assert status == 0, (line, err[-2000:])
                printed += out
            count += len(lines)
            differences += _missing_lines(page, block.shown, printed)
        elif block.language == "console":
            for line, expected in _REFUSED.findall(block.body):
                status, _, err = call(line)
                message, expected = err.splitlines()[-1], expected.strip()
                assert status == 2, line
                if message != expected and UPDATE:
                    _replace(page, f"$ {line}\n{expected}\n", f"$ {line}\n{message}\n")
                elif message != expected:
                    differences.append(f"{line}\n  on the page: {expected}\n  printed:     {message}")
                count += 1
    assert not differences, "\n".join(differences)
    return count


def _missing_lines(page: Path, shown: str | None, printed: str) -> list[str]:
    """The first shown line that was not printed in that order, numbers and the lengths of rules aside; `...` stands for
    lines left out."""
    if UPDATE and shown and "..." not in shown.splitlines():
        lines = [line.rstrip() for line in printed.splitlines()]
        if [*map(_without_numbers, shown.splitlines())] != [*map(_without_numbers, lines)]:
            _replace(page, shown, "\n".join(lines) + "\n")
        return []
    left = [_without_numbers(line) for line in printed.splitlines()]
    for line in map(_without_numbers, (shown or "").splitlines()):
        if line not in ("", "..."):
            if line not in left:
                return [f"not printed: {line}\n{printed}"]
            left = left[left.index(line) + 1 :]
    return []


def _replace(page: Path, old: str, new: str) -> None:
    text = page.read_text()
    assert text.count(old) == 1, old
    page.write_text(text.replace(old, new))


def _without_numbers(line: str) -> str:
    line = re.sub(r"[\s━─┏┓┡┩└┘┳╇┴┌┐┬├┤┼]+", " ", line)
    return re.sub(r"-?\d[\d.,e+-]*", "#", line).strip()
