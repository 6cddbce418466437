"""The command `selfkd`: nothing but arguments to stage functions."""

import sys
from collections.abc import Callable
from dataclasses import fields
from itertools import pairwise
from typing import Any, get_origin

from jsonargparse import ArgumentError, ArgumentParser

from selfkd.errors import InputError
from selfkd.files import NO_ROOM

Stage = tuple[type, Callable[[Any], Any]]

# each import waits until its command is called: `selfkd --help` and `selfkd report` need no torch


def _demo() -> Stage:
    from selfkd.demo import DemoConfig, demo

    return DemoConfig, demo


def _synthesize() -> Stage:
    from selfkd.data.synthesize import SynthesizeConfig, synthesize

    return SynthesizeConfig, synthesize


def _align() -> Stage:
    from selfkd.training.align import AlignConfig, align

    return AlignConfig, align


def _distill() -> Stage:
    from selfkd.training.distill import DistillConfig, distill

    return DistillConfig, distill


def _evaluate() -> Stage:
    from selfkd.evaluation.evaluate import EvaluateConfig, evaluate

    return EvaluateConfig, evaluate


def _compare() -> Stage:
    from selfkd.evaluation.compare import CompareConfig, compare

    return CompareConfig, compare


def _report() -> Stage:
    from selfkd.report.build import ReportConfig, report

    return ReportConfig, report


def _check() -> Stage:
    from selfkd.data.check import CheckConfig, check

    return CheckConfig, check


def _convert() -> Stage:
    from selfkd.model.convert import ConvertConfig, convert

    return ConvertConfig, convert


def _merge() -> Stage:
    from selfkd.model.merge import MergeConfig, merge

    return MergeConfig, merge


def _publish() -> Stage:
    from selfkd.publish import PublishConfig, publish

    return PublishConfig, publish


# command: (what it does, an example, its stage)
COMMANDS: dict[str, tuple[str, str, Callable[[], Stage]]] = {
    "demo": (
        "the whole pipeline on the embedded model, on a laptop's CPU",
        "selfkd demo --output runs/demo",
        _demo,
    ),
    "synthesize": (
        "questions -> spoken questions",
        "selfkd synthesize --source world-annotated --count 3000 --output runs/data/train",
        _synthesize,
    ),
    "check": (
        "a folder of spoken questions: whole or not",
        "selfkd check --data runs/data/train",
        _check,
    ),
    "convert": (
        "an original InternVL2 checkpoint -> the classes of transformers",
        "selfkd convert --source InternVL2-1B --output internvl2-1b",
        _convert,
    ),
    "align": (
        "stage 1: speech -> text, through the projector",
        "selfkd align --data runs/data/words --output runs/align",
        _align,
    ),
    "distill": (
        "stage 2: SFT and Self-KD, one switch: alpha",
        "selfkd distill --data runs/data/train --model runs/align/model --alpha 1 --output runs/selfkd",
        _distill,
    ),
    "evaluate": (
        "written against spoken: scores of a model",
        "selfkd evaluate --model runs/selfkd/model --data runs/data/test --views text,speech --output runs/eval",
        _evaluate,
    ),
    "compare": (
        "evaluated runs side by side, and the share of the gap closed",
        "selfkd compare --base runs/eval-base --sft runs/eval-sft --selfkd runs/eval-selfkd --output runs/comparison",
        _compare,
    ),
    "report": (
        "a comparison -> one HTML file",
        "selfkd report --comparison runs/comparison --output report.html",
        _report,
    ),
    "merge": (
        "a trained model -> one plain checkpoint, adapters merged",
        "selfkd merge --model runs/selfkd/model --output merged",
        _merge,
    ),
    "publish": (
        "a trained model -> the hub, with a card",
        "selfkd publish --run runs/selfkd --repo me/my-model --license apache-2.0 --comparison runs/comparison",
        _publish,
    ),
}


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; 0 when it went well, 2 for input that the user can put right."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        print(f"selfkd: no command {name!r}; there are: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    debug = "--debug" in rest
    try:
        return run_command(name, ["--dry_run=true" if a == "--dry-run" else a for a in rest if a != "--debug"])
    except InputError as error:
        if debug:
            raise
        # an error of a loader's worker comes with the worker's traceback before it
        line = str(error).strip().splitlines()[-1].rpartition("InputError: ")[2]
        print(f"selfkd {name}: {line}", file=sys.stderr)
        return 2
    except OSError as error:
        if debug or error.errno not in NO_ROOM:
            raise
        print(f"selfkd {name}: no room left on the disk: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nselfkd {name}: stopped; the same command goes on from here", file=sys.stderr)
        return 130


def run_command(name: str, arguments: list[str]) -> int:
    what, example, load = COMMANDS[name]
    config_class, stage = load()
    parser = ArgumentParser(
        prog=f"selfkd {name}",
        description=f"{what}.  Example:  {example}",
        exit_on_error=False,
        epilog="Lists are written a,b. --debug shows the traceback of an error.",
    )
    parser.add_argument("--recipe", action="config", help="YAML file with any of the fields below")
    parser.add_class_arguments(config_class, as_group=False)
    try:
        values = parser.parse_args(_bracket_lists(config_class, arguments))
    except ArgumentError as error:
        recipe = next((after for a, after in pairwise(arguments) if a == "--recipe"), None)
        where = f" (in {recipe} or on the command line)" if recipe else ""
        raise InputError(" ".join(str(error).split()) + where) from error
    stage(config_class(**{k: v for k, v in parser.instantiate(values).items() if k != "recipe"}))
    return 0


def _bracket_lists(config_class: type, arguments: list[str]) -> list[str]:
    """`--views text,speech` for the parser's own `--views [text,speech]`, which shells take for a pattern."""
    lists = {f"--{f.name}" for f in fields(config_class) if get_origin(f.type) is list}
    return [
        f"[{a}]" if previous in lists and not a.startswith("[") else a for previous, a in pairwise(["", *arguments])
    ]


_OVERVIEW = """\
usage: selfkd COMMAND [--field value ...] [--recipe FILE] [--debug]

Measures how much worse a model answers about an image when the question is
spoken than when it is written, and closes that gap.

{commands}

selfkd COMMAND --help lists its fields.  To begin:  selfkd demo"""


def _overview() -> str:
    return _OVERVIEW.format(commands="\n".join(f"  {n:<12}{what}" for n, (what, _, _) in COMMANDS.items()))


if __name__ == "__main__":
    sys.exit(main())
