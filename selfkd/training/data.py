"""Examples -> batches: both modalities of each example with the same response, in an order fixed by seed and epoch.

Decoding, image processing and log-mel run here, in the data loader's workers, once for both modalities. Whether a CTC
projector's vocabulary covers what is spoken is checked here too.

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

from selfkd.data.dataset import ExampleFolder, Sketch
from selfkd.data.example import Example, groups_of, image_hash
from selfkd.errors import InputError
from selfkd.model.processing_omni import EncodedImage, OmniProcessor, Prompt, align_prefixes, group_by_key, join_inputs

Modality = Literal["text", "audio"]
MODALITIES: tuple[Modality, ...] = ("text", "audio")
KEPT_BYTES = 512 * 2**20  # of one loader worker


@dataclass(frozen=True)
class PairedItem:
    """An example as ids and features. Each view is prefix + its own question, up to where the response begins, +
    response."""

    id: str
    prefix_ids: list[int]
    text_ids: list[int]
    audio_ids: list[int]
    response_ids: list[int]
    image_inputs: dict[str, Tensor]
    audio_inputs: dict[str, Tensor]
    transcript: str  # what is said, the question alone
    transcript_ids: list[int]
    image: Hashable  # the same for examples with the same picture
    stands_in: bool = False  # for an example that is not there: nothing is learnt from it


def paired_item(processor: Any, example: Example, looks: bool = True) -> PairedItem:
    """Both views of an example; raises InputError naming example and field where one cannot be made. Without `looks`
    the question is all there is, and what it is answered with, for ears that learn from what is said alone: a picture
    takes longer than all else, and a loss divided by tokens of answers would weigh clips by what nobody learns."""
    if not looks:
        example = replace(example, answer=example.question)
    for field in ("question", "answer"):
        if not getattr(example, field).strip():
            raise InputError(f"example {example.id}: field {field}: is empty")
    text, audio = modality_prompts(
        processor,
        example,
        MODALITIES,
        processor.encode_image(example.load_image() if looks else None, f"example {example.id}"),
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


def checked_item(processor: Any, example: Example, looks: bool, context: int) -> PairedItem:
    """`paired_item` of an example that the LLM can read at once: InputError for one of more tokens than `context`."""
    item = paired_item(processor, example, looks)
    modalities = ((item.text_ids, {}), (item.audio_ids, item.audio_inputs)) if looks else ()  # else no LLM reads it
    for question, audio in modalities:
        ids = [*item.prefix_ids, *question, *item.response_ids]
        processor.check_context(f"example {item.id}", ids, audio, context)
    return item


def modality_prompts(
    processor: Any, example: Example, modalities: Sequence[Modality], seen: EncodedImage
) -> list[Prompt]:
    """The question of an example in each of `modalities`, with one prefix; `seen` is its picture. Raises InputError naming
    example and field where the speech cannot be heard."""
    around = seen, example.instruction, example.answer_format
    heard = processor.encode_audio(example.samples(), f"example {example.id}") if "audio" in modalities else None
    try:
        prompts = [
            processor.text_prompt(example.question, *around)
            if modality == "text"
            else processor.audio_prompt(heard, *around)
            for modality in modalities
        ]
    except InputError as error:  # of a tokenizer that cannot take a name of its own as text
        raise InputError(f"example {example.id}: field question or instruction: {error}") from error
    return align_prefixes(prompts)


def _response_ids(processor: Any, example: Example) -> list[int]:
    try:
        return processor.response_ids(example.answer, example.image is not None)
    except InputError as error:
        raise InputError(f"example {example.id}: field answer: {error}") from error


class PairedDataset(Dataset):
    """Examples as items. Up to `KEPT_BYTES` of them are kept: a small set is prepared once, not in each epoch (once by
    each of a loader's workers, where these last)."""

    def __init__(self, examples: Sequence[Example], processor: Any, context: int, looks: bool = True):
        """`context` is how many tokens the LLM can read at once: InputError for an example that is longer. Without
        `looks` no picture is read, and by no LLM."""
        self.examples, self.processor, self.context, self.looks = examples, processor, context, looks
        self._kept: dict[int, PairedItem] = {}
        self._room = KEPT_BYTES

    def __len__(self) -> int:
        return len(self.examples)

    def __getitems__(self, indices: Sequence[int]) -> list[PairedItem]:
        """The items of a batch. Every process must run the model in every step, so one that has no example left has the
        first of all, which then counts for nothing."""
        return [self[i] for i in indices] or [replace(self[0], stands_in=True)]

    def __getitem__(self, index: int) -> PairedItem:
        if index in self._kept:
            return self._kept[index]
        item = checked_item(self.processor, self.examples[index], self.looks, self.context)
        self._room -= sum(t.nbytes for t in (*item.image_inputs.values(), *item.audio_inputs.values()))
        if self._room >= 0:
            self._kept[index] = item
        return item


class PairedCollator:
    """Items -> a batch for `SelfKDTrainer`. Prefixes are padded on the left, what follows them on the right; items with
    the same prefix (the same picture) share one, `group` says which.

    The last response token (the end of the turn) is predicted and never read, so it stands in `labels` alone.
    """

    def __init__(self, processor: Any):
        self.processor = processor

    def __call__(self, items: Sequence[PairedItem]) -> dict[str, Any]:
        stands_in = any(i.stands_in for i in items)
        labels = pad_sequence([torch.tensor(i.response_ids) for i in items], True, -100)
        group, firsts = group_by_key([(i.image, tuple(i.prefix_ids)) for i in items])
        sharing = [items[i] for i in firsts]
        prefix_ids, prefix_mask = self.processor.pad_left([i.prefix_ids for i in sharing])
        text_ids, text_mask = self.processor.pad_right([i.text_ids + i.response_ids[:-1] for i in items])
        audio_ids, audio_mask = self.processor.pad_right([i.audio_ids + i.response_ids[:-1] for i in items])
        return {
            "ids": [i.id for i in items],
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
            "labels": labels.fill_(-100) if stands_in else labels,
            "stands_in": stands_in,
        }


POOL_STEPS = 16
CHARACTERS_PER_TOKEN = 4
VECTORS_A_SECOND = 12.5  # 50 frames of a Whisper encoder, stacked by four


def token_cost(sketch: Sketch, image_tokens: int) -> float:
    """About how many tokens the LLM reads of an example, both views: good enough to sort by, nothing is decoded."""
    text = sketch.question_characters + 2 * sketch.answer_characters
    return image_tokens + text / CHARACTERS_PER_TOKEN + VECTORS_A_SECOND * sketch.speech_seconds


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
        images: Sequence[Hashable] | None = None,
        taken: Callable[[int], Sequence[int]] | None = None,
    ):
        """`images[i]` names the picture of example i; without it no two examples share one. `taken(epoch)` are the
        examples of an epoch, as many in each; without it all of them."""
        self.costs, self.step_size, self.seed, self.epoch = costs, step_size, seed, 0
        self.images = range(len(costs)) if images is None else images
        self.taken = taken or (lambda epoch: range(len(costs)))

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.taken(0))

    def __iter__(self) -> Iterator[int]:
        rng = random.Random(f"order/{self.seed}/{self.epoch}")
        by_picture: dict[Hashable, list[int]] = {}
        for i in self.taken(self.epoch):
            by_picture.setdefault(self.images[i], []).append(i)
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


MAX_UNHEARD = 0.1  # share of the tokens of what is said; a rare word may be missing, a language may not


def check_vocabulary_coverage(
    folders: Iterable[ExampleFolder], ctc_token_ids: Collection[int], processor: OmniProcessor, remedy: str
) -> None:
    """Raises InputError, which ends in `remedy`, for a folder of which ears that hear these tokens would miss a
    tenth."""
    heard = set(ctc_token_ids)
    for folder in folders:
        counts: Counter[int] = Counter()
        for row in folder.columns("question"):
            counts.update(processor.text_ids(row["question"]))
        missing = Counter({token_id: n for token_id, n in counts.items() if token_id not in heard})
        if missing.total() > MAX_UNHEARD * counts.total():
            words = ", ".join(repr(processor.tokenizer.decode(token_id)) for token_id, _ in missing.most_common(3))
            raise InputError(
                f"data: {folder.folder}: {missing.total() / counts.total():.0%} of the tokens that are said ({words}, "
                f"...) are none of the {len(heard)} that these ears hear; {remedy}"
            )
