"""Run by test_many_processes.py in two processes: loss and gradients of a model in shares against those of one whole.

    torchrun --nproc_per_node 2 tests/run_sharded.py MODEL_FOLDER PART,PART

accelerate uses FSDP2 on GPUs alone; what it does there is this: `fully_shard` on each layer, then on the rest.
"""

import os
import sys
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


def means_are_equal(shared: OmniModel, whole: OmniModel, rank: int) -> None:
    """Weights after a step of each, averaged with those before; a rank writes its own shards and reads them again."""
    state = TrainerState(global_step=2)
    for model in (shared, whole):
        average = WeightAverage(after=1)
        average.on_step_end(None, state, None, model)
        torch.optim.SGD((p for p in model.parameters() if p.requires_grad), 0.1).step()
        average.on_step_end(None, state, None, model)
        with TemporaryDirectory() as checkpoint:
            average.save(Path(checkpoint), model, main_process=rank == 0)
            if model is shared or rank == 0:
                average = WeightAverage(after=1, checkpoint=checkpoint)
                average.on_train_begin(None, state, None, model)
        average.on_train_end(None, state, None, model)
    for (name, p), (_, q) in zip(shared.named_parameters(), whole.named_parameters(), strict=True):
        if q.requires_grad:
            torch.testing.assert_close(p.full_tensor(), q.data, rtol=1e-4, atol=1e-5, msg=name)


def main(folder: str, parts: list[str]) -> None:
    dist.init_process_group("gloo")
    mesh, rank = init_device_mesh("cpu", (2,)), dist.get_rank()
    (whole, processor), (shared, _) = load_model(folder), load_model(folder)
    for model in (whole, shared):
        torch.manual_seed(0)  # adapters begin at random, and in all processes alike
        set_trainable(model, parts, {"r": 4})
        model.train()
    items = [paired_item(processor, e) for e in toy_examples(4)]
    collate = PairedCollator(processor)
    batch, mine = collate(items), collate(items[rank::2])
    expected = paired_loss(whole, batch, LossConfig(0.5))
    (expected.total / expected.tokens).backward()

    for layer in [m for m in shared.modules() if type(m).__name__ in shared._no_split_modules]:
        fully_shard(layer, mesh=mesh)
    fully_shard(shared, mesh=mesh)
    loss = shared(paired=mine, loss_function=partial(paired_loss, objective=LossConfig(0.5)))
    (loss.total * 2 / expected.tokens).backward()  # FSDP averages over ranks
    total = loss.total.detach().clone()
    dist.all_reduce(total)
    torch.testing.assert_close(total, expected.total.detach(), rtol=1e-5, atol=0)
    checked = 0
    for (name, p), (_, q) in zip(shared.named_parameters(), whole.named_parameters(), strict=True):
        if q.grad is not None:
            largest = q.grad.abs().max().clamp(min=1e-6)
            torch.testing.assert_close(p.grad.full_tensor() / largest, q.grad / largest, rtol=0, atol=1e-3, msg=name)
            checked += 1
    means_are_equal(shared, whole, rank)
    if rank == 0:
        print(f"{checked} gradients and means equal", flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2].split(","))
    # shards keep the group's threads alive, which now and again abort an interpreter that ends: pytorch issue 90549
    os._exit(0)
