"""Weight averaging: the trained model gets the mean of the weights over the last steps of a run.

At a constant learning rate the weights move around a minimum, and their mean is nearer to it than any of them (Polyak &
Juditsky 1992; stochastic weight averaging, Izmailov et al. 2018, arXiv 1803.05407). `docs/method.md` has measurements.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

from selfkd.errors import InputError
from selfkd.files import follow_umask

STEPS = "steps"  # key in a checkpoint, next to the means: the number of averaged steps


class WeightAverage(TrainerCallback):
    """Averages trainable weights, in fp32, over the steps after `after`, and sets the model to the means when training
    ends. With sharded weights each rank averages its own shards."""

    def __init__(self, after: int, checkpoint: str | None = None):
        """`checkpoint`: folder of the checkpoint that the run resumes from."""
        self.after, self.checkpoint = after, checkpoint
        self.means: dict[str, Tensor] = {}
        self.steps = 0

    def on_train_begin(self, args, state, control, model=None, **kwargs: Any) -> None:
        if self.checkpoint is None or state.global_step <= self.after:
            return
        file, trained = self._file(Path(self.checkpoint), model), _trainable_weights(model)
        saved = load_file(file) if file.is_file() else {}
        self.steps = int(saved.pop(STEPS, torch.tensor(0)))
        if {name: mean.shape for name, mean in saved.items()} != {name: p.shape for name, p in trained.items()}:
            raise InputError(f"{file}: not the means of the trainable weights; is the number of processes the same?")
        self.means = {name: mean.to(trained[name].device) for name, mean in saved.items()}

    def on_step_end(self, args, state, control, model=None, **kwargs: Any) -> None:
        if state.global_step <= self.after:
            return
        self.steps += 1
        for name, weight in _trainable_weights(model).items():
            mean = self.means.setdefault(name, torch.zeros_like(weight, dtype=torch.float32))
            mean.lerp_(weight.float(), 1 / self.steps)

    def on_train_end(self, args, state, control, model=None, **kwargs: Any) -> None:
        for name, weight in _trainable_weights(model).items():
            weight.copy_(self.means[name])

    def save(self, checkpoint: Path, model: nn.Module, main_process: bool) -> None:
        """Writes the means, so that a run can resume from `checkpoint`; the main process only, unless weights are
        sharded."""
        file = self._file(checkpoint, model)
        if self.means and (main_process or _is_sharded(model)):
            checkpoint.mkdir(parents=True, exist_ok=True)
            save_file({**self.means, STEPS: torch.tensor(self.steps)}, file)
            follow_umask(file)

    @staticmethod
    def _file(checkpoint: Path, model: nn.Module) -> Path:
        rank = torch.distributed.get_rank() if _is_sharded(model) else 0
        return checkpoint / f"averaged-{rank}.safetensors"


def _trainable_weights(model: nn.Module) -> dict[str, Tensor]:
    """Detached trainable weights, or this rank's shards of them."""
    weights = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    return {name: w.to_local() if isinstance(w, DTensor) else w for name, w in weights.items()}


def _is_sharded(model: nn.Module) -> bool:
    return any(isinstance(p, DTensor) for p in model.parameters())
