"""Checks the files of a checkpoint before a model is built from them. A file that cannot be loaded gives an error of
one line that names the field, the file and the reason.

Only the headers of weight files are read, so an 8B checkpoint takes milliseconds. The header reveals a truncated
download, a git-lfs pointer, a pickle and another file format; it does not reveal a changed byte within the weights.
"""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from selfkd.errors import InputError
from selfkd.files import path_within
from selfkd.json_files import parse_json

Source = str | Path
_POINTER = b"version https://git-lfs"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
# what transformers reads from a folder in addition to weights
_JSON = (
    "config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json", "tokenizer.json",
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "chat_template.json",
    "video_preprocessor_config.json", SAFE_WEIGHTS_INDEX_NAME,
)  # fmt: skip
_TEXT = ("merges.txt", "vocab.txt", "chat_template.jinja")
_BINARY = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
_SUBFOLDERS = ("", "audio")
_MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors format
_LIMITS = {  # by the names of fields in configurations
    r"\w*_layers|depth|n_layer": 1_000,
    r"\w*experts": 10_000,
    r"feature_size|num_mel_bins": 1_000,
    r"n_fft|hop_length|num_channels": 100_000,
    r"chunk_length|max_patches": 10_000,
    r"image_seq_length|stack_factor": 100_000,
}
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


def check_source(source: Source, field: str) -> None:
    """Raises InputError where `source` is neither a folder nor of the form of a hub id; `field` is the config field
    that holds it."""
    text = str(source)
    if not text.strip():
        raise InputError(f"{field}: (empty): no checkpoint there (give a folder or a hub id)")
    if found := re.match(r"(?:https?:/+(?:www\.)?(?:huggingface\.co|hf\.co)/)([\w.-]+/[\w.-]+)", text):
        raise InputError(f"{field}: {text}: an address; give the hub id, {found[1]}")
    if re.match(r"\w+:/", text):
        raise InputError(f"{field}: {text}: an address; give a folder or a hub id, OWNER/NAME")
    if Path(source).is_file():
        raise InputError(f"{field}: {text}: a file; give the folder that it is in")


def check_checkpoint(source: Source, field: str) -> None:
    """Raises InputError where files of a checkpoint folder are missing or incomplete. A checkpoint on the hub is not
    checked before it has been downloaded."""
    check_source(source, field)
    folder = Path(source)
    if folder.is_dir():
        check_small_files(folder, field)
        for path in weight_files(folder, field):
            read_header(path, field)


def check_small_files(folder: Path, field: str) -> None:
    """Raises InputError for a configuration or tokenizer file whose content is not of the format that its name says."""
    for sub in _SUBFOLDERS:
        for file in (*_JSON, *_TEXT, *_BINARY):
            path = folder / sub / file
            if path.is_file():
                content = _checked_start(path, field)
                if file in _JSON:
                    read_json_object(path, field, content)
                elif file in _TEXT:
                    _decoded(path, field, content)


def read_json_object(path: Path, field: str, content: bytes | None = None) -> dict[str, Any]:
    """The JSON object in a file of a checkpoint."""
    text = _decoded(path, field, _checked_start(path, field) if content is None else content)
    try:
        value = parse_json(text)
    except ValueError as error:
        raise InputError(f"{field}: {path}: not JSON ({error})") from error
    if not isinstance(value, dict):
        raise InputError(f"{field}: {path}: holds no JSON object")
    if path.name.endswith("config.json"):
        _check_sizes(value, f"{field}: {path}: field ")
    return value


def _check_sizes(value: Any, where: str) -> None:
    """Raises InputError for a size that no model has: it would be allocated, or built layer by layer, before it is
    compared with the weights."""
    for name, part in value.items() if isinstance(value, dict) else ():
        if isinstance(part, dict):
            _check_sizes(part, f"{where}{name}.")
        limit = next((limit for pattern, limit in _LIMITS.items() if re.fullmatch(pattern, name)), None)
        if limit and isinstance(part, int | float) and not -1 <= part <= limit:
            raise InputError(f"{where}{name}: {part}, expected at most {limit:,}")


