"""The one reader of JSON: within limits of depth and digits, and, for the files of this package, of the right types.

A schema is any type that pydantic knows; those of this package are `TypedDict`s next to the code that writes the file.
Fields that a schema does not name are kept as they are.
"""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from selfkd.errors import InputError

MAX_DEPTH = 100  # of lists and objects within each other; code that reads them is recursive
MAX_DIGITS = 40  # of an integer: many take quadratic time, and no float holds them; 10^30 is in tokenizers' files
MAX_LINE_BYTES = 64_000_000  # of a JSON-lines file
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")  # half of an escaped character, which may lack the other half


def parse_json(text: str | bytes, decode: Callable[[str], Any] | None = None) -> Any:
    """The value of a JSON text in UTF-8; raises ValueError for any other, and for one beyond the limits. `decode` is
    that of another decoder."""
    try:
        value = decode(str(text)) if decode else json.loads(text, parse_int=_integer)
    except RecursionError:
        raise ValueError(f"lists and objects are nested more than {MAX_DEPTH} deep") from None
    opened = text.count(b"[") + text.count(b"{") if isinstance(text, bytes) else text.count("[") + text.count("{")
    if opened > MAX_DEPTH:
        check_depth(value)
    return value


def _parse_ours(text: bytes) -> Any:
    """As `parse_json`, of a file of this package: half a character is damage there, for none can be written."""
    value = parse_json(text)
    if _SURROGATE.search(text):
        json.dumps(value, ensure_ascii=False).encode()  # raises UnicodeEncodeError, a ValueError
    return value


def read_json(path: Path, schema: Any = Any) -> Any:
    """The value in a JSON file; raises InputError where it is missing, damaged, or not of the schema."""
    try:
        value = _parse_ours(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path}: not found; it was removed from the run") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable ({error})") from error
    check_schema(value, schema, str(path))
    return value


def read_json_lines(path: Path, schema: Any = dict[str, Any], partial: bool = False) -> Iterator[Any]:
    """The values in the lines of a file; raises InputError, naming the line, where one is damaged or not of the schema.
    `partial` leaves out a last line without its end: the process that wrote it was stopped."""
    if not path.is_file():
        raise InputError(f"{path}: not found; a file of the run is missing")
    with _opened(path) as file:
        for number, line in enumerate(lines_of(file, str(path)), 1):
            if partial and not line.endswith(b"\n"):
                return
            try:
                value = _parse_ours(line)
            except ValueError as error:
                raise InputError(f"{path}: line {number} is cut short or damaged ({error})") from error
            check_schema(value, schema, f"{path}: line {number}")
            yield value


def lines_of(file: Any, where: str) -> Iterator[bytes]:
    """The lines of a binary file, perhaps a compressed one; raises InputError for a line that would fill the memory."""
    number = 1
    while line := file.readline(MAX_LINE_BYTES + 1):
        if len(line) > MAX_LINE_BYTES:
            raise InputError(f"{where}: line {number}: longer than {MAX_LINE_BYTES / 1e6:g} MB")
        yield line
        number += 1


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as file:  # bytes: a text file has other line ends too, which a response may contain
            yield file
    except OSError as error:
        raise InputError(f"{path}: not readable ({error})") from error


def check_schema(value: Any, schema: Any, where: str) -> None:
    """Raises InputError that begins with `where` and names the field where a value is not of the schema."""
    if schema is Any:
        return
    from pydantic import ValidationError

    try:
        _adapter(schema).validate_python(value, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        field = ".".join(map(str, first["loc"])) or "(whole)"
        wrong = f"{first['input']!r:.60}: {first['msg']}"
        given = "missing; an older selfkd wrote this file" if first["type"] == "missing" else wrong
        raise InputError(f"{where}: field {field:.200}: {given:.300}") from error


@lru_cache
def _adapter(schema: Any) -> Any:
    from pydantic import TypeAdapter  # not imported before a file is read: `selfkd --help` is quick

    return TypeAdapter(schema)


def _integer(digits: str) -> int:
    if len(digits.lstrip("-")) > MAX_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def check_depth(value: Any) -> None:
    """Raises ValueError for lists and objects that are nested too deep."""
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise ValueError(f"lists and objects are nested more than {MAX_DEPTH} deep")
        parts = [part.values() if isinstance(part, dict) else part for part in level if isinstance(part, dict | list)]
        level = [part for many in parts for part in many if isinstance(part, dict | list)]
