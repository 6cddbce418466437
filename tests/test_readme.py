"""The README's commands, as written, with smaller sizes added at the end; and its promises about files."""

import contextlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from selfkd.cli import COMMANDS, main, parse_command

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", *sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / "docs").rglob("*.md"))]
SMALLER = {
    "synthesize": ["--count", "24", "--shard_rows", "12"],
    "align": ["--steps", "2"],
    "distill": ["--steps", "2"],
    "evaluate": ["--limit", "6"],
}


def commands(page: str = "README.md") -> list[list[str]]:
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith(("make ", "selfkd "))]


def test_make_targets_exist():
    targets = {c[1] for c in commands() if c[0] == "make"}
    assert targets == {"demo", "test"}
    makefile = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{t}:", makefile, re.MULTILINE) for t in targets)
    assert "make test" in (ROOT / ".ci" / "run").read_text()


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """A folder in which the step-by-step commands were run, in the order of the README."""
    folder = tmp_path_factory.mktemp("pipeline")
    # public benchmarks and models come from a hub: those commands are parsed below
    steps = [c for c in commands() if c[0] == "selfkd" and c[1] != "demo" and "--benchmarks" not in c]
    assert {c[1] for c in steps} == {"synthesize", "align", "distill", "evaluate", "compare", "report"}
    with contextlib.chdir(folder):
        for command in steps:
            assert main([*command[1:], *SMALLER.get(command[1], [])]) == 0, command
    return folder


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_the_docs_is_one(page):
    """Its name, its fields and their values: what no hub is needed for."""
    for command in commands(page):
        if command[0] == "selfkd":
            words = 2 if " ".join(command[1:3]) in COMMANDS else 1
            config, stage = parse_command(" ".join(command[1 : 1 + words]), command[1 + words :])
            assert callable(stage) and config


def test_the_pipeline_step_by_step(pipeline):
    assert (pipeline / "runs" / "report.html").is_file()


def test_the_python_example_runs(pipeline):
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    done = subprocess.run([sys.executable, "-c", example], cwd=pipeline, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip()


def test_nothing_committed_names_a_machine_path():
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for name in files:
        path = ROOT / name
        if path.suffix in (".py", ".md", ".toml", ".txt", ".yaml", ".json") and path.is_file():
            assert ("/wo" + "rk/") not in path.read_text(), name
