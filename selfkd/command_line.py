"""The command line of a command, from its configuration (a dataclass): arguments -> configuration, and the help.

A field is a flag: `--steps 3`, `--data a,b` for a list, `--training.optim sgd` for a key of a mapping, `--adapter` and
`--no_adapter` for a boolean. In a flag's name `-` and `_` are the same, as with transformers' HfArgumentParser.
jsonargparse converts the values; its messages, which name types of Python, are replaced by ours.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields
from inspect import cleandoc
from pathlib import Path
from textwrap import fill
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import yaml
from docstring_parser import parse
from jsonargparse import ArgumentError, ArgumentParser

from selfkd.errors import InputError, did_you_mean
from selfkd.recipe_file import read_recipe

RECIPE = "recipe"
_SENTENCES = ("intro",)  # lists whose items hold commas
_FLAG = re.compile(r"--([A-Za-z][\w-]*)((?:\.[^=\s]+)?)(?:=(.*))?", re.DOTALL)
_WORDS = {str: "text", int: "whole number", float: "number", bool: "flag", Path: "path"}
_PLACEHOLDERS = {str: "TEXT", int: "N", float: "X", Path: "PATH", dict: "{...}"}
_WIDTH, _INDENT = 79, 24  # of the help, and of its descriptions


class _Given(NamedTuple):
    name: str  # of a field
    key: str  # of a mapping: ".optim"
    value: str


def parse_config(config_class: type, leading: str, arguments: Sequence[str]) -> Any:
    """The configuration of a command's arguments; raises InputError, naming the flag, for invalid ones. `leading` is
    the field of the positional arguments, "" without."""
    types = {field.name: field.type for field in fields(config_class)}
    given = _read_flags(types, leading, arguments)
    recipes = [g.value for g in given if g.name == RECIPE]
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument(f"--{RECIPE}", action="config")
    parser.add_class_arguments(config_class, as_group=False)
    words = [f"--{RECIPE}={_recipe_with_lists(path, types)}" for path in recipes]  # first: arguments override them
    parsed: dict[str, str] = {}
    for flag, value in ((f"--{g.name}{g.key}", _as_parsed(g, types[g.name])) for g in given if g.name != RECIPE):
        is_repeated = flag in parsed and _is_list(types[flag.removeprefix("--")])
        parsed[flag] = _joined(parsed[flag], value) if is_repeated else value
    words += [f"{flag}={value}" for flag, value in parsed.items()]
    try:
        values = parser.parse_args(words)
    except (ArgumentError, UnicodeDecodeError) as error:
        where = f" (in {recipes[0]} or on the command line)" if recipes else ""
        raise InputError(_message(error, types) + where) from error
    found = {name: value for name, value in parser.instantiate(values).items() if name != RECIPE}
    hints = get_type_hints(config_class)
    for name, value in found.items():
        if value is None and type(None) not in get_args(hints[name]):  # the parser takes null for any field
            raise InputError(f"{name}: null: expected a value")
    return config_class(**found)


def _read_flags(types: Mapping[str, Any], leading: str, arguments: Sequence[str]) -> list[_Given]:
    """The fields that the arguments give; raises InputError for an unknown flag, a missing value, and an argument that
    belongs to no flag."""
    found: list[_Given] = []
    rest = list(arguments)
    positionals: list[str] = []
    while rest and not rest[0].startswith("-"):
        positionals.append(rest.pop(0))
    if positionals:
        if not leading:
            raise InputError(f"{positionals[0]!r}: this command takes no positional arguments, only flags")
        if len(positionals) > 1 and not _is_list(types[leading]):
            raise InputError(f"{positionals[1]!r}: only one positional argument is allowed, {leading}")
        found.append(_Given(leading, "", ",".join(positionals)))
    while rest:
        word = rest.pop(0)
        flag = _FLAG.fullmatch(word)
        if flag is None:
            raise InputError(f"{word!r}: {_stray(found, types)}")
        name, key, value = flag[1].replace("-", "_"), flag[2], flag[3]
        if types.get(name.removeprefix("no_")) is bool and name not in types and value is None:
            found.append(_Given(name.removeprefix("no_"), "", "false"))
            continue
        if (name not in types and name != RECIPE) or (key and get_origin(types.get(name)) is not dict):
            raise InputError(f"--{flag[1]}{key}: no such flag{did_you_mean(name, [*types, RECIPE], '--')}")
        if value is None and types.get(name) is bool:
            value = rest.pop(0) if rest and rest[0] in ("true", "false") else "true"
        elif value is None:
            if not rest or _FLAG.fullmatch(rest[0]):
                raise InputError(
                    f"--{name}{key}: expected a value{'' if key else ', ' + _expected(types.get(name, Path))}"
                )
            value = rest.pop(0)
        found.append(_Given(name, key, value))
    return found


def _stray(before: Sequence[_Given], types: Mapping[str, Any]) -> str:
    """Why a word without a flag is refused."""
    if not before:
        return "not a flag"
    name, key, value = before[-1]
    if name in types and _is_list(types[name]) and not key:
        return f"a second value after --{name}; a list has commas: --{name} {value},..."
    return f"one value too many after --{name}{key}"


def _message(error: Exception, types: Mapping[str, Any]) -> str:
    """A message of jsonargparse, in the terms of `accepted_values`."""
    text = " ".join(str(error).split())
    key = re.match(r'Parser key "([^"]+)": ', text)
    name = key[1].partition(".")[0] if key else ""
    if key is None or name not in types:
        return text
    value = re.split(r"(?:Got|Given) value: ?", text)[-1] if " value:" in text else ""
    hint = did_you_mean(value, options_of(types[name])) if options_of(types[name]) else ""
    return f"{key[1]}: {value[:200]!r}: expected {_expected(types[name])}{hint}"


def accepted_values(annotation: Any) -> str:
    """What a field of this type takes, in words: "whole number", "list of text, audio"."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(options_of(annotation))
    if origin is list:
        return f"list of {accepted_values(inner[0])}"
    if origin is dict:
        return "fields: `--NAME.KEY VALUE`"
    if origin is tuple:
        return f"`[{', '.join(accepted_values(i) for i in inner)}]`"
    if origin in (Union, UnionType):
        return " or ".join(accepted_values(i) for i in inner if i is not NoneType)
    return _WORDS.get(annotation, str(annotation))


