"""The configuration of `selfkd reproduce`. Imports no torch: `--help` reads it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Scale = Literal["full", "smoke", "tiny"]


@dataclass
class ReproduceConfig:
    """The paper's table from one file: download, convert, synthesize, both stages of training, evaluation.

    Each stage is a command of selfkd in a process of its own. A stage that is complete is skipped, so the same command
    resumes an interrupted run. Disk and hours are printed before anything begins.

    Args:
        file: Recipe of one of the paper's models (recipes/paper/NAME.yaml).
        output: Folder of runs; each recipe has its own in it: NAME, NAME-smoke, NAME-rehearsal.
        scale: full is the paper's size; smoke takes half an hour on a GPU: 20 responses against the original's, 200
            clips, 100 steps of each training, 50 items of each benchmark; tiny, for rehearse, has small dimensions.
        rehearse: Run every stage offline for two steps, with stand-ins of the real classes and layouts (random
            weights, at the recipe's full dimensions unless scale is tiny), and print each stage's memory and time.
        until: Last stage to run, by its name.
        dry_run: Print the stages with disk and hours, and end; writes nothing.
    """

    file: Path
    output: Path = Path("runs/paper")
    scale: Scale = "full"
    rehearse: bool = False
    until: str = ""
    dry_run: bool = False
