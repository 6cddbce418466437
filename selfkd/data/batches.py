"""Which examples make a step together: examples of like cost, in an order that a seed and an epoch fix."""

import random
from collections.abc import Iterator, Sequence

from torch.utils.data import Sampler

from selfkd.data.example import Example

POOL_STEPS = 16


def example_cost(example: Example) -> int:
    """A stand-in for the tokens and frames of an example, good enough to sort by: nothing is decoded for it."""
    return len(example.question) + len(example.answer)


class CostSampler(Sampler[int]):
    """Indices of an epoch, those of a step alike in cost, so that little of a batch is padding.

    Shuffled examples are pooled by `POOL_STEPS` steps, sorted within the pool, cut into steps, and the steps shuffled;
    the rest that fills no step comes last. A step is the same whether it is one batch or several smaller ones.
    """

    def __init__(self, costs: Sequence[int], step_size: int, seed: int):
        self.costs, self.step_size, self.seed, self.epoch = costs, step_size, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.costs)

    def __iter__(self) -> Iterator[int]:
        rng = random.Random(f"order/{self.seed}/{self.epoch}")
        order = rng.sample(range(len(self.costs)), len(self.costs))
        whole = len(order) - len(order) % self.step_size
        steps: list[list[int]] = []
        for start in range(0, whole, POOL_STEPS * self.step_size):
            pool = sorted(order[start : min(whole, start + POOL_STEPS * self.step_size)], key=self.costs.__getitem__)
            steps += [pool[i : i + self.step_size] for i in range(0, len(pool), self.step_size)]
        rng.shuffle(steps)
        return iter([i for step in steps for i in step] + order[whole:])
