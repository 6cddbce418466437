"""Every example once in an epoch, for any number of processes, batches per step and examples."""

from itertools import islice

import torch
from accelerate.data_loader import prepare_data_loader, skip_first_batches
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from selfkd.data.example import groups_of
from selfkd.training.sampler import CostSampler, StepBatches


def steps_of(count, batch_size, accumulation, processes, epoch, skipped=0):
    """[step][process]: the process's batches of the step, as accelerate distributes them and the Trainer consumes
    them."""
    distributed = []
    for process in range(processes):
        order = CostSampler(list(range(count)), batch_size * accumulation * processes, seed=1)
        batches = StepBatches(order, batch_size, processes)
        loader = DataLoader(range(count), batch_sampler=batches, collate_fn=list)
        loader = prepare_data_loader(loader, torch.device("cpu"), processes, process)
        order.set_epoch(epoch)
        length = len(loader)
        found = list(skip_first_batches(loader, skipped * accumulation) if skipped else loader)
        assert len(found) + skipped * accumulation == length == -(-count // (batch_size * processes))
        distributed.append(list(groups_of(found, accumulation)))
    return list(zip(*distributed, strict=True))


@settings(deadline=None, max_examples=60, derandomize=True)
@given(st.integers(1, 60), st.integers(1, 5), st.integers(1, 3), st.integers(1, 4), st.integers(0, 3))
def test_an_epoch_has_each_example_once(count, batch_size, accumulation, processes, epoch):
    """No example twice, none left out, and the same steps as one process with batches as large as a step."""
    steps = steps_of(count, batch_size, accumulation, processes, epoch)
    size = batch_size * accumulation * processes
    indices = [[i for batches in step for batch in batches for i in batch] for step in steps]
    assert sorted(i for step in indices for i in step) == list(range(count))
    assert [len(step) for step in indices] == [size] * (count // size) + [count % size] * (count % size > 0)
    for step in steps:
        assert len({len(batches) for batches in step}) == 1, "all processes run the model as often"
        assert all(len(batch) <= batch_size for batches in step for batch in batches)
        for parallel in zip(*step, strict=True):
            assert max(map(len, parallel)) - min(map(len, parallel)) <= 1
    single = steps_of(count, size, 1, 1, epoch)
    assert [sorted(step) for step in indices] == [sorted(batch) for ((batch,),) in single]
    resumed = steps_of(count, batch_size, accumulation, processes, epoch, skipped=len(steps) // 2)
    assert resumed == list(islice(steps, len(steps) // 2, None))
