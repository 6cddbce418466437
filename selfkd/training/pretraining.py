"""What the `TrainingArguments` of all pretraining have in common."""

from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments


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
