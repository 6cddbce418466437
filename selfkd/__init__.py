"""Measures how much worse a model answers about an image when the query is audio than when it is text, and closes that
gap by Self-KD (arXiv 2503.00059).

    from selfkd import compare, distill, evaluate, load_model, synthesize
    from selfkd.data.dataset import ExampleFolder

    made = [synthesize(output=f"data/{s}", source="world", split=s, count=400) for s in ("train", "test")]
    (model, processor), row = load_model("selfkd-tiny"), ExampleFolder("data/test")[0]
    inputs = processor.encode_queries(row.load_image(), [row.question, None], [None, row.samples()])
    print(processor.response_texts(model.generate_responses(**inputs)))
    distill(model="selfkd-tiny", data=["data/train"], output="runs/selfkd", alpha=1.0, steps=100)
    runs = {"runs/eval-base": "selfkd-tiny", "runs/eval-selfkd": "runs/selfkd/model"}
    scores = [evaluate(model=model, data=["data/test"], output=run) for run, model in runs.items()]
    compare(runs=list(runs), output="runs/comparison")

`import selfkd` imports none of these modules; a name below is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from selfkd.version import __version__ as __version__

if TYPE_CHECKING:
    from selfkd.evaluation.compare import compare as compare
    from selfkd.evaluation.evaluate import evaluate as evaluate
    from selfkd.losses import LossConfig as LossConfig
    from selfkd.model.checkpoint import load_model as load_model
    from selfkd.model.modeling_omni import OmniModel as OmniModel
    from selfkd.model.processing_omni import OmniProcessor as OmniProcessor
    from selfkd.report.build import report as report
    from selfkd.synthesis.synthesize import synthesize as synthesize
    from selfkd.train import align as align
    from selfkd.train import distill as distill
    from selfkd.training.trainer import SelfKDTrainer as SelfKDTrainer

_MODULES = {
    "load_model": "selfkd.model.checkpoint",
    "OmniModel": "selfkd.model.auto_classes",
    "OmniProcessor": "selfkd.model.auto_classes",
    "SelfKDTrainer": "selfkd.training.trainer",
    "LossConfig": "selfkd.losses",
    "synthesize": "selfkd.synthesis.synthesize",
    "align": "selfkd.train",
    "distill": "selfkd.train",
    "evaluate": "selfkd.evaluation.evaluate",
    "compare": "selfkd.evaluation.compare",
}
__all__ = [*_MODULES, "report"]


def __getattr__(name: str) -> Any:
    if name == "report":  # the package `selfkd.report`, which is callable
        return import_module("selfkd.report")
    if name not in _MODULES:
        raise AttributeError(f"module 'selfkd' has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
