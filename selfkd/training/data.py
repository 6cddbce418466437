"""Examples -> batches: both modalities of each example with the same responses (`sampler.py` has their order).

Decoding, image processing and log-mel run here, in the data loader's workers, once for both modalities. The module also
checks how much of a data folder the vocabulary of a CTC projector covers.

Legend: B examples, P prefix tokens, T tokens, R response tokens.
"""

from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from selfkd.data.dataset import ExampleFolder
from selfkd.data.example import HISTORY, Example, image_hash
from selfkd.errors import InputError
from selfkd.model.features import group_by_key, join_inputs
from selfkd.model.processing_omni import OmniProcessor
from selfkd.model.prompts import EncodedImage, Prompt, Turn, align_prefixes
from selfkd.training.config import AudioTurns

Modality = Literal["text", "audio"]
MODALITIES: tuple[Modality, ...] = ("text", "audio")
CACHE_BYTES = 512 * 2**20  # of items, in one data loader worker


class EarlierTurn(NamedTuple):
    """A turn before the last whose response trains: where it begins in `text_ids` and `audio_ids` of its item, and its
    ids with the end of the turn; the transcript of its clip."""

    text_start: int
    audio_start: int
    response_ids: list[int]
    transcript: str
    transcript_ids: list[int]


@dataclass(frozen=True)
class PairedItem:
    """An example as token ids and features. Both modalities are prefix + query + response, and differ in the query,
    which ends where the response begins.

    In a conversation `text_ids` and `audio_ids` begin with the first turn that differs, and hold the `earlier` turns
    from there up to the last query; the clips of `audio_inputs` are in their order."""

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
    earlier: tuple[EarlierTurn, ...] = ()

    @property
    def labels(self) -> list[int]:
        """The ids of all responses that train, in their order."""
        return [id_ for turn in self.earlier for id_ in turn.response_ids] + self.response_ids


class LastImage:
    """Processes the image of each example, once for neighbours with the same one: the sampler puts them together."""

    def __init__(self, processor: Any):
        self.processor = processor
        self._last: tuple[tuple[bytes | None, int], EncodedImage] | None = None

    def __call__(self, example: Example) -> EncodedImage:
        """The image in front of as many turns as the example has, which are empty. Raises InputError naming the
        example."""
        key = example.image, len(example.history)
        if self._last is None or self._last[0] != key:
            no_turns = [("", "")] * len(example.history)
            image = self.processor.encode_image(example.load_image(), f"example {example.id}", history=no_turns)
            self._last = key, image
        return self._last[1]


def paired_item(
    processor: Any,
    example: Example,
    with_image: bool = True,
    audio_turns: AudioTurns = "all",
    images: LastImage | None = None,
) -> PairedItem:
    """Both modalities of an example; raises InputError naming example and field where one cannot be made. `audio_turns`
    are the queries of a conversation that are audio in the audio modality, `images` processes its image.

    Without `with_image`, for CTC-only training, no image is processed, which takes most of the time, and the response
    is the question: the loss is divided by the number of response tokens, so that it is one of question tokens
    there."""
    if not with_image:
        example = replace(example, answer=example.question)
    for field in ("question", "answer"):
        if not getattr(example, field).strip():
            raise InputError(f"example {example.id}: field {field}: is empty")
    if example.history:
        return _conversation_item(processor, example, with_image, audio_turns, images)
    text, audio = modality_prompts(
        processor,
        example,
        MODALITIES,
        encode_example_image(processor, example if with_image else replace(example, image=None), images=images),
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


def _conversation_item(
    processor: Any, example: Example, with_image: bool, audio_turns: AudioTurns, images: LastImage | None
) -> PairedItem:
    """`paired_item` of several turns."""
    *earlier, last = example.turns()
    if not with_image:  # the last turn, and of the earlier ones the clips and their text
        item = paired_item(processor, replace(last, history=()), with_image)
        if audio_turns == "last":
            return item
        clips = [processor.encode_audio(turn.samples(), f"example {turn.id}") for turn in earlier]
        transcripts = [(turn.question, processor.text_ids(turn.question)) for turn in earlier]
        labels = [processor.response_ids(turn.question, False) for turn in earlier]
        return replace(
            item,
            audio_inputs=join_inputs([*(clip.audio_inputs for clip in clips), item.audio_inputs]),
            response_ids=[id_ for ids in labels for id_ in ids] + item.response_ids,
            earlier=tuple(EarlierTurn(0, 0, [], *transcript) for transcript in transcripts),
        )
    for turn in earlier:
        for field in ("question", "answer"):
            if not getattr(turn, field).strip():
                raise InputError(f"example {turn.id}: field {field}: is empty")
    encoded = encode_example_image(processor, example, "text", images)
    audio_history = encoded
    if audio_turns == "all":
        audio_history = with_history(processor, encoded, example, "audio")
    text, audio = aligned_prompts(processor, example, {"text": encoded, "audio": audio_history})
    cut = len(text.prefix_ids)
    rows = [prompt.prefix_ids + prompt.suffix_ids for prompt in (text, audio)]
    found = []
    for turn, in_text, in_audio in zip(earlier, encoded.responses, audio_history.responses, strict=True):
        if in_text[0] < cut:
            continue  # before the first difference: nothing that trains comes before this response
        responses = [row[start : stop + 1] for row, (start, stop) in zip(rows, (in_text, in_audio), strict=True)]
        assert responses[0] == responses[1], "the two modalities have different responses"  # noqa: S101 an invariant of this code, no check of input
        if responses[0][-1] != processor.end_id:
            raise InputError("chat template: ends a response within a conversation with another token than the last")
        ids = processor.text_ids(turn.question)
        found.append(EarlierTurn(in_text[0] - cut, in_audio[0] - cut, responses[0], turn.question, ids))
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
        earlier=tuple(found),
    )


