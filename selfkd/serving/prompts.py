"""One query -> one model prompt with a text query or an audio query.

What a model refuses is refused here, so that an invalid request never enters a batch with others.
"""

from dataclasses import dataclass

from PIL import Image

from selfkd.errors import InputError
from selfkd.model.processing_omni import OmniProcessor
from selfkd.model.queries import Prompt
from selfkd.serving.config import ServeConfig
from selfkd.serving.decoding import Query, context_exceeded
from selfkd.serving.schema import bad_field


@dataclass(frozen=True)
class PreparedPrompt:
    """A prompt, its length in LLM input tokens, and the maximum length of the response."""

    prompt: Prompt
    prompt_tokens: int
    max_new_tokens: int


def prepare(query: Query, config: ServeConfig, processor: OmniProcessor, context: int) -> PreparedPrompt:
    """`context`: the LLM's context length in tokens. Raises RefusedError for prompts that exceed it, and for images and
    audio that the model does not take."""
    prompt = _prompt(query, processor)
    length = processor.length(prompt.prefix_ids + prompt.suffix_ids, prompt.audio_inputs)
    if length >= context:
        raise context_exceeded(f"{length} tokens do not fit the model's context of {context} with room for a response")
    max_new_tokens = min(query.token_limit or config.max_new_tokens, config.max_new_tokens, context - length)
    return PreparedPrompt(prompt, length, max_new_tokens)


def _prompt(query: Query, processor: OmniProcessor) -> Prompt:
    try:
        encoded_image = processor.encode_image(None if query.image is None else Image.fromarray(query.image))
    except InputError as error:  # some image processors refuse extreme aspect ratios
        raise bad_field("image_url", str(error).removeprefix("field image: ")) from error
    if query.samples is None:
        return processor.text_prompt(query.text_before, encoded_image)
    try:
        encoded_audio = processor.encode_audio(query.samples, "input_audio")
    except InputError as error:
        raise bad_field("input_audio", str(error)) from error
    return processor.audio_prompt(encoded_audio, encoded_image, query.text_before, query.text_after)
