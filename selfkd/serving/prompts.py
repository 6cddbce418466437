"""One request -> one model prompt with a text query or an audio query.

All validation happens here, so that an invalid request never enters a batch with others.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from selfkd.errors import InputError
from selfkd.model.processing_omni import OmniProcessor, Prompt
from selfkd.serving.config import ServeConfig
from selfkd.serving.media import REMOTE_SCHEMES, base64_bytes, data_url_bytes, read_audio, read_image
from selfkd.serving.schema import AudioPart, ChatRequest, ImagePart, RefusedError, TextPart, bad_field

_MAX_CHARACTERS_PER_TOKEN = 64  # texts far beyond the context are refused before tokenization


@dataclass(frozen=True)
class PreparedPrompt:
    """A prompt, its length in LLM input tokens, and the maximum length of the response."""

    prompt: Prompt
    prompt_tokens: int
    max_new_tokens: int


@dataclass(frozen=True)
class Query:
    """The parts of a message by role: at most one image and at most one audio part.

    With audio, the text before it is the instruction and the text after it the answer format. Without audio, all text
    is the question (`text_before`).
    """

    text_before: str
    text_after: str
    image_url: str | None
    audio: AudioPart | None


def parse_message(request: ChatRequest) -> Query:
    """Joins text parts without a separator. Raises RefusedError for a message without a query, or with several images
    or audio parts."""
    parts = request.messages[0].content
    images = [p.image_url.url for p in parts if isinstance(p, ImagePart)]
    audio_parts = [p for p in parts if isinstance(p, AudioPart)]
    if len(images) > 1 or len(audio_parts) > 1:
        part_type = "image_url" if len(images) > 1 else "input_audio"
        raise bad_field("messages.0.content", f"at most one part of type {part_type} is supported")
    split = parts.index(audio_parts[0]) if audio_parts else len(parts)
    before, after = (
        "".join(p.text for p in some if isinstance(p, TextPart)) for some in (parts[:split], parts[split:])
    )
    if not audio_parts and not before.strip():
        raise bad_field("messages.0.content", "no query: send text or input_audio")
    return Query(before, after, images[0] if images else None, audio_parts[0] if audio_parts else None)


def has_remote_image(query: Query, allowed: bool) -> bool:
    """Whether the image must be fetched; raises RefusedError where that is not allowed."""
    if query.image_url is None or not query.image_url.lower().startswith(REMOTE_SCHEMES):
        return False
    if not allowed:
        raise bad_field("image_url", "remote images are not fetched here; send a data URL")
    return True


def prepare(
    query: Query, image: bytes | None, request: ChatRequest, config: ServeConfig, processor: OmniProcessor, context: int
) -> PreparedPrompt:
    """`image` is the fetched image, None where the request holds it; `context` the LLM's context length in tokens.

    Raises RefusedError for images and audio that cannot be decoded, and for prompts that exceed the context.
    """
    check_text(query.text_before + query.text_after, context)
    pil_image = samples = None
    if query.image_url is not None:
        pil_image = read_image(data_url_bytes(query.image_url) if image is None else image, config.max_pixels)
    if query.audio is not None:
        audio = query.audio.input_audio
        content = base64_bytes(audio.data, "input_audio")
        samples = read_audio(content, audio.format, config.max_audio_seconds)
    prompt = _prompt(query, pil_image, samples, processor)
    length = processor.length(prompt.prefix_ids + prompt.suffix_ids, prompt.audio_inputs)
    if length >= context:
        raise _context_exceeded(f"{length} tokens do not fit the model's context of {context} with room for a response")
    max_new_tokens = min(request.token_limit or config.max_new_tokens, config.max_new_tokens, context - length)
    return PreparedPrompt(prompt, length, max_new_tokens)


def _prompt(
    query: Query, image: Image.Image | None, samples: NDArray[np.float32] | None, processor: OmniProcessor
) -> Prompt:
    try:
        encoded_image = processor.encode_image(image)
    except InputError as error:  # some image processors refuse extreme aspect ratios
        raise bad_field("image_url", str(error).removeprefix("field image: ")) from error
    if samples is None:
        return processor.text_prompt(query.text_before, encoded_image)
    try:
        encoded_audio = processor.encode_audio(samples, "input_audio")
    except InputError as error:
        raise bad_field("input_audio", str(error)) from error
    return processor.audio_prompt(encoded_audio, encoded_image, query.text_before, query.text_after)


def check_text(text: str, context: int) -> None:
    """Raises RefusedError for a text that cannot fit the context, before it is tokenized."""
    if len(text) > context * _MAX_CHARACTERS_PER_TOKEN:
        raise _context_exceeded(f"{len(text)} characters do not fit the model's context of {context} tokens")


def _context_exceeded(message: str) -> RefusedError:
    return RefusedError(400, f"messages: {message}", "messages", "context_length_exceeded")
