"""The command `selfkd`: arguments -> the configuration of a stage, and a call of that stage.

`COMMANDS` says of each command what it does, gives an example, and names the module with its configuration (a
dataclass) and its stage (a function). That module is imported when the command is called: `selfkd --help` needs no
torch.
"""

import json
import os
import signal
import sys
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import fields
from importlib import import_module
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from selfkd import __version__
from selfkd.credentials import masked_message
from selfkd.errors import InputError
from selfkd.files import is_no_room


class Command(NamedTuple):
    what: str
    example: str
    module: str  # imported when the command is called: `selfkd --help` and `selfkd report` need no torch
    config: str  # a dataclass of the module, its fields are the command's
    stage: str  # a function of the module, which takes the configuration
    leading: str = ""  # the field that what stands before the first --field is for

    def load(self) -> tuple[type, Callable[[Any], Any]]:
        module = import_module(self.module)
        return getattr(module, self.config), getattr(module, self.stage)


COMMANDS = {
    "demo": Command(
        "the whole pipeline on the embedded model, on a laptop's CPU",
        "selfkd demo --output runs/demo",
        "selfkd.demo", "DemoConfig", "demo",
    ),
    "synthesize": Command(
        "questions -> spoken questions",
        "selfkd synthesize --source world-noisy --count 3000 --output runs/data/train",
        "selfkd.synthesis.synthesize", "SynthesizeConfig", "synthesize",
    ),
    "data check": Command(
        "a folder of spoken questions: whole or not",
        "selfkd data check runs/data/train",
        "selfkd.data.check", "CheckConfig", "check", "data",
    ),
    "data report": Command(
        "how well spoken questions are understood -> one HTML file",
        "selfkd data report runs/data/train --output runs/speech.html",
        "selfkd.report.sections.audio_quality", "SpeechReportConfig", "speech_report", "data",
    ),
    "data publish": Command(
        "a folder of spoken questions -> the hub, with a card",
        "selfkd data publish runs/data/test --repo me/spoken-world --license apache-2.0",
        "selfkd.export", "PublishDataConfig", "publish_data", "data",
    ),
    "convert": Command(
        "an original InternVL2 checkpoint -> transformers' classes",
        "selfkd convert --source InternVL2-1B --output internvl2-1b",
        "selfkd.model.convert_internvl2", "ConvertConfig", "convert",
    ),
    "align": Command(
        "stage 1: ears learn to hear what is said",
        "selfkd align --data runs/data/words --output runs/align",
        "selfkd.training.align", "AlignConfig", "align",
    ),
    "distill": Command(
        "stage 2: SFT and Self-KD, one switch: alpha",
        "selfkd distill --data runs/data/train --model runs/align/model --alpha 1 --output runs/selfkd",
        "selfkd.training.distill", "DistillConfig", "distill",
    ),
    "evaluate": Command(
        "written against spoken: scores of a model",
        "selfkd evaluate runs/selfkd/model --data runs/data/test --modalities text,audio --output runs/eval",
        "selfkd.evaluation.evaluate", "EvaluateConfig", "evaluate", "model",
    ),
    "judge": Command(
        "wrong replies: on topic or about something else",
        "selfkd judge runs/eval --model gpt-4o-mini",
        "selfkd.evaluation.judge", "JudgeConfig", "judge_run", "run",
    ),
    "mmalign build": Command(
        "MMAlign out of ARO or the embedded world, spoken",
        "selfkd mmalign build --relation r.json --attribution a.json --images aro --output runs/data/mmalign",
        "selfkd.evaluation.benchmarks.mmalign", "MMAlignConfig", "build_mmalign",
    ),
    "compare": Command(
        "evaluated runs side by side, the share of the gap closed",
        "selfkd compare runs/eval-base runs/eval-sft runs/eval-selfkd --output runs/comparison",
        "selfkd.evaluation.compare", "CompareConfig", "compare", "runs",
    ),
    "analyze attention": Command(
        "where written and spoken questions look, by layer",
        "selfkd analyze attention runs/sft/model runs/selfkd/model --data runs/data/test --output runs/attention",
        "selfkd.analysis.analyze_attention", "AttentionConfig", "analyze_attention", "models",
    ),
    "analyze agreement": Command(
        "how far spoken answers are from written ones, and where",
        "selfkd analyze agreement runs/sft/model runs/selfkd/model --data runs/data/test --output runs/agreement",
        "selfkd.analysis.analyze_agreement", "AgreementConfig", "analyze_agreement", "models",
    ),
    "report": Command(
        "any runs -> one HTML file: scores, attention, items to hear",
        "selfkd report runs/eval-base runs/eval-sft runs/eval-selfkd runs/sft runs/selfkd --output report.html",
        "selfkd.report.build", "ReportConfig", "report", "runs",
    ),
    "serve": Command(
        "a model behind an OpenAI-compatible endpoint",
        "selfkd serve runs/selfkd/model --port 8000",
        "selfkd.serving.server", "ServeConfig", "serve", "model",
    ),
    "app": Command(
        "a page in the browser: one question, written and spoken",
        "selfkd app runs/sft/model runs/selfkd/model",
        "selfkd.app.app", "AppConfig", "app", "models",
    ),
    "merge": Command(
        "a trained model -> one plain checkpoint, adapters merged",
        "selfkd merge --model runs/selfkd/model --output merged",
        "selfkd.export", "MergeConfig", "merge",
    ),
    "publish": Command(
        "a trained model -> the hub, with a card",
        "selfkd publish --run runs/selfkd --repo me/my-model --license apache-2.0 --comparison runs/comparison",
        "selfkd.export", "PublishConfig", "publish",
    ),
}  # fmt: skip


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
    """`--modalities=text` as `--modalities text`, for these flags."""
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
    """`text,audio` for the parser's own `["text", "audio"]`: of `[text, 1]`, which shells take for a pattern, it
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
