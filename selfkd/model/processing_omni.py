# SPDX-License-Identifier: Apache-2.0
"""The processor of an `OmniModel`, with the interface of any processor of transformers: images and text by the VLM's
own processor, audio as log-mel frames. A native omni model's own processor takes the audio too.

`QueryProcessor` adds what selfkd trains and evaluates with.
"""

import json
import os
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from transformers import BatchFeature, PretrainedConfig, WhisperFeatureExtractor
from transformers.dynamic_module_utils import custom_object_save
from transformers.processing_utils import ProcessorMixin
from transformers.utils import PROCESSOR_NAME

from .features import SAMPLE_RATE_HZ, log_mel, pad_mels
from .image_processor import open_processor
from .input_error import InputError
from .media_files import open_audio, open_image
from .queries import AUDIO_TOKEN, QueryProcessor

EXTRACTOR_FOLDER = "audio"  # subfolder of the feature extractor's configuration
_FILES_OF_CLIPS = ("audio", "path", "url")  # keys of an audio part that may hold the clip, as in transformers


class OmniProcessor(QueryProcessor, ProcessorMixin):
    """A VLM's processor and a Whisper feature extractor as one processor of transformers; `<speech>` in a text is the
    placeholder of one clip, however many audio embeddings it has. Without a `feature_extractor` the VLM's own processor
    takes the audio too: that of a native omni model.

    messages = [{"role": "user", "content": [{"type": "image", "path": "a.png"}, {"type": "audio", "path": "a.wav"}]}]
    inputs = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    ids = model.generate(**inputs, max_new_tokens=40)[:, inputs["input_ids"].shape[1] :]
    """

    def __init__(
        self, vlm_processor: Any, feature_extractor: WhisperFeatureExtractor | None = None, stack_factor: int = 4
    ):
        # not ProcessorMixin's, which wants each part of its processors as a part of its own
        QueryProcessor.__init__(self)
        self.vlm_processor, self.feature_extractor = vlm_processor, feature_extractor
        self.stack_factor = stack_factor
        self.tokenizer = vlm_processor.tokenizer
        if feature_extractor is not None:
            # beyond the VLM's vocabulary or in its spare rows: the model never looks this id up
            self.tokenizer.add_tokens([AUDIO_TOKEN], special_tokens=True)
            self.audio_token_id = self.tokenizer.convert_tokens_to_ids(AUDIO_TOKEN)

    @property
    def audio_token(self) -> str:
        """The placeholder of a clip in a text."""
        return self.vlm_processor.audio_token if self.feature_extractor is None else AUDIO_TOKEN

    @property
    def image_processor(self) -> Any:
        return self.vlm_processor.image_processor

    @property
    def chat_template(self) -> Any:  # type: ignore[override]  # an attribute there
        return self.vlm_processor.chat_template

    @property
    def model_input_names(self) -> list[str]:
        own = [] if self.feature_extractor is None else ["input_features", "feature_attention_mask"]
        return [*self.vlm_processor.model_input_names, *own]

    def __call__(
        self, images: Any = None, text: Any = None, audio: Any = None, sampling_rate: int | None = None, **kwargs: Any
    ) -> BatchFeature:
        """Token ids, the VLM's own image inputs, and `input_features` (clips, F, M) and
        `feature_attention_mask` (clips, M) of all clips, in the order of their placeholders over the rows.

        Args:
            images: As the VLM's own processor takes them; local files are opened as RGB, upright, on white.
            text: A text or a list of them, each with the placeholders of its images and clips.
            audio: A clip, a list of all clips, or a list of lists, one for each text: samples (mono, 16 kHz, -1 to 1)
                or the path of a file.
            sampling_rate: The rate of the samples; any other than 16 kHz is refused.
            kwargs: As the VLM's own processor takes them: `return_tensors`, `padding`, `padding_side` and others.

        Raises InputError for a placeholder without its clip and a clip without its placeholder.
        """
        clips, by_row = _rows_of_clips(audio)
        images = _opened(images)
        if sampling_rate not in (None, SAMPLE_RATE_HZ):
            raise InputError(f"sampling_rate: {sampling_rate}: clips have {SAMPLE_RATE_HZ} samples a second")
        if self.feature_extractor is None:
            given = {"audio": [open_audio(clip) for row in clips for clip in row]} if clips else {}
            return self.vlm_processor(images=images, text=text, **given, **kwargs)
        batch = self.vlm_processor(images=images, text=text, **kwargs)
        batch.update(self._clip_inputs(batch["input_ids"], clips, by_row))
        return batch

    def apply_chat_template(self, conversation: Any, *args: Any, **kwargs: Any) -> Any:
        """As any processor of transformers: the text of one conversation or several, or with `tokenize` and
        `return_dict` the inputs of the model. A part of a message is an image, an audio clip ("audio": samples at
        16 kHz, or "path": a file) or a text; the names of control tokens in a text become control tokens.

        In a template that knows no audio a clip is where a text would be."""
        is_batched = bool(conversation) and isinstance(conversation[0], list | tuple)
        conversations = conversation if is_batched else [conversation]
        tokenize, with_inputs = kwargs.get("tokenize", False), kwargs.get("return_dict", False)
        prepared, clips = [], []
        for one in conversations:
            messages, own = self._without_clips(one, decode=tokenize)
            prepared.append(messages)
            clips.append(own)
        found = self.vlm_processor.apply_chat_template(prepared if is_batched else prepared[0], *args, **kwargs)
        if tokenize and self.feature_extractor is not None:
            inputs = self._clip_inputs(found["input_ids"] if with_inputs else found, clips, by_row=True)
            if with_inputs:
                found.update(inputs)
        return found

    def _without_clips(self, messages: Sequence[Mapping[str, Any]], decode: bool) -> tuple[list[Any], list[Any]]:
        """(a conversation in which each clip is a text, its placeholder; the clips). In that of a native omni model
        each clip stays, decoded."""
        changed, clips = [], []
        for message in messages:
            content = message.get("content")
            if isinstance(content, list | tuple):
                parts: list[Any] = []
                for part in content:
                    if decode and part.get("type") == "image":
                        part = _opened_part(part)
                    if part.get("type") == "audio":
                        given = [part[key] for key in _FILES_OF_CLIPS if part.get(key) is not None]
                        if decode and len(given) != 1:
                            raise InputError(f"audio: a part of a message with {len(given)} clips, expected one")
                        clips += given
                        part = self._clip_part(given)
                    parts.append(part)
                message = {**message, "content": parts}
            changed.append(message)
        return changed, clips

    def _clip_part(self, given: Sequence[Any]) -> dict[str, Any]:
        if self.feature_extractor is not None:
            return {"type": "text", "text": AUDIO_TOKEN}
        # an address is left to transformers, which fetches it
        found = [{"url": clip} if _is_address(clip) else {"audio": open_audio(clip)} for clip in given]
        return {"type": "audio", **(found[0] if found else {})}

    def _clip_inputs(self, input_ids: Any, clips: Sequence[Sequence[Any]], by_row: bool) -> dict[str, Any]:
        """The features of the clips, all of which have their placeholder in `input_ids`."""
        rows = input_ids.tolist() if hasattr(input_ids, "tolist") else input_ids
        placeholders, counts = [row.count(self.audio_token_id) for row in rows], [len(row) for row in clips]
        if not by_row:
            placeholders, counts = [sum(placeholders)], [sum(counts)]
        if placeholders != counts:
            pairs = zip_longest(placeholders, counts, fillvalue=0)
            row, (found, given) = next((row, pair) for row, pair in enumerate(pairs) if pair[0] != pair[1])
            where = f"row {row} of the texts has" if by_row else "the texts have"
            raise InputError(
                f"audio: {where} {found} placeholders {AUDIO_TOKEN} for {given} clips; each stands for one clip"
            )
        if not sum(counts):
            return {}
        assert self.feature_extractor is not None  # noqa: S101 an invariant of this code, no check of input
        flat = [open_audio(clip) for row in clips for clip in row]
        mels = [log_mel(self.feature_extractor, samples, f"clip {i}") for i, samples in enumerate(flat)]
        return dict(zip(("input_features", "feature_attention_mask"), pad_mels(mels), strict=True))

    @classmethod
    def from_pretrained(  # type: ignore[override]  # a superset of its arguments
        cls, pretrained_model_name_or_path: str | Path, *, revision: str = "main", **kwargs: Any
    ) -> "OmniProcessor":
        """The processor that `save_pretrained` wrote, or that of a native omni model, by folder or hub id. `kwargs` are
        those of any `from_pretrained` of transformers."""
        source, kwargs = str(pretrained_model_name_or_path), {k: v for k, v in kwargs.items() if k not in _OF_AUTO}
        config, _ = PretrainedConfig.get_config_dict(source, revision=revision, **kwargs)
        vlm_processor = open_processor(config, pretrained_model_name_or_path=source, revision=revision, **kwargs)
        if config.get("audio_config") is None or "vlm_config" not in config:
            return cls(vlm_processor)
        extractor = WhisperFeatureExtractor.from_pretrained(
            source, revision=revision, **kwargs, subfolder=EXTRACTOR_FOLDER
        )
        return cls(vlm_processor, extractor, int(config["stack_factor"]))

    def save_pretrained(self, save_directory: str | Path, push_to_hub: bool = False, **kwargs: Any) -> list[str]:
        """Writes the files of the VLM's own processor, those of the feature extractor in a folder of its own, and the
        code of this class, for `AutoProcessor.from_pretrained(..., trust_remote_code=True)`."""
        if push_to_hub:
            raise InputError("push_to_hub: save the processor, or call its method push_to_hub")
        folder = Path(save_directory)
        self.vlm_processor.save_pretrained(folder)
        if self.feature_extractor is not None:
            self.feature_extractor.save_pretrained(folder / EXTRACTOR_FOLDER)
        custom_object_save(self, folder)
        path = folder / PROCESSOR_NAME
        own = {"processor_class": type(self).__name__, "auto_map": {"AutoProcessor": "processing_omni.OmniProcessor"}}
        text = json.dumps(json.loads(path.read_text(encoding="utf-8")) | own, indent=2, sort_keys=True)
        path.write_text(text + "\n", encoding="utf-8")
        return [str(folder / PROCESSOR_NAME)]

    def to_dict(self) -> dict[str, Any]:
        extractor = {} if self.feature_extractor is None else {"feature_extractor": self.feature_extractor.to_dict()}
        return {
            "processor_class": type(self).__name__,
            "stack_factor": self.stack_factor,
            "vlm_processor": self.vlm_processor.to_dict(),
            **extractor,
        }


