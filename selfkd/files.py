"""Files and folders that are either whole or absent, also after a kill or a power cut, and paths without the folders of
this machine."""

import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.resources import files
from pathlib import Path
from typing import Any, BinaryIO

from selfkd.errors import InputError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # error numbers of a full disk or quota
_DISK_FULL_MESSAGES = (
    *(os.strerror(number) for number in DISK_FULL),
    *(f"os error {number}" for number in DISK_FULL),
    "unexpected pos",  # torch.save: its writer finds the file shorter than expected
    "PytorchStreamWriter failed writing",
)

MAX_NAME_BYTES = 255  # of a file system
_NOT_IN_NAMES = re.compile(r'[/\\<>:"|?*]')
_DEVICES = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")


def asset_path(name: str) -> Path:
    """A file or folder of the package's assets."""
    return Path(str(files("selfkd") / "assets" / name))


@contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """Yields a temporary path next to `path`; renames it, durably, on success, removes it on failure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # no process id: in containers that share a folder it is often the same
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        yield temporary
        replace_durably(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def write_folder_atomically(folder: Path) -> Iterator[Path]:
    """Yields an empty folder next to `folder`; renames it, durably, on success, removes it on failure. What a killed
    process left of it is removed by the next one.

    Raises InputError where `folder` is neither new nor empty (`check_new`), or another process writes it."""
    check_new(folder)
    folder = folder.resolve()  # the name of "." or of a link
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary, lock = (folder.with_name(f".{folder.name}.{suffix}") for suffix in ("partial", "lock"))
    with in_sole_use(folder, lock):
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            yield temporary
            follow_umask(temporary)
            replace_durably(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            lock.unlink(missing_ok=True)


def check_new(folder: Path) -> None:
    """Raises InputError where a folder to write is neither new nor empty, or cannot be renamed to."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"output: {folder}: not empty; give another")
    if folder.is_mount():
        raise InputError(f"output: {folder}: a mount, which cannot be replaced; give a folder in it")


def replace_durably(temporary: Path, path: Path) -> Path:
    """Renames a file or folder that is written to its end; returns `path`. The content is on the disk before the name
    is, and the name before this returns: after a power cut there is the old file, or the whole new one."""
    sync(temporary)
    temporary.replace(path)
    sync(path.parent, recursive=False)
    return path


def sync(path: Path, recursive: bool = True) -> None:
    """Waits until a file, or a folder and all that is in it, is on the disk. To be called before a file is written that
    says that they are complete."""
    inside = path.rglob("*") if recursive and path.is_dir() else ()
    for found in (*inside, path):
        if found.is_symlink() or not (found.is_dir() or found.is_file()):
            continue
        with suppress(PermissionError, FileNotFoundError):  # not ours; a temporary file that its process has removed
            descriptor = os.open(found, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                os.fsync(descriptor)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.ENOTSUP) or found.is_file():
                    raise  # some file systems do not sync folders
            finally:
                os.close(descriptor)


def follow_umask(path: Path) -> None:
    """Gives a file, or all files in a folder, the permissions of a new file there: safetensors writes through a
    temporary file that only its user may read, and keeps that mode."""
    probe = (path if path.is_dir() else path.parent) / f".{secrets.token_hex(4)}"
    try:
        probe.touch()
        mode = probe.stat().st_mode
    finally:
        probe.unlink(missing_ok=True)
    for file in [path] if path.is_file() else path.rglob("*"):
        if file.is_file() and not file.is_symlink():
            file.chmod(mode)


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, or one of its causes, is that of a full disk or quota. torch and safetensors have messages of
    their own for it, or report that a file is too short."""
    cause: BaseException | None = error
    while cause is not None:
        text = str(cause)
        if isinstance(cause, OSError) and cause.errno in DISK_FULL:
            return True
        if any(message in text for message in _DISK_FULL_MESSAGES):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def cache_folder() -> Path:
    """The folder of files that can be made again: XDG_CACHE_HOME, or ~/.cache. Raises InputError without either, as for
    a user id without an entry in /etc/passwd (docker run --user)."""
    return expanded(Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")) / "selfkd"


def private_folder(path: Path) -> Path:
    """A folder that only this user, or root, can write, made where there is none: for what is run, as native
    libraries. Raises InputError where a link or another user's folder has its name, or others can write it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        path.mkdir(mode=0o755)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (0, os.geteuid()) or found.st_mode & 0o022:
        raise InputError(f"{path}: others can write it; remove it, or set XDG_CACHE_HOME to a folder of your own")
    return path


