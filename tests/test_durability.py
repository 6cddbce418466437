"""What a stage leaves is whole or absent: after a power cut, without space, with two of the same command at once. Kills
are in `tests/fuzz/test_kill_points.py`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from chat_server import chat_server
from examples import training_data
from hypothesis import given, settings
from hypothesis import strategies as st
from kill_points import files_at_most
from processes import Command

from selfkd.cli import main
from selfkd.errors import InputError
from selfkd.evaluation.samples import keep_whole_lines, whole_lines
from selfkd.files import write_folder_atomically, write_text

VOUCHERS = ("result.json", "manifest.json", "judged.json", "complete")  # files that say that others are complete


class Disk:
    """What a power cut would leave: `check` raises where a name stands for content that is not on the disk."""

    def __init__(self, monkeypatch):
        self.contents: dict[tuple[int, int], tuple[int, int]] = {}  # {file: size and time at its last fsync}
        self.names: set[Path] = set()  # folders in which a rename is not on the disk yet
        self.vouched: list[str] = []
        for function in (os.fsync, os.replace, os.rename):
            monkeypatch.setattr(os, function.__name__, self._recorded(function))

    def _recorded(self, function):
        def fsync(descriptor):
            found = os.fstat(descriptor)
            self.contents[found.st_dev, found.st_ino] = found.st_size, found.st_mtime_ns
            self.names.discard(Path(f"/proc/self/fd/{descriptor}").readlink())
            return function(descriptor)

        def rename(source, target, **options):
            source, target = Path(source), Path(target)
            if not target.name.startswith("."):
                self.check(source)
            if target.name in VOUCHERS:
                self.check(target.parent)
                assert not [p for p in self.names if p.is_relative_to(target.parent)], "a name is not on the disk"
                self.vouched.append(target.name)
            function(source, target, **options)
            self.names.add(target.parent.resolve())

        return fsync if function is os.fsync else rename

    def check(self, path: Path) -> None:
        for file in path.rglob("*") if path.is_dir() else (path,):
            if file.is_file() and not file.is_symlink() and file.name not in (".lock", "usage.json"):
                found = file.stat()
                on_disk = self.contents.get((found.st_dev, found.st_ino))
                assert on_disk == (found.st_size, found.st_mtime_ns), f"{file} is not on the disk"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("durable")
    training_data(folder)
    return folder / "data"


def commands(data, folder, url=""):
    """{name: (output, arguments)} of the commands that write files that vouch for others."""
    training = ["--data", data, "--steps", "2", "--batch_size", "4", "--save_steps", "1"]
    return {
        "synthesize": (folder / "data", ["synthesize", "--source", "world", "--count", "3", "--shard_rows", "2"]),
        "align": (folder / "align", ["align", *training, "--weight_averaging", "0.9"]),
        "distill": (folder / "distill", ["distill", *training]),
        "evaluate": (folder / "eval", ["evaluate", "selfkd-tiny", "--data", data, "--limit", "4"]),
        "merge": (folder / "merged", ["merge", "--model", "selfkd-tiny"]),
        "judge": (folder / "eval" / "judged.json", ["judge", folder / "eval", "--model", "m", "--url", url]),
        "compare": (folder / "compared", ["compare", folder / "eval"]),
        "report": (folder / "report.html", ["report", folder / "eval"]),
    }


def arguments_of(name, given, output):
    return list(map(str, given if name == "judge" else [*given, "--output", output]))


@pytest.mark.slow
def test_a_result_is_written_once_all_its_files_are_on_the_disk(data, tmp_path, monkeypatch):
    pytest.importorskip("openai")
    with chat_server() as server:
        server.prediction = lambda request: '{"on_topic": true, "reason": "r"}'
        disk = Disk(monkeypatch)
        for name, (output, given) in commands(data, tmp_path, server.url).items():
            assert main(arguments_of(name, given, output)) == 0, name
    assert disk.vouched.count("complete") == 4 and {*VOUCHERS} == {*disk.vouched}
    assert not disk.names, "the last rename is not on the disk"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["evaluate", "merge", "judge", "compare", "report"])
def test_without_space_it_ends_in_one_line_and_the_same_command_resumes(name, data, tmp_path, capsys):
    """sec_14_merge_does_not_go_on."""
    pytest.importorskip("openai")
    with chat_server() as server:
        server.prediction = lambda request: '{"on_topic": true, "reason": "r"}'
        made = commands(data, tmp_path, server.url)
        if name in ("judge", "compare", "report"):
            assert main(arguments_of("evaluate", *reversed(made["evaluate"]))) == 0
        output, given = made[name]
        arguments = arguments_of(name, given, output)
        for size in (0, 300, 3_000, 60_000):
            capsys.readouterr()
            with files_at_most(size):
                code = main(arguments)
            error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("selfkd")]
            if code == 0:
                break
            assert code == 2 and len(error) == 1 and "no space left on the disk" in error[0], error
            if name == "merge":
                assert not output.exists()
        assert size > 0
        complete = (output / "result.json").is_file() or (name == "merge" and output.exists())
        assert main(arguments) == (2 if complete else 0)


@pytest.mark.slow
def test_synthesis_without_space_ends_in_one_line_and_the_same_command_resumes(tmp_path):
    """Its shards are written by other processes, which inherit the limit."""
    arguments = [
        "synthesize",
        "--source",
        "world",
        "--count",
        "2",
        "--processes",
        "1",
        "--output",
        str(tmp_path / "out"),
    ]
    command = f"ulimit -f 4; exec {sys.executable} -m selfkd.cli " + " ".join(arguments)
    found = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert found.returncode == 2 and "no space left" in found.stderr and "Traceback" not in found.stderr
    assert not list((tmp_path / "out").glob("*.parquet"))
    assert main(arguments) == 0


def test_a_second_judge_and_a_second_merge_are_refused_in_one_line(data, tmp_path, capsys):
    """sec_15_judge_has_no_lock."""
    pytest.importorskip("openai")
    assert (
        main(["evaluate", "selfkd-tiny", "--data", str(data), "--limit", "4", "--output", str(tmp_path / "run")]) == 0
    )
    with chat_server() as server:
        server.always = "hang"
        judge = ["judge", str(tmp_path / "run"), "--model", "m", "--url", server.url]
        with Command(judge) as first:
            while not server.requests:
                assert first.poll() is None, first.stderr
            requested = len(server.requests)
            capsys.readouterr()
            assert main(judge) == 2
            assert capsys.readouterr().err == f"selfkd judge: {tmp_path / 'run'}: in use by another process\n"
            assert len(server.requests) <= max(requested, 8)  # those of the first
            server.closing.set()
    child, ready, go = _child_that_writes(tmp_path / "merged")
    assert os.read(ready, 1) == b"x"
    assert main(["merge", "--model", "selfkd-tiny", "--output", str(tmp_path / "merged")]) == 2
    assert "merged: in use by another process" in capsys.readouterr().err
    os.write(go, b"x")
    assert os.waitpid(child, 0)[1] == 0
    assert (tmp_path / "merged" / "file").read_text() == "whole"


def _child_that_writes(folder):
    (ready, to_parent), (from_parent, go) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        with write_folder_atomically(folder) as temporary:
            write_text(temporary / "file", "whole")
            os.write(to_parent, b"x")
            os.read(from_parent, 1)
        os._exit(0)
    return child, ready, go


def test_a_folder_is_whole_or_absent(tmp_path):
    target = tmp_path / "target"
    with pytest.raises(KeyboardInterrupt), write_folder_atomically(target) as folder:
        write_text(folder / "half", "x")
        assert not target.exists()
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
    (tmp_path / ".target.partial").mkdir()  # of a killed process
    (tmp_path / ".target.partial" / "old").touch()
    target.mkdir()
    with write_folder_atomically(target) as folder:
        write_text(folder / "file", "x")
    assert [p.name for p in target.iterdir()] == ["file"] and [p.name for p in tmp_path.iterdir()] == ["target"]
    with pytest.raises(InputError, match=r"output: .*target: not empty"), write_folder_atomically(target):
        pass
    with pytest.raises(InputError, match=r"output: /proc: "), write_folder_atomically(Path("/proc")):
        pass


line = st.binary(max_size=20).map(lambda content: content.replace(b"\n", b""))


@settings(deadline=None, max_examples=50, derandomize=True)
@given(lines=st.lists(line, max_size=5), tail=line)
def test_a_cut_line_is_removed_and_no_other_is_written_again(tmp_path_factory, lines, tail):
    path = tmp_path_factory.mktemp("lines") / "file"
    path.write_bytes(b"".join(line + b"\n" for line in lines) + tail)
    inode = path.stat().st_ino
    keep_whole_lines(path)
    assert whole_lines(path) == lines and path.read_bytes().endswith(b"\n" if lines else b"")
    assert path.stat().st_ino == inode
