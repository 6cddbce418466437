"""Files that are either whole or absent, and file names that tell nothing of this machine."""

import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selfkd.errors import InputError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what the system says where a disk or a quota is full
_NO_ROOM_WORDS = (
    *(os.strerror(number) for number in NO_ROOM),
    *(f"os error {number}" for number in NO_ROOM),
    "unexpected pos",  # torch.save, whose writer finds the file shorter than what it wrote
    "PytorchStreamWriter failed writing",
)


@contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """Gives a temporary path beside `path`; renames it on success, removes it on failure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # not by the number of the process: in containers that share a folder it is often the same
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def follow_umask(path: Path) -> None:
    """Gives a file, or all files in a folder, the permissions that a new file has there. For what others write for us:
    safetensors does it through a temporary file that its user alone may read, and keeps it so."""
    probe = (path if path.is_dir() else path.parent) / f".{secrets.token_hex(4)}"
    try:
        probe.touch()
        mode = probe.stat().st_mode
    finally:
        probe.unlink(missing_ok=True)
    for file in [path] if path.is_file() else path.rglob("*"):
        if file.is_file() and not file.is_symlink():
            file.chmod(mode)


def is_no_room(error: BaseException) -> bool:
    """Whether an error, or one that it came of, is that of a full disk or quota. torch and safetensors say so in words
    of their own, or only that a file is not as long as it should be."""
    seen: BaseException | None = error
    while seen is not None:
        text = str(seen)
        if (isinstance(seen, OSError) and seen.errno in NO_ROOM) or any(words in text for words in _NO_ROOM_WORDS):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def read_json(path: Path) -> Any:
    """What a JSON file holds; raises InputError where it is not there or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: not found; the run has lost it") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not readable ({error})") from error


def cache_folder() -> Path:
    """Where this package keeps what it can make again: XDG_CACHE_HOME, or ~/.cache. Raises InputError where there is
    neither, as for a user id without an entry in /etc/passwd (docker run --user)."""
    return expanded(Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")) / "selfkd"


def expanded(path: Path) -> Path:
    """A path with the home directory in place of ~."""
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise InputError(f"{path}: this user has no home directory; HOME or XDG_CACHE_HOME names a place") from error


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Waits until no other process is within `locked` of the same path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        yield


def write_text(path: Path, text: str) -> None:
    with write_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def path_within(folder: Path, name: str | Path) -> Path:
    """The path that data mean by `name` in `folder`: relative to it, or absolute and within it. Raises InputError for a
    name that leads out of it, be it by "..", as an absolute path, or by a link: data may be anybody's.

    The files of a hub snapshot are links to the blobs beside it, which are a part of it."""
    path = folder / name
    try:
        root, found = folder.resolve(), path.resolve()
    except (OSError, ValueError, RuntimeError) as error:  # a loop of links, a NUL
        raise InputError(f"{str(name)!r}: no name of a file") from error
    snapshots = next((p for p in (root, *root.parents) if p.name == "snapshots"), None)
    if found.is_relative_to(root) or (snapshots and found.is_relative_to(snapshots.with_name("blobs"))):
        return path
    raise InputError(f"{name}: leads out of the folder {folder}")


def check_name(name: str) -> None:
    """Raises InputError for what cannot be the name of a file in whatever folder: a path, or nothing at all."""
    if not name.isprintable() or name.strip() in ("", ".", "..") or "/" in name or "\\" in name or len(name) > 200:
        raise InputError(f"{name!r} cannot name a file")


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


LOCAL = ("path", "images", "engine_path", "noise_folder", "asr_filter")  # settings that may be paths
_ABSOLUTE = re.compile(r"(?<![\w.:/])(?:/|[A-Za-z]:\\)\S*[/\\]")  # the folders of an absolute path; not those of a URL


def without_folders(reason: str, settings: Mapping[str, Any]) -> str:
    """A reason in which files are called by their names within the folders of the settings, or by their own alone."""
    named = {Path(settings[name]) for name in LOCAL if settings.get(name)}
    for folder in sorted((str(p) for p in named | {p.parent for p in named}), key=len, reverse=True):
        reason = reason.replace(f" {folder}/", " ")
    return _ABSOLUTE.sub("", reason)
