"""Any OpenAI-compatible chat endpoint as an answerer: GPT-4o-audio, or vLLM, VITA, MiniCPM-o behind a server.

Both views send the same picture, instruction and form of the answer, each as a part of one user message; the question
between them is written in the text view and sound in the speech view.
"""

import base64
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import soundfile

from selfkd.data.example import SAMPLE_RATE_HZ, Example, image_to_png
from selfkd.data.media import is_plain
from selfkd.evaluation.backends.openai_client import EndpointSettings, OpenAIClient, Usage
from selfkd.evaluation.response import Prediction
from selfkd.training.data import Modality


@dataclass
class EndpointClient:
    """The endpoint at a base URL in one view. Give both views' answerers the same `usage` to share one budget.

    A reply with `error` is no answer at all; whether it is asked again, left out or reported is the caller's choice.
    """

    url: str
    model: str
    modality: Modality
    settings: EndpointSettings = field(default_factory=EndpointSettings)
    usage: Usage = field(default_factory=Usage)

    def __post_init__(self) -> None:
        self._asker = OpenAIClient(self.url, self.model, self.settings, self.usage)

    def answer(self, examples: Sequence[Example]) -> list[Prediction]:
        """Replies in the order of the examples. All are lost where InputError ends the asking: see `answer_each`."""
        predictions = dict(self.answer_each(examples))
        return [predictions[i] for i in range(len(examples))]

    def answer_each(self, examples: Iterable[Example]) -> Iterator[tuple[int, Prediction]]:
        """Yields (position in `examples`, reply) as replies come. Raises InputError where the endpoint is not as
        configured or does not answer any more; what was yielded before is good."""
        return self._asker.query_each(examples, lambda example: [user_message(example, self.modality)])


def user_message(example: Example, modality: Modality) -> dict[str, Any]:
    """Picture, instruction, question, form of the answer; parts that the example does not have are left out."""
    question = text_part(example.question) if modality == "text" else audio_part(example)
    parts = [
        *([image_part(example)] if example.image is not None else []),
        *([text_part(example.instruction)] if example.instruction else []),
        question,
        *([text_part(example.answer_format)] if example.answer_format else []),
    ]
    return {"role": "user", "content": parts}


def text_part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def image_part(example: Example) -> dict[str, Any]:
    """The example's image as it is; as PNG where no endpoint would read its format, or not all would see the same in it
    (see `is_plain`). InputError where it cannot be read."""
    image = example.image or b""
    media_type = image_media_type(image)
    if not media_type or not is_plain(image):
        pil_image = example.load_image()
        image, media_type = image_to_png(pil_image) if pil_image else b"", "image/png"
    return {"type": "image_url", "image_url": {"url": f"data:{media_type};base64,{_base64(image)}"}}


def image_media_type(image: bytes) -> str:
    """By the file's first bytes; "" where it is none of those that endpoints read."""
    if image.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if image.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        return "image/webp"
    return ""


def audio_part(example: Example) -> dict[str, Any]:
    return {"type": "input_audio", "input_audio": {"data": _base64(wav(example)), "format": "wav"}}


def wav(example: Example) -> bytes:
    """The example's speech as WAV, mono, 16 kHz, 16 bit: the very samples where they were 16 bit."""
    # soundfile would scale floats by 32767 and so change every sample
    samples = np.clip(np.round(example.samples() * 32_768), -32_768, 32_767).astype(np.int16)
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, SAMPLE_RATE_HZ, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
