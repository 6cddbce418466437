"""How much training of stage 1 is known to have worked, and what a word error rate has cost: the one place of both.

The figures are those of "How much data does a new head need?" in docs/results.md, which names their records.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from selfkd.data.dataset import ExampleFolder
from selfkd.training.config import NEW_CTC, STACK, AlignConfig

TABLE = "docs/results.md, How much data does a new head need?"


@dataclass(frozen=True)
class Evidence:
    """The least training that is known to have worked: examples over all steps, and hours of audio in the data."""

    examples: int
    hours: float
    run: str  # what it was, in words


ENOUGH = {
    # experiments/records/2026-11-25_real_parts: audio answers as good as a cascade's; 400 steps on whisper-tiny.en's
    # encoder too had nothing left to learn there. Half of the examples left 6 points (2026-11-27_new_head)
    NEW_CTC: Evidence(12_800, 1.6, "400 steps of 32 on 3,000 sentences, whisper-base's encoder"),
    # experiments/records/2026-11-30_scale: more hours raised no answers, a quarter of them cost 12 points
    STACK: Evidence(9_600, 0.24, "300 steps of 32 on 500 sentences, the bundled encoder"),
}

# experiments/records/2026-11-29_three_engines: what answers to transcripts lost against those to the text itself. At a
# word error rate of 2.8% 5 points, at 3.2% 4, at 10.6% 12, at 12.9% 19, at 38.7% 38 of the 63 above chance
UNDERSTOOD, IN_PART = 0.05, 0.4


def warnings(recipe: str, config: AlignConfig, folders: Sequence[ExampleFolder]) -> list[str]:
    """Lines on planned steps or hours that are fewer than any that worked; none for other recipes: they start from a
    trained head."""
    enough = ENOUGH.get(recipe)
    if enough is None:
        return []
    accumulated = int(config.training.get("gradient_accumulation_steps", 1)) * int(os.environ.get("WORLD_SIZE", 1))
    examples = config.steps * config.batch_size * accumulated
    seconds = sum(row["duration_seconds"] for folder in folders for row in folder.columns("duration_seconds"))
    found = []
    if examples < enough.examples:
        found.append(f"steps: {config.steps:,} are {examples:,} examples, under the {enough.examples:,} that worked")
    if folders and seconds / 3600 < enough.hours:
        found.append(f"data: {seconds / 3600:.2g} hours of audio, under the {enough.hours:g} that worked")
    return [f"{line} for a {recipe} ({enough.run}; {TABLE})" for line in found]


def verdict(word_error_rate: float) -> str:
    """What a word error rate says of speech encoder and CTC projector."""
    if word_error_rate <= UNDERSTOOD:
        return (
            f"speech encoder and projector understand speech: up to {UNDERSTOOD:.0%}, answers to transcripts were at "
            f"most 5 points below those to the text itself ({TABLE})"
        )
    if word_error_rate <= IN_PART:
        return (
            f"speech encoder and projector understand speech in part: between {UNDERSTOOD:.0%} and {IN_PART:.0%}, "
            "answers to transcripts lost 12 to 38 points; more steps, hours or voices are the first thing to try "
            f"({TABLE})"
        )
    return (
        f"speech encoder and projector do not understand speech: over {IN_PART:.0%}, answers were near chance; train "
        f"with more steps, hours or voices before stage 2 ({TABLE})"
    )
