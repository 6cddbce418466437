"""The processor of an `OmniModel`: pictures and text as the VLM's own processor makes them, speech as log-mel frames.

It knows the two views of a question (written, spoken) as token ids, and where they part.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import WhisperFeatureExtractor

from selfkd.data.chat import ChatFrame, chat_frame
from selfkd.data.features import log_mel, pad_mels
from selfkd.data.images import join_image_inputs, shared_by
from selfkd.model.load import config_of, load_vlm_processor
from selfkd.model.projector import stacked_length
from selfkd.model.speech_encoder import encoder_frames

SPEECH_TOKEN = "<speech>"
_SPEECH_CONFIG = "speech"  # subfolder of the feature extractor
_OF_TEXT = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")


@dataclass(frozen=True)
class Seen:
    """A picture as a model takes it: the chat text before the question, placeholders put in by the VLM's own processor,
    the chat text after it, and what its image processor gives, by name; without a picture the text alone."""

    before: str
    after: str
    image_inputs: dict[str, Tensor]


@dataclass(frozen=True)
class Prompt:
    """One question for one view. `prefix_ids` is what both views share; `mel_FM` is there in the speech view alone."""

    prefix_ids: list[int]
    question_ids: list[int]  # the written question; empty in the speech view
    after_ids: list[int]  # from the end of the question to where the response begins
    image_inputs: dict[str, Tensor]
    mel_FM: Tensor | None = None  # noqa: N815


class OmniProcessor:
    def __init__(self, vlm_processor: Any, feature_extractor: WhisperFeatureExtractor, speech_stack: int = 4):
        self.vlm_processor, self.feature_extractor = vlm_processor, feature_extractor
        self.speech_stack = speech_stack
        self.tokenizer = vlm_processor.tokenizer
        # beyond the VLM's vocabulary or in its spare rows: the model never looks this id up
        self.tokenizer.add_tokens([SPEECH_TOKEN], special_tokens=True)
        self.speech_token_id: int = self.tokenizer.convert_tokens_to_ids(SPEECH_TOKEN)

    @classmethod
    def from_pretrained(cls, path: str | Path) -> "OmniProcessor":
        """Reads what `save_pretrained` wrote (a local folder)."""
        folder = Path(path)
        extractor = WhisperFeatureExtractor.from_pretrained(folder / _SPEECH_CONFIG)
        return cls(load_vlm_processor(folder), extractor, config_of(folder, "model")["speech_stack"])

    def save_pretrained(self, path: str | Path) -> None:
        self.vlm_processor.save_pretrained(path)
        self.feature_extractor.save_pretrained(Path(path) / _SPEECH_CONFIG)

    @cached_property
    def _frames(self) -> dict[bool, ChatFrame]:
        return {with_image: chat_frame(self.vlm_processor, with_image) for with_image in (False, True)}

    @cached_property
    def end_id(self) -> int:
        """The token that ends a response in the model's own chat template."""
        end = self._frames[False].end
        return self.ids(end)[0] if end else self.tokenizer.eos_token_id

    def ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def speech_places(self, mel_frames: int) -> int:
        """How many places in a prompt the speech of so many mel frames takes."""
        return stacked_length(encoder_frames(mel_frames), self.speech_stack)

    def look(self, picture: Image.Image | None) -> Seen:
        """What a picture becomes, worked out once for all prompts about it."""
        frame = self._frames[picture is not None]
        if picture is None:
            return Seen(frame.before, frame.after, {})
        batch = self.vlm_processor(images=[picture], text=[frame.before], return_tensors="pt")
        image_inputs = {name: value for name, value in batch.items() if name not in _OF_TEXT}
        return Seen(self.tokenizer.decode(batch["input_ids"][0]), frame.after, image_inputs)

    def mel(self, samples: NDArray[np.float32], name: str = "speech") -> Tensor:
        return log_mel(self.feature_extractor, samples, name)

    def text_prompt(self, question: str, seen: Seen, instruction: str = "") -> Prompt:
        """The written view. The prompt is tokenized whole and cut where the spoken view's begins to differ."""
        before, whole = self.ids(seen.before + instruction), self.ids(seen.before + instruction + question)
        shared = _common_length(before, whole)
        return Prompt(whole[:shared], whole[shared:], self.ids(seen.after), seen.image_inputs)

    def speech_prompt(self, mel_FM: Tensor, seen: Seen, instruction: str = "") -> Prompt:
        """The spoken view: the question is in `mel_FM` and nowhere in the ids."""
        return Prompt(self.ids(seen.before + instruction), [], self.ids(seen.after), seen.image_inputs, mel_FM)

    def __call__(self, prompts: Sequence[Prompt]) -> dict[str, Any]:
        """Prompts as `OmniModel.generate` takes them: prefixes, those of one picture once, and what follows them (with
        the speech token in the places of the speech vectors), both padded on the left."""
        group, firsts = shared_by([(id(p.image_inputs), tuple(p.prefix_ids)) for p in prompts])
        sharing = [prompts[i] for i in firsts]
        suffixes = []
        for p in prompts:
            places = 0 if p.mel_FM is None else self.speech_places(p.mel_FM.shape[1])
            suffixes.append(p.question_ids + [self.speech_token_id] * places + p.after_ids)
        prefix_ids, prefix_mask = self.pad_left([p.prefix_ids for p in sharing])
        suffix_ids, suffix_mask = self.pad_left(suffixes)
        batch: dict[str, Any] = {
            "prefix_ids": prefix_ids,
            "prefix_mask": prefix_mask,
            "group": group,
            "suffix_ids": suffix_ids,
            "suffix_mask": suffix_mask,
            "image_inputs": join_image_inputs([p.image_inputs for p in sharing]),
        }
        mels = [p.mel_FM for p in prompts if p.mel_FM is not None]
        if mels:
            batch["mel_BFM"], batch["mel_mask_BM"] = pad_mels(mels)
        return batch

    def pad_left(self, rows: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
        """(ids, mask) of rows of different lengths."""
        width, pad = max(map(len, rows)), self.tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (width - len(r)) + r for r in rows])
        mask = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows])
        return ids, mask

    def decode(self, ids_BT: Tensor) -> list[str]:
        return [t.strip() for t in self.tokenizer.batch_decode(ids_BT, skip_special_tokens=True)]


def _common_length(a: list[int], b: list[int]) -> int:
    length = 0
    while length < min(len(a), len(b)) and a[length] == b[length]:
        length += 1
    return length
