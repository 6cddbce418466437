"""The items of a list in a JSON file, one at a time: llava's file has 665,000 and would be gigabytes in memory."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selfkd.data.as_text import refuse_utf16
from selfkd.errors import InputError

_AT_ONCE = 2**20  # characters
_BETWEEN = re.compile(r"[\s,]*")
_PLAIN = json.JSONDecoder()


def json_records(path: Path, opening: str = r"\s*\[", decoder: json.JSONDecoder = _PLAIN) -> Iterator[Any]:
    """The items of the list that begins where `opening`, a pattern, is found first; raises InputError, naming file and
    item, where there is none or it cannot be read."""
    number = 0
    try:
        refuse_utf16(path)
        with path.open(encoding="utf-8-sig") as file:
            text, wanted = file.read(_AT_ONCE), _AT_ONCE
            begun = re.match(opening, text, re.DOTALL)
            if not begun:
                raise InputError(f"path: {path}: does not begin as a JSON file of this source does")
            at = begun.end()
            while True:
                at = _BETWEEN.match(text, at).end()  # type: ignore[union-attr]  # matches nothing too
                if text.startswith("]", at):
                    return
                try:
                    item, end = decoder.raw_decode(text, at)
                    if end == len(text):
                        raise json.JSONDecodeError("Unfinished list", text, end)
                except json.JSONDecodeError:
                    more = file.read(wanted)
                    if not more:
                        raise
                    text, at, wanted = text[at:] + more, 0, 2 * wanted  # twice as much each time: an item may be long
                    continue
                yield item
                at, wanted, number = end, _AT_ONCE, number + 1
    except (FileNotFoundError, IsADirectoryError) as error:
        raise InputError(f"path: {path}: no such file") from error
    except UnicodeDecodeError as error:
        raise InputError(f"path: {path}: after record {number}: not UTF-8 ({error.reason})") from error
    except json.JSONDecodeError as error:
        raise InputError(f"path: {path}: record {number}: not JSON ({error.msg})") from error