def _expected(annotation: Any) -> str:
    """`accepted_values` as the end of a sentence."""
    inner = [i for i in get_args(annotation) if i is not NoneType]
    if options := options_of(annotation):
        return f"{'some' if _is_list(annotation) else 'one'} of {', '.join(options)}"
    if get_origin(annotation) in (Union, UnionType):
        return " or ".join(map(_expected, inner))
    if get_origin(annotation) is tuple:
        return f"{len(inner)} values with a comma between them, each {_expected(inner[0])}"
    if get_origin(annotation) is dict:
        return "fields, --NAME.KEY VALUE"
    words = accepted_values(annotation)
    return {"flag": "true or false", "text": words}.get(words, f"a {words}")


def options_of(annotation: Any) -> tuple[str, ...]:
    """The values that a field chooses among; () where it takes any."""
    if get_origin(annotation) is Literal:
        return tuple(str(option) for option in get_args(annotation) if option != "")  # "" is none of them
    if get_origin(annotation) in (list, Union, UnionType):
        return tuple(option for inner in get_args(annotation) for option in options_of(inner))
    return ()


def accepts_path(annotation: Any) -> bool:
    """Whether a value may be a path: text and lists of text include checkpoints and folders of data."""
    inner = [i for i in get_args(annotation) if i is not NoneType] or [annotation]
    return get_origin(annotation) is not dict and all(i in (str, Path) for i in inner)


def _is_list(annotation: Any) -> bool:
    return get_origin(annotation) in (list, tuple)


def _as_parsed(given: _Given, annotation: Any) -> str:
    return _as_json_list(given.name, given.value, get_args(annotation)[0]) if _is_list(annotation) else given.value


def _joined(before: str, value: str) -> str:
    """A list that is given twice has the items of both."""
    return f"{before[:-1]}{'' if '[]' in (before, value) else ', '}{value[1:]}"


def _as_json_list(name: str, text: str, item: Any) -> str:
    """`text,audio` as `["text", "audio"]`, which the parser reads: without quotes it would turn 1 into a number."""
    if text.startswith("[") and text.endswith("]"):
        return text
    if item in (int, float):
        return f"[{text}]"
    parts = [text] if name in _SENTENCES else text.split(",")
    return json.dumps([part.strip() for part in parts if part.strip()], ensure_ascii=False)


