"""A run directory: what was asked (`config.json`), of what (`inputs.json`), with what (`provenance.json`), what
happened (`log.jsonl`), and what came of it (`result.json`, written last: its being there means that it is complete).

The same command continues a run that was cut short; another configuration is refused, and so are other inputs: data
made anew, other weights under the path of a model, another number of processes.
"""

import fcntl
import json
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from selfkd.credentials import masked, masked_command
from selfkd.errors import InputError
from selfkd.files import read_json, write_json
from selfkd.version import __version__

CONFIG, PROVENANCE, RESULT, LOG = "config.json", "provenance.json", "result.json", "log.jsonl"
INPUTS = "inputs.json"
UNUSABLE = "unusable.json"  # rows of the data that were left out, and why
MODEL = "model"  # subfolder, where the run trains one
_LIBRARIES = ("torch", "transformers", "accelerate", "datasets", "numpy")


class RunCompleteError(InputError):
    """The very run is there, with these settings."""


class Run:
    """An open run directory. `with Run.open(folder, stage, config) as run:` holds its lock."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.inputs: dict[str, Any] = {}  # of the process that writes

    @classmethod
    @contextmanager
    def open(
        cls,
        folder: Path,
        stage: str,
        config: Any,
        free: Sequence[str] = (),
        inputs: Callable[[], Mapping[str, Any]] = dict,
    ) -> "Iterator[Run]":
        """Claims `folder` for this stage and configuration (a dataclass with the field `output`). Fields in `free` may
        be others when a run is continued: they say how it gets on and not what comes out. `inputs` are what the run
        stands on beside its configuration, as `selfkd.input_hashes` has it, by the name that a message names.

        Raises InputError where the directory is in use, complete, or holds something else. Of several processes of one
        launch the first alone holds and writes it.
        """
        if not is_main_process():
            yield cls(folder)
            return
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".lock").open("w") as lock:
            try:
                # a record lock belongs to this process alone: a loader's worker that outlives a kill does not hold it
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                raise InputError(f"{folder}: run directory in use by another process") from None
            run = cls(folder)
            run._check_config(stage, config, free)
            run.inputs = json.loads(json.dumps(inputs()))
            run._claim({"stage": stage, **_plain(config)})
            try:
                yield run
            except InputError:
                run._give_back()
                raise

    @classmethod
    def check(cls, folder: Path, stage: str, config: Any, free: Sequence[str] = ()) -> None:
        """Raises InputError as `open` will for a directory that holds another run or something else; writes nothing."""
        if is_main_process() and folder.is_dir():
            cls(folder)._check_config(stage, config, free)

    def _check_config(self, stage: str, config: Any, free: Sequence[str]) -> None:
        path, here = self.folder / CONFIG, {"stage": stage, **_plain(config)}
        if not path.is_file():
            # a disk that was full may have left the one without the other, or a file of neither's name
            if any(p.name not in (PROVENANCE, INPUTS) and not p.name.startswith(".") for p in self.folder.iterdir()):
                raise InputError(f"{self.folder}: not empty and not a run directory; give another output")
            return
        before = masked(read_json(path))
        if found := first_difference(before, here, sorted((set(before) | set(here)) - {"output", *free})):
            difference = "{}: {!r} there, {!r} here".format(*found)
            raise InputError(f"{self.folder}: run directory holds another run ({difference}); give another output")

    def _claim(self, config: dict[str, Any]) -> None:
        if not (self.folder / CONFIG).is_file():
            write_json(self.folder / PROVENANCE, provenance())
            write_json(self.folder / INPUTS, self.inputs)
            write_json(self.folder / CONFIG, config)
            return
        self._check_inputs()
        if is_complete(self.folder):
            raise RunCompleteError(f"{self.folder}: run is complete already; give another output or delete it")

    def _check_inputs(self) -> None:
        path = self.folder / INPUTS
        before = read_json(path) if path.is_file() else {}
        found = first_difference(before, self.inputs, sorted(set(before) | set(self.inputs)))
        if found is None:
            return
        name, *values = found
        there, here = (re.sub(r"(sha256 \w{12})\w+", r"\1...", "nothing" if v is None else str(v)) for v in values)
        if all(v is None or isinstance(v, str) for v in values):
            raise InputError(f"{name}: made anew since this run began; give another output ({there} then, {here} now)")
        raise InputError(f"{name}: {there} when this run began, {here} now; give another output")

    def _give_back(self) -> None:
        """Leaves a directory in which nothing was made as it was found: the next run may have other settings."""
        for path in self.folder.iterdir():
            if path.is_dir():
                with suppress(OSError):  # where there is something in it
                    path.rmdir()
        if {p.name for p in self.folder.iterdir()} <= {CONFIG, INPUTS, PROVENANCE, UNUSABLE, ".lock"}:
            for name in (CONFIG, INPUTS, PROVENANCE, UNUSABLE):
                (self.folder / name).unlink(missing_ok=True)

    def finish(self, **result: Any) -> None:
        """Marks the run as complete; call it on the main process."""
        write_json(self.folder / RESULT, result)


def first_difference(
    there: Mapping[str, Any], here: Mapping[str, Any], names: Iterable[str]
) -> tuple[str, Any, Any] | None:
    """(name, its value there, its value here) of the first of `names` that is not the same in both."""
    return next(((n, there.get(n), here.get(n)) for n in names if there.get(n) != here.get(n)), None)


def name_and_path(entry: str) -> tuple[str, str]:
    """Of NAME=PATH; the name is "" for a path alone, which may hold a "=" of its own: runs/alpha=0.5."""
    name, equals, path = entry.partition("=")
    is_named = equals and "/" not in name and not Path(entry).exists()
    return (name, path) if is_named else ("", entry)


def is_main_process() -> bool:
    """Whether this is the first, or the only, process of a launch (`accelerate launch` and torchrun set RANK)."""
    return os.environ.get("RANK", "0") == "0"


def is_complete(folder: Path) -> bool:
    return (folder / RESULT).is_file()


def once(stage: Callable[[Any], Any], config: Any) -> dict[str, Any]:
    """The result of a stage, which is run unless its run directory is complete; raises InputError where that holds a
    run of other settings."""
    with suppress(RunCompleteError):
        stage(config)
    return read_json(config.output / RESULT)


def append_log(folder: Path, values: Mapping[str, Any]) -> None:
    """Adds an entry to a run's log, on a line of its own."""
    with (folder / LOG).open("a+b") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read() != b"\n":  # a full disk cut the last line short
                file.write(b"\n")
        file.write(json.dumps(values).encode() + b"\n")


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The log's entries, of each step the one that is over most `steps`: a resumed run goes over some steps again, and
    its first entry is of a part of those that the one before was of. A line that was cut short is left out."""
    path = folder / LOG
    found: dict[int, dict[str, Any]] = {}
    for i, line in enumerate(path.read_text().splitlines() if path.is_file() else []):
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        before = found.get(entry.get("step", i))
        if before is None or entry.get("steps", 1) >= before.get("steps", 1):
            found[entry.get("step", i)] = entry
    return list(found.values())


def _git(*arguments: str) -> str:
    """What git says about this package's folder; nothing where there is no git or no repository. Installed into an
    environment, the package lies in somebody else's, which does not track it."""
    here = Path(__file__).parent
    try:
        return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True).stdout.strip()
    except FileNotFoundError:
        return ""


def provenance() -> dict[str, Any]:
    """Commit, versions and machine, for whoever wants to make the run again."""
    commit = _git("describe", "--always", "--dirty", "--exclude=*") if _git("ls-files", __file__) else ""
    return {
        "selfkd": __version__,
        "commit": commit or "not from a git checkout",
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "command": shlex.join([Path(sys.argv[0]).name, *masked_command(sys.argv[1:])]),
        **{name: version(name) for name in _LIBRARIES},
    }


def _plain(config: Any) -> Mapping[str, Any]:
    return masked(json.loads(json.dumps(asdict(config), default=str)))
