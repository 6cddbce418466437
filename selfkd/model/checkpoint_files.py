"""The files of a checkpoint, looked at before a model is built of them: what cannot be loaded is one line that names
the field, the file and what is wrong with it.

Only heads of weight files are read, so an 8B checkpoint costs milliseconds. A cut download, a git-lfs pointer, a pickle
and a file of another format show in the head; a byte changed within the weights themselves does not.
"""

import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from selfkd.errors import InputError

Source = str | Path
_POINTER = b"version https://git-lfs"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
# what transformers reads of a folder beside weights
_JSON = (
    "config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json", "tokenizer.json",
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "chat_template.json",
    "video_preprocessor_config.json", SAFE_WEIGHTS_INDEX_NAME,
)  # fmt: skip
_TEXT = ("merges.txt", "vocab.txt", "chat_template.jinja")
_BINARY = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
_SUBFOLDERS = ("", "audio")
_LONGEST_HEAD = 100_000_000  # bytes, the safetensors format's own limit
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


def check_source(source: Source, name: str) -> None:
    """Raises InputError where `source` has not the form of a folder or hub id; `name` is the field that holds it."""
    text = str(source)
    if not text.strip():
        raise InputError(f"{name}: (empty): no checkpoint there (give a folder or a hub id)")
    if found := re.match(r"(?:https?:/+(?:www\.)?(?:huggingface\.co|hf\.co)/)([\w.-]+/[\w.-]+)", text):
        raise InputError(f"{name}: {text}: an address; give the hub id, {found[1]}")
    if re.match(r"\w+:/", text):
        raise InputError(f"{name}: {text}: an address; give a folder or a hub id, OWNER/NAME")
    if Path(source).is_file():
        raise InputError(f"{name}: {text}: a file; give the folder that it is in")


def check_checkpoint(source: Source, name: str) -> None:
    """Raises InputError where the files of a checkpoint in a folder are not there or not whole. Of one on the hub
    nothing is known before it has been fetched."""
    check_source(source, name)
    folder = Path(source)
    if folder.is_dir():
        check_side_files(folder, name)
        for path in weight_files(folder, name):
            read_head(path, name)


def check_side_files(folder: Path, name: str) -> None:
    """Raises InputError for a configuration or a part of a tokenizer that is not what its name says."""
    for sub in _SUBFOLDERS:
        for file in (*_JSON, *_TEXT, *_BINARY):
            path = folder / sub / file
            if path.is_file():
                content = _checked_start(path, name)
                if file in _JSON:
                    read_object(path, name, content)
                elif file in _TEXT:
                    _decoded(path, name, content)


def read_object(path: Path, name: str, content: bytes | None = None) -> dict[str, Any]:
    """The JSON object of a file of a checkpoint."""
    text = _decoded(path, name, _checked_start(path, name) if content is None else content)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name}: {path}: not JSON ({error})") from error
    if not isinstance(value, dict):
        raise InputError(f"{name}: {path}: holds no JSON object")
    return value


def weight_files(folder: Path, name: str) -> list[Path]:
    """Those that transformers would load of a folder; raises InputError where there are none, or one is missing."""
    index = folder / SAFE_WEIGHTS_INDEX_NAME
    if (folder / SAFE_WEIGHTS_NAME).is_file():  # transformers prefers it, too
        return [folder / SAFE_WEIGHTS_NAME]
    if not index.is_file():
        if pickles := sorted(p for pattern in _PICKLES for p in folder.glob(pattern)):
            raise InputError(
                f"{name}: {pickles[0]}: a pickle, which can run code; weights are read of safetensors alone"
            )
        raise InputError(f"{name}: {folder / SAFE_WEIGHTS_NAME}: not there; the folder holds no weights")
    positions = read_object(index, name).get("weight_map")
    if not isinstance(positions, dict) or not positions or not all(isinstance(f, str) for f in positions.values()):
        raise InputError(f"{name}: {index}: field weight_map: does not say which file each weight is in")
    paths = [folder / file for file in sorted(set(positions.values()))]
    if missing := [path for path in paths if not path.is_file()]:
        raise InputError(f"{name}: {missing[0]}: not there, though {index.name} names it ({len(missing)} are missing)")
    return paths


def read_head(path: Path, name: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    """{weight: (dtype, shape)} of a safetensors file; raises InputError where the file is not as long as its head says,
    or no safetensors file."""
    _checked_start(path, name, whole=False)
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _LONGEST_HEAD):
            raise InputError(f"{name}: {path}: no whole safetensors file ({size:,} bytes)")
        text = file.read(length)
    try:
        entries = {key: value for key, value in json.loads(text).items() if key != "__metadata__"}
        found = {key: (str(e["dtype"]), tuple(map(int, e["shape"]))) for key, e in entries.items()}
        spans = sorted((*map(int, e["data_offsets"]), key) for key, e in entries.items())
        end = 0
        for start, stop, key in spans:
            dtype, shape = found[key]
            if start != end or stop - start != math.prod(shape) * _BITS[dtype] // 8 or min(shape, default=0) < 0:
                raise ValueError(f"weight {key}")
            end = stop
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(f"{name}: {path}: the head of this safetensors file is damaged ({_said(error)})") from error
    if size != 8 + length + end:
        raise InputError(f"{name}: {path}: cut short or damaged: {size:,} bytes, {8 + length + end:,} by its head")
    return found


def weights_in(folder: Path, name: str) -> int:
    """How many numbers the weight files hold together."""
    return sum(math.prod(shape) for path in weight_files(folder, name) for _, shape in read_head(path, name).values())


@contextmanager
def reading(source: Source, name: str, file: str = "") -> Iterator[None]:
    """Turns whatever a library raises at a checkpoint into one InputError that names field and file: what stands in the
    files is not ours, and nor is what a library says of it. `--debug` shows the library's own error."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        where = Path(source) / file if file and Path(source).is_dir() else source
        raise InputError(f"{name}: {where}: cannot be loaded ({_said(error)})") from error


def _checked_start(path: Path, name: str, whole: bool = True) -> bytes:
    """The content, or with `whole` off its first bytes; raises InputError for what git-lfs left in a file's place, and
    for one that may not be read."""
    try:
        with path.open("rb") as file:
            content = file.read() if whole else file.read(len(_POINTER))
    except OSError as error:
        raise InputError(f"{name}: {path}: {error.strerror}") from error
    if content.startswith(_POINTER):
        raise InputError(f"{name}: {path}: a git-lfs pointer, not the file itself (git lfs pull fetches it)")
    return content


def _decoded(path: Path, name: str, content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{name}: {path}: not UTF-8 text ({error.reason} at byte {error.start})") from error


def _said(error: Exception) -> str:
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, OSError | ImportError) and text else f"{type(error).__name__}: {text}"