def checked_item(
    processor: Any,
    example: Example,
    with_image: bool,
    context: int,
    audio_turns: AudioTurns = "all",
    images: LastImage | None = None,
) -> PairedItem:
    """`paired_item`; raises InputError for an example of more tokens than `context`, the LLM's context length."""
    item = paired_item(processor, example, with_image, audio_turns, images)
    queries = ((item.text_ids, {}), (item.audio_ids, item.audio_inputs)) if with_image else ()  # else no LLM runs
    turns = f": {len(example.history) + 1} turns, {len(item.earlier) + 1} clips" if example.history else ""
    for query, audio in queries:
        ids = [*item.prefix_ids, *query, *item.response_ids]
        processor.check_context(f"example {item.id}{turns}", ids, audio, context)
    return item


def modality_prompts(
    processor: Any, example: Example, modalities: Sequence[Modality], image: EncodedImage
) -> list[Prompt]:
    """An example's prompt in each of `modalities`, with a common prefix; `image` is that of `encode_example_image`. In
    a conversation all queries have the modality. Raises InputError naming example and field where the audio cannot be
    encoded."""
    return aligned_prompts(processor, example, {m: with_history(processor, image, example, m) for m in modalities})


def encode_example_image(
    processor: Any, example: Example, modality: Modality = "text", images: LastImage | None = None
) -> EncodedImage:
    """The image of an example, in front of its earlier turns in one modality. Raises InputError naming the example."""
    return with_history(processor, (images or LastImage(processor))(example), example, modality)


def with_history(processor: Any, image: EncodedImage, example: Example, modality: Modality) -> EncodedImage:
    """The image in front of the example's earlier turns in one modality. Raises InputError naming example and turn."""
    history = []
    for turn in list(example.turns())[:-1]:
        is_text = modality == "text"
        query = turn.question if is_text else processor.encode_audio(turn.samples(), f"example {turn.id}")
        history.append(Turn(query, turn.answer, turn.instruction, turn.answer_format))
    if not history:
        return image
    try:
        return processor.with_history(image, history)
    except InputError as error:
        raise InputError(f"example {example.id}: field history: {error}") from error


def aligned_prompts(processor: Any, example: Example, images: Mapping[Modality, EncodedImage]) -> list[Prompt]:
    """The prompt of the example's last query in each modality, after its image and history, with a common prefix."""
    texts = example.instruction, example.answer_format
    audio = processor.encode_audio(example.samples(), f"example {example.id}") if "audio" in images else None
    try:
        prompts = [
            processor.text_prompt(example.question, image, *texts)
            if modality == "text"
            else processor.audio_prompt(audio, image, *texts)
            for modality, image in images.items()
        ]
    except InputError as error:  # the text contains a special token's name that the tokenizer cannot encode as text
        raise InputError(f"example {example.id}: field question or instruction: {error}") from error
    return align_prefixes(prompts, processor.clip_token_id)


def _response_ids(processor: Any, example: Example) -> list[int]:
    try:
        return processor.response_ids(example.answer, example.image is not None)
    except InputError as error:
        raise InputError(f"example {example.id}: field answer: {error}") from error


