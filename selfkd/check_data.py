"""The command `selfkd data check`: is a folder whole, can `selfkd evaluate` grade it and, with a model, which rows fit.

Reads folders of `selfkd synthesize` and, of a model, its configuration and processor; writes nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from selfkd.data.check import check_folder
from selfkd.data.dataset import ExampleFolder
from selfkd.data.example import Example
from selfkd.errors import InputError
from selfkd.terminal import table_console


@dataclass
class CheckConfig:
    """Checks folders of synthesized questions: hashes, columns, rows, images, audio; with a model, rows that it
    can take.

    Args:
        data: Folders that selfkd synthesize wrote.
        model: Model (a folder or a hub id, as in selfkd distill and evaluate) whose processor and context length each
            row is tried with, as in training and evaluation; reads no weights. None by default.
        max_new_tokens: Tokens reserved for a response, as in selfkd evaluate.
    """

    data: list[Path]
    model: str = ""
    max_new_tokens: int = 128


def check(config: CheckConfig) -> dict[str, dict[str, Any]]:
    """Returns {folder: counts}. Raises InputError naming the first file, row and field that is wrong, or, with a model,
    all rows that it cannot take."""
    if not config.data:
        raise InputError("data: names no folder")
    if config.max_new_tokens < 1:
        raise InputError(f"max_new_tokens: {config.max_new_tokens}: must be at least 1")
    if config.model:
        from selfkd.model.checkpoint import inspect_checkpoint  # imports torch

        info = inspect_checkpoint(config.model, weights=False)
    counts: dict[str, dict[str, Any]] = {str(folder): check_folder(folder, _check_details) for folder in config.data}
    unusable: list[Any] = []
    if config.model:
        for folder in config.data:
            found = _unusable_rows(config, info, ExampleFolder(folder))
            counts[str(folder)]["usable"] = counts[str(folder)]["examples"] - len(found)
            unusable += found
    for name, known in counts.items():
        table_console().print(_table(known))
        print(f"{name} is whole")
        print(f"{name}: {_gradable_text(ExampleFolder(Path(name)))}")
        if config.model:
            print(f"{name}: {known['usable']:,} of {known['examples']:,} rows can be used with {config.model}")
    if unusable:
        from selfkd.training.usable_rows import unusable_text

        total = sum(known["examples"] for known in counts.values())
        raise InputError(f"data: {unusable_text(unusable, total)} (--skip_unusable of a command leaves them out)")
    return counts


def _check_details(example: Example) -> None:
    from selfkd.evaluation.grading import details_of

    details_of(vars(example))


def _unusable_rows(config: CheckConfig, info: Any, folder: ExampleFolder) -> list[Any]:
    """The rows that training, or evaluation in any modality, could not take."""
    from selfkd.training.usable_rows import Use, find_unusable

    processor, model = info.processor, info.config
    ctc_tokens = None if model.ctc_token_ids is None else frozenset(model.ctc_token_ids)
    training = Use(processor, model.context, trains=True, ctc_tokens=ctc_tokens)
    found = find_unusable([(folder, None)], training, whole=True)
    evaluation = Use(processor, model.context, new_tokens=config.max_new_tokens)
    rest = folder.without([row.position for row in found])
    return found + find_unusable([(rest, None)], evaluation, decode=False)


def _gradable_text(folder: ExampleFolder) -> str:
    """Whether `selfkd evaluate` has a grading rule for the folder's questions; training needs none."""
    from selfkd.evaluation.grading import GRADED_COLUMNS, check_gradable, check_source_name

    try:
        check_source_name(folder)
        check_gradable(folder.source, folder.columns(*GRADED_COLUMNS))
    except InputError as error:
        return f"for training only, selfkd evaluate refuses it ({error})"
    return "can be used for training and evaluation"


def _table(counts: Mapping[str, Any]) -> Table:
    table = Table(show_header=False)
    for name, value in counts.items():
        table.add_row(name, f"{value:,}")
    return table
