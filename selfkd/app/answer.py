"""A model answers one question, written and spoken: what it says, how sure it is of each token, where it looks.

Legend: N answer tokens, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from selfkd.analysis.views import written_question
from selfkd.app.looks import Looks, read_answer
from selfkd.data.example import Example
from selfkd.data.views import PairedItem, View, view_prompts
from selfkd.losses import head_logits
from selfkd.model.asked import ends_of
from selfkd.model.omni import OmniModel
from selfkd.model.processor import OmniProcessor, Prompt

ALTERNATIVES = 4


@dataclass(frozen=True)
class Token:
    """A token of an answer, its probability after all that stands before it, and the likeliest others."""

    text: str
    probability: float
    others: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Answer:
    """`tokens` end with the model's mark for the end of its turn where it `has_ended` by itself; `looks` is where it
    looked, layer by layer, or why that cannot be drawn."""

    text: str
    tokens: tuple[Token, ...]
    has_ended: bool
    looks: Looks | str


@torch.no_grad()
def answer(
    model: OmniModel, processor: OmniProcessor, example: Example, views: Sequence[View], max_new_tokens: int
) -> dict[View, Answer]:
    """The greedy answer in each of `views`; both are generated together, from one reading of the picture.

    Raises InputError for what does not fit the model's context with room for so many tokens."""
    prompts = view_prompts(processor, example, views, processor.look(example.picture(), f"example {example.id}"))
    for prompt in prompts:
        ids = prompt.prefix_ids + prompt.suffix_ids
        processor.check_context("question", ids, prompt.speech_inputs, model.context - max_new_tokens)
    ends = ends_of(model, processor.end_id)
    # as evaluation asks: a checkpoint's own sampling and penalties are off
    replies = model.generate(
        **processor(prompts),
        max_new_tokens=max_new_tokens,
        eos_token_id=ends,
        pad_token_id=processor.pad_id,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
    )
    return {
        view: _answer(model, processor, example, view, prompt, ids, ends)
        for view, prompt, ids in zip(views, prompts, replies.tolist(), strict=True)
    }


def _answer(
    model: OmniModel,
    processor: OmniProcessor,
    example: Example,
    view: View,
    prompt: Prompt,
    reply_ids: list[int],
    ends: list[int],
) -> Answer:
    end = next((at for at, id_ in enumerate(reply_ids) if id_ in ends), None)
    ids = reply_ids if end is None else reply_ids[: end + 1]
    item = PairedItem(
        id=example.id,
        prefix_ids=prompt.prefix_ids,
        text_ids=prompt.suffix_ids,
        speech_ids=prompt.suffix_ids,
        response_ids=ids,
        image_inputs=prompt.image_inputs,
        speech_inputs=prompt.speech_inputs,
        transcript="",
        transcript_ids=[],
        picture=example.id,
    )
    question = written_question(processor, example, item) if view == "text" else slice(0)
    hidden_ND, looks = read_answer(model, processor, item, view, question)
    probabilities_NV = _probabilities(model, hidden_ND)
    tokens = (_token(processor, id_, row_V) for id_, row_V in zip(ids, probabilities_NV, strict=True))
    return Answer(processor.decode(torch.tensor([ids]))[0], tuple(tokens), end is not None, looks)


def _probabilities(model: OmniModel, hidden_ND: Tensor) -> Tensor:
    """(N, V), in fp32."""
    logits_NV = head_logits(hidden_ND, model.get_output_embeddings().weight, model.logit_softcap)
    return logits_NV.float().softmax(-1).cpu()


def _token(processor: OmniProcessor, id_: int, probabilities_V: Tensor) -> Token:
    likeliest = probabilities_V.topk(ALTERNATIVES + 1)
    others = [
        (processor.tokenizer.decode([other]), p)
        for other, p in zip(likeliest.indices.tolist(), likeliest.values.tolist(), strict=True)
        if other != id_
    ]
    return Token(processor.tokenizer.decode([id_]), float(probabilities_V[id_]), tuple(others[:ALTERNATIVES]))