class PairedDataset(Dataset):
    """Examples as items. Up to `CACHE_BYTES` of items are cached, so a small data set is prepared once (by each data
    loader worker), not in each epoch."""

    def __init__(
        self,
        examples: Sequence[Example],
        processor: Any,
        context: int,
        with_image: bool = True,
        audio_turns: AudioTurns = "all",
    ):
        """`context` is the LLM's context length: a longer example raises InputError. Without `with_image` no image is
        read, for CTC-only training."""
        self.examples, self.processor, self.context, self.with_image = examples, processor, context, with_image
        self.audio_turns = audio_turns
        self._images = LastImage(processor)
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
        example = self.examples[index]
        item = checked_item(self.processor, example, self.with_image, self.context, self.audio_turns, self._images)
        item = replace(item, index=index)
        self._free_bytes -= sum(t.nbytes for t in (*item.image_inputs.values(), *item.audio_inputs.values()))
        if self._free_bytes >= 0:
            self._cache[index] = item
        return item


class PairedCollator:
    """Items -> a batch for `SelfKDTrainer`. Prefixes are padded on the left, the rest on the right. Items with the same
    prefix (the same image) share one row of `prefix_ids`; `group` holds each item's row.

    The last token of the last response (the end of the turn) is predicted and never an input, so it is in `labels`
    only. `labels` has the responses of all turns that train; `text_predicts` and `audio_predicts` are the tokens that
    predict them. `clips` is the number of clips of each item.
    """

    def __init__(self, processor: Any):
        self.processor = processor

    def __call__(self, items: Sequence[PairedItem]) -> dict[str, Any]:
        is_stand_in = any(i.is_stand_in for i in items)
        labels = pad_sequence([torch.tensor(i.labels) for i in items], True, -100)
        group, firsts = group_by_key([(i.image, tuple(i.prefix_ids)) for i in items])
        sharing = [items[i] for i in firsts]
        prefix_ids, prefix_mask = self.processor.pad_left([i.prefix_ids for i in sharing])
        text_ids, text_mask = self.processor.pad_right([i.text_ids + i.response_ids[:-1] for i in items])
        audio_ids, audio_mask = self.processor.pad_right([i.audio_ids + i.response_ids[:-1] for i in items])
        text_starts = [[turn.text_start for turn in i.earlier] + [len(i.text_ids)] for i in items]
        audio_starts = [[turn.audio_start for turn in i.earlier] + [len(i.audio_ids)] for i in items]
        lengths = [[len(turn.response_ids) for turn in i.earlier] + [len(i.response_ids)] for i in items]
        if is_stand_in:
            labels, lengths = labels.fill_(-100), [[0] * len(of_item) for of_item in lengths]
        transcripts: list[tuple[str, list[int]]] = []
        for item in items:
            transcripts += [(turn.transcript, turn.transcript_ids) for turn in item.earlier]
            transcripts.append((item.transcript, item.transcript_ids))
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
            "text_predicts": predicting_positions(text_starts, lengths, text_ids.shape[1]),
            "audio_predicts": predicting_positions(audio_starts, lengths, audio_ids.shape[1]),
            "audio_inputs": join_inputs([i.audio_inputs for i in items]),
            "clips": [len(i.earlier) + 1 for i in items],
            "transcripts": [text for text, _ in transcripts],
            "transcript_ids": pad_sequence([torch.tensor(ids) for _, ids in transcripts], True, -100),
            "labels": labels,
            "is_stand_in": is_stand_in,
        }


def predicting_positions(starts: Sequence[Sequence[int]], lengths: Sequence[Sequence[int]], width: int) -> Tensor:
    """Mask (B, T) of the tokens that predict the responses of each row, which begin at `starts`; T is `width`."""
    mask_BT = torch.zeros(len(starts), width, dtype=torch.bool)
    for row, of_row in enumerate(zip(starts, lengths, strict=True)):
        for start, length in zip(*of_row, strict=True):
            mask_BT[row, start - 1 : start - 1 + length] = True
    return mask_BT


MAX_UNCOVERED = 0.1  # share of the questions' tokens; rare words may be missing, a language may not


def check_vocabulary_coverage(
    folders: Iterable[ExampleFolder], ctc_token_ids: Collection[int], processor: OmniProcessor, remedy: str
) -> None:
    """Raises InputError, which ends in `remedy`, for a folder with more than a tenth of its question tokens outside the
    CTC vocabulary."""
    vocabulary = set(ctc_token_ids)
    for folder in folders:
        counts: Counter[int] = Counter()
        for row in folder.columns("question", HISTORY):
            for turn in (*row[HISTORY], row):
                counts.update(processor.text_ids(turn["question"]))
        missing = Counter({token_id: n for token_id, n in counts.items() if token_id not in vocabulary})
        if missing.total() > MAX_UNCOVERED * counts.total():
            words = ", ".join(repr(processor.tokenizer.decode(token_id)) for token_id, _ in missing.most_common(3))
            raise InputError(
                f"data: {folder.folder}: {missing.total() / counts.total():.0%} of the questions' tokens "
                f"({words}, ...) are not among the {len(vocabulary)} of the CTC vocabulary; {remedy}"
            )
