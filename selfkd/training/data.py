"""Examples -> batches: both modalities of each example with the same response, in an order fixed by seed and epoch.

Decoding, image processing and log-mel run here, in the data loader's workers, once for both modalities. The module also
checks how much of a data folder the vocabulary of a CTC projector covers.

Legend: B examples, P prefix tokens, T tokens, R response tokens.
"""

import random
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset, Sampler

from selfkd.data.dataset import ExampleFolder, ExampleMetadata
from selfkd.data.example import Example, groups_of, image_hash
from selfkd.errors import InputError
from selfkd.model.features import group_by_key, join_inputs
from selfkd.model.processing_omni import OmniProcessor
from selfkd.model.queries import EncodedImage, Prompt, align_prefixes

Modality = Literal["text", "audio"]
MODALITIES: tuple[Modality, ...] = ("text", "audio")
CACHE_BYTES = 512 * 2**20  # of items, in one data loader worker


@dataclass(frozen=True)
class PairedItem:
    """An example as token ids and features. Both modalities are prefix + query + response, and differ in the query,
    which ends where the response begins."""

    id: str
    prefix_ids: list[int]
    text_ids: list[int]
    audio_ids: list[int]
    response_ids: list[int]
    image_inputs: dict[str, Tensor]
    audio_inputs: dict[str, Tensor]
    transcript: str  # the question, without instruction and answer format
    transcript_ids: list[int]
    image: Hashable  # equal for examples with the same image
    index: int = -1  # of the example in its dataset
    is_stand_in: bool = False  # fills the batch of a process without an example; its loss counts as 0


def paired_item(processor: Any, example: Example, with_image: bool = True) -> PairedItem:
    """Both modalities of an example; raises InputError naming example and field where one cannot be made.

    Without `with_image`, for CTC-only training, no image is processed, which takes most of the time, and the response
    is the question: the loss is divided by the number of response tokens, so that it is one of question tokens
    there."""
    if not with_image:
        example = replace(example, answer=example.question)
    for field in ("question", "answer"):
        if not getattr(example, field).strip():
            raise InputError(f"example {example.id}: field {field}: is empty")
    text, audio = modality_prompts(
        processor,
        example,
        MODALITIES,
        processor.encode_image(example.load_image() if with_image else None, f"example {example.id}"),
    )
    return PairedItem(
        id=example.id,
        prefix_ids=text.prefix_ids,
        text_ids=text.suffix_ids,
        audio_ids=audio.suffix_ids,
        response_ids=_response_ids(processor, example),
        image_inputs=text.image_inputs,
        audio_inputs=audio.audio_inputs,
        transcript=example.question,
        transcript_ids=processor.text_ids(example.question),
        image=example.id if example.image is None else image_hash(example.image),
    )


def checked_item(processor: Any, example: Example, with_image: bool, context: int) -> PairedItem:
    """`paired_item`; raises InputError for an example of more tokens than `context`, the LLM's context length."""
    item = paired_item(processor, example, with_image)
    queries = ((item.text_ids, {}), (item.audio_ids, item.audio_inputs)) if with_image else ()  # else no LLM runs
    for query, audio in queries:
        ids = [*item.prefix_ids, *query, *item.response_ids]
        processor.check_context(f"example {item.id}", ids, audio, context)
    return item


def modality_prompts(
    processor: Any, example: Example, modalities: Sequence[Modality], image: EncodedImage
) -> list[Prompt]:
    """An example's prompt in each of `modalities`, with a common prefix. Raises InputError naming example and field
    where the audio cannot be encoded."""
    context = image, example.instruction, example.answer_format
    audio = processor.encode_audio(example.samples(), f"example {example.id}") if "audio" in modalities else None
    try:
        prompts = [
            processor.text_prompt(example.question, *context)
            if modality == "text"
            else processor.audio_prompt(audio, *context)
            for modality in modalities
        ]
    except InputError as error:  # the text contains a special token's name that the tokenizer cannot encode as text
        raise InputError(f"example {example.id}: field question or instruction: {error}") from error
    return align_prefixes(prompts)


def _response_ids(processor: Any, example: Example) -> list[int]:
    try:
        return processor.response_ids(example.answer, example.image is not None)
    except InputError as error:
        raise InputError(f"example {example.id}: field answer: {error}") from error


