"""One query -> one model prompt with a text query or an audio query.

What a model refuses is refused here, so that an invalid request never enters a batch with others.
"""

import secrets
from dataclasses import dataclass, replace

from PIL import Image

from selfkd.errors import InputError
from selfkd.model.processing_omni import OmniProcessor
from selfkd.model.prompts import EncodedAudio, Prompt, Turn
from selfkd.serving.config import ServeConfig
from selfkd.serving.decoding import Query, QueryTurn, context_exceeded
from selfkd.serving.schema import Sampling, bad_field, located


@dataclass(frozen=True)
class PreparedPrompt:
    """A prompt, its length in LLM input tokens, the maximum length of the response, and how its tokens are chosen."""

    prompt: Prompt
    prompt_tokens: int
    max_new_tokens: int
    sampling: Sampling  # with a seed, unless it is greedy
    stop: tuple[str, ...]  # texts that end the response


def prepare(query: Query, config: ServeConfig, processor: OmniProcessor, context: int) -> PreparedPrompt:
    """`context`: the LLM's context length in tokens. Raises RefusedError for prompts that exceed it, and for images and
    audio that the model does not take."""
    prompt = _prompt(query, processor)
    length = processor.length(prompt.prefix_ids + prompt.suffix_ids, prompt.audio_inputs)
    if length >= context:
        raise context_exceeded(f"{length} tokens do not fit the model's context of {context} with room for a response")
    max_new_tokens = min(query.token_limit or config.max_new_tokens, config.max_new_tokens, context - length)
    sampling = query.sampling
    if sampling.seed is None and not sampling.is_greedy:  # here: a batch that fails is run again with the same one
        sampling = replace(sampling, seed=secrets.randbits(63))
    return PreparedPrompt(prompt, length, max_new_tokens, sampling, query.stop)


def _prompt(query: Query, processor: OmniProcessor) -> Prompt:
    clips = [_encoded_clip(turn, processor) for turn in query.turns]
    *history, last = (
        Turn(turn.text_before, turn.response)
        if clip is None
        else Turn(clip, turn.response, turn.text_before, turn.text_after)
        for turn, clip in zip(query.turns, clips, strict=True)
    )
    images = [None if turn.image is None else Image.fromarray(turn.image) for turn in query.turns]
    try:
        encoded_image = processor.encode_image(images, system=query.system, history=history)
    except InputError as error:
        message = str(error)
        if message.startswith("field image: "):  # some image processors refuse extreme aspect ratios
            paths = [turn.image_path for turn in query.turns if turn.image is not None]
            param = f"{paths[0]}.image_url" if len(paths) == 1 else "messages"  # the message has the size
            raise bad_field(param, message.removeprefix("field image: ")) from error
        raise bad_field("messages", message) from error  # some chat templates refuse system messages
    if clips[-1] is None:
        return processor.text_prompt(last.query, encoded_image)
    return processor.audio_prompt(clips[-1], encoded_image, last.instruction, last.answer_format)


def _encoded_clip(turn: QueryTurn, processor: OmniProcessor) -> EncodedAudio | None:
    if turn.samples is None:
        return None
    with located(turn.audio_path):
        try:
            return processor.encode_audio(turn.samples, "input_audio")
        except InputError as error:
            raise bad_field("input_audio", str(error)) from error
