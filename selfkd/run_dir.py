"""A run directory: configuration (`config.json`), hashes of the inputs (`inputs.json`), versions (`provenance.json`),
log (`log.jsonl`) and result (`result.json`, written last: a run with it is complete).

The same command resumes an interrupted run. Another configuration is refused, and so are other inputs: changed data,
other weights at the path of a model, another number of processes. Whatever resumes compares with `check_same`.
"""

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

from typing_extensions import TypedDict

from selfkd.credentials import MASK, masked, masked_command
from selfkd.errors import InputError
from selfkd.files import in_sole_use, sync, write_json
from selfkd.json_files import parse_json, read_json
from selfkd.version import __version__

CONFIG, PROVENANCE, RESULT, LOG = "config.json", "provenance.json", "result.json", "log.jsonl"
INPUTS = "inputs.json"
LOCK = ".lock"
UNUSABLE = "unusable.json"  # skipped rows of the data, with reasons
VALIDATION = "validation.json"  # scores of held-out questions during training
MODEL = "model"  # subfolder with the trained model
Settings = dict[str, Any]  # `config.json`, `inputs.json`, `provenance.json`
_LIBRARIES = ("torch", "transformers", "accelerate", "datasets", "numpy")


class TrainingResult(TypedDict):
    """The fields of a training's `result.json` that other commands read."""

    examples: int
    steps: int
    trained_parameters: int
    final_loss: float
    seconds: float


class StepScores(TypedDict):
    """An entry of `VALIDATION`: accuracies from 0 to 1 over `items` after `step`."""

    step: int
    items: int
    text: float
    audio: float


class RunCompleteError(InputError):
    """The run directory holds the result of this configuration."""


