# SPDX-License-Identifier: Apache-2.0
"""What `QueryProcessor` makes of images, clips and the turns of a conversation, and the prefix that prompts share."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import Any, NamedTuple

from torch import Tensor

from .control_tokens import Template
from .features import join_inputs


@dataclass(frozen=True)
class EncodedAudio:
    """A clip as a model takes it: its placeholders in the chat text, their number, and its features by name."""

    text: Template
    audio_inputs: dict[str, Tensor]
    tokens: int = 1


class Turn(NamedTuple):
    """An earlier turn of a conversation: the query, a text or a clip, the response to it, and the text around the
    query. `QueryProcessor.encode_queries` also takes a clip's samples or, as a `Path`, its file."""

    query: Any  # str | EncodedAudio
    response: str
    instruction: str = ""
    answer_format: str = ""


@dataclass(frozen=True)
class EncodedImage:
    """The images of a conversation as a model takes them, and its chat text up to the last query. A single question
    about one image, or about none, is a conversation of one turn.

    `pieces` are the chat texts before and after each query, one after another, with the placeholders of the VLM's own
    processor; `system` is a system message and the template before it. `history_ids` are the tokens up to the end of
    the last earlier response, `responses` the positions (start, stop) of the earlier responses among them, `clips`
    the clips among them."""

    pieces: tuple[Template, ...]
    image_inputs: dict[str, Tensor]
    system: tuple[str, ...] = ()
    history_ids: tuple[int, ...] = ()
    responses: tuple[tuple[int, int], ...] = ()
    clips: tuple[EncodedAudio, ...] = ()

    @property
    def before(self) -> Template:
        """The chat text between the last earlier response, if any, and the query."""
        return self.pieces[-2]

    @property
    def after(self) -> Template:
        """The chat text from the end of the query to the beginning of the response."""
        return self.pieces[-1]


@dataclass(frozen=True)
class Prompt:
    """One query in one modality. Both modalities share `prefix_ids`; `suffix_ids` is the query and what follows it up
    to the beginning of the response. `clips` are all of the prompt, in their order, those in the prefix included."""

    prefix_ids: list[int]
    suffix_ids: list[int]
    image_inputs: dict[str, Tensor]
    clips: tuple[EncodedAudio, ...] = ()

    @cached_property
    def audio_inputs(self) -> dict[str, Tensor]:
        """The features of all clips, as one batch."""
        return join_clips(self.clips)


def join_clips(clips: Sequence[EncodedAudio]) -> dict[str, Tensor]:
    """The features of clips as one batch; {} for none."""
    return join_inputs([clip.audio_inputs for clip in clips])


def clips_in(ids: Sequence[int], clips: Sequence[EncodedAudio], audio_token_id: int) -> int:
    """How many of `clips`, from the first on, have all their placeholders in `ids`."""
    found = list(ids).count(audio_token_id)
    return sum(end <= found for end in accumulate(clip.tokens for clip in clips))


def align_prefixes(prompts: Sequence[Prompt], audio_token_id: int) -> list[Prompt]:
    """Prompts about the same images with their longest common prefix as the prefix of each. Placeholders of different
    clips differ. The first token of a query may include the end of the instruction before it; without this the image
    would be encoded once per modality."""
    cut = common_length(*(token_keys(p.prefix_ids, p.clips, audio_token_id) for p in prompts))
    return [replace(p, prefix_ids=p.prefix_ids[:cut], suffix_ids=p.prefix_ids[cut:] + p.suffix_ids) for p in prompts]


def token_keys(ids: Sequence[int], clips: Sequence[EncodedAudio], audio_token_id: int) -> list[Hashable]:
    """The ids, in which each placeholder of a clip also names its clip: equal keys are equal inputs of the LLM."""
    owners = iter([id(clip) for clip in clips for _ in range(clip.tokens)])
    return [(id_, next(owners)) if id_ == audio_token_id else id_ for id_ in ids]


def common_length(*rows: Sequence[Hashable]) -> int:
    """The length of the longest common prefix."""
    length = 0
    for column in zip(*rows, strict=False):
        if any(key != column[0] for key in column):
            break
        length += 1
    return length
