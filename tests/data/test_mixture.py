"""Several folders as one: each example once an epoch, or in the given proportions, the same on every rank."""

from collections import Counter
from fractions import Fraction
from itertools import chain

import pytest
import torch
from accelerate.data_loader import prepare_data_loader
from examples import interrupted_at, tone, training_start
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from selfkd.data.dataset import ExampleFolder, Mixture, open_mixture, split_weight
from selfkd.data.example import MANIFEST, write_shard
from selfkd.errors import InputError
from selfkd.files import write_json
from selfkd.model.checkpoint import load_model
from selfkd.synthesis.sources.registry import ToyWorld
from selfkd.training.distill import DistillConfig, distill
from selfkd.training.sampler import CostSampler, StepBatches


def folder_of(path, count, seed):
    source = ToyWorld("train", seed, noisy=True)
    rows = [source.example(i).with_audio(tone(0.5 + 0.1 * i), "tone") for i in range(count)]
    path.mkdir()
    write_shard(path / "train.parquet", rows, {"rows": count, "rejected": []})
    write_json(path / MANIFEST, {"source": "world", "shards": [{"file": "train.parquet"}]})
    return str(path)


@pytest.fixture
def two(tmp_path):
    return [folder_of(tmp_path / "large", 12, 1), folder_of(tmp_path / "small", 4, 2)]


def test_without_weights_an_epoch_has_each_example_once(two):
    mixture = open_mixture(two, seed=0)
    assert len(mixture) == 16 and sorted(mixture.epoch(0)) == sorted(mixture.epoch(3)) == list(range(16))
    large, small = map(ExampleFolder, map(split_path, two))
    assert [e.id for e in mixture] == [e.id for e in large] + [e.id for e in small]
    assert mixture.metadata() == large.metadata() + small.metadata() and mixture[-1].id == small[3].id


def split_path(entry):
    return split_weight(entry)[0]


def test_weights_are_shares_of_an_epoch_and_no_example_is_lost(two):
    mixture = open_mixture([f"{two[0]}:1", f"{two[1]}:3"], seed=0)
    assert mixture.samples_before(1) == [4, 12]
    epochs = [mixture.epoch(n) for n in range(3)]
    assert all(sum(i < 12 for i in epoch) == 4 and len(epoch) == 16 for epoch in epochs)
    times = Counter(chain(*epochs))  # 12 of the large folder, 36 of the small one
    assert {times[i] for i in range(12)} == {1} and {times[i] for i in range(12, 16)} == {9}
    assert mixture.epoch(1) == open_mixture([f"{two[0]}:1", f"{two[1]}:3"], seed=0).epoch(1)
    assert mixture.epoch(1) != open_mixture([f"{two[0]}:1", f"{two[1]}:3"], seed=1).epoch(1)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "data: names no folder"),
        (["{0}:1", "{1}"], "data: some folders have a weight and some have none"),
        (["{0}:0", "{1}:1"], "data: .*:0: a weight must be above 0"),
        (["{0}:1", "{1}:99"], "data: .*large: its weight gives it 0.16 of the 16 examples of an epoch"),
        (["{0}", "/nowhere"], "/nowhere/manifest.json: not found"),
    ],
)
def test_bad_mixtures(two, data, message):
    with pytest.raises(InputError, match=message):
        open_mixture([entry.format(*two) for entry in data], seed=0)


class Sized(list):
    """A folder with a number of examples only."""

    def __init__(self, number, size):
        super().__init__(range(size))
        self.folder = f"folder-{number}"


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    st.lists(st.tuples(st.integers(1, 40), st.decimals("0.1", 9, places=1).map(float)), min_size=1, max_size=4),
    st.integers(1, 7),
)
def test_shares_hold_over_epochs(folders, epochs):
    """To within one example for any sizes; and no example repeats before all were used once."""
    sizes, weights = zip(*folders, strict=True)
    shares = [sum(sizes) * Fraction(str(w)) / sum(Fraction(str(w)) for w in weights) for w in weights]
    made = [Sized(i, size) for i, size in enumerate(sizes)]
    if min(shares) < 1:
        with pytest.raises(InputError, match="its weight gives it"):
            Mixture(made, weights)
        return
    mixture, times = Mixture(made, weights, seed=3), Counter()
    for number in range(epochs):
        epoch = mixture.epoch(number)
        assert len(epoch) == sum(sizes)
        times.update(epoch)
        start = 0
        for size, share in zip(sizes, shares, strict=True):
            of_folder = [times[i] for i in range(start, start + size)]
            assert abs(sum(of_folder) - (number + 1) * share) < 1 and max(of_folder) - min(of_folder) <= 1
            start += size


@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_and_workers_share_an_epoch_without_overlap_or_loss(two, workers):
    """As in accelerate: each rank takes its batches of one order."""
    mixture = open_mixture([f"{two[0]}:1", f"{two[1]}:1"], seed=0)
    indices = []
    for rank in range(2):
        batches = StepBatches(CostSampler([1.0] * 16, 4, seed=0, epoch=mixture.epoch), batch_size=2, processes=2)
        loader = DataLoader([torch.tensor(i) for i in range(16)], batch_sampler=batches, num_workers=workers)
        share = prepare_data_loader(
            loader, torch.device("cpu"), 2, rank, put_on_device=False, use_seedable_sampler=False
        )
        indices += torch.cat(list(share)).tolist()
    assert Counter(indices) == Counter(mixture.epoch(0)) and len(indices) == 16


@pytest.mark.slow
def test_training_on_a_mixture_resumes_within_an_epoch(parts, two, tmp_path):
    start = training_start(parts, tmp_path)
    config = DistillConfig(
        [f"{two[0]}:1", f"{two[1]}:1"], tmp_path / "whole", model=str(start / "model"), steps=6, batch_size=4,
        warmup_steps=1, save_steps=1,
    )  # fmt: skip
    assert distill(config)["steps"] == 6  # an epoch and a half
    cut = DistillConfig(**{**vars(config), "output": tmp_path / "cut"})
    with pytest.raises(KeyboardInterrupt), interrupted_at(3):
        distill(cut)
    distill(cut)
    weights = [load_model(tmp_path / name / "model")[0].state_dict() for name in ("whole", "cut")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert isinstance(open_mixture(config.data, 0), Mixture)
