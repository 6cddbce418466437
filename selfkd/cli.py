"""The command `selfkd`: arguments -> the configuration of a stage, and a call of that stage.

`COMMANDS` has the summary and an example of each command, and names its configuration (a
dataclass) and its stage (a function). Both are imported when they are needed: `--help` of any command imports no torch.
"""

import json
import os
import signal
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import fields
from importlib import import_module
from inspect import cleandoc
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import ArgumentError, ArgumentParser, DefaultHelpFormatter

from selfkd.credentials import masked_message
from selfkd.errors import InputError
from selfkd.files import is_disk_full
from selfkd.recipe_file import read_recipe
from selfkd.terminal import plain_output
from selfkd.version import __version__

# OpenMP threads that spin while they wait slow down other processes; torch reads this when it is imported
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


class Command(NamedTuple):
    """A command. Parsing arguments imports its configuration, which needs no torch; running it imports its stage."""

    summary: str
    example: str
    config: str  # MODULE:DATACLASS; its fields are the command's
    stage: str  # MODULE:FUNCTION that takes the configuration
    leading: str = ""  # the field of the positional arguments

    def load_config(self) -> type:
        return _import_name(self.config)

    def load_stage(self) -> Callable[[Any], Any]:
        return _import_name(self.stage)


def _import_name(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


COMMANDS = {
    "demo": Command(
        "the whole pipeline on the bundled tiny model, on CPU",
        "selfkd demo --output runs/demo",
        "selfkd.demo:DemoConfig", "selfkd.demo:demo",
    ),
    "synthesize": Command(
        "TTS: questions -> a dataset with audio questions",
        "selfkd synthesize --source world-noisy --count 3000 --output runs/data/train",
        "selfkd.synthesis.config:SynthesizeConfig", "selfkd.synthesis.synthesize:synthesize",
    ),
    "record": Command(
        "people read questions aloud: a page with a microphone",
        "selfkd record --source world --count 100 --output recordings",
        "selfkd.recording.config:RecordConfig", "selfkd.recording.record:record",
    ),
    "data check": Command(
        "check a dataset: complete, readable, within limits",
        "selfkd data check runs/data/train",
        "selfkd.check_data:CheckConfig", "selfkd.check_data:check", "data",
    ),
    "data report": Command(
        "audio quality of a dataset (ASR, WER) -> one HTML file",
        "selfkd data report runs/data/train --output runs/speech.html",
        "selfkd.report.sections.audio_quality:AudioQualityConfig",
        "selfkd.report.sections.audio_quality:audio_quality_report", "data",
    ),
    "data publish": Command(
        "dataset -> the hub, with a card",
        "selfkd data publish runs/data/test --repo me/toy-vqa-audio --license apache-2.0",
        "selfkd.publish:PublishDataConfig", "selfkd.publish:publish_data", "data",
    ),
    "convert": Command(
        "InternVL2 checkpoint -> transformers classes",
        "selfkd convert --source InternVL2-1B --output internvl2-1b",
        "selfkd.model.convert_config:ConvertConfig", "selfkd.model.convert_internvl2:convert",
    ),
    "align": Command(
        "stage 1: train the projector (CTC or frame-stacking)",
        "selfkd align --data runs/data/words --output runs/align",
        "selfkd.training.config:AlignConfig", "selfkd.training.align:align",
    ),
    "distill": Command(
        "stage 2: SFT (--alpha 0) or Self-KD (--alpha 1)",
        "selfkd distill --data runs/data/train --model runs/align/model --alpha 1 --output runs/selfkd",
        "selfkd.training.config:DistillConfig", "selfkd.training.distill:distill",
    ),
    "evaluate": Command(
        "score a model on text and audio queries",
        "selfkd evaluate runs/selfkd/model --data runs/data/test --modalities text,audio --output runs/eval",
        "selfkd.evaluation.config:EvaluateConfig", "selfkd.evaluation.evaluate:evaluate", "model",
    ),
    "judge": Command(
        "LLM judge: classify wrong predictions as on or off topic",
        "selfkd judge runs/eval --model gpt-4o-mini",
        "selfkd.evaluation.config:JudgeConfig", "selfkd.evaluation.judge:judge_run", "run",
    ),
    "mmalign build": Command(
        "build the MMAlign benchmark from ARO or the toy world",
        "selfkd mmalign build --relation r.json --attribution a.json --images aro --output runs/data/mmalign",
        "selfkd.evaluation.benchmarks.mmalign:MMAlignConfig", "selfkd.evaluation.benchmarks.mmalign:build_mmalign",
    ),
    "compare": Command(
        "compare evaluations: gaps and share of the gap closed",
        "selfkd compare runs/eval-base runs/eval-sft runs/eval-selfkd --output runs/comparison",
        "selfkd.evaluation.config:CompareConfig", "selfkd.evaluation.compare:compare", "runs",
    ),
    "analyze attention": Command(
        "attention of text and audio queries, by layer",
        "selfkd analyze attention runs/sft/model runs/selfkd/model --data runs/data/test --output runs/attention",
        "selfkd.analysis.config:AttentionConfig", "selfkd.analysis.analyze_attention:analyze_attention", "models",
    ),
    "analyze agreement": Command(
        "agreement of audio with text responses, by token",
        "selfkd analyze agreement runs/sft/model runs/selfkd/model --data runs/data/test --output runs/agreement",
        "selfkd.analysis.config:AgreementConfig", "selfkd.analysis.analyze_agreement:analyze_agreement", "models",
    ),
    "report": Command(
        "runs -> one HTML file: scores, attention, samples",
        "selfkd report runs/eval-base runs/eval-sft runs/eval-selfkd runs/sft runs/selfkd --output report.html",
        "selfkd.report.build:ReportConfig", "selfkd.report.build:report", "runs",
    ),
    "serve": Command(
        "serve a model as an OpenAI-compatible endpoint",
        "selfkd serve runs/selfkd/model --port 8000",
        "selfkd.serving.config:ServeConfig", "selfkd.serving.serve:serve", "model",
    ),
    "app": Command(
        "web page: questions as text and as audio",
        "selfkd app runs/sft/model runs/selfkd/model",
        "selfkd.app.config:AppConfig", "selfkd.app.app:app", "models",
    ),
    "export": Command(
        "trained model -> a checkpoint for others, or an adapter",
        "selfkd export --model runs/selfkd/model --adapter true --output runs/selfkd/adapter",
        "selfkd.export:ExportConfig", "selfkd.export:export",
    ),
    "merge": Command(
        "merge LoRA: trained model -> one plain checkpoint",
        "selfkd merge --model runs/selfkd/model --output merged",
        "selfkd.export:MergeConfig", "selfkd.export:merge",
    ),
    "publish": Command(
        "trained model -> the hub, with a card",
        "selfkd publish --run runs/selfkd --repo me/my-model --license apache-2.0 --comparison runs/comparison",
        "selfkd.publish:PublishConfig", "selfkd.publish:publish",
    ),
}  # fmt: skip


RECIPE = "--recipe"
_SENTENCE_FLAGS = ("--intro",)  # lists whose items hold commas


def main(arguments: list[str] | None = None) -> int:
    """Runs one command. Returns 0 on success, 2 for invalid input, 130 after Ctrl-C, 141 when the reader of its output
    has closed the pipe (`selfkd ... | head`)."""
    try:
        with plain_output(sys.stdout, sys.stderr):
            code = _run(arguments)
            sys.stdout.flush()
        return code
    except BrokenPipeError:
        with suppress(OSError, ValueError):  # otherwise the interpreter would flush again at exit, and print a warning
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
        print(f"selfkd: unknown command {name!r}; commands: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    debug = "--debug" in rest
    try:
        config, stage = parse_command(name, [a for a in rest if a != "--debug"])
        stage(config)
        return 0
    except InputError as error:
        if debug:
            raise
        # an error from a data loader's worker begins with the worker's traceback; a library's may have several lines
        line = " ".join(str(error).rpartition("InputError: ")[2].split())
        print(f"selfkd {name}: {masked_message(line, arguments, _recipes(arguments))}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        raise
    except Exception as error:
        if debug:
            raise
        if is_disk_full(error):
            line = f"no space left on the disk: {error}; free space, then the same command resumes"
        elif isinstance(error, OSError):  # of the system, or of a hub that cannot be reached
            line = f"{error.filename}: {error.strerror}" if error.filename else str(error) or type(error).__name__
        else:
            raise
        line = masked_message(" ".join(line.split()), arguments, _recipes(arguments))
        print(f"selfkd {name}: {line}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nselfkd {name}: interrupted; the same command resumes", file=sys.stderr)
        return 130


def _recipes(arguments: list[str]) -> Iterator[Any]:
    """The values of the recipes on a command line that can be read; messages may repeat them."""
    for before, path in pairwise(argument for given in arguments for argument in given.split("=", 1)):
        if before == RECIPE:
            with suppress(InputError):
                yield read_recipe(Path(path))[0]


def parse_command(name: str, arguments: list[str]) -> tuple[Any, Callable[[Any], Any]]:
    """(configuration, stage) of a command's arguments; raises InputError for invalid ones."""
    command = COMMANDS[name]
    arguments = ["--dry_run=true" if a == "--dry-run" else a for a in arguments]
    config_class = command.load_config()
    list_fields = [f for f in fields(config_class) if get_origin(f.type) in (list, tuple)]
    lists = {f"--{f.name}": get_args(f.type)[0] for f in list_fields}
    arguments = _name_positionals(command, _split_equals({*lists, RECIPE}, arguments), lists)
    parser = ArgumentParser(
        prog=f"selfkd {name}",
        description=_description(command, config_class),
        formatter_class=_HelpFormatter,
        exit_on_error=False,
        epilog="Lists: a,b. --debug shows the traceback of an error.",
    )
    parser.add_argument(RECIPE, action="config", help="YAML file with any of the fields below")
    parser.add_class_arguments(config_class, as_group=False)
    try:
        values = parser.parse_args(_put_recipes_first(lists, arguments))
    except (ArgumentError, UnicodeDecodeError) as error:
        recipe = next((after for a, after in pairwise(arguments) if a == RECIPE), None)
        where = f" (in {recipe} or on the command line)" if recipe else ""
        raise InputError(" ".join(str(error).split()) + where) from error
    given = {k: v for k, v in parser.instantiate(values).items() if k != "recipe"}
    hints = get_type_hints(config_class)
    for name, value in given.items():
        if value is None and type(None) not in get_args(hints[name]):  # the parser takes null for any field
            raise InputError(f"{name}: null: expected a value")
    return config_class(**given), command.load_stage()


class _HelpFormatter(DefaultHelpFormatter):
    """Keeps the line breaks of the description, so that an example can be copied."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = text.split("\n\n")
        return "\n\n".join(
            p if "\n  " in p else super(_HelpFormatter, self)._fill_text(p, width, "") for p in paragraphs
        )


def _description(command: Command, config_class: type) -> str:
    """The docstring of the configuration up to its fields, and the example."""
    text = cleandoc(config_class.__doc__ or "").partition("\nArgs:")[0].strip()
    return f"{text}\n\nExample:\n  {command.example}"


def _split_equals(flags: set[str], arguments: list[str]) -> list[str]:
    """`--modalities=text` as `--modalities text`, for these flags."""
    split = ((a.partition("="), a) for a in arguments)
    return [part for (flag, _, value), a in split for part in ([flag, value] if flag in flags and flag != a else [a])]


def _name_positionals(command: Command, arguments: list[str], lists: Collection[str]) -> list[str]:
    """`evaluate MODEL --output x` as `evaluate --model MODEL --output x`."""
    positionals = list(takewhile(lambda a: not a.startswith("-"), arguments))
    flag = f"--{command.leading}"
    if not positionals or not command.leading:
        return arguments
    if len(positionals) > 1 and flag not in lists:
        raise InputError(f"{positionals[1]!r}: only one positional argument is allowed, {command.leading}")
    return [flag, ",".join(positionals), *arguments[len(positionals) :]]


def _put_recipes_first(lists: Mapping[str, Any], arguments: list[str]) -> list[str]:
    """Moves recipes to the front, so that arguments override them, and writes lists as the parser reads them."""
    recipes: list[str] = []
    others: list[str] = []
    given: dict[str, int] = {}  # where in `others` the value of a list is: a flag that is repeated adds to it
    for previous, argument in pairwise(["", *arguments]):
        if previous == RECIPE:
            recipes += [RECIPE, _recipe_with_lists(argument, lists)]
        elif previous in lists:
            value = _as_json_list(previous, argument, lists[previous])
            if previous in given:
                others.pop()  # the flag
                before = others[given[previous]]
                comma = "" if "[]" in (before, value) else ", "
                others[given[previous]] = f"{before[:-1]}{comma}{value[1:]}"
            else:
                given[previous] = len(others)
                others.append(value)
        elif argument != RECIPE:
            others.append(argument)
    return recipes + others + [a for a in arguments[-1:] if a == RECIPE]  # without a path: the parser reports it


def _as_json_list(flag: str, text: str, item: Any) -> str:
    """`text,audio` as `["text", "audio"]`, which the parser reads: without quotes it would turn 1 into a number."""
    if text.startswith("[") and text.endswith("]"):
        return text
    if item in (int, float):
        return f"[{text}]"
    parts = [text] if flag in _SENTENCE_FLAGS else text.split(",")
    return json.dumps([part.strip() for part in parts if part.strip()], ensure_ascii=False)


def _recipe_with_lists(path: str, lists: Mapping[str, Any]) -> str:
    """The path of a recipe, or its YAML text with comma-separated lists as YAML lists."""
    values, as_strings = read_recipe(Path(path))
    changed = {}
    for flag, item in lists.items():
        name = flag.removeprefix("--")
        if values.get(name) is not None:
            value = as_strings[name]
            if isinstance(value, str):
                try:
                    changed[name] = yaml.safe_load(_as_json_list(flag, value, item))
                except yaml.YAMLError as error:
                    raise InputError(f"{path}: field {name}: {' '.join(str(error).split()):.200}") from error
            elif item not in (int, float) and isinstance(value, list) and all(isinstance(part, str) for part in value):
                changed[name] = value  # such as a run named 1
    return yaml.safe_dump(values | changed, allow_unicode=True) if changed else path


_OVERVIEW = """\
usage: selfkd COMMAND [--field value ...] [--recipe FILE] [--debug]

Measures how much worse a vision-language model answers when the query is audio
than when it is text, and closes that gap (Self-KD).

{commands}

selfkd COMMAND --help lists the fields of a command.
Start with:  selfkd demo"""


def _overview() -> str:
    width = max(map(len, COMMANDS)) + 2
    return _OVERVIEW.format(commands="\n".join(f"  {n:<{width}}{c.summary}" for n, c in COMMANDS.items()))


if __name__ == "__main__":
    sys.exit(main())
