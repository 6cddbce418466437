"""Every example once an epoch, whatever the number of processes, batches a step and examples."""

from itertools import islice

import torch
from accelerate.data_loader import prepare_data_loader, skip_first_batches
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from selfkd.data.example import groups_of
from selfkd.training.data import CostSampler, StepBatches


def steps_of(count, batch_size, accumulation, processes, epoch, skipped=0):
    """[step][process] = its batches of that step, as accelerate deals them and the Trainer takes them."""
    dealt = []
    for process in range(processes):
        order = CostSampler(list(range(count)), batch_size * accumulation * processes, seed=1)
        batches = StepBatches(order, batch_size, processes)
        loader = DataLoader(range(count), batch_sampler=batches, collate_fn=list)
        loader = prepare_data_loader(loader, torch.device("cpu"), processes, process)
        order.set_epoch(epoch)
        whole = len(loader)
        found = list(skip_first_batches(loader, skipped * accumulation) if skipped else loader)
        assert len(found) + skipped * accumulation == whole == -(-count // (batch_size * processes))
        dealt.append(list(groups_of(found, accumulation)))
    return list(zip(*dealt, strict=True))


@settings(deadline=None, max_examples=150, derandomize=True)
@given(st.integers(1, 60), st.integers(1, 5), st.integers(1, 3), st.integers(1, 4), st.integers(0, 3))
def test_an_epoch_is_shared_out_whole(count, batch_size, accumulation, processes, epoch):
    """data_14_ranks_overlap: nothing twice, nothing left out, and the steps of one process with as many examples."""
    steps = steps_of(count, batch_size, accumulation, processes, epoch)
    size = batch_size * accumulation * processes
    taken = [[i for of_process in step for batch in of_process for i in batch] for step in steps]
    assert sorted(i for step in taken for i in step) == list(range(count))
    assert [len(step) for step in taken] == [size] * (count // size) + [count % size] * (count % size > 0)
    for step in steps:
        assert len({len(batches) for batches in step}) == 1, "all processes run the model as often"
        assert all(len(batch) <= batch_size for batches in step for batch in batches)
        for together in zip(*step, strict=True):
            assert max(map(len, together)) - min(map(len, together)) <= 1
    alone = steps_of(count, size, 1, 1, epoch)
    assert [sorted(step) for step in taken] == [sorted(batch) for ((batch,),) in alone]
    resumed = steps_of(count, batch_size, accumulation, processes, epoch, skipped=len(steps) // 2)
    assert resumed == list(islice(steps, len(steps) // 2, None))
