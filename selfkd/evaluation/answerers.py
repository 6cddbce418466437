"""A model answers: in the text view, in the speech view, or in both at once."""

from collections.abc import Sequence

import torch

from selfkd.data.example import Example
from selfkd.data.views import VIEWS, View, view_prompts
from selfkd.evaluation.reply import Reply
from selfkd.model.asked import ends_of, generate_replies, read_prompts
from selfkd.model.omni import OmniModel
from selfkd.model.processor import OmniProcessor, Prompt, Seen
from selfkd.model.rounds import generate_in_rounds

MAX_NEW_TOKENS = 48


@torch.no_grad()
def answer_views(
    model: OmniModel,
    processor: OmniProcessor,
    examples: Sequence[Example],
    views: Sequence[View] = VIEWS,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> dict[View, list[Reply]]:
    """Greedy replies to the examples in each of `views`, in the order of `examples`; one generation for all of them.

    Each picture is looked at once and read once, whatever the number of views and of questions about it, and a reply is
    the one that its view gets when asked alone. It ends where the model ends it or after `max_new_tokens`; when all
    have ended, so does the call.
    """
    prompts = prompts_of(processor, examples, views)
    for example, of_views in zip(examples, prompts, strict=True):
        check_room(model, processor, example, of_views, max_new_tokens)
    ends = ends_of(model, processor.end_id)
    parts = read_prompts(model, **processor([p for of_views in prompts for p in of_views]))
    pad = processor.pad_id
    ids = generate_replies(
        model, parts, generate_in_rounds, max_new_tokens=max_new_tokens, eos_token_id=ends, pad_token_id=pad
    )
    ended = torch.isin(ids, ids.new_tensor(ends)).any(1).tolist()
    finish = ("stop" if is_ended else "length" for is_ended in ended)
    replies = iter([Reply(text, finish_reason=how) for text, how in zip(processor.decode(ids), finish, strict=True)])
    by_example = [[next(replies) for _ in views] for _ in examples]
    return {view: [of_views[at] for of_views in by_example] for at, view in enumerate(views)}


def answer_view(
    model: OmniModel,
    processor: OmniProcessor,
    examples: Sequence[Example],
    view: View,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> list[Reply]:
    """`answer_views` of one view."""
    return answer_views(model, processor, examples, [view], max_new_tokens)[view]


def prompts_of(processor: OmniProcessor, examples: Sequence[Example], views: Sequence[View]) -> list[list[Prompt]]:
    """The prompts of each example, one a view; examples with the same picture have the very same image inputs."""
    seen: dict[bytes | None, Seen] = {}
    for example in examples:
        if example.image not in seen:
            seen[example.image] = processor.look(example.picture(), f"example {example.id}")
    return [view_prompts(processor, e, views, seen[e.image]) for e in examples]


def check_room(
    model: OmniModel, processor: OmniProcessor, example: Example, prompts: Sequence[Prompt], new_tokens: int
) -> None:
    """Raises InputError where the prompts of an example leave no room for so many new tokens."""
    for prompt in prompts:
        ids = prompt.prefix_ids + prompt.suffix_ids
        processor.check_context(f"example {example.id}", ids, prompt.speech_inputs, model.context - new_tokens)