def weight_files(folder: Path, field: str) -> list[Path]:
    """The weight files that transformers would load from a folder; raises InputError where one or all are missing."""
    index = folder / SAFE_WEIGHTS_INDEX_NAME
    if (folder / SAFE_WEIGHTS_NAME).is_file():  # transformers prefers it too
        return [folder / SAFE_WEIGHTS_NAME]
    if not index.is_file():
        if pickles := sorted(p for pattern in _PICKLES for p in folder.glob(pattern)):
            raise InputError(
                f"{field}: {pickles[0]}: a pickle, which can run code; weights are read from safetensors only"
            )
        raise InputError(f"{field}: {folder / SAFE_WEIGHTS_NAME}: not there; the folder holds no weights")
    weight_map = read_json_object(index, field).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(f, str) for f in weight_map.values()):
        raise InputError(f"{field}: {index}: field weight_map: does not say which file each weight is in")
    try:
        paths = [path_within(folder, file) for file in sorted(set(weight_map.values()))]
    except InputError as error:
        raise InputError(f"{field}: {index}: field weight_map: {error}") from error
    if missing := [path for path in paths if not path.is_file()]:
        raise InputError(f"{field}: {missing[0]}: not there, though {index.name} names it ({len(missing)} are missing)")
    return paths


def read_header(path: Path, field: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    """{weight: (dtype, shape)} of a safetensors file; raises InputError where its length differs from what its header
    says, and for a file of another format."""
    _checked_start(path, field, whole=False)
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _MAX_HEADER_BYTES):
            raise InputError(f"{field}: {path}: not a complete safetensors file ({size:,} bytes)")
        text = file.read(length)
    try:
        entries = {key: value for key, value in parse_json(text).items() if key != "__metadata__"}
        found = {key: (str(e["dtype"]), tuple(map(int, e["shape"]))) for key, e in entries.items()}
        spans = sorted((*map(int, e["data_offsets"]), key) for key, e in entries.items())
        end = 0
        for start, stop, key in spans:
            dtype, shape = found[key]
            if start != end or stop - start != math.prod(shape) * _BITS[dtype] // 8 or min(shape, default=0) < 0:
                raise ValueError(f"weight {key}")
            end = stop
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{field}: {path}: the header of this safetensors file is damaged ({_message(error)})"
        ) from error
    if size != 8 + length + end:
        raise InputError(f"{field}: {path}: cut short or damaged: {size:,} bytes, {8 + length + end:,} by its header")
    return found


def count_weights(folder: Path, field: str) -> int:
    """The number of weights in all weight files of a folder."""
    return sum(
        math.prod(shape) for path in weight_files(folder, field) for _, shape in read_header(path, field).values()
    )


@contextmanager
def reading(source: Source, field: str, file: str = "") -> Iterator[None]:
    """Turns any exception that a library raises on a checkpoint into an InputError that names field and file. `--debug`
    shows the library's own error."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        where = Path(source) / file if file and Path(source).is_dir() else source
        raise InputError(f"{field}: {where}: cannot be loaded ({_message(error)})") from error


def _checked_start(path: Path, field: str, whole: bool = True) -> bytes:
    """The content, or its first bytes without `whole`; raises InputError for a git-lfs pointer and for a file without
    read permission."""
    try:
        with path.open("rb") as file:
            content = file.read() if whole else file.read(len(_POINTER))
    except OSError as error:
        raise InputError(f"{field}: {path}: {error.strerror}") from error
    if content.startswith(_POINTER):
        raise InputError(f"{field}: {path}: a git-lfs pointer, not the file itself (git lfs pull fetches it)")
    return content


def _decoded(path: Path, field: str, content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{field}: {path}: not UTF-8 text ({error.reason} at byte {error.start})") from error


def _message(error: Exception) -> str:
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, OSError | ImportError) and text else f"{type(error).__name__}: {text}"
