"""Which examples make a step together, in an order that a seed and an epoch fix."""

import random
from collections.abc import Callable, Hashable, Iterator, Sequence

from torch.utils.data import Sampler

from selfkd.data.example import groups_of
from selfkd.data.folder import Sketch

POOL_STEPS = 16
LETTERS_A_TOKEN = 4
VECTORS_A_SECOND = 12.5  # 50 frames of a Whisper encoder, stacked by four


def token_cost(sketch: Sketch, image_tokens: int) -> float:
    """About how many tokens the LLM reads of an example, both views: good enough to sort by, nothing is decoded."""
    text = sketch.question_letters + 2 * sketch.answer_letters
    return image_tokens + text / LETTERS_A_TOKEN + VECTORS_A_SECOND * sketch.speech_seconds


class CostSampler(Sampler[int]):
    """Indices of an epoch: examples with the same picture follow each other, and those of a step are alike in cost.

    So a picture is read once for all its questions in a batch, and little of a batch is padding. Shuffled groups of one
    picture are pooled by about `POOL_STEPS` steps, sorted within the pool and cut into steps, and the steps shuffled;
    the rest that fills no step comes last. A step is the same whether it is one batch or several smaller ones.
    """

    def __init__(
        self,
        costs: Sequence[float],
        step_size: int,
        seed: int,
        pictures: Sequence[Hashable] | None = None,
        taken: Callable[[int], Sequence[int]] | None = None,
    ):
        """`pictures[i]` names the picture of example i; without it no two examples share one. `taken(epoch)` are the
        examples of an epoch, as many in each; without it all of them."""
        self.costs, self.step_size, self.seed, self.epoch = costs, step_size, seed, 0
        self.pictures = range(len(costs)) if pictures is None else pictures
        self.taken = taken or (lambda epoch: range(len(costs)))

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.taken(0))

    def __iter__(self) -> Iterator[int]:
        rng = random.Random(f"order/{self.seed}/{self.epoch}")
        by_picture: dict[Hashable, list[int]] = {}
        for i in self.taken(self.epoch):
            by_picture.setdefault(self.pictures[i], []).append(i)
        pools: list[list[list[int]]] = [[]]
        for group in rng.sample(list(by_picture.values()), len(by_picture)):
            if sum(map(len, pools[-1])) >= POOL_STEPS * self.step_size:
                pools.append([])
            pools[-1].append(group)
        order = [i for pool in pools for group in sorted(pool, key=self._mean_cost) for i in group]
        whole = len(order) - len(order) % self.step_size
        steps = [order[i : i + self.step_size] for i in range(0, whole, self.step_size)]
        rng.shuffle(steps)
        return iter([i for step in steps for i in step] + order[whole:])

    def _mean_cost(self, group: list[int]) -> float:
        return sum(self.costs[i] for i in group) / len(group)


class StepBatches(Sampler[list[int]]):
    """The batches of an epoch for all processes of a launch: batch k is that of process k % processes, which is how
    accelerate deals them.

    Each example stands in one batch. The last step of an epoch is shorter where the examples do not fill it: its last
    batches are shared out, and a process that gets none has an empty one, for which `PairedDataset` has a stand-in.
    accelerate would fill the step up with examples of the epoch's beginning, to be learnt from twice.
    """

    def __init__(self, order: CostSampler, batch_size: int, processes: int):
        self.order, self.batch_size_each, self.processes = order, batch_size, processes

    def __len__(self) -> int:
        return -(-len(self.order) // (self.batch_size_each * self.processes)) * self.processes

    def __iter__(self) -> Iterator[list[int]]:
        for together in groups_of(self.order, self.batch_size_each * self.processes):
            size, larger = divmod(len(together), self.processes)
            start = 0
            for process in range(self.processes):
                end = start + size + (process < larger)
                yield together[start:end]
                start = end
