"""`selfkd completion bash`: a script that completes commands, flags, values and paths on the tab key, by shtab."""

from argparse import ArgumentParser
from dataclasses import dataclass, fields
from typing import Any, Literal

from docstring_parser import parse

from selfkd.cli import COMMANDS, Command
from selfkd.command_line import RECIPE, accepts_path, options_of


@dataclass
class CompletionConfig:
    """Prints a script that lets the shell complete commands, flags, their values and paths.

    Args:
        shell: The shell that reads the script.
    """

    shell: Literal["bash", "zsh"]


def completion(config: CompletionConfig) -> str:
    """Prints the script, and returns it."""
    import shtab

    script = shtab.complete(_parser(), config.shell)
    print(script)
    return script


def _parser() -> ArgumentParser:
    """The commands and flags as argparse has them, which shtab reads; `selfkd` itself parses by `command_line`."""
    parser = ArgumentParser("selfkd")
    parser.add_argument("--version", action="store_true", help="print the version")
    commands = parser.add_subparsers()
    groups: dict[str, Any] = {}
    for name, command in COMMANDS.items():
        *group, last = name.split()
        if group and group[0] not in groups:
            summary = f"{group[0]} {', '.join(n.split()[1] for n in COMMANDS if n.split()[0] == group[0])}"
            groups[group[0]] = commands.add_parser(group[0], help=summary).add_subparsers()
        position = groups[group[0]] if group else commands
        _add_fields(position.add_parser(last, help=command.summary), command)
    return parser


def _add_fields(parser: ArgumentParser, command: Command) -> None:
    import shtab

    config = command.load_config()
    described = {p.arg_name: " ".join((p.description or "").split()) for p in parse(config.__doc__ or "").params}
    parser.add_argument(f"--{RECIPE}", help="YAML file with any of the fields").complete = shtab.FILE  # type: ignore[attr-defined]
    for field in fields(config):
        text = described[field.name].partition(". ")[0].replace("%", "%%")
        if field.type is bool:
            parser.add_argument(f"--{'no_' if field.default else ''}{field.name}", action="store_true", help=text)
            continue
        options = options_of(field.type) or None
        flags = [parser.add_argument(f"--{field.name}", choices=options, help=text)]
        if field.name == command.leading:
            flags.append(parser.add_argument(field.name, nargs="*", choices=options, help=text))
        for flag in flags if options is None and accepts_path(field.type) else []:
            flag.complete = shtab.FILE  # type: ignore[attr-defined]
