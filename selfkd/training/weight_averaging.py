"""Weight averaging: the trained model gets the mean of the weights over the last steps of a run.

At a constant learning rate the weights move around a minimum, and their mean is nearer to it than any of them (Polyak &
Juditsky 1992; stochastic weight averaging, Izmailov et al. 2018, arXiv 1803.05407). `docs/method.md` has measurements.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

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
    ends. With FSDP2 each rank averages its own shards, with ZeRO-3 each averages all."""

    def __init__(self, after: int, checkpoint: str | None = None):
        """`checkpoint`: folder of the checkpoint that the run resumes from."""
        self.after, self.checkpoint = after, checkpoint
        self.means: dict[str, Tensor] = {}
        self.steps = 0

    def on_train_begin(self, args, state, control, model=None, **kwargs: Any) -> None:
        if self.checkpoint is None or state.global_step <= self.after:
            return
        file, trained = self._file(Path(self.checkpoint), model), _trainable_parameters(model)
        saved = load_file(file) if file.is_file() else {}
        self.steps = int(saved.pop(STEPS, torch.tensor(0)))
        if {name: mean.shape for name, mean in saved.items()} != {name: _local_shape(p) for name, p in trained.items()}:
            raise InputError(f"{file}: not the means of the trainable weights; is the number of processes the same?")
        self.means = {name: mean.to(trained[name].device) for name, mean in saved.items()}

    def on_step_end(self, args, state, control, model=None, **kwargs: Any) -> None:
        if state.global_step <= self.after:
            return
        self.steps += 1
        for name, parameter in _trainable_parameters(model).items():
            with _local_weight(parameter) as weight:
                mean = self.means.setdefault(name, torch.zeros_like(weight, dtype=torch.float32))
                mean.lerp_(weight.float(), 1 / self.steps)

    def on_train_end(self, args, state, control, model=None, **kwargs: Any) -> None:
        for name, parameter in _trainable_parameters(model).items():
            with _local_weight(parameter, writes=True) as weight:
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


def _trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


@contextmanager
def _local_weight(parameter: nn.Parameter, writes: bool = False) -> Iterator[Tensor]:
    """The detached weight, or this rank's shard of it under FSDP2; under ZeRO-3, whose ranks hold shards without a
    shape, the whole one within the context. What rank 0 `writes` is then everyone's."""
    if _is_partitioned(parameter):
        from deepspeed import zero

        with zero.GatheredParameters([parameter], modifier_rank=0 if writes else None):
            yield parameter.detach()
    else:
        yield parameter.to_local().detach() if isinstance(parameter, DTensor) else parameter.detach()


def _local_shape(parameter: nn.Parameter) -> torch.Size:
    if _is_partitioned(parameter):
        return cast(Any, parameter).ds_shape
    return (parameter.to_local() if isinstance(parameter, DTensor) else parameter).shape


def _is_partitioned(parameter: nn.Parameter) -> bool:
    """Whether DeepSpeed's ZeRO-3 has divided it among the ranks."""
    return hasattr(parameter, "ds_shape")


def _is_sharded(model: nn.Module) -> bool:
    return any(isinstance(p, DTensor) for p in model.parameters())
