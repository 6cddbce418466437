# SPDX-License-Identifier: Apache-2.0
"""Queries about images in both modalities (text, audio), as token ids with the prefix that they share: the way in which
selfkd trains and evaluates, where one image and its prefix are encoded once.

The chat template is split around the query (`ChatFrame`). Tensors that a VLM's processor returns differ between
backbones; they are passed on by name and joined to a batch here.

Legend: B prompts, G groups of prompts with one prefix, T tokens, F mel bins, M mel frames.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import WhisperFeatureExtractor

from .chat_template import ChatFrame, audio_frame, chat_frame, conversation_pieces
from .control_tokens import Template, TextTokenizer
from .features import check_duration, group_by_key, join_inputs, log_mel
from .input_error import InputError
from .media_files import AudioInput, ImageInput, open_audio, open_image
from .projectors import stacked_length
from .prompts import EncodedAudio, EncodedImage, Prompt, Turn, align_prefixes, clips_in, common_length, join_clips
from .speech_encoder import encoder_frames

_MAX_CONVERSATIONS = 512  # whose rendering is kept, the newest
AUDIO_TOKEN = "<speech>"  # noqa: S105 a token of text
_TEXT_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")


class QueryProcessor:
    """The part of `OmniProcessor` that makes queries of images, text and audio.

    inputs = processor.encode_queries(images=image, text="What color is the circle?")
    print(processor.response_texts(model.generate_responses(**inputs)))
    """

    vlm_processor: Any
    feature_extractor: WhisperFeatureExtractor | None
    stack_factor: int
    tokenizer: Any
    audio_token_id: int

    def __init__(self) -> None:
        self._image_tokens: dict[tuple[int, int], int] = {}  # by size: counting takes half a millisecond
        self._texts: TextTokenizer | None = None  # created on first use
        # of conversations: rendering one takes a process
        self._pieces: dict[tuple[tuple[bool, ...], bool], list[str]] = {}

    @cached_property
    def _frames(self) -> dict[bool, ChatFrame]:
        """By whether there is an image, as `apply_chat_template` tokenizes them: a tokenizer's first token appears
        once, whether the template contains it or the tokenizer adds it to every text."""
        frames = {with_image: chat_frame(self.vlm_processor, with_image) for with_image in (False, True)}
        return {k: replace(frame, before=self._with_first_token(frame.before)) for k, frame in frames.items()}

    def _with_first_token(self, text: str) -> str:
        first = self.tokenizer.bos_token
        is_added = first is not None and self.tokenizer("a")["input_ids"][0] == self.tokenizer.bos_token_id
        return first + text if is_added and not text.startswith(first) else text

    def _conversation(self, with_images: tuple[bool, ...], with_system: bool) -> list[str]:
        """The chat template around the texts of a conversation; each user's turn has an image or none."""
        if not with_system and len(with_images) == 1:
            return [self._frames[with_images[0]].before, self._frames[with_images[0]].after]
        key = with_images, with_system
        if key not in self._pieces:
            if len(self._pieces) >= _MAX_CONVERSATIONS:  # a server's clients choose which turns have images
                self._pieces.pop(next(iter(self._pieces)))
            pieces = conversation_pieces(self.vlm_processor, *key)
            self._pieces[key] = [self._with_first_token(pieces[0]), *pieces[1:]]
        return self._pieces[key]

    @cached_property
    def end_id(self) -> int:
        """The token that ends a response in the model's own chat template."""
        end = self._frames[False].end
        return self.ids(end)[0] if end else self.tokenizer.eos_token_id

    @property
    def pad_id(self) -> int:
        """The id that pads rows, always masked: the tokenizer's pad token, or else its end token."""
        for found in (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id):
            if found is not None:
                return found
        return self.end_id

    def ids(self, text: str) -> list[int]:
        """Token ids of a text of the model's own chat template, control tokens included."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def text_ids(self, *parts: str) -> list[int]:
        """Token ids of `parts` as one text. Names of control tokens become control tokens in a `Template` only; in any
        other part (query, instruction, answer, transcript) they are ordinary text."""
        return self._text_tokenizer.ids(*parts)

    @property
    def _text_tokenizer(self) -> TextTokenizer:
        if self._texts is None or self._texts.tokenizer is not self.tokenizer:
            own = vars(self.vlm_processor)
            named = {value for name, value in own.items() if name.endswith("_token") and isinstance(value, str)}
            found = [own.get("chat_template"), self.tokenizer.chat_template]
            templates = [t for given in found for t in (given.values() if isinstance(given, dict) else [given]) if t]
            self._texts = TextTokenizer(self.tokenizer, {*named, AUDIO_TOKEN}, templates)
        return self._texts

    def response_ids(self, response: str, with_image: bool) -> list[int]:
        """Ids of a response within a conversation, and the end of the turn. A SentencePiece tokenizer marks the
        beginning of a text as it marks a space, and the text after "assistant" in a template has no such mark."""
        return [*self._response_ids(response, Template(self._frames[with_image].after)), self.end_id]

    def _response_ids(self, response: str, after: Template) -> list[int]:
        before, whole = self.ids(after), self.text_ids(after, response)
        merged = whole[: len(before)] != before  # the response has merged with the template's end
        return self.text_ids(response) if merged else whole[len(before) :]

    def encode_image(
        self,
        image: Image.Image | Sequence[Image.Image | None] | None,
        name: str = "",
        system: str = "",
        history: Sequence[Turn | tuple[str, str]] = (),
    ) -> EncodedImage:
        """Processes an image once for all prompts about it. Raises InputError for an image that the model's own
        processor does not take; `name` is that of the example.

        The prompts continue a conversation of a `system` message and earlier turns (`history`). One image is in its
        first turn; a list has one, or None, for each turn and for the query."""
        images = list(image) if isinstance(image, Sequence) else [image, *[None] * len(history)]
        if len(images) != len(history) + 1:
            raise InputError(f"images: {len(images)} for {len(history)} turns and a query; one, or None, for each")
        first, *others = self._conversation(tuple(one is not None for one in images), bool(system))
        lead: tuple[str, ...] = (Template(first), system) if system else ()
        pieces = others if system else [first, *others]
        found = []
        for at, one in enumerate(images):
            if one is not None:
                # the frame starts with the first token of a prompt already, so the tokenizer must not add its own
                settings = {"return_tensors": "pt", "add_special_tokens": False}
                with _size_errors(one.width, one.height, name):
                    batch = self.vlm_processor(images=[one], text=[pieces[2 * at]], **settings)
                pieces = [*pieces[: 2 * at], self.tokenizer.decode(batch["input_ids"][0]), *pieces[2 * at + 1 :]]
                found.append({name: value for name, value in batch.items() if name not in _TEXT_INPUTS})
        image_inputs = found[0] if len(found) == 1 else join_inputs(found)
        return self.with_history(EncodedImage(tuple(map(Template, pieces)), image_inputs, lead), history)

    def with_history(self, image: EncodedImage, history: Sequence[Turn | tuple[str, str]]) -> EncodedImage:
        """The same images after other earlier turns, as many as before."""
        ids: list[int] = []
        clips: list[EncodedAudio] = []
        responses = []
        for at, (query, response, instruction, answer_format) in enumerate(Turn(*turn) for turn in history):
            before, after = image.pieces[2 * at : 2 * at + 2]
            lead = image.system if at == 0 else ()
            is_clip = isinstance(query, EncodedAudio)
            text = (query.text if is_clip else query, answer_format)
            ids += self._query_ids((*lead, before, instruction), text)[1] + self.ids(after)
            start = len(ids)
            ids += self._response_ids(response, after)
            responses.append((start, len(ids)))
            clips += [query] if is_clip else []
        return replace(image, history_ids=tuple(ids), responses=tuple(responses), clips=tuple(clips))

    def image_tokens(self, width: int, height: int) -> int:
        """The number of tokens of an image of this size in pixels; 0 for no image. Raises InputError for a size that
        the model's own processor does not take."""
        if not width or not height:
            return 0
        if (width, height) not in self._image_tokens:
            self._image_tokens[width, height] = self._count_image_tokens(width, height)
        return self._image_tokens[width, height]

    def _count_image_tokens(self, width: int, height: int) -> int:
        count = getattr(self.vlm_processor, "_get_num_multimodal_tokens", None)
        if count is None:  # Phi-4's has none: about 256 tokens for each 448 x 448 pixels
            return width * height // 28**2
        with _size_errors(width, height):
            return count(image_sizes=[[height, width]])["num_image_tokens"][0]

    def encode_audio(self, samples: NDArray[np.float32], name: str = "audio") -> EncodedAudio:
        """Computes the features of a clip (mono, 16 kHz, -1 to 1); `name` is that of the example, for errors."""
        if self.feature_extractor is not None:
            mel_BFM = log_mel(self.feature_extractor, samples, name)[None]
            mask_BM = torch.ones(1, mel_BFM.shape[2], dtype=torch.long)
            return EncodedAudio(Template(AUDIO_TOKEN), {"input_features": mel_BFM, "feature_attention_mask": mask_BM})
        check_duration(samples, name)
        token = self.vlm_processor.audio_token
        batch = self.vlm_processor(text=[token], audio=[samples], return_tensors="pt", add_special_tokens=False)
        audio_inputs = {n: value for n, value in batch.items() if n not in _TEXT_INPUTS}
        frames = audio_inputs.get("audio_input_features")
        if frames is not None:  # Phi-4's processor gives no mask for a single clip
            audio_inputs.setdefault("audio_attention_mask", torch.ones(frames.shape[:2], dtype=torch.bool))
        ids, frame = batch["input_ids"][0].tolist(), self._audio_frame
        text = Template(frame.before + self.tokenizer.decode(ids) + frame.after)
        return EncodedAudio(text, audio_inputs, ids.count(self.clip_token_id))

    @property
    def clip_token_id(self) -> int:
        """The id of a placeholder of audio: one stands for a clip, in a native omni model for an audio embedding."""
        if self.feature_extractor is not None:
            return self.audio_token_id
        return self.tokenizer.convert_tokens_to_ids(self.vlm_processor.audio_token)

    @cached_property
    def _audio_frame(self) -> ChatFrame:
        return audio_frame(self.vlm_processor)

    def unexpanded_ids(self, turns: Sequence[Turn], with_image: bool) -> list[int]:
        """Token ids of a conversation up to the response of its last turn. The image and each clip (of a turn whose
        query is None) are one placeholder, as a template has them: vLLM puts in as many as they have embeddings."""
        pieces = self._conversation((with_image, *[False] * (len(turns) - 1)), False)
        clip = EncodedAudio(Template(AUDIO_TOKEN), {})
        given = [turn if turn.query is not None else turn._replace(query=clip) for turn in turns]
        image = self.with_history(EncodedImage(tuple(map(Template, pieces)), {}), given[:-1])
        query, _, *texts = given[-1]
        prompt = (self.text_prompt if isinstance(query, str) else self.audio_prompt)(query, image, *texts)
        return prompt.prefix_ids + prompt.suffix_ids

    def text_prompt(self, question: str, image: EncodedImage, instruction: str = "", answer_format: str = "") -> Prompt:
        """A text query. The whole prompt is tokenized and split where the prompt of the audio query begins to
        differ."""
        return self._prompt((question, answer_format), image, instruction, ())

    def audio_prompt(
        self, audio: EncodedAudio, image: EncodedImage, instruction: str = "", answer_format: str = ""
    ) -> Prompt:
        """An audio query: the question is in the audio only, not in the ids."""
        return self._prompt((audio.text, answer_format), image, instruction, (audio,))

    def _prompt(
        self, question: tuple[str, str], image: EncodedImage, instruction: str, clips: tuple[EncodedAudio, ...]
    ) -> Prompt:
        history, lead = list(image.history_ids), () if image.history_ids else image.system
        before, whole = self._query_ids((*lead, image.before, instruction), question)
        shared = common_length(before, whole)
        suffix = whole[shared:] + self.ids(image.after)
        return Prompt(history + whole[:shared], suffix, image.image_inputs, (*image.clips, *clips))

    def _query_ids(self, before: tuple[str, ...], question: tuple[str, str]) -> tuple[list[int], list[int]]:
        """Ids of the texts before a query, and of these and the query as one text. Raises InputError where that holds
        other placeholders than those of images and clips: one without its image or clip would crash a GPU kernel."""
        whole = self.text_ids(*before, *question)
        for name, token_id in self._placeholders.items():
            given = sum(part.count(name) for part in (*before, question[0]) if isinstance(part, Template))
            if whole.count(token_id) != given:
                raise InputError(f"the text makes {whole.count(token_id)} placeholders {name!r} of {given}")
        return self.text_ids(*before), whole

    @property
    def _placeholders(self) -> dict[str, int]:
        """Tokens that stand for images and audio, by name."""
        own = (getattr(self.vlm_processor, f"{modality}_token", None) for modality in ("image", "audio"))
        names = {name for name in (*own, AUDIO_TOKEN if self.feature_extractor else None) if isinstance(name, str)}
        return {name: i for name, i in self._text_tokenizer.control.items() if name in names}

    def encode_queries(
        self,
        images: ImageInput | Sequence[ImageInput] = None,
        text: str | Sequence[str | None] | None = None,
        audio: AudioInput | Sequence[AudioInput] = None,
        instruction: str = "",
        answer_format: str = "",
        system: str = "",
        history: Sequence[Turn | tuple[Any, str]] = (),
    ) -> dict[str, Any]:
        """Queries about images, as `OmniModel.generate_responses` takes them.

        Args:
            images: An image (PIL or the path of a file) or None for each query; one image serves all queries. In a
                conversation it is in the first turn, and a list has one, or None, for each turn and for the query.
            text: The text of each query; None for an audio query.
            audio: The clip of each query (samples, mono, 16 kHz, -1 to 1, or the path of a file); None for a text
            query.
            instruction: Text before the query, in both modalities.
            answer_format: Text after the query, in both modalities.
            system: The system message of the conversation that each query continues.
            history: Its earlier turns, each a query and the response to it. A query is a text, or a clip: samples or,
                as a `Path`, its file.

        Raises InputError where a query has both text and audio or neither, and for files that cannot be decoded.
        """
        history = [self._opened_turn(Turn(*turn)) for turn in history]
        texts, clips, given = _as_list(text), _as_list(audio), _as_list(images)
        count = max(len(texts), len(clips))
        texts, clips = (values if len(values) == count else values * count for values in (texts, clips))
        given = given * count if len(given) == 1 else given
        if not len(texts) == len(clips) == len(given):
            raise InputError(
                f"images, text, audio: {len(given)}, {len(texts)} and {len(clips)} given; one each per query"
            )
        encoded: dict[int, EncodedImage] = {}
        prompts = []
        for image, question, clip in zip(given, texts, clips, strict=True):
            if (question is None) == (clip is None):
                raise InputError("text, audio: give exactly one of them for each query")
            if id(image) not in encoded:
                opened = [open_image(one) for one in image] if isinstance(image, list | tuple) else open_image(image)
                encoded[id(image)] = self.encode_image(opened, system=system, history=history)
            around = encoded[id(image)], instruction, answer_format
            if clip is None:
                prompts.append(self.text_prompt(question, *around))
            else:
                prompts.append(self.audio_prompt(self.encode_audio(open_audio(clip)), *around))
        shared = align_prefixes(prompts, self.clip_token_id) if len(encoded) == 1 else prompts
        return self.collate(shared) | {
            "end_id": self.end_id,
            "pad_token_id": self.pad_id,
        }

    def _opened_turn(self, turn: Turn) -> Turn:
        is_clip = not isinstance(turn.query, str | EncodedAudio)
        return turn._replace(query=self.encode_audio(open_audio(turn.query))) if is_clip else turn

    def collate(self, prompts: Sequence[Prompt]) -> dict[str, Any]:
        """Prompts of both modalities as `OmniModel.generate_responses` takes them: prefixes (G, T), one for all prompts
        about an image, padded on the left; what follows them (B, T), padded on the right; `group` (B,), the prefix of
        each. `prefix_audio_inputs` are the clips in the prefixes, `audio_inputs` those after them."""
        counts = [clips_in(p.prefix_ids, p.clips, self.clip_token_id) if p.clips else 0 for p in prompts]
        shared = [tuple(map(id, p.clips[:count])) for p, count in zip(prompts, counts, strict=True)]
        keys = [(id(p.image_inputs), tuple(p.prefix_ids), of) for p, of in zip(prompts, shared, strict=True)]
        group, firsts = group_by_key(keys)
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
            "prefix_audio_inputs": join_clips([clip for i in firsts for clip in prompts[i].clips[: counts[i]]]),
            "audio_inputs": join_clips([clip for p, n in zip(prompts, counts, strict=True) for clip in p.clips[n:]]),
            "has_audio": torch.tensor([bool(p.clips) for p in prompts]),
        }

    def check_context(self, name: str, ids: Sequence[int], audio_inputs: dict[str, Tensor], context: int) -> None:
        """Raises InputError where the LLM's input for `ids` is longer than its context; `name` is the example's."""
        length = self.length(ids, audio_inputs)
        if length > context:
            raise InputError(f"{name}: {length} tokens do not fit the model's context of {context}")

    def length(self, ids: Sequence[int], audio_inputs: dict[str, Tensor]) -> int:
        """Length of the LLM's input for `ids`, in tokens; an audio embedding counts as one."""
        if self.feature_extractor is None or not audio_inputs:
            return len(ids)
        frames_B = encoder_frames(audio_inputs["feature_attention_mask"].sum(-1))
        # audio embeddings replace the audio token
        return len(ids) + int((stacked_length(frames_B, self.stack_factor) - 1).sum())

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

    def response_texts(self, ids_BT: Tensor | Sequence[list[int]]) -> list[str]:
        """The text of each row of ids, without special tokens."""
        return [t.strip() for t in self.tokenizer.batch_decode(ids_BT, skip_special_tokens=True)]


def _as_list(values: Any) -> list[Any]:
    """One value for each query; a single value as a list of one."""
    return list(values) if isinstance(values, list | tuple) else [values]


@contextmanager
def _size_errors(width: int, height: int, name: str = "") -> Iterator[None]:
    """Raises InputError for image sizes that a processor does not take: Qwen2-VL's refuses strips (200 to 1), others
    fail in their resizing, each with an exception of its own."""
    try:
        yield
    except (ValueError, ArithmeticError, RuntimeError, IndexError) as error:
        where = f"{name}: field image" if name else "field image"
        raise InputError(f"{where}: the model does not take {width} x {height} pixels ({error})") from error
