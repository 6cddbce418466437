"""The processor of an `OmniModel`: images and text by the VLM's own processor, audio as log-mel frames.

A native omni model's own processor takes the audio too. The processor gives both modalities of a query (text, audio) as
token ids, with the prefix that they share: the chat template is split around the query (`ChatFrame`). Tensors that a
VLM's processor returns differ between backbones, are passed on by name, and are joined to a batch here.
"""

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import WhisperFeatureExtractor

from selfkd.errors import InputError
from selfkd.model.backbones import config_of, load_feature_extractor, load_vlm_processor
from selfkd.model.checkpoint_files import reading
from selfkd.model.control_tokens import Template, TextTokenizer
from selfkd.model.features import check_length, log_mel
from selfkd.model.projectors import stacked_length
from selfkd.model.speech_encoder import encoder_frames

# stand for the question and for the response while the template is rendered
_QUESTION, _RESPONSE = "\N{BULLSEYE}", "\N{FISHEYE}"


@dataclass(frozen=True)
class ChatFrame:
    before: str  # up to the question; with an image, its placeholder included
    after: str  # from the end of the question up to where the response begins
    end: str  # what closes the response; its first token is the one that the model is to end with

    def around(self, question: str) -> str:
        return self.before + question + self.after


def chat_frame(processor: Any, with_image: bool) -> ChatFrame:
    """Renders the processor's chat template for one user turn and splits it at the question."""
    turn = _turn({"type": "text", "text": _QUESTION}, with_image)
    text = processor.apply_chat_template([turn], add_generation_prompt=True)
    before, mark, after = text.partition(_QUESTION)
    if not mark or _QUESTION in after:
        raise ValueError("the chat template must show the question exactly once")
    response = {"role": "assistant", "content": [{"type": "text", "text": _RESPONSE}]}
    end = processor.apply_chat_template([turn, response]).partition(_RESPONSE)[2]
    return ChatFrame(before, after, end)


def audio_frame(processor: Any) -> ChatFrame:
    """What a native omni model's template puts around the place of a clip, within the frame of a written question."""
    written = chat_frame(processor, with_image=False)
    text = processor.apply_chat_template([_turn({"type": "audio"}, False)], add_generation_prompt=True)
    clip = text.removeprefix(written.before).removesuffix(written.after)
    before, mark, after = clip.partition(processor.audio_token)
    if not mark or processor.audio_token in after:
        raise ValueError("the chat template must show a clip exactly once, where a written question would stand")
    return ChatFrame(before, after, written.end)


def _turn(question: dict[str, str], with_image: bool) -> dict[str, Any]:
    return {"role": "user", "content": [*([{"type": "image"}] if with_image else []), question]}


def shared_by(keys: Sequence[Hashable]) -> tuple[Tensor, list[int]]:
    """(number of each item's group (B,), index of the first item of each group): items with one key share a prefix."""
    first: dict[Hashable, int] = {}
    for i, key in enumerate(keys):
        first.setdefault(key, i)
    number = {key: g for g, key in enumerate(first)}
    return torch.tensor([number[key] for key in keys]), list(first.values())


