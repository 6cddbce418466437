"""Reads a recipe of recipes/paper: one file a model, over a shared one, with the sizes of a scale.

Mappings are merged key by key, in this order: the shared file, the model's, the scale's, those of a rehearsal. Fields
of the commands (`align`, `distill`, ...) are theirs; `recipe` in such a section names a file of theirs to begin with.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NotRequired

from typing_extensions import TypedDict

from selfkd.errors import InputError, did_you_mean
from selfkd.json_files import check_schema
from selfkd.recipe_file import read_recipe
from selfkd.reproduce.config import ReproduceConfig

Fields = dict[str, Any]  # of a command of selfkd
SECTIONS = ("questions", "asr_data", "align", "distill", "ctc", "evaluate")
COMMAND_RECIPE = "recipe"  # in a section: a recipe file of its command


class Repository(TypedDict):
    """Files of the hub, by patterns. `repo` may end in @REVISION."""

    repo: str
    files: list[str]
    gigabytes: float
    type: NotRequired[str]
    names: NotRequired[dict[str, str]]  # {name on the hub: name here}


class Archive(TypedDict):
    """A zip or tar.gz at a URL, or a `file` of a dataset `repo` on the hub; `into` is within the section's folder."""

    into: str
    gigabytes: float
    url: NotRequired[str]
    repo: NotRequired[str]
    file: NotRequired[str]


class Check(TypedDict):
    answers: int
    max_new_tokens: int
    environment: list[str]  # packages in which the original's own code runs; empty: transformers answers for it


class PaperScores(TypedDict):
    """In percent, averages over its eight benchmarks."""

    text: float
    sft: float
    selfkd: float


class Downloads(TypedDict):
    vlm: Repository
    speech_encoder: Repository  # a Whisper, which is the cascade's ASR model too
    asr_filter: Repository  # the Whisper that checks the synthesized questions
    questions: Repository  # one file in llava's layout
    speech: NotRequired[Repository]  # the files of Kokoro


class Sampled(TypedDict):
    """What is read here of the fields of `selfkd synthesize`."""

    count: int
    engine: NotRequired[str]


class Evaluated(TypedDict):
    """What is read here of the fields of `selfkd evaluate`."""

    benchmarks: list[str]


class Recipe(TypedDict):
    """A recipe after merging."""

    title: str
    model_config: str
    convert: bool
    downloads: Downloads
    archives: dict[str, list[Archive]]
    image_url: str
    questions: Sampled
    asr_data: Sampled
    asr_rows: int
    align: Fields
    distill: Fields
    ctc: Fields
    check: Check
    evaluate: Evaluated
    benchmark_engine: str
    benchmark_gigabytes: float
    paper: PaperScores


_OF_FILES = ("shared", "scales", "rehearsal")  # fields that say how files are merged


def load_recipe(config: ReproduceConfig) -> Recipe:
    """The recipe of a configuration. Raises InputError, naming file and field."""
    own, _ = read_recipe(config.file)
    if "shared" not in own:
        raise InputError(f"{config.file}: field shared: missing; give one of recipes/paper but shared.yaml")
    shared_path = config.file.parent / str(own["shared"])
    shared, _ = read_recipe(shared_path)
    scales = shared.get("scales")
    if not isinstance(scales, dict) or not isinstance(scales.get(config.scale), dict):
        raise InputError(f"{shared_path}: field scales.{config.scale}: missing; expected fields")
    layers = [shared, own, scales[config.scale]]
    if config.rehearse:
        layers.append(shared.get("rehearsal") or {})
    merged: dict[str, Any] = {}
    for layer in layers:
        merged = _merged(merged, layer)
    known = [*Recipe.__annotations__, *_OF_FILES]
    for name in merged:
        if name not in known:
            raise InputError(f"{config.file}: {name!r:.60}: no such field{did_you_mean(name, known)}")
    for name in SECTIONS:
        if isinstance(merged.get(name), dict):
            merged[name] = _with_command_recipe(merged[name], config.file.parent, f"{config.file}: field {name}")
    found: Any = {name: value for name, value in merged.items() if name not in _OF_FILES}
    check_schema(found, Recipe, str(config.file))
    if len(found["downloads"]["questions"]["files"]) != 1:
        raise InputError(f"{config.file}: field downloads.questions.files: expected one file")
    found["model_config"] = str(config.file.parent / found["model_config"])
    return found


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(below)
    for name, value in above.items():
        old = result.get(name)
        result[name] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result


def _with_command_recipe(section: Fields, folder: Path, where: str) -> Fields:
    """A section over the fields of the recipe file that it names."""
    if COMMAND_RECIPE not in section:
        return section
    path = folder / str(section[COMMAND_RECIPE])
    if not path.is_file():
        raise InputError(f"{where}.{COMMAND_RECIPE}: {path}: no such file")
    return {**read_recipe(path)[0], **{name: value for name, value in section.items() if name != COMMAND_RECIPE}}
