"""Run by test_many_processes.py in two processes: loss and gradients of a sharded model against those of a whole one.

accelerate uses FSDP2 on GPUs only. This does the same on a CPU: `fully_shard` on each layer, then on the rest.
"""

import os
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.distributed as dist
from examples import toy_examples
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import TrainerState

from selfkd.losses import LossConfig
from selfkd.model.checkpoint import load_model
from selfkd.model.modeling_omni import OmniModel
from selfkd.training.data import PairedCollator, paired_item
from selfkd.training.self_kd import paired_loss
from selfkd.training.trainable import set_trainable
from selfkd.training.weight_averaging import WeightAverage


def check_equal_means(sharded: OmniModel, whole: OmniModel, rank: int) -> None:
    """Means of the weights before and after a step; each rank writes its own shards and reads them again."""
    state = TrainerState(global_step=2)
    for model in (sharded, whole):
        average = WeightAverage(after=1)
        average.on_step_end(None, state, None, model)
        torch.optim.SGD((p for p in model.parameters() if p.requires_grad), 0.1).step()
        average.on_step_end(None, state, None, model)
        with TemporaryDirectory() as checkpoint:
            average.save(Path(checkpoint), model, main_process=rank == 0)
            if model is sharded or rank == 0:
                average = WeightAverage(after=1, checkpoint=checkpoint)
                average.on_train_begin(None, state, None, model)
        average.on_train_end(None, state, None, model)
    for (name, p), (_, q) in zip(sharded.named_parameters(), whole.named_parameters(), strict=True):
        if q.requires_grad:
            torch.testing.assert_close(p.full_tensor(), q.data, rtol=1e-4, atol=1e-5, msg=name)


def main(folder: Path, parts: list[str], environment: dict[str, str], output: Path) -> None:
    """One rank; writes the number of compared gradients to `output`."""
    os.environ.update(environment)
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    mesh, rank = init_device_mesh("cpu", (2,)), dist.get_rank()
    (whole, processor), (sharded, _) = load_model(folder), load_model(folder)
    for model in (whole, sharded):
        torch.manual_seed(0)  # adapters are random, and equal in all processes
        set_trainable(model, parts, {"r": 4})
        model.train()
    items = [paired_item(processor, e) for e in toy_examples(4)]
    collate = PairedCollator(processor)
    batch, own = collate(items), collate(items[rank::2])
    expected = paired_loss(whole, batch, LossConfig(0.5))
    (expected.total / expected.tokens).backward()

    for layer in [m for m in sharded.modules() if type(m).__name__ in sharded._no_split_modules]:
        fully_shard(layer, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    loss = sharded(paired=own, loss_function=partial(paired_loss, loss_config=LossConfig(0.5)))
    (loss.total * 2 / expected.tokens).backward()  # FSDP averages over ranks
    total = loss.total.detach().clone()
    dist.all_reduce(total)
    torch.testing.assert_close(total, expected.total.detach(), rtol=1e-5, atol=0)
    checked = 0
    for (name, p), (_, q) in zip(sharded.named_parameters(), whole.named_parameters(), strict=True):
        if q.grad is not None:
            largest = q.grad.abs().max().clamp(min=1e-6)
            torch.testing.assert_close(p.grad.full_tensor() / largest, q.grad / largest, rtol=0, atol=1e-3, msg=name)
            checked += 1
    check_equal_means(sharded, whole, rank)
    if rank == 0:
        output.write_text(str(checked))
    dist.destroy_process_group()
    # live threads of the group can abort an ending interpreter: pytorch issue 90549
    os._exit(0)
