"""The commands and numbers of docs/data.md and docs/benchmarks.md that can be checked here: each published set from a
copy in its layout by its documented command, and the errors of subsets by their formula."""

import re
import shlex

import pytest
from documentation import DOCS, call, documented_commands
from published_layouts import COPIES

from selfkd.cli import parse_command
from selfkd.data.dataset import ExampleFolder
from selfkd.evaluation.benchmarks.registry import PAPER8
from selfkd.evaluation.uncertainty import subset_stderr

FOLDERS = ("images", "recordings", "annotations")  # fields that say where parts of a set are


def commands_of_sets():
    """{source: words of its documented command}."""
    commands = [c for c in documented_commands(DOCS / "data.md") if c[:2] == ["selfkd", "synthesize"]]
    by_source = {parse_command("synthesize", c[2:])[0].source: c for c in commands}
    return {name: words for name, words in by_source.items() if name in COPIES}


def test_every_published_set_has_a_command():
    assert set(commands_of_sets()) == set(COPIES)
    table = re.findall(r"^\| ((?:`[\w-]+`(?:, )?)+) \|", (DOCS / "data.md").read_text(), re.MULTILINE)
    documented = {name for cell in table for name in re.findall(r"`([\w-]+)`", cell)}
    assert set(COPIES) <= documented, "each has a row with license, revision and size"


@pytest.mark.slow
@pytest.mark.parametrize("name", COPIES)
def test_documented_command_reads_a_copy_of_the_set(name, tmp_path, monkeypatch):
    """With the copy's paths and split in place of the documented ones, and no other field."""
    # shards are made in this process: the pool is not the subject
    run_here = lambda stage, jobs, *_: (stage(*job) for job in jobs)  # noqa: E731
    monkeypatch.setattr("selfkd.synthesis.synthesize.run_jobs", run_here)
    words = commands_of_sets()[name]
    config, _ = parse_command("synthesize", words[2:])
    copy = COPIES[name](tmp_path / "published")
    needed = {field for field in FOLDERS if copy.settings.get(field)}
    given = {field for field in FOLDERS if getattr(config, field)}
    assert needed <= given, "a folder that the command does not name"
    flags = {"source": name, "path": copy.path, "split": config.split, "count": 0, "shard_rows": config.shard_rows}
    flags |= copy.settings | {"output": tmp_path / "out"}
    line = " ".join(f"--{flag} {shlex.quote(str(value))}" for flag, value in flags.items())
    status, _, err = call(f"selfkd synthesize {line}")
    assert status == 0, err[-2000:]
    assert [e.question for e in ExampleFolder(tmp_path / "out")] == copy.questions


def test_errors_of_subsets_are_those_of_the_formula():
    page = (DOCS / "benchmarks.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| ([\d,]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", page, re.MULTILINE)
    assert [name for name, *_ in rows] == list(PAPER8)
    limits, squares = (100, 200, 500), [0.0, 0.0, 0.0]
    for _, items, *stated in rows:
        for at, (limit, points) in enumerate(zip(limits, stated, strict=True)):
            half = [1.0, 0.0] * (limit // 2)
            error = subset_stderr(half, None, int(items.replace(",", "")))
            assert error is not None and f"{100 * error:.1f}" == points
            squares[at] += error**2
    (average,) = re.findall(r"^\| average of the eight \| \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", page, re.MULTILINE)
    assert [f"{100 * s**0.5 / 8:.1f}" for s in squares] == list(average)
