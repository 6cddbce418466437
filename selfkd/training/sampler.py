"""The order of examples in training, fixed by seed and epoch, and their batches on several processes."""

import random
from collections.abc import Callable, Hashable, Iterator, Sequence

from torch.utils.data import Sampler

from selfkd.data.dataset import ExampleMetadata
from selfkd.data.example import groups_of

POOL_STEPS = 16
CHARACTERS_PER_TOKEN = 4
VECTORS_A_SECOND = 12.5  # 50 frames of a Whisper encoder, stacked by four


def token_cost(sketch: ExampleMetadata, image_tokens: int) -> float:
    """An estimate of the tokens that the LLM reads of an example in both modalities, to sort by; decodes nothing."""
    text = sketch.question_characters + 2 * sketch.answer_characters
    return image_tokens + text / CHARACTERS_PER_TOKEN + VECTORS_A_SECOND * sketch.speech_seconds


class CostSampler(Sampler[int]):
    """Indices of an epoch: examples with the same image are adjacent, and the examples of a step are similar in cost.

    So an image is encoded once for all its questions in a batch, and a batch has little padding. Shuffled groups of one
    image form pools of about `POOL_STEPS` steps; each pool is sorted by cost and cut into steps, and the steps are
    shuffled. The rest that fills no step comes last. A step is the same whether it is one batch or several smaller
    ones.
    """

    def __init__(
        self,
        costs: Sequence[float],
        step_size: int,
        seed: int,
        images: Sequence[Hashable] | None = None,
        epoch: Callable[[int], Sequence[int]] | None = None,
    ):
        """`images[i]` names the image of example i; without it no two examples share one. `epoch(n)` are the examples
        of epoch n, the same number in each; without it all of them."""
        self.costs, self.step_size, self.seed, self.epoch = costs, step_size, seed, 0
        self.images = range(len(costs)) if images is None else images
        self.examples_of = epoch or (lambda _: range(len(costs)))

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.examples_of(0))

    def __iter__(self) -> Iterator[int]:
        rng = random.Random(f"order/{self.seed}/{self.epoch}")  # noqa: S311 seeded, for the same data in every run; nothing secret
        by_image: dict[Hashable, list[int]] = {}
        for i in self.examples_of(self.epoch):
            by_image.setdefault(self.images[i], []).append(i)
        pools: list[list[list[int]]] = [[]]
        for group in rng.sample(list(by_image.values()), len(by_image)):
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
    """The batches of an epoch for all processes of a launch: batch k goes to process k % processes, as accelerate
    distributes them.

    Each example is in one batch. The last step of an epoch is shorter where the examples do not fill it: its examples
    are spread over the processes, and a process without any gets an empty batch, for which `PairedDataset` has a
    stand-in. accelerate would fill the step with examples from the epoch's beginning, which would then train twice.
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