class PairedDataset(Dataset):
    """Examples as items. Up to `CACHE_BYTES` of items are cached, so a small data set is prepared once (by each data
    loader worker), not in each epoch."""

    def __init__(self, examples: Sequence[Example], processor: Any, context: int, with_image: bool = True):
        """`context` is the LLM's context length: a longer example raises InputError. Without `with_image` no image is
        read, for CTC-only training."""
        self.examples, self.processor, self.context, self.with_image = examples, processor, context, with_image
        self._cache: dict[int, PairedItem] = {}
        self._free_bytes = CACHE_BYTES

    def __len__(self) -> int:
        return len(self.examples)

    def __getitems__(self, indices: Sequence[int]) -> list[PairedItem]:
        """The items of a batch. Every process must run the model in every step, so a process without an example gets
        the first one as a stand-in, whose loss counts as 0."""
        return [self[i] for i in indices] or [replace(self[0], is_stand_in=True)]

    def __getitem__(self, index: int) -> PairedItem:
        if index in self._cache:
            return self._cache[index]
        item = checked_item(self.processor, self.examples[index], self.with_image, self.context)
        item = replace(item, index=index)
        self._free_bytes -= sum(t.nbytes for t in (*item.image_inputs.values(), *item.audio_inputs.values()))
        if self._free_bytes >= 0:
            self._cache[index] = item
        return item


class PairedCollator:
    """Items -> a batch for `SelfKDTrainer`. Prefixes are padded on the left, the rest on the right. Items with the same
    prefix (the same image) share one row of `prefix_ids`; `group` holds each item's row.

    The last response token (the end of the turn) is predicted and never an input, so it is in `labels` only.
    """

    def __init__(self, processor: Any):
        self.processor = processor

    def __call__(self, items: Sequence[PairedItem]) -> dict[str, Any]:
        is_stand_in = any(i.is_stand_in for i in items)
        labels = pad_sequence([torch.tensor(i.response_ids) for i in items], True, -100)
        group, firsts = group_by_key([(i.image, tuple(i.prefix_ids)) for i in items])
        sharing = [items[i] for i in firsts]
        prefix_ids, prefix_mask = self.processor.pad_left([i.prefix_ids for i in sharing])
        text_ids, text_mask = self.processor.pad_right([i.text_ids + i.response_ids[:-1] for i in items])
        audio_ids, audio_mask = self.processor.pad_right([i.audio_ids + i.response_ids[:-1] for i in items])
        return {
            "ids": [i.id for i in items],
            "indices": [i.index for i in items],
            "prefix_ids": prefix_ids,
            "prefix_mask": prefix_mask,
            "image_inputs": join_inputs([i.image_inputs for i in sharing]),
            "group": group,
            "text_ids": text_ids,
            "text_mask": text_mask,
            "audio_ids": audio_ids,
            "audio_mask": audio_mask,
            "audio_inputs": join_inputs([i.audio_inputs for i in items]),
            "transcripts": [i.transcript for i in items],
            "transcript_ids": pad_sequence([torch.tensor(i.transcript_ids) for i in items], True, -100),
            "labels": labels.fill_(-100) if is_stand_in else labels,
            "is_stand_in": is_stand_in,
        }


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


MAX_UNCOVERED = 0.1  # share of the questions' tokens; rare words may be missing, a language may not


def check_vocabulary_coverage(
    folders: Iterable[ExampleFolder], ctc_token_ids: Collection[int], processor: OmniProcessor, remedy: str
) -> None:
    """Raises InputError, which ends in `remedy`, for a folder with more than a tenth of its question tokens outside the
    CTC vocabulary."""
    vocabulary = set(ctc_token_ids)
    for folder in folders:
        counts: Counter[int] = Counter()
        for row in folder.columns("question"):
            counts.update(processor.text_ids(row["question"]))
        missing = Counter({token_id: n for token_id, n in counts.items() if token_id not in vocabulary})
        if missing.total() > MAX_UNCOVERED * counts.total():
            words = ", ".join(repr(processor.tokenizer.decode(token_id)) for token_id, _ in missing.most_common(3))
            raise InputError(
                f"data: {folder.folder}: {missing.total() / counts.total():.0%} of the questions' tokens "
                f"({words}, ...) are not among the {len(vocabulary)} of the CTC vocabulary; {remedy}"
            )
