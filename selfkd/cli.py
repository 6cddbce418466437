"""The command `selfkd`: arguments -> the configuration of a stage, and a call of that stage.

`COMMANDS` has the summary and an example of each command, and names its configuration (a
dataclass) and its stage (a function). Both are imported when they are needed: `--help` of any command imports no torch.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from selfkd.command_line import RECIPE, help_text, parse_config
from selfkd.credentials import masked_message
from selfkd.errors import InputError, did_you_mean
from selfkd.files import is_disk_full
from selfkd.recipe_file import read_recipe
from selfkd.terminal import plain_output
from selfkd.version import __version__

# libraries tell their own developers what a user can do nothing about; read when they are imported
for _library in ("TRANSFORMERS", "DATASETS"):
    os.environ.setdefault(f"{_library}_VERBOSITY", "error")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")  # downloads of the hub keep theirs
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
        "selfkd.training.config:AlignConfig", "selfkd.train:align",
    ),
    "distill": Command(
        "stage 2: SFT (--alpha 0) or Self-KD (--alpha 1)",
        "selfkd distill --data runs/data/train --model runs/align/model --alpha 1 --output runs/selfkd",
        "selfkd.training.config:DistillConfig", "selfkd.train:distill",
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
    "reproduce": Command(
        "the paper's table, from the downloads on, by one file",
        "selfkd reproduce recipes/paper/internvl2_1b.yaml --dry-run",
        "selfkd.reproduce.config:ReproduceConfig", "selfkd.reproduce.reproduce:reproduce", "file",
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
        "selfkd export --model runs/selfkd/model --adapter --output runs/selfkd/adapter",
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
    "completion": Command(
        "a script that completes commands and flags in bash or zsh",
        "selfkd completion bash",
        "selfkd.completion:CompletionConfig", "selfkd.completion:completion", "shell",
    ),
}  # fmt: skip


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
        return _explain_unknown(arguments)
    if "-h" in rest or "--help" in rest:
        command = COMMANDS[name]
        print(help_text(name, command.load_config(), command.leading, command.example))
        return 0
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
        if before == f"--{RECIPE}":
            with suppress(InputError):
                yield read_recipe(Path(path))[0]


def parse_command(name: str, arguments: list[str]) -> tuple[Any, Callable[[Any], Any]]:
    """(configuration, stage) of a command's arguments; raises InputError for invalid ones."""
    command = COMMANDS[name]
    config = parse_config(command.load_config(), command.leading, arguments)
    return config, command.load_stage()


def _explain_unknown(arguments: list[str]) -> int:
    """For words that are no command: the commands of a group (`selfkd data`), or an error that names a near one."""
    group = {name: command for name, command in COMMANDS.items() if name.startswith(f"{arguments[0]} ")}
    if group and (len(arguments) == 1 or arguments[1] in ("-h", "--help")):
        print(f"usage: selfkd {arguments[0]} COMMAND [--field value ...]\n\n{_listed(group)}\n")
        print(f"selfkd {arguments[0]} COMMAND --help lists the fields of a command.")
        return 0
    word = " ".join(arguments[:2]) if group else arguments[0]
    hint = did_you_mean(word, group or [*COMMANDS, *{name.split()[0] for name in COMMANDS}])
    position = f"selfkd {arguments[0]}" if group else "selfkd --help"
    print(f"selfkd: unknown command {word!r}{hint or ';'} {position} lists the commands", file=sys.stderr)
    return 2


_OVERVIEW = """\
usage: selfkd COMMAND [--field value ...] [--recipe FILE] [--debug]

Measures how much worse a vision-language model answers when the query is audio
than when it is text, and closes that gap (Self-KD).

{commands}

selfkd COMMAND --help lists the fields of a command, --version the version.
Start with:  selfkd demo"""


def _overview() -> str:
    return _OVERVIEW.format(commands=_listed(COMMANDS))


def _listed(commands: Mapping[str, Command]) -> str:
    width = max(map(len, commands)) + 2
    return "\n".join(f"  {name:<{width}}{command.summary}" for name, command in commands.items())


if __name__ == "__main__":
    sys.exit(main())
