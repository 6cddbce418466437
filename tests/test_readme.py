"""The README: at most 700 words, a Python example of at most eight lines, commands that exist."""

import ast
import re
import subprocess

from documentation import ROOT, documented_commands, read_blocks

import selfkd

README = ROOT / "README.md"
MAX_WORDS = 700
MAX_CODE_LINES = 8


def python_example() -> str:
    (block,) = [b for b in read_blocks(README) if b.language == "python"]
    return block.body


def test_readme_is_short():
    assert len(README.read_text().split()) <= MAX_WORDS


def test_python_example_is_short():
    statements = [s for s in ast.parse(python_example()).body if not isinstance(s, ast.Import | ast.ImportFrom)]
    lines = {line for s in statements for line in range(s.lineno, s.end_lineno + 1)}
    assert len(lines) <= MAX_CODE_LINES


def test_make_targets_exist():
    targets = {c[1] for c in documented_commands(README) if c[0] == "make"}
    assert targets == {"demo", "test"}
    makefile = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{t}:", makefile, re.MULTILINE) for t in targets)
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_python_example_is_the_one_that_is_run():
    """The docstring of `selfkd` has the same code, which tests/test_api.py runs."""
    lines = [line for line in python_example().splitlines() if line]
    assert lines == [line[4:] for line in selfkd.__doc__.splitlines() if line.startswith("    ")]


def test_nothing_committed_names_a_machine_path():
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for name in files:
        path = ROOT / name
        if (
            path.suffix in (".py", ".md", ".toml", ".txt", ".yaml", ".yml", ".json", ".ipynb", ".cff")
            and path.is_file()
        ):
            assert ("/wo" + "rk/") not in path.read_text(), name
