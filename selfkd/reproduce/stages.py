"""The stages of a reproduction, in their order: for each the command of selfkd that it is, the fields of that command,
the stages that it needs, and the file that the command writes last.

A stage whose command is "" is a function of this room (`stage_process`). All paths are within the run's folder, so that
later stages read what `download` has written, or the stand-ins of a rehearsal in its layout.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from selfkd.command_line import RECIPE, parse_config
from selfkd.data.example import MANIFEST
from selfkd.errors import InputError
from selfkd.evaluation.benchmark_audio import SUITES
from selfkd.evaluation.config import EvaluateConfig
from selfkd.files import write_json
from selfkd.model.convert_config import ConvertConfig
from selfkd.reproduce.config import ReproduceConfig
from selfkd.reproduce.recipe import Fields, Recipe
from selfkd.run_dir import MODEL, RESULT
from selfkd.synthesis.config import SynthesizeConfig
from selfkd.training.config import AlignConfig, DistillConfig

# what the recipes of the commands call the data that are made here
_QUESTIONS, _ASR_DATA = "data/llava-audio", "data/asr"
TABLE = "table.json"
CONFIGS: dict[str, type] = {
    "convert": ConvertConfig,
    "synthesize": SynthesizeConfig,
    "align": AlignConfig,
    "distill": DistillConfig,
    "evaluate": EvaluateConfig,
}


@dataclass(frozen=True)
class Stage:
    name: str
    title: str
    command: str
    settings: Fields
    needs: tuple[str, ...]
    product: Path  # the file that says that the command is complete


def run_folder(config: ReproduceConfig) -> Path:
    """The recipe's own folder within `output`."""
    suffix = "-rehearsal" if config.rehearse else "" if config.scale == "full" else f"-{config.scale}"
    return config.output / f"{config.file.stem}{suffix}"


def stages_of(config: ReproduceConfig, recipe: Recipe) -> list[Stage]:
    """All stages, to the last that is to run. Raises InputError for an unknown one, and for settings of a command that
    are set here."""
    out = run_folder(config)
    every = [
        *_data_stages(config, recipe, out),
        *_training_stages(recipe, out),
        *_evaluation_stages(config, recipe, out),
    ]
    names = [stage.name for stage in every]
    if config.until and config.until not in names:
        raise InputError(f"until: {config.until!r}: no stage; there are {', '.join(names)}")
    return every[: names.index(config.until) + 1] if config.until else every


