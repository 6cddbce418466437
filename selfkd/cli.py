"""The command `selfkd`: nothing but arguments to stage functions."""

import json
import os
import signal
import sys
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import fields
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from selfkd import __version__
from selfkd.commands import COMMANDS, Command
from selfkd.credentials import masked_message
from selfkd.errors import InputError
from selfkd.files import is_no_room

RECIPE = "--recipe"
_OF_SENTENCES = ("--intro",)  # lists whose items hold commas


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; 0 when it went well, 2 for input that the user can put right, 130 after Ctrl-C, 141 where
    nobody reads what it prints (`selfkd ... | head`)."""
    try:
        code = _run(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        with suppress(OSError, ValueError):  # or the interpreter would try again as it ends, and say so
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


def _run(arguments: list[str] | None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if arguments == ["--version"]:
        print(f"selfkd {__version__}")
        return 0
    words = 2 if " ".join(arguments[:2]) in COMMANDS else 1
    name, rest = " ".join(arguments[:words]), arguments[words:]
    if name not in COMMANDS:
        print(f"selfkd: no command {name!r}; there are: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    debug = "--debug" in rest
    try:
        config, stage = parsed(name, [a for a in rest if a != "--debug"])
        stage(config)
        return 0
    except InputError as error:
        if debug:
            raise
        # an error of a loader's worker comes with the worker's traceback before it; a library's has lines of its own
        line = " ".join(str(error).rpartition("InputError: ")[2].split())
        print(f"selfkd {name}: {masked_message(line, arguments)}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        raise
    except Exception as error:
        if debug:
            raise
        if is_no_room(error):
            line = f"no room left on the disk: {error}; with room the same command goes on"
        elif isinstance(error, OSError):  # the system's, or a hub's that is out of reach
            line = f"{error.filename}: {error.strerror}" if error.filename else str(error) or type(error).__name__
        else:
            raise
        print(f"selfkd {name}: {' '.join(line.split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nselfkd {name}: stopped; the same command goes on from here", file=sys.stderr)
        return 130


def parsed(name: str, arguments: list[str]) -> tuple[Any, Callable[[Any], Any]]:
    """The configuration that a command's arguments make, and its stage; raises InputError for one that is wrong."""
    command = COMMANDS[name]
    arguments = ["--dry_run=true" if a == "--dry-run" else a for a in arguments]
    config_class, stage = command.load()
    several = [f for f in fields(config_class) if get_origin(f.type) in (list, tuple)]
    lists = {f"--{f.name}": get_args(f.type)[0] for f in several}
    arguments = _named(command, _apart({*lists, RECIPE}, arguments), lists)
    parser = ArgumentParser(
        prog=f"selfkd {name}",
        description=f"{command.what}.  Example:  {command.example}",
        exit_on_error=False,
        epilog="Lists are written a,b. --debug shows the traceback of an error.",
    )
    parser.add_argument(RECIPE, action="config", help="YAML file with any of the fields below")
    parser.add_class_arguments(config_class, as_group=False)
    try:
        values = parser.parse_args(_recipes_first(lists, arguments))
    except (ArgumentError, UnicodeDecodeError) as error:
        recipe = next((after for a, after in pairwise(arguments) if a == RECIPE), None)
        where = f" (in {recipe} or on the command line)" if recipe else ""
        raise InputError(" ".join(str(error).split()) + where) from error
    return config_class(**{k: v for k, v in parser.instantiate(values).items() if k != "recipe"}), stage


def _apart(flags: set[str], arguments: list[str]) -> list[str]:
    """`--views=text` as `--views text`, for these flags."""
    parted = ((a.partition("="), a) for a in arguments)
    return [part for (flag, _, value), a in parted for part in ([flag, value] if flag in flags and flag != a else [a])]


def _named(command: Command, arguments: list[str], lists: Collection[str]) -> list[str]:
    """`evaluate MODEL --output x` as `evaluate --model MODEL --output x`."""
    first = list(takewhile(lambda a: not a.startswith("-"), arguments))
    flag = f"--{command.leading}"
    if not first or not command.leading:
        return arguments
    if len(first) > 1 and flag not in lists:
        raise InputError(f"{first[1]!r}: only {command.leading} may stand without its name")
    return [flag, ",".join(first), *arguments[len(first) :]]


def _recipes_first(lists: Mapping[str, Any], arguments: list[str]) -> list[str]:
    """The arguments with lists as the parser reads them, after the recipes, which they override wherever they stand."""
    recipes: list[str] = []
    others: list[str] = []
    for previous, argument in pairwise(["", *arguments]):
        if previous == RECIPE:
            recipes += [RECIPE, _recipe(argument, lists)]
        elif argument != RECIPE:
            others.append(_bracketed(previous, argument, lists[previous]) if previous in lists else argument)
    return recipes + others + [a for a in arguments[-1:] if a == RECIPE]  # without its path, as the parser will say


def _bracketed(flag: str, text: str, item: Any) -> str:
    """`text,speech` for the parser's own `["text", "speech"]`: of `[text, 1]`, which shells take for a pattern, it
    would make a number."""
    if text.startswith("[") and text.endswith("]"):
        return text
    if item in (int, float):
        return f"[{text}]"
    parts = [text] if flag in _OF_SENTENCES else text.split(",")
    return json.dumps([part.strip() for part in parts if part.strip()], ensure_ascii=False)


def _recipe(path: str, lists: Mapping[str, Any]) -> str:
    """The path, or what stands there with lists in brackets that are written in it as they are after a command."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        asked, as_written = yaml.safe_load(text), yaml.load(text, yaml.BaseLoader)
    except (OSError, ValueError, yaml.YAMLError):
        return path  # the parser says what is wrong with it
    changed = {}
    for flag, item in lists.items():
        name = flag.removeprefix("--")
        if isinstance(asked, dict) and asked.get(name) is not None:
            value = as_written[name]
            if isinstance(value, str):
                changed[name] = yaml.safe_load(_bracketed(flag, value, item))
            elif item not in (int, float) and isinstance(value, list) and all(isinstance(part, str) for part in value):
                changed[name] = value  # a run that is called 1
    return yaml.safe_dump(asked | changed, allow_unicode=True) if changed else path


_OVERVIEW = """\
usage: selfkd COMMAND [--field value ...] [--recipe FILE] [--debug]

Measures how much worse a model answers about an image when the question is
spoken than when it is written, and closes that gap.

{commands}

selfkd COMMAND --help lists its fields, selfkd --version the version.
To begin:  selfkd demo"""


def _overview() -> str:
    width = max(map(len, COMMANDS)) + 2
    return _OVERVIEW.format(commands="\n".join(f"  {n:<{width}}{c.what}" for n, c in COMMANDS.items()))


if __name__ == "__main__":
    sys.exit(main())
