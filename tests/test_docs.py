"""The docs, run: every example of a command's page and of the tutorial, one after another, on the embedded default.

`sh` blocks are run as written, and what the page shows under them has to be printed, but for its figures; `python`
blocks are run; `console` blocks show commands that are refused, with what they say, to the letter. A block after
`<!-- not run: REASON -->` is parsed alone (tests/test_readme.py).
"""

import importlib.util
import io
import re
import shlex
import tomllib
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import yaml

from selfkd import __version__, cli
from selfkd.cli import COMMANDS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
MAX_PICTURE_BYTES = 200_000
_BLOCK = re.compile(
    r"(?:<!-- not run: (?P<reason>[^\n]+) -->\n+)?```(?P<kind>\w+)\n(?P<body>.*?)```(?:\n+```text\n(?P<shown>.*?)```)?",
    re.DOTALL,
)


class Block(NamedTuple):
    reason: str | None  # why it is not run
    kind: str
    body: str
    shown: str | None  # what the page says that it prints


def load_build():
    spec = importlib.util.spec_from_file_location("build", DOCS / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build = load_build()


def blocks(page: Path) -> list[Block]:
    return [Block(**found.groupdict()) for found in _BLOCK.finditer(page.read_text())]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Models this small are slower with two."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the examples of the commands' pages are run, in the order of `selfkd --help`."""
    return tmp_path_factory.mktemp("pages")


def called(line: str) -> tuple[int, str, str]:
    """(exit status, what it printed, what it complained of) of a line of a block."""
    words = shlex.split(line, comments=True)
    assert words[0] == "selfkd", f"{line!r} is not run: mark its block"
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = cli.main(words[1:])
    return status, out.getvalue(), err.getvalue()


def run(page: Path) -> int:
    """Runs a page's blocks in the working directory; returns how many commands that were."""
    count = 0
    for block in blocks(page):
        if block.reason:
            continue
        if block.kind == "python":
            exec(compile(block.body, str(page), "exec"), {"__name__": "__main__"})
        elif block.kind == "sh":
            lines = [line for line in block.body.replace("\\\n", " ").splitlines() if line and line[0] != "#"]
            printed = ""
            for line in lines:
                status, out, err = called(line)
                assert status == 0, (line, err[-2000:])
                printed += out
                count += 1
            assert_shown(block.shown, printed)
        elif block.kind == "console":
            for line, expected in re.findall(r"^\$ (.+)\n([^$]+)", block.body, re.MULTILINE):
                status, _, err = called(line)
                assert (status, err.splitlines()[-1]) == (2, expected.strip()), line
                count += 1
    return count


def assert_shown(shown: str | None, printed: str) -> None:
    """What a page shows was printed, line after line, but for figures and the lengths of rules; `...` stands for lines
    left out."""
    left = [figureless(line) for line in printed.splitlines()]
    for line in map(figureless, (shown or "").splitlines()):
        if line not in ("", "..."):
            assert line in left, (line, printed)
            left = left[left.index(line) + 1 :]


def figureless(line: str) -> str:
    line = re.sub(r"[\s━─┏┓┡┩└┘┳╇┴┌┐┬├┤┼]+", " ", line)
    return re.sub(r"-?\d[\d.,e+-]*", "#", line).strip()


@pytest.mark.parametrize("command", COMMANDS)
def test_the_examples_of_a_commands_page_do_what_it_says(command, folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "80")
    page = build.page_of(command)
    assert run(page), "nothing is run"
    assert any(f"selfkd {command} " in block.body for block in blocks(page) if block.kind == "sh")


def test_the_tutorial_from_ones_own_pictures_to_a_model_that_listens(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    assert run(DOCS / "tutorial.md") >= 12
    assert (tmp_path / "report.html").is_file() and (tmp_path / "runs" / "mine" / "model").is_dir()


def test_tables_of_fields_and_of_commands_are_those_of_the_code():
    stale = [page.name for page, text in build.built().items() if page.read_text() != text]
    assert not stale, "python docs/build.py writes them"


def test_there_is_a_page_for_each_command_and_none_besides():
    assert {p.name for p in (DOCS / "commands").iterdir()} == {build.page_of(c).name for c in COMMANDS}


def anchors(page: Path) -> set[str]:
    """The headings of a page as links name them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_to_files_that_are_there(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not target.startswith(("http://", "https://", "#")):
            name, _, anchor = target.partition("#")
            path = (page.parent / name).resolve()
            assert path.exists() and path.is_relative_to(ROOT), target
            assert not anchor or anchor in anchors(path), target
            assert path.suffix != ".png" or path.stat().st_size < MAX_PICTURE_BYTES, target


def test_blocks_that_are_not_run_say_why():
    for page in [*(DOCS / "commands").iterdir(), DOCS / "tutorial.md"]:
        assert page.read_text().count("<!-- not run") == sum(bool(b.reason) for b in blocks(page)), page


def test_the_citation_names_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    about = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (citation["version"], citation["license"]) == (__version__, about["license"])
    for author in citation["references"][0]["authors"]:
        assert f"{author['family-names']}, {author['given-names']}" in (ROOT / "README.md").read_text()
