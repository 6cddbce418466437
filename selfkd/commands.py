"""The commands: what each does, an example, and where its configuration and its stage are."""

from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple


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
        "selfkd synthesize --source world-annotated --count 3000 --output runs/data/train",
        "selfkd.data.synthesize", "SynthesizeConfig", "synthesize",
    ),
    "data check": Command(
        "a folder of spoken questions: whole or not",
        "selfkd data check runs/data/train",
        "selfkd.data.check", "CheckConfig", "check", "data",
    ),
    "data report": Command(
        "how well spoken questions are understood -> one HTML file",
        "selfkd data report runs/data/train --output runs/speech.html",
        "selfkd.report.speech", "SpeechReportConfig", "speech_report", "data",
    ),
    "data publish": Command(
        "a folder of spoken questions -> the hub, with a card",
        "selfkd data publish runs/data/test --repo me/spoken-world --license apache-2.0",
        "selfkd.data.publish", "PublishDataConfig", "publish_data", "data",
    ),
    "convert": Command(
        "an original InternVL2 checkpoint -> transformers' classes",
        "selfkd convert --source InternVL2-1B --output internvl2-1b",
        "selfkd.model.convert", "ConvertConfig", "convert",
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
        "selfkd evaluate runs/selfkd/model --data runs/data/test --views text,speech --output runs/eval",
        "selfkd.evaluation.evaluate", "EvaluateConfig", "evaluate", "model",
    ),
    "judge": Command(
        "wrong replies: on topic or about something else",
        "selfkd judge runs/eval --model gpt-4o-mini",
        "selfkd.evaluation.judge_run", "JudgeConfig", "judge_run", "run",
    ),
    "mmalign build": Command(
        "MMAlign out of ARO or the embedded world, spoken",
        "selfkd mmalign build --relation r.json --attribution a.json --images aro --output runs/data/mmalign",
        "selfkd.evaluation.mmalign", "MMAlignConfig", "build_mmalign",
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
        "selfkd.serving.serve", "ServeConfig", "serve", "model",
    ),
    "app": Command(
        "a page in the browser: one question, written and spoken",
        "selfkd app runs/sft/model runs/selfkd/model",
        "selfkd.app.app", "AppConfig", "app", "models",
    ),
    "merge": Command(
        "a trained model -> one plain checkpoint, adapters merged",
        "selfkd merge --model runs/selfkd/model --output merged",
        "selfkd.model.merge", "MergeConfig", "merge",
    ),
    "publish": Command(
        "a trained model -> the hub, with a card",
        "selfkd publish --run runs/selfkd --repo me/my-model --license apache-2.0 --comparison runs/comparison",
        "selfkd.publish", "PublishConfig", "publish",
    ),
}  # fmt: skip
