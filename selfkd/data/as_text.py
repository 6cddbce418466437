"""A value of a table -> text, in one way for every source: as its author meant it, or refused by file, row and field.

A number keeps the digits of its own width, a JSON number the digits in the file, a label its name. The missing values
of pandas and JSON (None, NaN, NaT) are blank; the strings "None", "NA" and "nan" are words.
"""

import gzip
import json
import re
import unicodedata
from collections.abc import Mapping
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from selfkd.errors import InputError


class VerbatimNumber(str):
    """A number of a JSON file in the digits of the file: 1e5, 0.50, 3.0."""

    __slots__ = ()


# NaN, which Python writes for an empty cell, stays a float and thus blank
VERBATIM_DECODER = json.JSONDecoder(parse_float=VerbatimNumber, parse_int=VerbatimNumber)
_POSITIONAL = (1e-15, 1e21)  # range of numbers in text without an exponent
# remains of a LaTeX command in a file whose backslashes are not doubled: "\frac", "\rho" and "\times" begin with the
# escapes of a form feed, a carriage return and a tab
_BROKEN = (
    r"[\a\b\v\f\x1b](?=[a-z])|\r(?=ho\b|ight|angle|ceil|floor|m\b)|\t(?=imes\b|heta\b|au\b|an\b|ext\{|frac|riangle)"
    r"|\n(?=eq\b|abla\b)"
)
_BROKEN_COMMAND = re.compile(_BROKEN)
_LINE_ENDS = re.compile(rf"(?!{_BROKEN})(?:\r\n|[\r\x85\u2028\u2029])")
_CONTROLS = re.compile(rf"(?!{_BROKEN})[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
# byte order marks, zero-width spaces, soft hyphens, direction marks: invisible, but tokens of their own
_INVISIBLE = re.compile("[\ufeff\u200b\u2060\u00ad\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_JOINERS = re.compile("(?<![^\x00-\x7f])[\u200c\u200d]|[\u200c\u200d](?![^\x00-\x7f])")  # only some scripts need them
_SPACES = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def as_text(value: Any, where: str) -> str:
    """The value as its author meant it, normalized by `tidy`; "" where it is blank. `where` names file, row and field.

    Raises InputError for values without a unique text: several values, bytes that are not UTF-8, a time of day.
    """
    return tidy(as_published(value, where))


def as_published(value: Any, where: str) -> str:
    """As `as_text`, but verbatim: prompts and answers of a public benchmark must not change."""
    value = single_value(value, where, "text")
    if is_blank(value):
        return ""
    if isinstance(value, bytes | bytearray | memoryview):
        try:
            return bytes(value).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise InputError(f"{where} holds bytes that are not text in UTF-8") from error
    match value:
        case str():
            return str(value)
        case bool() | np.bool_():
            return "true" if value else "false"
        case int() | np.integer():
            return str(int(value))
        case float() | np.floating() if np.isfinite(value):
            return _digits(value)
        case Decimal() if value.is_finite():
            return f"{value:f}"
        case np.datetime64():
            return as_published(value.astype("datetime64[us]").item(), where)
        case datetime() if value.time() == time():  # as readers decode a column of dates
            return value.date().isoformat()
        case date() if not isinstance(value, datetime):
            return value.isoformat()
    raise InputError(f"{where} is a {type(value).__name__}, not text ({str(value)[:40]!r})")


def single_value(value: Any, where: str, wanted: str) -> Any:
    """The value, or the one in a list; None for an empty list. Raises InputError for a list of several."""
    if isinstance(value, np.ndarray):
        value = value.tolist() if value.dtype == object else list(value.reshape(-1)) if value.ndim else value[()]
    while isinstance(value, list | tuple):
        if len(value) > 1:
            raise InputError(f"{where} is a list, not {wanted} ({len(value)} values)")
        value = value[0] if value else None
    if isinstance(value, dict) and not value:
        return None
    if isinstance(value, dict):
        raise InputError(f"{where} is a dict, not {wanted}")
    return value


def is_blank(value: Any) -> bool:
    """Whether a value is missing; 0 and false are answers, and so are "None" and "NA"."""
    if value is None or type(value).__name__ == "NAType":  # of pandas, which has no truth value
        return True
    if isinstance(value, str | bytes):
        return not value.strip()
    return not isinstance(value, list | tuple | dict | np.ndarray) and bool(value != value)


def tidy(text: str) -> str:
    """Text in NFC, with one form of line ends and of spaces and without invisible characters."""
    text = _CONTROLS.sub(" ", _LINE_ENDS.sub("\n", text))
    if text.isascii():  # the common case, in NFC already
        return _stripped(text)
    text = _SPACES.sub(" ", _INVISIBLE.sub("", text))
    return _stripped(unicodedata.normalize("NFC", _JOINERS.sub("", text)))


def check_text(name: str, text: str) -> None:
    """Raises InputError, naming the field, for text of which an earlier program lost characters."""
    if valid_unicode(text) != text:
        raise InputError(f"field {name}: not Unicode text (half of a surrogate pair)")
    if found := _BROKEN_COMMAND.search(text):
        rest = text[found.start() + 1 : found.start() + 6]
        raise InputError(f"field {name}: {found[0] + rest!r}: a LaTeX command whose backslash was not doubled")
    if "\ufffd" in text:
        raise InputError(f"field {name}: holds U+FFFD, the replacement of characters that were lost")


def valid_unicode(text: str) -> str:
    """Text that UTF-8 can encode: JSON may hold halves of surrogate pairs, as \\ud83d."""
    return text.encode("utf-8", "replace").decode()


class IntegerColumns:
    """Finds columns of integers with blanks: readers make floats of them, 3 is then 3.0. After every row was observed,
    `restore` gives the integers of a column that held whole floats and blanks only."""

    def __init__(self, names: tuple[str, ...]):
        self._blank, self._all_whole = dict.fromkeys(names, False), dict.fromkeys(names, True)

    def observe(self, values: Mapping[str, Any]) -> None:
        for name, whole in self._all_whole.items():
            value = values[name]
            if is_blank(value):
                self._blank[name] = True
            elif whole and not _is_whole(value):
                self._all_whole[name] = False

    def restore(self, name: str, text: str) -> str:
        return text.removesuffix(".0") if self._blank[name] and self._all_whole[name] else text


def refuse_utf16(path: Path) -> None:
    """Raises InputError for a text file in UTF-16 or UTF-32, as Excel and PowerShell save; names no line, since none
    can be decoded."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        head = file.read(4)
    if head[:2] in _UTF16 or b"\0" in head:
        raise InputError(f"path: {path}: not text in UTF-8 but UTF-16 or UTF-32, as it seems; save it as UTF-8")


def _stripped(text: str) -> str:
    """Without blanks at the ends; `str.strip` would remove control characters too."""
    return text.lstrip(" \t\n").rstrip(" \t\n\r")


def _is_whole(value: Any) -> bool:
    if isinstance(value, VerbatimNumber):
        return value.endswith(".0")
    return isinstance(value, float | np.floating) and float(value).is_integer()


def _digits(value: Any) -> str:
    """The smallest number of digits that identify a number of its width."""
    low, high = _POSITIONAL
    if value == 0 or low <= abs(float(value)) < high:
        return np.format_float_positional(value, unique=True, trim="0")
    return str(value)
