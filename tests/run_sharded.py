"""Run by test_many_processes.py in two processes: loss and gradients of a model in shares against those of one whole.

    torchrun --nproc_per_node 2 tests/run_sharded.py MODEL_FOLDER PART,PART

accelerate uses FSDP2 on GPUs alone; what it does there is this: `fully_shard` on each layer, then on the rest.
"""

import sys

import torch
import torch.distributed as dist
from conftest import world_examples
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from selfkd.data.views import PairedCollator, paired_item
from selfkd.losses import Objective
from selfkd.model.checkpoint import load_omni
from selfkd.training.parts import let_train


def main(folder: str, parts: list[str]) -> None:
    dist.init_process_group("gloo")
    mesh, rank = init_device_mesh("cpu", (2,)), dist.get_rank()
    (whole, processor), (shared, _) = load_omni(folder), load_omni(folder)
    for model in (whole, shared):
        torch.manual_seed(0)  # adapters begin at random, and in all processes alike
        let_train(model, parts, {"r": 4})
        model.train()
    items = [paired_item(processor, e) for e in world_examples(4)]
    collate = PairedCollator(processor)
    batch, mine = collate(items), collate(items[rank::2])
    expected = whole(paired=batch, objective=Objective(0.5))
    (expected.total / expected.tokens).backward()

    for layer in [m for m in shared.modules() if type(m).__name__ in shared._no_split_modules]:
        fully_shard(layer, mesh=mesh)
    fully_shard(shared, mesh=mesh)
    loss = shared(paired=mine, objective=Objective(0.5))
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
    if rank == 0:
        print(f"{checked} gradients equal")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2].split(","))