def expanded(path: Path) -> Path:
    """A path with the home directory in place of ~."""
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise InputError(f"{path}: this user has no home directory; set HOME or XDG_CACHE_HOME") from error


@contextmanager
def _opened_lock(path: Path) -> Iterator[int]:
    """The descriptor of a lock file. Raises InputError where a link or a pipe has its name: in a folder that others can
    write, it may be planted."""
    try:  # neither followed nor emptied
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise
        raise InputError(f"{path}: cannot be a lock ({error.strerror}); remove it") from error
    try:
        if not stat.S_ISREG(os.fstat(lock).st_mode):
            raise InputError(f"{path}: cannot be a lock (no regular file); remove it")
        yield lock
    finally:
        os.close(lock)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Waits until no other process holds the lock of the same path. Raises InputError as `_opened_lock` does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _opened_lock(path) as descriptor:
        fcntl.lockf(descriptor, fcntl.LOCK_EX)
        yield


@contextmanager
def in_sole_use(path: Path, lock: Path) -> Iterator[None]:
    """Holds the lock file `lock`; raises InputError, which names `path`, where another process holds it, and as
    `_opened_lock` does. A record lock belongs to this process only: a data loader worker that survives a kill does not
    hold it."""
    with _opened_lock(lock) as descriptor:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise InputError(f"{path}: in use by another process") from None
        yield


def write_text(path: Path, text: str, private: bool = False) -> None:
    """`private`: only its user may read the file, whatever the umask is."""
    with write_atomically(path) as temporary:
        if private:
            temporary.touch(0o600)
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any, private: bool = False) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n", private)


def path_within(folder: Path, name: str | Path) -> Path:
    """The path of the file `name` of `folder`: relative to it, or absolute and within it. Raises InputError for a name
    that leads out of it, by "..", as an absolute path, or by a link: data may be untrusted.

    The files of a hub snapshot are links to the blobs next to it, which belong to it."""
    path = folder / name
    try:
        if max(map(len, os.fsencode(name).split(b"/"))) > MAX_NAME_BYTES:
            raise ValueError("a name that is too long")
        root, found = folder.resolve(), path.resolve()
    except (OSError, ValueError, RuntimeError) as error:  # a loop of links, a NUL, half a character
        raise InputError(f"{str(name)[:MAX_NAME_BYTES]!r}: no file name") from error
    snapshots = next((p for p in (root, *root.parents) if p.name == "snapshots"), None)
    if found.is_relative_to(root) or (snapshots and found.is_relative_to(snapshots.with_name("blobs"))):
        return path
    raise InputError(f"{name}: leads out of the folder {folder}")


def open_regular(path: Path) -> BinaryIO:
    """A file for reading. Raises InputError for a pipe or a device, which could hang, and OSError as `Path.open`."""
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe without a writer would block
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise InputError(f"{path}: no regular file")
    return os.fdopen(file, "rb")


def check_name(name: str) -> None:
    """Raises InputError for a text that cannot be a file name in any folder of any system: a path, a blank, a pattern
    of names, a device of Windows."""
    is_file_name = name.isprintable() and not _NOT_IN_NAMES.search(name) and name.strip(" .") and name == name.strip()
    if not is_file_name or name.endswith(".") or _DEVICES.fullmatch(name) or len(os.fsencode(name)) > 200:
        raise InputError(f"{name!r} cannot name a file")


def case_key(name: str) -> str:
    """The same for two names that are one file where the case of names is ignored, or how accents are encoded."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


PATH_SETTINGS = (
    "path",
    "images",
    "recordings",
    "annotations",
    "engine_path",
    "noise_folder",
    "asr_filter",
)  # settings that may be paths
_ABSOLUTE = re.compile(r"(?<![\w.:/])(?:/|[A-Za-z]:\\)\S*[/\\]")  # the folders of an absolute path; not those of a URL


def strip_folders(reason: str, settings: Mapping[str, Any]) -> str:
    """A reason with paths relative to the folders of the settings, or with file names only."""
    folders = {Path(settings[name]) for name in PATH_SETTINGS if settings.get(name)}
    for folder in sorted((str(p) for p in folders | {p.parent for p in folders}), key=len, reverse=True):
        reason = reason.replace(f" {folder}/", " ")
    return _ABSOLUTE.sub("", reason)
