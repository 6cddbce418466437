"""What is kept of each stage in the run's folder: its fields (`stages/NAME.yaml`, before it begins) and a record
(`stages/NAME.json`, once it is complete).

Another field, another input or a changed product is refused by name, so that a table never rests on two recipes.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired

import yaml
from typing_extensions import TypedDict

from selfkd.errors import InputError
from selfkd.files import sha256, write_json, write_text
from selfkd.json_files import read_json
from selfkd.recipe_file import read_recipe
from selfkd.reproduce.process_tree import Finished
from selfkd.reproduce.stages import Stage
from selfkd.run_dir import check_same

FOLDER = "stages"


class Record(TypedDict):
    product: str  # hash of the file that the command writes last
    inputs: dict[str, str]  # {stage that is needed: hash of its product}
    seconds: float
    peak_bytes: NotRequired[int]


def settings_file(out: Path, stage: Stage) -> Path:
    return out / FOLDER / f"{stage.name}.yaml"


def record_file(out: Path, stage: Stage) -> Path:
    return out / FOLDER / f"{stage.name}.json"


def read_record(out: Path, stage: Stage) -> Record | None:
    path = record_file(out, stage)
    return read_json(path, Record) if path.is_file() else None


def check_begun(out: Path, stages: Sequence[Stage]) -> None:
    """Raises InputError where a stage that has begun has other fields, another input or another product than the
    recipe and the folder have now."""
    by_name = {stage.name: stage for stage in stages}
    for stage in stages:
        path = settings_file(out, stage)
        if path.is_file():
            there, here = (flattened(settings) for settings in (read_recipe(path)[0], _plain(stage.settings)))
            names = sorted(there.keys() | here.keys())
            check_same(there, here, names, f"{out}: stage {stage.name} was begun with another recipe")
        record = read_record(out, stage)
        if record is None:
            continue
        inputs = {name: product_hash(by_name[name]) for name in stage.needs}
        check_same(record["inputs"], inputs, sorted(inputs), f"{out}: inputs of stage {stage.name} have changed")
        check_same({"product": record["product"]}, {"product": product_hash(stage)}, ["product"],
                   f"{out}: {stage.product} has changed since stage {stage.name} wrote it")  # fmt: skip


def begin(out: Path, stage: Stage) -> Path:
    """Writes the fields of a stage; returns their file, which is a recipe of its command."""
    path = settings_file(out, stage)
    write_text(path, yaml.safe_dump(_plain(stage.settings), sort_keys=False, allow_unicode=True, width=120))
    return path


def complete(out: Path, stage: Stage, stages: Mapping[str, Stage], finished: Finished | None) -> None:
    """Writes the record of a stage; `finished` is None where an earlier process ended between product and record."""
    product = product_hash(stage)
    if not product:
        raise InputError(f"{stage.product}: stage {stage.name} has not written it")
    record: Record = {
        "product": product,
        "inputs": {name: product_hash(stages[name]) for name in stage.needs},
        "seconds": finished.seconds if finished else 0.0,
    }
    if finished and finished.peak_bytes:
        record["peak_bytes"] = finished.peak_bytes
    write_json(record_file(out, stage), record)


def product_hash(stage: Stage) -> str:
    """ "" where the product does not exist."""
    return f"sha256 {sha256(stage.product)}" if stage.product.is_file() else ""


def flattened(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"section.field": value} of nested mappings."""
    found: dict[str, Any] = {}
    for name, value in fields.items():
        found |= flattened(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(settings))
