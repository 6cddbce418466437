"""The documentation, run: the examples of every page, on the tiny model, in this process.

`sh` blocks are run as written, and the output on the page must be printed, except for numbers; `python` blocks are run;
`console` blocks show commands that are refused, with their exact message. A block after `<!-- not run: REASON -->` is
only parsed. `SELFKD_UPDATE_DOCS=1 pytest tests/test_docs.py` writes the outputs and messages of today into the pages.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from documentation import DOCS, PAGE_IDS, PAGES, ROOT, call, documented_commands, read_blocks, run_page

from selfkd import __version__
from selfkd.cli import COMMANDS, parse_command

MAX_IMAGE_BYTES = 200_000
SMALLER = {
    "synthesize": ["--count", "4"],
    "align": ["--steps", "1", "--batch_size", "2"],
    "distill": ["--steps", "1", "--batch_size", "2"],
    "evaluate": ["--limit", "2"],
}
NOTEBOOK = DOCS / "quickstart.ipynb"


def load_build() -> Any:
    spec = importlib.util.spec_from_file_location("build", DOCS / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build = load_build()
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


@pytest.mark.slow
def test_command_pages_run_in_order(empty_folder):
    """One test, because the pages share one folder, in the order of `selfkd --help`."""
    failures = {}
    for command in COMMANDS:
        page = build.page_of(command)
        try:
            assert run_page(page), "nothing is run"
        except Exception as error:
            failures[page.name] = f"{type(error).__name__}: {error}"[:3000]
    assert not failures, "\n\n".join(f"{name}: {error}" for name, error in failures.items())


@pytest.mark.slow
def test_tutorial_runs(empty_folder):
    assert run_page(DOCS / "tutorial.md") >= 12
    assert Path("report.html").is_file() and Path("runs/mine/model").is_dir()


@pytest.mark.slow
def test_demo_step_by_step_runs_with_smaller_sizes(empty_folder):
    commands = [c for c in documented_commands(DOCS / "commands" / "README.md") if c[0] == "selfkd"]
    assert {c[1] for c in commands} == {"synthesize", "align", "distill", "evaluate", "compare", "report"}
    for command in commands:
        status, _, err = call(" ".join([*command, *SMALLER.get(command[1], [])]))
        assert status == 0, (command, err[-2000:])
    assert Path("runs/report.html").is_file()


@pytest.mark.slow
def test_notebook_runs(empty_folder):
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for cell in notebook_cells("code"):
        exec(compile("".join(cell["source"]), str(NOTEBOOK), "exec"), namespace)
    assert Path("quickstart/report.html").is_file()


def test_notebook_stores_no_outputs():
    """They would go stale; the cells are run by the test above."""
    assert notebook_cells("code")
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in notebook_cells("code"))


def notebook_cells(cell_type: str) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == cell_type]


def test_generated_tables_are_current():
    stale = [page.name for page, text in build.built().items() if page.read_text() != text]
    assert not stale, "python docs/build.py writes them"


def test_every_command_has_a_page_with_an_example():
    pages = {build.page_of(c).name for c in COMMANDS}
    assert {p.name for p in (DOCS / "commands").iterdir()} == pages | {"README.md"}
    for command in COMMANDS:
        blocks = [b for b in read_blocks(build.page_of(command)) if b.language == "sh"]
        assert any(f"selfkd {command} " in b.body for b in blocks), command


@pytest.mark.parametrize("page", PAGES, ids=PAGE_IDS)
def test_documented_commands_parse(page):
    """Names, fields and values, also of the commands that need a hub."""
    for command in documented_commands(page):
        if command[0] == "selfkd":
            words = 2 if " ".join(command[1:3]) in COMMANDS else 1
            config, stage = parse_command(" ".join(command[1 : 1 + words]), command[1 + words :])
            assert callable(stage) and config


def heading_anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=PAGE_IDS)
def test_links_resolve(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not target.startswith(("http://", "https://")):
            name, _, anchor = target.partition("#")
            path = (page.parent / name).resolve() if name else page
            if path == DOCS / "quickstart.md":  # the site makes it from the notebook
                path = NOTEBOOK
            assert path.exists() and path.is_relative_to(ROOT), target
            assert not anchor or anchor in heading_anchors(path), target
            assert path.suffix != ".png" or path.stat().st_size < MAX_IMAGE_BYTES, target


@pytest.mark.parametrize("page", PAGES, ids=PAGE_IDS)
def test_files_named_in_code_exist(page):
    for name in re.findall(r"`((?:selfkd|tests|experiments|recipes|docs|tools)/[\w./-]+)`", page.read_text()):
        assert (ROOT / name).exists(), name


def test_blocks_that_are_not_run_have_a_reason():
    for page in [*(DOCS / "commands").iterdir(), DOCS / "tutorial.md"]:
        assert page.read_text().count("<!-- not run") == sum(bool(b.reason) for b in read_blocks(page)), page


@pytest.mark.slow
def test_site_builds_strictly(tmp_path):
    """Links, anchors and navigation, as `make docs` checks them."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, env=os.environ)
    assert done.returncode == 0, done.stderr[-4000:]
    home = (tmp_path / "site" / "index.html").read_text()
    assert "Self-KD" in home and (tmp_path / "site" / "quickstart.html").is_file()
    assert not re.findall(r"(?:src|href)=\"https?://[^\"]+\.(?:js|css|woff2?)\"", home), "the site loads from elsewhere"


def test_citation_names_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    about = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (citation["version"], citation["license"]) == (__version__, about["license"])
    for author in citation["references"][0]["authors"]:
        assert f"{author['family-names']}, {author['given-names']}" in (ROOT / "README.md").read_text()
