"""InternVL's processor without its video part.

transformers builds a video processor into `InternVLProcessor`, and that one needs torchvision, which has no CPU build
everywhere and which nothing here uses. Its sub-processors are read off the signature of `__init__`, so leaving
`video_processor` out of the signature is enough; placeholders and tiles stay transformers' own code.
"""

import re

from transformers import InternVLProcessor
from transformers.processing_utils import ProcessorMixin


class InternVLPictureProcessor(InternVLProcessor):
    def __init__(self, image_processor=None, tokenizer=None, image_seq_length: int = 256, chat_template=None, **kwargs):
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template, **kwargs)
        self.image_seq_length = image_seq_length
        self.start_image_token, self.end_image_token = tokenizer.start_image_token, tokenizer.end_image_token
        self.start_image_token_id = tokenizer.start_image_token_id
        self.end_image_token_id = tokenizer.end_image_token_id
        self.image_token, self.image_token_id = tokenizer.context_image_token, tokenizer.context_image_token_id
        self.video_token = getattr(tokenizer, "video_token", None)  # InternVL2 has none
        self.multimodal_pattern = re.compile(f"(?P<image>{re.escape(self.image_token)})")
