"""Writes what the docs say of commands and their fields, from the code: `python docs/build.py`.

Each page of docs/commands has the table of its command's fields between `<!-- fields -->` and `<!-- /fields -->`, the
README the map of commands between `<!-- commands -->` and `<!-- /commands -->`. `--check` writes nothing, and fails
where one of them is stale.
"""

import re
import sys
from dataclasses import MISSING, Field, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from docstring_parser import parse

from selfkd.cli import COMMANDS

DOCS = Path(__file__).parent
README = DOCS.parent / "README.md"
_WORDS = {str: "text", int: "whole number", float: "number", bool: "true, false", Path: "path"}


def page_of(command: str) -> Path:
    return DOCS / "commands" / f"{command.replace(' ', '-')}.md"


def fields_table(command: str) -> str:
    """The fields of a command as Markdown: names, what they take, defaults, and the docstring's sentence on each."""
    config, _ = COMMANDS[command].load()
    leading = COMMANDS[command].leading
    said = {p.arg_name: " ".join(p.description.split()) for p in parse(config.__doc__ or "").params}
    lines = ["| field | takes | default | |", "|---|---|---|---|"]
    for field in fields(config):
        what = said[field.name] + (" May stand first, without its name." if field.name == leading else "")
        cells = (f"`--{field.name}`", takes(field.type), default(field), what)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def takes(kind: Any) -> str:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Literal:
        return ", ".join(map(str, inner))
    if origin is list:
        return f"list of {takes(inner[0])}"
    if origin is dict:
        return "fields: `--NAME.KEY VALUE`"
    if origin is tuple:
        return f"`[{', '.join(takes(i) for i in inner)}]`"
    if origin in (Union, UnionType):
        return " or ".join(takes(i) for i in inner if i is not NoneType)
    return _WORDS.get(kind, str(kind))


def default(field: Field) -> str:
    value = field.default if field.default_factory is MISSING else field.default_factory()
    if value is MISSING:
        return "**required**"
    if value is None:
        return "depends"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, float):
        return f"`{value:g}`"
    if isinstance(value, tuple):
        return f"`{list(value)}`"
    if isinstance(value, list):
        return f"`{','.join(map(str, value))}`" if value else "empty"
    return f"`{value}`" if value not in ("", {}) else "empty"


def commands_table() -> str:
    lines = ["| command | |", "|---|---|"]
    for name, command in COMMANDS.items():
        lines.append(f"| [`selfkd {name}`]({page_of(name).relative_to(DOCS.parent).as_posix()}) | {command.summary} |")
    return "\n".join(lines)


def filled(text: str, mark: str, table: str) -> str:
    """The text with what stands between the marks replaced; raises ValueError where they are not there."""
    begin, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    found, count = re.subn(f"{begin}.*?{end}", lambda _: f"{begin}\n{table}\n{end}", text, flags=re.DOTALL)
    if count != 1:
        raise ValueError(f"{begin} ... {end}: {count} times, not once")
    return found


def built() -> dict[Path, str]:
    """{page: its text as it should be}."""
    pages = {page_of(c): filled(page_of(c).read_text(), "fields", fields_table(c)) for c in COMMANDS}
    return pages | {README: filled(README.read_text(), "commands", commands_table())}


if __name__ == "__main__":
    stale = {path: text for path, text in built().items() if path.read_text() != text}
    if "--check" in sys.argv[1:]:
        sys.exit("\n".join(f"stale: {path}" for path in stale) or 0)
    for path, text in stale.items():
        path.write_text(text)
