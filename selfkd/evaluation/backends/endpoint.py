"""Any OpenAI-compatible chat endpoint as a backend: GPT-4o-audio, or vLLM, VITA, MiniCPM-o behind a server.

Text and audio queries send the same image, instruction and form of the answer, each as a part of one user message; the
question between them is text in the text modality and audio in the audio modality.
"""

import base64
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import soundfile

from selfkd.credentials import masked
from selfkd.data.dataset import ExampleFolder
from selfkd.data.example import SAMPLE_RATE_HZ, Example, groups_of, image_to_png
from selfkd.data.media import is_plain
from selfkd.errors import InputError
from selfkd.evaluation.backends.base import Predictions
from selfkd.evaluation.backends.openai_client import (
    USAGE,
    EndpointSettings,
    OpenAIClient,
    Usage,
    endpoint_settings,
    saved_usage,
)
from selfkd.evaluation.backends.transcriber import Transcriber, transcribe, with_transcripts_of_history
from selfkd.evaluation.cascade import predict_both_forms
from selfkd.evaluation.config import EvalModality, EvaluateConfig
from selfkd.evaluation.response import Prediction
from selfkd.model.checkpoint import CheckpointInfo
from selfkd.training.data import Modality

TRANSCRIBED_AT_ONCE = 64  # items of a cascade


@dataclass
class EndpointClient:
    """The endpoint at a base URL in one modality. Clients that are given the same `usage` share one budget.

    A prediction with an `error` holds no response; the caller decides whether the item runs again, is left out or is
    reported.
    """

    url: str
    model: str
    modality: Modality
    settings: EndpointSettings = field(default_factory=EndpointSettings)
    usage: Usage = field(default_factory=Usage)

    def __post_init__(self) -> None:
        self._client = OpenAIClient(self.url, self.model, self.settings, self.usage)

    def predict(self, examples: Sequence[Example]) -> list[Prediction]:
        """Predictions in the order of the examples. All are lost where InputError ends the run: see `predict_each`."""
        predictions = dict(self.predict_each(examples))
        return [predictions[i] for i in range(len(examples))]

    def predict_each(self, examples: Iterable[Example]) -> Iterator[tuple[int, Prediction]]:
        """Yields (position in `examples`, prediction) as responses come. Raises InputError where the endpoint is not as
        configured or answers no more; what was yielded before is valid."""
        return self._client.query_each(examples, lambda example: messages_of(example, self.modality))


@dataclass
class EndpointBackend:
    """A model behind an OpenAI-compatible endpoint; all modalities share one budget."""

    scores_likelihoods: ClassVar[bool] = False

    url: str
    model: str
    settings: EndpointSettings
    transcriber: Transcriber | None = None
    usage: Usage = field(default_factory=Usage)

    @classmethod
    def accepts(cls, config: EvaluateConfig) -> bool:
        return bool(config.url)

    @classmethod
    def inspect(cls, config: EvaluateConfig) -> None:
        return None

    @classmethod
    def input_hashes(cls, config: EvaluateConfig, checkpoint: CheckpointInfo | None) -> dict[str, Any]:
        return {"endpoint.extra": masked(request_settings(config).extra, "extra")}

    @classmethod
    @contextmanager
    def open(
        cls, config: EvaluateConfig, checkpoint: CheckpointInfo | None, transcriber: Transcriber | None, run: Path
    ) -> Iterator["EndpointBackend"]:
        """The run's usage.json holds what the endpoint cost; a resumed run counts it in its budget."""
        with saved_usage(run / USAGE, config.model) as usage:
            yield cls(config.url.removeprefix("openai"), config.model, request_settings(config), transcriber, usage)

    def predict(self, examples: ExampleFolder, wanted: Mapping[EvalModality, Sequence[int]]) -> Predictions:
        for modality, positions in wanted.items():
            if modality == "cascade":
                yield from self._predict_cascade(examples, positions)
            else:
                wanted_examples = (examples[i] for i in positions)
                for at, prediction in self._client(modality).predict_each(wanted_examples):
                    yield positions[at], modality, prediction

    def _predict_cascade(self, examples: ExampleFolder, positions: Sequence[int]) -> Predictions:
        """A batch is transcribed before its requests begin: transcription between them would hold up responses."""
        client = self._client("text")
        for batch in groups_of(positions, TRANSCRIBED_AT_ONCE):
            transcribed: list[tuple[int, Example]] = []
            transcripts: list[str] = []
            for i in batch:
                try:
                    example, language = examples[i], examples.language
                    (example,) = with_transcripts_of_history(self.transcriber, [example], language)
                    transcripts += transcribe(self.transcriber, [example], language)
                    transcribed.append((i, example))
                except InputError as error:  # longer than the ASR model's window, or not decodable
                    yield i, "cascade", Prediction("", error=str(error))
            some = [example for _, example in transcribed]
            for at, prediction in predict_both_forms(some, transcripts, examples.language, client.predict_each):
                yield transcribed[at][0], "cascade", prediction

    def _client(self, modality: Modality) -> EndpointClient:
        return EndpointClient(self.url, self.model, modality, self.settings, self.usage)


def request_settings(config: EvaluateConfig) -> EndpointSettings:
    """The settings of an evaluation's requests; raises InputError for an unknown field."""
    if "max_new_tokens" in config.endpoint:  # a run may resume with another endpoint, not with longer responses
        raise InputError("endpoint: max_new_tokens: is a field of the run itself, max_new_tokens")
    return endpoint_settings({"max_new_tokens": config.max_new_tokens, **config.endpoint})


def messages_of(example: Example, modality: Modality) -> list[dict[str, Any]]:
    """The earlier turns of an example with their responses, and its query; all queries have the modality, and the image
    is in the first turn."""
    messages: list[dict[str, Any]] = []
    for number, turn in enumerate(example.turns()):
        messages.append(user_message(replace(turn, image=None if number else example.image), modality))
        messages.append({"role": "assistant", "content": turn.answer})
    return messages[:-1]


def user_message(example: Example, modality: Modality) -> dict[str, Any]:
    """Image, instruction, question, form of the answer; parts that the example does not have are left out."""
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
    """The example's image as it is; as PNG where no endpoint reads its format, or where decoders differ in its pixels
    (see `is_plain`). Raises InputError where it cannot be read."""
    image = example.image or b""
    media_type = image_media_type(image)
    if not media_type or not is_plain(image):
        pil_image = example.load_image()
        image, media_type = image_to_png(pil_image) if pil_image else b"", "image/png"
    return {"type": "image_url", "image_url": {"url": f"data:{media_type};base64,{_base64(image)}"}}


def image_media_type(image: bytes) -> str:
    """By the file's first bytes; "" for a format that endpoints do not read."""
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
    """The example's audio as WAV, mono, 16 kHz, 16 bit; samples that were 16 bit are unchanged."""
    # soundfile would scale floats by 32767 and so change every sample
    samples = np.clip(np.round(example.samples() * 32_768), -32_768, 32_767).astype(np.int16)
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, SAMPLE_RATE_HZ, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
