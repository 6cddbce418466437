"""`align` and `distill` as users call them: the training of `selfkd.training`, which scores held-out questions with the
graders of `selfkd.evaluation`."""

from typing import Any

from selfkd.data.dataset import open_folders
from selfkd.errors import InputError
from selfkd.evaluation.grading import GRADED_COLUMNS, check_gradable
from selfkd.evaluation.held_out import count_correct
from selfkd.stage_function import stage_function
from selfkd.training import align as aligning
from selfkd.training import distill as distilling
from selfkd.training.config import AlignConfig, DistillConfig, TrainConfig


@stage_function(AlignConfig)
def align(config: AlignConfig) -> dict[str, Any]:
    """Writes `output/model`, an `OmniModel`, and returns the result; with `dry_run` returns the estimate."""
    _check_held_out(config)
    return aligning.align(config, count_correct)


@stage_function(DistillConfig)
def distill(config: DistillConfig) -> dict[str, Any]:
    """Writes `output/model` and returns the result; with `dry_run` writes nothing and returns the estimate."""
    _check_held_out(config)
    return distilling.distill(config, count_correct)


def _check_held_out(config: TrainConfig) -> None:
    """Raises InputError for held-out questions that no rule grades."""
    for folder in open_folders(config.eval_data):
        try:
            check_gradable(folder.source, folder.columns(*GRADED_COLUMNS))
        except InputError as error:
            raise InputError(f"eval_{error}") from error  # its field is data there
