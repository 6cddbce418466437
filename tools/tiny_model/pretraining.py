"""Shared by the pretraining scripts: `TrainingArguments`, and the check that a resume has the same settings."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from selfkd.files import write_json
from selfkd.run_dir import check_same


def pretraining_arguments(
    output: Path, steps: int, batch_size: int, learning_rate: float, seed: int, **more: Any
) -> TrainingArguments:
    """A cosine schedule over `steps`; `more` are further fields of `transformers.TrainingArguments`."""
    return TrainingArguments(
        output_dir=str(output),
        max_steps=steps,
        per_device_train_batch_size=batch_size,
        learning_rate=learning_rate,
        lr_scheduler_type="cosine",
        weight_decay=0.05,
        use_cpu=not torch.cuda.is_available(),
        remove_unused_columns=False,
        report_to="none",
        seed=seed,
        **more,
    )


def check_settings(output: Path, settings: dict[str, Any]) -> None:
    """Records the settings of the run in `output`; raises InputError where it was started with others."""
    file = output / "checkpoints" / "settings.json"
    before = json.loads(file.read_text()) if file.is_file() else settings
    check_same(before, settings, settings, f"{output}: holds another run")
    write_json(file, settings)