def join_inputs(items: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Inputs of several pictures or clips as one batch: joined along the first dimension, zeros where others are larger
    (an Idefics-like base takes a tile of zeros for no tile; sound comes with a mask)."""
    with_any = [item for item in items if item]
    return {name: _join([item[name] for item in with_any]) for name in (with_any[0] if with_any else {})}


def _join(tensors: Sequence[Tensor]) -> Tensor:
    sizes = [max(t.shape[d] for t in tensors) for d in range(1, tensors[0].ndim)]
    return torch.cat([_padded(t, sizes) for t in tensors])


def _padded(tensor: Tensor, sizes: Sequence[int]) -> Tensor:
    padding = [p for size, wanted in zip(tensor.shape[:0:-1], sizes[::-1], strict=True) for p in (0, wanted - size)]
    return F.pad(tensor, padding) if any(padding) else tensor


SPEECH_TOKEN = "<speech>"
_SPEECH_CONFIG = "audio"  # subfolder of the feature extractor
_OF_TEXT = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")


@dataclass(frozen=True)
class EncodedImage:
    """A picture as a model takes it: the chat text before the question, placeholders put in by the VLM's own processor,
    the chat text after it, and what its image processor gives, by name; without a picture the text alone."""

    before: Template
    after: Template
    image_inputs: dict[str, Tensor]


@dataclass(frozen=True)
class Clip:
    """A clip as a model takes it: what stands for it in the chat text, and what is made of the sound, by name."""

    text: Template
    audio_inputs: dict[str, Tensor]


@dataclass(frozen=True)
class Prompt:
    """One question for one view. `prefix_ids` is what both views share, `suffix_ids` the question and what follows it
    up to where the response begins; `audio_inputs` are there in the spoken view alone."""

    prefix_ids: list[int]
    suffix_ids: list[int]
    image_inputs: dict[str, Tensor]
    audio_inputs: dict[str, Tensor] = field(default_factory=dict)


class OmniProcessor:
    """Without a `feature_extractor` the VLM's own processor takes the sound too: that of a native omni model."""

    def __init__(
        self, vlm_processor: Any, feature_extractor: WhisperFeatureExtractor | None = None, stack_factor: int = 4
    ):
        self.vlm_processor, self.feature_extractor = vlm_processor, feature_extractor
        self.stack_factor = stack_factor
        self._image_tokens: dict[tuple[int, int], int] = {}  # by size: a count takes half a millisecond
        self.tokenizer = vlm_processor.tokenizer
        self._texts: TextTokenizer | None = None  # made when first needed
        if feature_extractor is not None:
            # beyond the VLM's vocabulary or in its spare rows: the model never looks this id up
            self.tokenizer.add_tokens([SPEECH_TOKEN], special_tokens=True)
            self.audio_token_id: int = self.tokenizer.convert_tokens_to_ids(SPEECH_TOKEN)

    @classmethod
    def from_pretrained(cls, path: str | Path) -> "OmniProcessor":
        """Reads what `save_pretrained` wrote, or the processor of a native omni model, by hub id or path."""
        config = config_of(path, "model")
        processor = load_vlm_processor(path, "model")
        if config.get("audio_config") is None:
            return cls(processor)
        with reading(path, "model", "config.json"):
            bins, stack = config["audio_config"]["num_mel_bins"], int(config["stack_factor"])
        return cls(processor, load_feature_extractor(path, "model", _SPEECH_CONFIG, bins), stack)

    def save_pretrained(self, path: str | Path) -> None:
        self.vlm_processor.save_pretrained(path)
        if self.feature_extractor is not None:
            self.feature_extractor.save_pretrained(Path(path) / _SPEECH_CONFIG)

    @cached_property
    def _frames(self) -> dict[bool, ChatFrame]:
        """As `apply_chat_template` tokenizes them: a tokenizer's first token stands there once, whether the template
        has it or the tokenizer puts it before every text."""
        frames = {with_image: chat_frame(self.vlm_processor, with_image) for with_image in (False, True)}
        first = self.tokenizer.bos_token
        if first is None or self.tokenizer("a")["input_ids"][0] != self.tokenizer.bos_token_id:
            return frames
        return {k: f if f.before.startswith(first) else replace(f, before=first + f.before) for k, f in frames.items()}

    @cached_property
    def end_id(self) -> int:
        """The token that ends a response in the model's own chat template."""
        end = self._frames[False].end
        return self.ids(end)[0] if end else self.tokenizer.eos_token_id

    @property
    def pad_id(self) -> int:
        """What fills rows up, always masked: the tokenizer's pad token, or where it has none an end."""
        for found in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if found is not None:
                return found
        return self.end_id

    def ids(self, text: str) -> list[int]:
        """Token ids of a text of the model's own chat template, control tokens included."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def text_ids(self, *parts: str) -> list[int]:
        """Token ids of `parts` as one text. Control tokens count as such in `Template`s alone; in any other part
        (question, instruction, answer, transcript) their names are ordinary text."""
        return self._text_tokenizer.ids(*parts)

    @property
    def _text_tokenizer(self) -> TextTokenizer:
        if self._texts is None or self._texts.tokenizer is not self.tokenizer:
            own = vars(self.vlm_processor)
            named = {value for name, value in own.items() if name.endswith("_token") and isinstance(value, str)}
            found = [own.get("chat_template"), self.tokenizer.chat_template]
            templates = [t for given in found for t in (given.values() if isinstance(given, dict) else [given]) if t]
            self._texts = TextTokenizer(self.tokenizer, {*named, SPEECH_TOKEN}, templates)
        return self._texts

    def response_ids(self, response: str, with_image: bool) -> list[int]:
        """A response as it stands in a conversation, and the end of the turn. A tokenizer of SentencePiece marks the
        beginning of a text as it does a space, and what follows "assistant" in a template has no such mark."""
        after = Template(self._frames[with_image].after)
        before, whole = self.ids(after), self.text_ids(after, response)
        alone = whole[: len(before)] != before  # it has run together with the template's end
        return [*(self.text_ids(response) if alone else whole[len(before) :]), self.end_id]

    def encode_image(self, image: Image.Image | None, name: str = "") -> EncodedImage:
        """What a picture becomes, worked out once for all prompts about it. Raises InputError for one that the model's
        own processor does not take; `name` says which example it is of."""
        frame = self._frames[image is not None]
        if image is None:
            return EncodedImage(Template(frame.before), Template(frame.after), {})
        # the frame begins with what a prompt begins with; a tokenizer would put its own before that
        with _taken(image.width, image.height, name):
            batch = self.vlm_processor(
                images=[image], text=[frame.before], return_tensors="pt", add_special_tokens=False
            )
        image_inputs = {name: value for name, value in batch.items() if name not in _OF_TEXT}
        return EncodedImage(Template(self.tokenizer.decode(batch["input_ids"][0])), Template(frame.after), image_inputs)

    def image_tokens(self, width: int, height: int) -> int:
        """How many tokens a picture of so many pixels takes; 0 for none. Raises InputError for a size that the model's
        own processor does not take."""
        if not width or not height:
            return 0
        if (width, height) not in self._image_tokens:
            self._image_tokens[width, height] = self._count_image_tokens(width, height)
        return self._image_tokens[width, height]

    def _count_image_tokens(self, width: int, height: int) -> int:
        count = getattr(self.vlm_processor, "_get_num_multimodal_tokens", None)
        if count is None:  # Phi-4's has none: 256 tokens for each 448 x 448 pixels, about
            return width * height // 28**2
        with _taken(width, height):
            return count(image_sizes=[[height, width]])["num_image_tokens"][0]

    def encode_audio(self, samples: NDArray[np.float32], name: str = "audio") -> Clip:
        """What a clip (mono, 16 kHz) becomes. `name` says in errors which it is."""
        if self.feature_extractor is not None:
            mel_BFM = log_mel(self.feature_extractor, samples, name)[None]
            mask_BM = torch.ones(1, mel_BFM.shape[2], dtype=torch.long)
            return Clip(Template(SPEECH_TOKEN), {"mel_BFM": mel_BFM, "mel_mask_BM": mask_BM})
        check_length(samples, name)
        token = self.vlm_processor.audio_token
        batch = self.vlm_processor(text=[token], audio=[samples], return_tensors="pt", add_special_tokens=False)
        audio_inputs = {n: value for n, value in batch.items() if n not in _OF_TEXT}
        frames = audio_inputs.get("audio_input_features")
        if frames is not None:  # Phi-4's processor gives no mask for one clip alone
            audio_inputs.setdefault("audio_attention_mask", torch.ones(frames.shape[:2], dtype=torch.bool))
        text = self.tokenizer.decode(batch["input_ids"][0])
        frame = self._spoken_frame
        return Clip(Template(frame.before + text + frame.after), audio_inputs)

    @cached_property
    def _spoken_frame(self) -> ChatFrame:
        return audio_frame(self.vlm_processor)

    def text_prompt(self, question: str, seen: EncodedImage, instruction: str = "", answer_format: str = "") -> Prompt:
        """The written view. The prompt is tokenized whole and cut where the spoken view's begins to differ."""
        return self._prompt((question, answer_format), seen, instruction, {})

    def audio_prompt(self, heard: Clip, seen: EncodedImage, instruction: str = "", answer_format: str = "") -> Prompt:
        """The spoken view: the question is in the sound and nowhere in the ids."""
        return self._prompt((heard.text, answer_format), seen, instruction, heard.audio_inputs)

    def _prompt(
        self, question: tuple[str, str], seen: EncodedImage, instruction: str, audio_inputs: dict[str, Tensor]
    ) -> Prompt:
        before = self.text_ids(seen.before, instruction)
        whole = self.text_ids(seen.before, instruction, *question)
        for name, place in self._places.items():  # one that is not there for a picture or a clip ends a GPU's process
            given = seen.before.count(name) + (question[0].count(name) if isinstance(question[0], Template) else 0)
            if whole.count(place) != given:
                raise InputError(f"the text makes {whole.count(place)} places {name!r} of {given}")
        shared = common_length(before, whole)
        return Prompt(whole[:shared], whole[shared:] + self.ids(seen.after), seen.image_inputs, audio_inputs)

    @property
    def _places(self) -> dict[str, int]:
        """Tokens that stand for pictures and sound, by name."""
        own = (getattr(self.vlm_processor, f"{what}_token", None) for what in ("image", "audio"))
        names = {name for name in (*own, SPEECH_TOKEN if self.feature_extractor else None) if isinstance(name, str)}
        return {name: i for name, i in self._text_tokenizer.control.items() if name in names}

    def __call__(self, prompts: Sequence[Prompt]) -> dict[str, Any]:
        """Prompts, written and spoken, as `OmniModel.generate` takes them: prefixes, those of one picture once, padded
        on the left, and what follows them, padded on the right."""
        group, firsts = shared_by([(id(p.image_inputs), tuple(p.prefix_ids)) for p in prompts])
        sharing = [prompts[i] for i in firsts]
        prefix_ids, prefix_mask = self.pad_left([p.prefix_ids for p in sharing])
        suffix_ids, suffix_mask = self.pad_right([p.suffix_ids for p in prompts])
        return {
            "prefix_ids": prefix_ids,
            "prefix_mask": prefix_mask,
            "group": group,
            "suffix_ids": suffix_ids,
            "suffix_mask": suffix_mask,
            "image_inputs": join_inputs([p.image_inputs for p in sharing]),
            "audio_inputs": join_inputs([p.audio_inputs for p in prompts]),
            "spoken": torch.tensor([bool(p.audio_inputs) for p in prompts]),
        }

    def check_context(self, name: str, ids: Sequence[int], audio_inputs: dict[str, Tensor], context: int) -> None:
        """Raises InputError where what the LLM reads for `ids` is longer than its context; `name` says which it is."""
        length = self.length(ids, audio_inputs)
        if length > context:
            raise InputError(f"{name}: {length} tokens do not fit the model's context of {context}")

    def length(self, ids: Sequence[int], audio_inputs: dict[str, Tensor]) -> int:
        """Tokens that the LLM reads for `ids`; a vector of what is heard counts as one."""
        if self.feature_extractor is None or not audio_inputs:
            return len(ids)
        # the speech token makes way for what is heard
        return len(ids) + stacked_length(encoder_frames(audio_inputs["mel_BFM"].shape[2]), self.stack_factor) - 1

    def pad_left(self, rows: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
        """(ids, mask) of rows of different lengths, padded on the left."""
        width, pad = max(map(len, rows)), self.pad_id
        ids = torch.tensor([[pad] * (width - len(r)) + r for r in rows])
        mask = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows])
        return ids, mask

    def pad_right(self, rows: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
        """(ids, mask) of rows of different lengths, padded on the right."""
        ids = pad_sequence([torch.tensor(r) for r in rows], True, self.pad_id)
        lengths = torch.tensor([len(r) for r in rows])
        return ids, (torch.arange(ids.shape[1]) < lengths[:, None]).long()

    def decode(self, ids_BT: Tensor | Sequence[list[int]]) -> list[str]:
        return [t.strip() for t in self.tokenizer.batch_decode(ids_BT, skip_special_tokens=True)]


@contextmanager
def _taken(width: int, height: int, name: str = "") -> Iterator[None]:
    """Qwen2-VL's processor refuses strips (200 to 1), others what their resizing cannot make, each with an error of its
    own: an InputError here."""
    try:
        yield
    except (ValueError, ArithmeticError, RuntimeError, IndexError) as error:
        what = f"{name}: field image" if name else "field image"
        raise InputError(f"{what}: the model does not take {width} x {height} pixels ({error})") from error


def align_prefixes(prompts: Sequence[Prompt]) -> list[Prompt]:
    """Prompts about one picture with the same prefix: what all of theirs begin with. A question may take the end of the
    instruction before it into its first token, and the two views would read the picture twice."""
    shared = prompts[0].prefix_ids
    for prompt in prompts[1:]:
        shared = shared[: common_length(shared, prompt.prefix_ids)]
    cut = len(shared)
    return [replace(p, prefix_ids=shared, suffix_ids=p.prefix_ids[cut:] + p.suffix_ids) for p in prompts]


def common_length(a: list[int], b: list[int]) -> int:
    length = 0
    while length < min(len(a), len(b)) and a[length] == b[length]:
        length += 1
    return length
