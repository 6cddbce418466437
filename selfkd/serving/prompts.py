"""One request -> one prompt of the model, in the written or the spoken view, with everything that may be wrong with it
found here, before it meets other requests in a batch."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from selfkd.errors import InputError
from selfkd.model.processing_omni import OmniProcessor, Prompt
from selfkd.serving.config import ServeConfig
from selfkd.serving.media import REMOTE, base64_bytes, data_url_bytes, read_audio, read_image
from selfkd.serving.schema import AudioPart, ChatRequest, ImagePart, RefusedError, TextPart, bad_field

_MAX_CHARACTERS_PER_TOKEN = 64  # texts far beyond the context are refused before the tokenizer works on them


@dataclass(frozen=True)
class Prepared:
    """A prompt, how many tokens the LLM reads for it, and the most that it may answer."""

    prompt: Prompt
    prompt_tokens: int
    new_tokens: int


@dataclass(frozen=True)
class Query:
    """The parts of a message by their role: text before the sound is an instruction, after it the form of the answer;
    without sound all text is the question. At most one picture and one sound."""

    before: str
    after: str
    image_url: str | None
    audio_clip: AudioPart | None


def asked_in(request: ChatRequest) -> Query:
    """Texts are joined as they are, with nothing between. Raises RefusedError where nothing is asked, or too much."""
    parts = request.messages[0].content
    images = [p.image_url.url for p in parts if isinstance(p, ImagePart)]
    audio_clips = [p for p in parts if isinstance(p, AudioPart)]
    if len(images) > 1 or len(audio_clips) > 1:
        what = "image_url" if len(images) > 1 else "input_audio"
        raise bad_field("messages.0.content", f"one part of type {what} is taken, there are more")
    place = parts.index(audio_clips[0]) if audio_clips else len(parts)
    before, after = (
        "".join(p.text for p in some if isinstance(p, TextPart)) for some in (parts[:place], parts[place:])
    )
    if not audio_clips and not before.strip():
        raise bad_field("messages.0.content", "asks nothing: send text, or input_audio")
    return Query(before, after, images[0] if images else None, audio_clips[0] if audio_clips else None)


def is_remote(asked: Query, allowed: bool) -> bool:
    """Whether the picture is to be fetched; raises RefusedError where that is not allowed."""
    if asked.image_url is None or not asked.image_url.lower().startswith(REMOTE):
        return False
    if not allowed:
        raise bad_field("image_url", "remote pictures are not fetched here; send a data URL")
    return True


def prepare(
    asked: Query, image: bytes | None, request: ChatRequest, config: ServeConfig, processor: OmniProcessor, context: int
) -> Prepared:
    """`image` is the picture where it was fetched; `context` the tokens that the LLM can read and write.

    Raises RefusedError for what cannot be read, and for what does not fit.
    """
    check_text(asked.before + asked.after, context)
    pil_image = samples = None
    if asked.image_url is not None:
        pil_image = read_image(data_url_bytes(asked.image_url) if image is None else image, config.max_pixels)
    if asked.audio_clip is not None:
        audio_clip = asked.audio_clip.input_audio
        content = base64_bytes(audio_clip.data, "input_audio")
        samples = read_audio(content, audio_clip.format, config.max_audio_seconds)
    prompt = _prompt(asked, pil_image, samples, processor)
    length = processor.length(prompt.prefix_ids + prompt.suffix_ids, prompt.audio_inputs)
    if length >= context:
        raise _too_long(f"{length} tokens do not fit the model's context of {context} with room for a reply")
    new_tokens = min(request.token_limit or config.max_new_tokens, config.max_new_tokens, context - length)
    return Prepared(prompt, length, new_tokens)


def _prompt(
    asked: Query, image: Image.Image | None, samples: NDArray[np.float32] | None, processor: OmniProcessor
) -> Prompt:
    try:
        seen = processor.encode_image(image)
    except InputError as error:  # some image processors refuse strips of a picture
        raise bad_field("image_url", str(error).removeprefix("field image: ")) from error
    if samples is None:
        return processor.text_prompt(asked.before, seen)
    try:
        heard = processor.encode_audio(samples, "input_audio")
    except InputError as error:
        raise bad_field("input_audio", str(error)) from error
    return processor.audio_prompt(heard, seen, asked.before, asked.after)


def check_text(text: str, context: int) -> None:
    """Raises RefusedError for a text that cannot fit, before the tokenizer works on it."""
    if len(text) > context * _MAX_CHARACTERS_PER_TOKEN:
        raise _too_long(f"{len(text)} letters do not fit the model's context of {context} tokens")


def _too_long(message: str) -> RefusedError:
    return RefusedError(400, f"messages: {message}", "messages", "context_length_exceeded")
