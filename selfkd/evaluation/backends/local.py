"""A local model as a backend: responses in one modality or both, and multiple choice by likelihood.

The likelihood of each candidate needs no generation and no parsing. The image is encoded once for both modalities, the
query once for all its candidates, and candidates that differ in their last token alone (A, B) are scored at once.

Legend: C continuations, S their tokens, N tokens of candidates, R rows with logits, D width, V vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from selfkd.data.example import Example
from selfkd.errors import InputError
from selfkd.evaluation.response import Reply
from selfkd.losses import CHUNK_ROWS, head_logits
from selfkd.model.generation import Asked, ends_of, generate_in_rounds, generate_replies, read_prompts
from selfkd.model.modeling_omni import OmniModel
from selfkd.model.prefix_cache import continue_prefix
from selfkd.model.processing_omni import OmniProcessor, Prompt, Seen
from selfkd.training.data import VIEWS, View, view_prompts

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


@torch.no_grad()
def choice_log_likelihoods(
    model: OmniModel,
    processor: OmniProcessor,
    examples: Sequence[Example],
    candidates: Sequence[Sequence[str]],
    views: Sequence[View] = VIEWS,
) -> dict[View, list[list[float]]]:
    """log p(candidate | prompt) in nats, of each candidate of each example in each of `views`.

    A candidate is tokenized as a response is for training, right after the assistant's prompt of the chat template; its
    tokens' log-probabilities are summed, the end of the turn apart (without it "A" is not held against "A red star").
    """
    if len(candidates) != len(examples):
        raise InputError(f"candidates: {len(candidates)} lists for {len(examples)} examples")
    answers = [
        [processor.response_ids(c, e.image is not None)[:-1] for c in of_example]
        for e, of_example in zip(examples, candidates, strict=True)
    ]
    prompts = prompts_of(processor, examples, views)
    for example, of_example, of_views in zip(examples, answers, prompts, strict=True):
        if not of_example or not all(of_example):
            raise InputError(f"example {example.id}: field candidates: each must have a token, and one must be there")
        check_room(model, processor, example, of_views, max(map(len, of_example)))
    found: list[list[float]] = [[]] * (len(examples) * len(views))
    for part in read_prompts(model, **processor([p for of_views in prompts for p in of_views])):
        of_part = [answers[row // len(views)] for row in part.rows_N.tolist()]
        for row, sums in zip(part.rows_N.tolist(), _of_part(model, processor, part, of_part), strict=True):
            found[row] = sums
    return {view: found[at :: len(views)] for at, view in enumerate(views)}


def _of_part(
    model: OmniModel, processor: OmniProcessor, part: Asked, answers: Sequence[Sequence[list[int]]]
) -> list[list[float]]:
    """Sums of log p for each prompt of a part and each of its answers (token ids)."""
    # the last token of an answer is predicted and never read: answers that differ in it alone are one continuation
    read: dict[tuple[int, tuple[int, ...]], int] = {}
    for prompt, of_prompt in enumerate(answers):
        for ids in of_prompt:
            read.setdefault((prompt, tuple(ids[:-1])), len(read))
    last = part.last_ids_N.tolist()
    ids_CS, mask_CS = processor.pad_right([[last[prompt], *before] for prompt, before in read])
    prefix = part.prefix.rows(torch.tensor([prompt for prompt, _ in read], device=model.device))
    ids_CS, mask_CS = ids_CS.to(model.device), mask_CS.to(model.device)
    with part.going_on(model.vlm):
        hidden_CSD = continue_prefix(model.vlm, prefix, {"input_ids": ids_CS}, mask_CS)

    starts = (mask_CS.sum(-1).cumsum(0) - mask_CS.sum(-1)).tolist()
    flat = [(starts[read[p, tuple(ids[:-1])]], ids) for p, of_prompt in enumerate(answers) for ids in of_prompt]
    rows_N = torch.tensor([start + place for start, ids in flat for place in range(len(ids))])
    tokens_N = torch.tensor([token for _, ids in flat for token in ids])
    picked = _log_probabilities(model, hidden_CSD[mask_CS.bool()], rows_N, tokens_N)
    sums = iter([float(piece.sum()) for piece in picked.split([len(ids) for _, ids in flat])])
    return [[next(sums) for _ in of_prompt] for of_prompt in answers]


def _log_probabilities(model: OmniModel, hidden_RD: Tensor, rows_N: Tensor, tokens_N: Tensor) -> Tensor:
    """log p (N,) in fp32 of `tokens_N`, each as row `rows_N` predicts it; logits exist for some rows at a time."""
    picked_N, head_VD = torch.empty(len(rows_N)), model.get_output_embeddings().weight
    for start in range(0, len(hidden_RD), CHUNK_ROWS):
        logits = head_logits(hidden_RD[start : start + CHUNK_ROWS], head_VD, model.logit_softcap)
        log_p_RV = logits.float().log_softmax(-1)
        here = (rows_N >= start) & (rows_N < start + CHUNK_ROWS)
        rows, tokens = ((t[here]).to(log_p_RV.device) for t in (rows_N - start, tokens_N))
        picked_N[here] = log_p_RV[rows, tokens].cpu()
    return picked_N