def command_config(stage: Stage) -> Any:
    """The configuration of a stage's command, as its process will read it. Raises InputError that names the stage and
    the field."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / stage.name
        write_json(path, stage.settings)
        try:
            return parse_config(CONFIGS[stage.command], "", [f"--{RECIPE}={path}"])
        except InputError as error:
            message = str(error).replace(f" (in {path} or on the command line)", "").replace(f"{path}: ", "")
            raise InputError(f"stage {stage.name}: {message}") from error


def _data_stages(config: ReproduceConfig, recipe: Recipe, out: Path) -> list[Stage]:
    down = out / "download"
    questions = _questions_fields(recipe, out)
    stages = [_download(config, recipe, out, questions)]
    if recipe["convert"]:
        fields = {"source": str(down / "vlm"), "output": str(_vlm(recipe, out))}
        title = "convert the checkpoint to transformers' classes"
        stages.append(Stage("convert", title, "convert", fields, ("download",), _vlm(recipe, out) / "config.json"))
    stages.append(
        Stage("questions", "synthesize the training questions", "synthesize", questions, ("download",),
              out / _QUESTIONS / MANIFEST)
    )  # fmt: skip
    if recipe["convert"]:
        check: Fields = {
            **recipe["check"],
            "original": str(down / "vlm"),
            "converted": str(_vlm(recipe, out)),
            "data": str(out / _QUESTIONS),
            "output": str(out / "check"),
        }
        title = f"{check['answers']} responses against the original's"
        stages.append(Stage("check", title, "", check, ("convert", "questions"), out / "check" / RESULT))
    asr_data = {
        **recipe["asr_data"],
        **_own(
            "asr_data",
            recipe["asr_data"],
            source="librispeech",
            path=str(down / "asr_data"),
            output=str(out / _ASR_DATA),
        ),
    }
    title = "read the ASR data of stage 1"
    return [*stages, Stage("asr-data", title, "synthesize", asr_data, ("download",), out / _ASR_DATA / MANIFEST)]


def _download(config: ReproduceConfig, recipe: Recipe, out: Path, questions: Fields) -> Stage:
    """The downloads, or the stand-ins in their place."""
    product = out / "download" / MANIFEST
    settings: Fields = {"output": str(out / "download"), "downloads": dict(recipe["downloads"])}
    if config.rehearse:
        settings |= {
            "model_config": recipe["model_config"],
            "convert": recipe["convert"],
            "tiny": config.scale == "tiny",
            "questions": recipe["questions"]["count"],
            "clips": recipe["asr_data"]["count"],
            "benchmarks": benchmarks_of(recipe["evaluate"]["benchmarks"]),
        }
        return Stage("download", "make stand-ins of all downloads", "", settings, (), product)
    settings |= {"archives": recipe["archives"], "image_url": recipe["image_url"]}
    if recipe["image_url"]:  # the images that the sampled questions are about
        settings["questions"] = {name: questions[name] for name in ("source", "path", "images", "count")}
    settings["benchmarks"] = benchmarks_of(recipe["evaluate"]["benchmarks"])
    return Stage("download", "download models, data and benchmarks", "", settings, (), product)


def _questions_fields(recipe: Recipe, out: Path) -> Fields:
    down, given = out / "download", recipe["questions"]
    (file,) = recipe["downloads"]["questions"]["files"]
    own: Fields = {"source": "llava", "path": str(down / "questions" / file), "images": str(down / "images")}
    own["output"] = str(out / _QUESTIONS)
    if given.get("engine") == "kokoro":
        own["engine_path"] = str(down / "speech")
    if "asr_filter" in recipe["downloads"]:
        own["asr_filter"] = str(down / "asr_filter")
    return {**given, **_own("questions", given, **own)}


def _training_stages(recipe: Recipe, out: Path) -> list[Stage]:
    parts = {"vlm": str(_vlm(recipe, out)), "speech_encoder": str(_whisper(out))}
    data = {_QUESTIONS: str(out / _QUESTIONS), _ASR_DATA: str(out / _ASR_DATA)}
    known = {"model_config": recipe["model_config"]}
    align: Fields = {**recipe["align"], **_own("align", recipe["align"], **parts), **known}
    align |= {"data": [data[_ASR_DATA]], "output": str(out / "align")}
    distill: Fields = {**recipe["distill"], **known, "data": _renamed(recipe["distill"], data, "distill")}
    distill["model"] = str(out / "align" / MODEL)
    ctc: Fields = {**recipe["ctc"], **known, **parts, "data": _renamed(recipe["ctc"], data, "ctc")}
    with_vlm = ("convert",) if recipe["convert"] else ("download",)
    return [
        _trained("align", "stage 1: the frame-stacking projector", "align", align, (*with_vlm, "asr-data"), out),
        _trained("sft", "stage 2: SFT", "distill", distill | {"alpha": 0.0}, ("align", "questions"), out),
        _trained("selfkd", "stage 2: Self-KD", "distill", distill, ("align", "questions"), out),
        _trained("ctc", "the CTC projector", "align", ctc, (*with_vlm, "asr-data", "questions"), out),
    ]


def _trained(name: str, title: str, command: str, settings: Fields, needs: tuple[str, ...], out: Path) -> Stage:
    return Stage(name, title, command, settings | {"output": str(out / name)}, needs, out / name / RESULT)


def _renamed(section: Fields, data: Mapping[str, str], name: str) -> list[str]:
    """The data of a command's recipe, FOLDER or FOLDER:WEIGHT, in this run's folders."""
    found = []
    for entry in section.get("data", ()):
        folder, colon, weight = str(entry).partition(":")
        if folder not in data:
            raise InputError(f"{name}.data: {folder}: not made here; there are {', '.join(data)}")
        found.append(f"{data[folder]}{colon}{weight}")
    return found


def _evaluation_stages(config: ReproduceConfig, recipe: Recipe, out: Path) -> list[Stage]:
    engine = recipe["benchmark_engine"]
    synthesis: Fields = {"engine": engine} | (
        {"engine_path": str(out / "download" / "speech")} if engine == "kokoro" else {}
    )
    shared: Fields = {**recipe["evaluate"], "synthesis": synthesis, "cache": str(out / "benchmarks")}
    if config.rehearse:
        local = {
            name: str(out / "download" / "benchmarks" / f"{name}.parquet")
            for name in benchmarks_of(recipe["evaluate"]["benchmarks"])
        }
        shared["local_datasets"] = local
        shared["synthesis"]["processes"] = 1
    # the LLM is frozen: text queries have the same responses before and after stage 2
    of_text = {"modalities": ["text", "cascade"], "asr_model": str(_whisper(out))}
    stages = [_evaluated("text", "text queries, and the cascade", "align", shared | of_text, out)]
    for name, title in (("sft", "SFT"), ("selfkd", "Self-KD"), ("ctc", "the CTC projector")):
        stages.append(_evaluated(name, f"audio queries, {title}", name, shared | {"modalities": ["audio"]}, out))
    runs = {name: str(out / f"eval-{name}") for name in ("text", "sft", "selfkd", "ctc")}
    settings: Fields = {"title": recipe["title"], "paper": dict(recipe["paper"]), "runs": runs, "output": str(out)}
    settings["is_measured"] = config.scale == "full" and not config.rehearse
    needs = tuple(stage.name for stage in stages)
    return [*stages, Stage("table", "the table next to the paper's scores", "", settings, needs, out / TABLE)]


def _evaluated(name: str, title: str, model: str, settings: Fields, out: Path) -> Stage:
    output = out / f"eval-{name}"
    settings = {"model": str(out / model / MODEL), **settings, "output": str(output)}
    needs = (model,) if name == "text" else (model, "evaluate-text")  # which has synthesized the benchmarks
    return Stage(f"evaluate-{name}", f"evaluate {title}", "evaluate", settings, needs, output / RESULT)


def benchmarks_of(entries: Sequence[str]) -> list[str]:
    """The benchmarks that a field `benchmarks` names, by themselves or by a suite."""
    return [name for entry in entries for name in SUITES.get(entry, [entry])]


def _vlm(recipe: Recipe, out: Path) -> Path:
    return out / "models" / "vlm" if recipe["convert"] else out / "download" / "vlm"


def _whisper(out: Path) -> Path:
    return out / "download" / "speech_encoder"


def _own(section: str, given: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
    """The fields that are set here; raises InputError where a recipe sets one of them."""
    for name in fields:
        if name in given:
            raise InputError(f"{section}.{name}: is set by selfkd reproduce; remove it")
    return fields