_OF_AUTO = ("trust_remote_code", "code_revision", "_from_auto", "_from_pipeline")  # arguments for the choice of a class


def _rows_of_clips(audio: Any) -> tuple[list[list[Any]], bool]:
    """(clips by row, whether they were given by row); otherwise all clips are one row."""
    if audio is None:
        return [], False
    if not isinstance(audio, list | tuple) or (audio and isinstance(audio[0], int | float)):
        return [[audio]], False
    if audio and all(isinstance(row, list | tuple) and not (row and isinstance(row[0], int | float)) for row in audio):
        return [list(row) for row in audio], True
    return [list(audio)], False


def _opened(images: Any) -> Any:
    """Images in the same lists, those of local files opened: as everywhere in selfkd, and not by what is installed."""
    if isinstance(images, list | tuple):
        return [_opened(image) for image in images]
    return open_image(images) if _is_file(images) else images


def _opened_part(part: Mapping[str, Any]) -> Mapping[str, Any]:
    for key in ("image", "path", "url"):
        if _is_file(part.get(key)):
            return {"type": "image", "image": open_image(part[key])}
    return part


def _is_file(image: Any) -> bool:
    """Whether an image is a local file; transformers takes addresses and the bytes in base64, too."""
    return isinstance(image, str | Path) and os.path.isfile(image)  # noqa: PTH113 a Path raises for a text that long


def _is_address(clip: Any) -> bool:
    return isinstance(clip, str) and clip.startswith(("http://", "https://", "data:"))