class Run:
    """An open run directory. `with Run.open(folder, stage, config) as run:` holds its lock."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.inputs: dict[str, Any] = {}  # set on the main process

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
        """Opens `folder` for a stage and its configuration (a dataclass with the field `output`), to begin or to resume
        a run. Fields in `free` may differ when a run resumes, because the result does not depend on them. `inputs`
        returns the run's inputs besides its configuration, by name (`selfkd.input_hashes`).

        Raises InputError where the directory is in use or holds something else, and RunCompleteError where the run is
        complete. Of several processes of one launch only the main process locks and writes it.
        """
        if not is_main_process():
            yield cls(folder)
            return
        folder.mkdir(parents=True, exist_ok=True)
        with in_sole_use(folder, folder / LOCK):
            run = cls(folder)
            run._check_config(stage, config, free)
            run.inputs = json.loads(json.dumps(inputs()))
            run._claim({"stage": stage, **_plain(config)})
            try:
                yield run
            except InputError:
                run._discard_empty()
                raise

    @classmethod
    def check(cls, folder: Path, stage: str, config: Any, free: Sequence[str] = ()) -> None:
        """Raises InputError as `open` will for a directory that holds another run or something else; writes nothing."""
        if is_main_process() and folder.is_dir():
            cls(folder)._check_config(stage, config, free)

    def _check_config(self, stage: str, config: Any, free: Sequence[str]) -> None:
        path, here = self.folder / CONFIG, {"stage": stage, **_plain(config)}
        if not path.is_file():
            # a full disk may have left some of our files, or a temporary file
            if any(p.name not in (PROVENANCE, INPUTS) and not p.name.startswith(".") for p in self.folder.iterdir()):
                raise InputError(f"{self.folder}: not empty and not a run directory; give another output")
            return
        there = masked(read_json(path, Settings))
        names = sorted((set(there) | set(here)) - {"output", *free})
        check_same(there, here, names, f"{self.folder}: run directory holds another run")

    def _claim(self, config: dict[str, Any]) -> None:
        if not (self.folder / CONFIG).is_file():
            for name, settings in ((PROVENANCE, provenance()), (INPUTS, self.inputs), (CONFIG, config)):
                write_settings(self.folder / name, settings)
            return
        self._check_inputs()
        if is_complete(self.folder):
            raise RunCompleteError(f"{self.folder}: run is complete already; give another output or delete it")

    def _check_inputs(self) -> None:
        path = self.folder / INPUTS
        there = read_json(path, Settings) if path.is_file() else {}
        names = sorted(set(there) | set(self.inputs))
        check_same(there, self.inputs, names, f"{self.folder}: inputs have changed since the run began")

    def _discard_empty(self) -> None:
        """Removes our files from a directory without any output, so that the next run may have other settings."""
        for path in self.folder.iterdir():
            if path.is_dir():
                with suppress(OSError):  # not empty
                    path.rmdir()
        if {p.name for p in self.folder.iterdir()} <= {CONFIG, INPUTS, PROVENANCE, UNUSABLE, LOCK}:
            for name in (CONFIG, INPUTS, PROVENANCE, UNUSABLE):
                (self.folder / name).unlink(missing_ok=True)

    def finish(self, **result: Any) -> None:
        """Marks the run as complete, once all of it is on the disk; call it on the main process."""
        sync(self.folder)
        write_json(self.folder / RESULT, result)


def check_same(
    there: Mapping[str, Any], here: Mapping[str, Any], names: Iterable[str], problem: str, remedy: str = ""
) -> None:
    """The resume guard: raises InputError where one of the fields `names` differs between what a folder holds and what
    the command has. `problem` begins with the folder: "FOLDER: holds other data (count: 10 there, 20 here); REMEDY"."""
    if found := first_difference(there, here, names):
        values = (re.sub(r"(sha256 \w{12})\w+", r"\1...", "nothing" if v is None else repr(v)) for v in found[1:])
        difference = "{}: {} there, {} here".format(found[0], *values)
        raise InputError(f"{problem} ({difference}); {remedy or 'give another output'}")


def first_difference(
    there: Mapping[str, Any], here: Mapping[str, Any], names: Iterable[str]
) -> tuple[str, Any, Any] | None:
    """(name, value there, value here) of the first of `names` that differs."""
    return next(((n, there.get(n), here.get(n)) for n in names if there.get(n) != here.get(n)), None)


def name_and_path(entry: str) -> tuple[str, str]:
    """(NAME, PATH) of NAME=PATH; the name is "" for a path only, which may contain "=": runs/alpha=0.5."""
    name, equals, path = entry.partition("=")
    is_named = equals and "/" not in name and not Path(entry).exists()
    return (name, path) if is_named else ("", entry)


def is_main_process() -> bool:
    """Whether this is the first or only process of a launch (`accelerate launch` and torchrun set RANK)."""
    return os.environ.get("RANK", "0") == "0"


def is_complete(folder: Path) -> bool:
    return (folder / RESULT).is_file()


def once(stage: Callable[[Any], Any], config: Any) -> dict[str, Any]:
    """Runs a stage unless its run directory is complete; returns the result. Raises InputError for a directory with
    another run."""
    with suppress(RunCompleteError):
        stage(config)
    return read_json(config.output / RESULT, Settings)


def write_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Writes settings, whose credentials are masked; others may not read them where there were any: what else stands
    with them (a user's name, a host, a field that does not look like a secret) is not for others either."""
    write_json(path, settings, private=MASK in json.dumps(settings))


def append_log(folder: Path, values: Mapping[str, Any]) -> None:
    """Appends an entry to a run's log, as one line of JSON."""
    with (folder / LOG).open("a+b") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read() != b"\n":  # a full disk truncated the last line
                file.write(b"\n")
        file.write(json.dumps(values).encode() + b"\n")


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The entries of a run's log. A resumed run repeats some steps; of several entries of a step, the one that averages
    most `steps` counts. Truncated lines are left out."""
    path = folder / LOG
    found: dict[int, dict[str, Any]] = {}
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        try:
            entry = parse_json(line)
        except ValueError:
            continue
        if not isinstance(entry, dict) or "step" not in entry or not all(map(_is_log_value, entry.items())):
            continue
        before = found.get(entry["step"])
        if before is None or entry.get("steps", 1) >= before.get("steps", 1):
            found[entry["step"]] = entry
    return list(found.values())


def _is_log_value(item: tuple[str, Any]) -> bool:
    """Numbers; reasons of skipped rows with their counts."""
    name, value = item
    return isinstance(value, dict) if name == "skipped_because" else isinstance(value, float | int | None)


def _git(*arguments: str) -> str:
    """The output of git in this package's folder; "" without git or repository. An installed package may be within
    another repository, which does not track it."""
    here = Path(__file__).parent
    try:
        return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True).stdout.strip()  # noqa: S603, S607 the arguments are ours; git is where PATH has it
    except FileNotFoundError:
        return ""


def provenance() -> dict[str, Any]:
    """Commit, versions, machine and command, to reproduce the run."""
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
