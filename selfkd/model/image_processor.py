"""Processors of transformers without their video part.

transformers builds a video processor into the processor of every model that could watch one, and that needs
torchvision, which nothing here uses. Placeholders, tiles and sound stay transformers' own code.
"""

import re
from typing import Any

import transformers
from transformers import InternVLProcessor
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES
from transformers.processing_utils import ProcessorMixin

_VIDEO = "video_processor"


class WithoutVideo(ProcessorMixin):
    """Goes behind a processor's class: what that class hands on to `ProcessorMixin` passes through here."""

    def __init__(self, *parts: Any, **more: Any):
        named = dict(zip(super().get_attributes(), parts, strict=False)) | more
        named.pop(_VIDEO, None)
        super().__init__(**named)

    @classmethod
    def get_attributes(cls) -> list[str]:
        return [name for name in super().get_attributes() if name != _VIDEO]

    @classmethod
    def _get_arguments_from_pretrained(cls, *args: Any, **kwargs: Any) -> list[Any]:
        parts = super()._get_arguments_from_pretrained(*args, **kwargs)
        names = super().get_attributes()
        if _VIDEO in names:
            parts.insert(names.index(_VIDEO), None)  # they are handed over by their place
        return parts


class InternVLImageTextProcessor(InternVLProcessor):
    """Apart from the others because InternVL2's tokenizers have no token for videos."""

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
    """The class of a model's processor, without the video part where there is one; KeyError for what has none."""
    if model_type == "internvl":
        return InternVLImageTextProcessor
    whole = getattr(transformers, PROCESSOR_MAPPING_NAMES[model_type])
    if _VIDEO not in whole.get_attributes():
        return whole
    return type(whole.__name__, (whole, WithoutVideo), {})  # its own name, which is written into what it saves