def _recipe_with_lists(path: str, types: Mapping[str, Any]) -> str:
    """The path of a recipe, or its YAML text with comma-separated lists as YAML lists."""
    values, as_strings = read_recipe(Path(path))
    for name in values:
        if name.partition(".")[0] not in types:
            raise InputError(f"{path}: {name!r:.60}: no such field{did_you_mean(name, types)}")
    changed = {}
    for name, annotation in types.items():
        if not _is_list(annotation) or values.get(name) is None:
            continue
        value, item = as_strings[name], get_args(annotation)[0]
        if isinstance(value, str):
            try:
                changed[name] = yaml.safe_load(_as_json_list(name, value, item))
            except yaml.YAMLError as error:
                raise InputError(f"{path}: field {name}: {' '.join(str(error).split()):.200}") from error
        elif item not in (int, float) and isinstance(value, list) and all(isinstance(part, str) for part in value):
            changed[name] = value  # such as a run named 1
    return yaml.safe_dump(values | changed, allow_unicode=True) if changed else path


def help_text(command: str, config_class: type, leading: str, example: str) -> str:
    """What `selfkd COMMAND --help` prints, within 80 columns."""
    documented = parse(config_class.__doc__ or "")
    descriptions = {p.arg_name: " ".join((p.description or "").split()) for p in documented.params}
    types = {field.name: field for field in fields(config_class)}
    first = f" [{leading.upper()}{' ...' if _is_list(types[leading].type) else ''}]" if leading else ""
    text = cleandoc(config_class.__doc__ or "").partition("\nArgs:")[0].strip()
    # an indented paragraph is a formula, whose lines stay
    paragraphs = [p if "\n  " in p else fill(p, _WIDTH, break_on_hyphens=False) for p in text.split("\n\n")]
    lines = [_row(f"--{RECIPE} PATH", "YAML file with any of the fields below; flags override it.")]
    lines += [_field_help(field, descriptions[name], name == leading) for name, field in types.items()]
    return "\n\n".join(
        [
            f"usage: selfkd {command}{first} [--field value ...]",
            *paragraphs,
            "Example:\n" + "\n".join(_example_lines(example)),
            "fields:\n" + "\n".join(lines),
            "Lists: a,b. --debug shows the traceback of an error.",
        ]
    )


def _field_help(field: Field, description: str, is_leading: bool) -> str:
    annotation = field.type
    default = field.default if field.default_factory is MISSING else field.default_factory()
    notes = []
    if annotation is bool:
        flag = f"--{field.name}, --no_{field.name}" if default else f"--{field.name}"
        notes += ["on by default"] if default else []
    else:
        flag = f"--{field.name} {_placeholder(annotation)}"
        word = "any" if _is_list(annotation) else "one"
        notes += [f"{word} of {', '.join(options_of(annotation))}"] if options_of(annotation) else []
        notes += ["required"] if default is MISSING else []
        if default not in (MISSING, None, "") and default != [] and default != {}:
            notes.append(f"default {_default_text(default)}")
    notes += ["may stand first, without its name"] if is_leading else []
    return _row(flag, f"{description} ({'; '.join(notes)})" if notes else description)


def _default_text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return f"{{{', '.join(f'{k}: {v}' for k, v in value.items())}}}" if isinstance(value, dict) else str(value)


def _placeholder(annotation: Any) -> str:
    inner = [i for i in get_args(annotation) if i is not NoneType]
    if get_origin(annotation) in (Union, UnionType):
        return _placeholder(inner[0])
    if get_origin(annotation) is Literal:
        return "NAME"
    if _is_list(annotation):
        name = _placeholder(inner[0])
        return f"{name},{name}"
    return _PLACEHOLDERS[get_origin(annotation) or annotation]


def _row(flag: str, description: str) -> str:
    """A flag with its description next to it, or below it where the flag is long."""
    start = f"  {flag}"
    indent = " " * _INDENT
    first = start.ljust(_INDENT) if len(start) < _INDENT - 1 else indent
    text = fill(description, _WIDTH, initial_indent=first, subsequent_indent=indent, break_on_hyphens=False)
    return text if first is not indent else f"{start}\n{text}"


def _example_lines(example: str) -> list[str]:
    """A command in lines that a shell joins again; a flag and its value stay together where they can."""
    lines: list[str] = []
    rest = example
    while len(rest) > (room := _WIDTH - 2 - (6 if lines else 2)):
        at = max(rest.rfind(" --", 1, room), 0) or max(rest.rfind(" ", 1, room), 0) or rest.find(" ")
        if at < 0:
            break
        lines.append(rest[:at])
        rest = rest[at + 1 :]
    *before, last = [*lines, rest]
    return [f"{'      ' if at else '  '}{line} \\" for at, line in enumerate(before)] + [
        f"{'      ' if before else '  '}{last}"
    ]
