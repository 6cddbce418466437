"""Writes the docs' tables of commands and fields from the code: `python docs/build.py`.

A page of docs/commands has the table of its command's fields between `<!-- fields -->` and `<!-- /fields -->`;
docs/commands/README.md has the table of commands between `<!-- commands -->` and `<!-- /commands -->`. `--check` writes
nothing and fails where a table is stale.
"""

import re
import sys
from dataclasses import MISSING, Field, fields
from pathlib import Path

from docstring_parser import parse

from selfkd.cli import COMMANDS
from selfkd.command_line import accepted_values

DOCS = Path(__file__).parent
COMMANDS_PAGE = DOCS / "commands" / "README.md"


def page_of(command: str) -> Path:
    return DOCS / "commands" / f"{command.replace(' ', '-')}.md"


def fields_table(command: str) -> str:
    """The fields of a command as Markdown: names, what they take, defaults, and the docstring's sentence on each."""
    config = COMMANDS[command].load_config()
    leading = COMMANDS[command].leading
    descriptions = {p.arg_name: " ".join(p.description.split()) for p in parse(config.__doc__ or "").params}
    lines = ["| field | takes | default | |", "|---|---|---|---|"]
    for field in fields(config):
        description = descriptions[field.name]
        description += " May stand first, without its name." if field.name == leading else ""
        cells = (f"`--{field.name}`", accepted_values(field.type), default_value(field), description)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def default_value(field: Field) -> str:
    value = field.default if field.default_factory is MISSING else field.default_factory()
    if value is MISSING:
        return "**required**"
    if value is None:
        return "depends"
    if isinstance(value, bool):
        return "on" if value else "off"
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
        lines.append(f"| [`selfkd {name}`]({page_of(name).name}) | {command.summary} |")
    return "\n".join(lines)


def filled(text: str, mark: str, table: str) -> str:
    """The text with the table between the marks replaced; raises ValueError where the marks are missing."""
    begin, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    found, count = re.subn(f"{begin}.*?{end}", lambda _: f"{begin}\n{table}\n{end}", text, flags=re.DOTALL)
    if count != 1:
        raise ValueError(f"{begin} ... {end}: {count} times, not once")
    return found


def built() -> dict[Path, str]:
    """{page: its text as it should be}."""
    pages = {page_of(c): filled(page_of(c).read_text(), "fields", fields_table(c)) for c in COMMANDS}
    return pages | {COMMANDS_PAGE: filled(COMMANDS_PAGE.read_text(), "commands", commands_table())}


if __name__ == "__main__":
    stale = {path: text for path, text in built().items() if path.read_text() != text}
    if "--check" in sys.argv[1:]:
        sys.exit("\n".join(f"stale: {path}" for path in stale) or 0)
    for path, text in stale.items():
        path.write_text(text)
