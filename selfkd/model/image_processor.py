# SPDX-License-Identifier: Apache-2.0
"""Processors of transformers without their video processor.

transformers includes a video processor in the processor of every model that takes videos, and that needs torchvision,
which nothing here uses. Placeholders, tiles and audio features are transformers' own code.
"""

import re
from types import SimpleNamespace
from typing import Any

import transformers
from transformers import InternVLProcessor, LlavaProcessor
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES
from transformers.processing_utils import ProcessorMixin

from .native_omni import THINKERS

_VIDEO = "video_processor"


class WithoutVideo(ProcessorMixin):
    """A base class placed after a processor's class, so that its calls of `ProcessorMixin` methods arrive here
    first."""

    def __init__(self, *parts: Any, **more: Any):
        named = dict(zip(super().get_attributes(), parts, strict=False)) | more
        named.pop(_VIDEO, None)
        super().__init__(**named)

    @property
    def video_processor(self) -> Any:
        """Stands in where a processor asks for settings of videos without having one: Qwen-Omni's for the size of a
        patch, SmolVLM's for the number of frames."""
        merge_size = getattr(self.image_processor, "merge_size", 1)
        return SimpleNamespace(merge_size=merge_size, num_frames=None, fps=None, model_input_names=[])

    @classmethod
    def get_attributes(cls) -> list[str]:
        return [name for name in super().get_attributes() if name != _VIDEO]

    @classmethod
    def _get_arguments_from_pretrained(cls, *args: Any, **kwargs: Any) -> list[Any]:
        parts = super()._get_arguments_from_pretrained(*args, **kwargs)
        names = super().get_attributes()
        if _VIDEO in names:
            parts.insert(names.index(_VIDEO), None)  # they are positional arguments
        return parts


class InternVLImageTextProcessor(InternVLProcessor):
    """`InternVLProcessor` for the tokenizers of InternVL2, which have no video token."""

    def __init__(self, image_processor=None, tokenizer=None, image_seq_length: int = 256, chat_template=None, **kwargs):
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template, **kwargs)
        self.image_seq_length = image_seq_length
        self.start_image_token, self.end_image_token = tokenizer.start_image_token, tokenizer.end_image_token
        self.start_image_token_id = tokenizer.start_image_token_id
        self.end_image_token_id = tokenizer.end_image_token_id
        self.image_token, self.image_token_id = tokenizer.context_image_token, tokenizer.context_image_token_id
        self.video_token = getattr(tokenizer, "video_token", None)
        self.multimodal_pattern = re.compile(f"(?P<image>{re.escape(self.image_token)})")


def image_processor_class(model_type: str) -> type[ProcessorMixin]:
    """The class of a model's processor, without its video processor; raises KeyError for a model without a
    processor."""
    if model_type == "internvl":
        return InternVLImageTextProcessor
    if model_type == "fast_vlm":  # not among the processors of transformers' own list; its checkpoints name this one
        return LlavaProcessor
    processor_class = getattr(transformers, PROCESSOR_MAPPING_NAMES[model_type])
    if _VIDEO not in processor_class.get_attributes():
        return processor_class
    # the same name: `save_pretrained` writes it
    return type(processor_class.__name__, (processor_class, WithoutVideo), {})


def open_processor(config: dict[str, Any], **source: Any) -> Any:
    """The processor of a VLM, of a native omni model or of the VLM in an `OmniModel`, of which `config` is the content
    of config.json; `source` are arguments of `from_pretrained`."""
    model_type = config.get("vlm_config", config)["model_type"]
    whole_model = {thinker: omni for omni, thinker in THINKERS.items()}.get(model_type, model_type)
    processor = image_processor_class(whole_model).from_pretrained(**source)
    if processor.chat_template is None:  # transformers gives Phi-4's to the tokenizer only
        processor.chat_template = processor.tokenizer.chat_template
    return processor
