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
from selfkd.evaluation.response import Prediction
from selfkd.losses import CHUNK_ROWS, head_logits
from selfkd.model.generation import (
    EncodedPrompts,
    encode_prompts,
    generate_responses,
    generate_with_early_exit,
    stop_token_ids,
)
from selfkd.model.modeling_omni import OmniModel
from selfkd.model.prefix_cache import continue_prefix
from selfkd.model.processing_omni import EncodedImage, OmniProcessor, Prompt
from selfkd.training.data import MODALITIES, Modality, modality_prompts

MAX_NEW_TOKENS = 48


@torch.no_grad()
def predict_modalities(
    model: OmniModel,
    processor: OmniProcessor,
    examples: Sequence[Example],
    modalities: Sequence[Modality] = MODALITIES,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> dict[Modality, list[Prediction]]:
    """Greedy replies to the examples in each of `modalities`, in the order of `examples`; one generation for all of them.

    Each picture is looked at once and read once, whatever the number of views and of questions about it, and a reply is
    the one that its view gets when asked alone. It ends where the model ends it or after `max_new_tokens`; when all
    have ended, so does the call.
    """
    prompts = prompts_of(processor, examples, modalities)
    for example, of_modalities in zip(examples, prompts, strict=True):
        check_room(model, processor, example, of_modalities, max_new_tokens)
    ends = stop_token_ids(model, processor.end_id)
    parts = encode_prompts(model, **processor.collate([p for of_modalities in prompts for p in of_modalities]))
    pad = processor.pad_id
    ids = generate_responses(
        model, parts, generate_with_early_exit, max_new_tokens=max_new_tokens, eos_token_id=ends, pad_token_id=pad
    )
    ended = torch.isin(ids, ids.new_tensor(ends)).any(1).tolist()
    finish = ("stop" if is_ended else "length" for is_ended in ended)
    predictions = iter(
        [Prediction(text, finish_reason=how) for text, how in zip(processor.decode(ids), finish, strict=True)]
    )
    by_example = [[next(predictions) for _ in modalities] for _ in examples]
    return {modality: [of_modalities[at] for of_modalities in by_example] for at, modality in enumerate(modalities)}


def predict_modality(
    model: OmniModel,
    processor: OmniProcessor,
    examples: Sequence[Example],
    modality: Modality,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> list[Prediction]:
    """`predict_modalities` of one view."""
    return predict_modalities(model, processor, examples, [modality], max_new_tokens)[modality]


def prompts_of(
    processor: OmniProcessor, examples: Sequence[Example], modalities: Sequence[Modality]
) -> list[list[Prompt]]:
    """The prompts of each example, one a view; examples with the same picture have the very same image inputs."""
    seen: dict[bytes | None, EncodedImage] = {}
    for example in examples:
        if example.image not in seen:
            seen[example.image] = processor.encode_image(example.load_image(), f"example {example.id}")
    return [modality_prompts(processor, e, modalities, seen[e.image]) for e in examples]


def check_room(
    model: OmniModel, processor: OmniProcessor, example: Example, prompts: Sequence[Prompt], new_tokens: int
) -> None:
    """Raises InputError where the prompts of an example leave no room for so many new tokens."""
    for prompt in prompts:
        ids = prompt.prefix_ids + prompt.suffix_ids
        processor.check_context(f"example {example.id}", ids, prompt.audio_inputs, model.context - new_tokens)


@torch.no_grad()
def choice_log_likelihoods(
    model: OmniModel,
    processor: OmniProcessor,
    examples: Sequence[Example],
    candidates: Sequence[Sequence[str]],
    modalities: Sequence[Modality] = MODALITIES,
) -> dict[Modality, list[list[float]]]:
    """log p(candidate | prompt) in nats, of each candidate of each example in each of `modalities`.

    A candidate is tokenized as a response is for training, right after the assistant's prompt of the chat template; its
    tokens' log-probabilities are summed, the end of the turn apart (without it "A" is not held against "A red star").
    """
    if len(candidates) != len(examples):
        raise InputError(f"candidates: {len(candidates)} lists for {len(examples)} examples")
    answers = [
        [processor.response_ids(c, e.image is not None)[:-1] for c in of_example]
        for e, of_example in zip(examples, candidates, strict=True)
    ]
    prompts = prompts_of(processor, examples, modalities)
    for example, of_example, of_modalities in zip(examples, answers, prompts, strict=True):
        if not of_example or not all(of_example):
            raise InputError(f"example {example.id}: field candidates: each must have a token, and one must be there")
        check_room(model, processor, example, of_modalities, max(map(len, of_example)))
    found: list[list[float]] = [[]] * (len(examples) * len(modalities))
    for part in encode_prompts(model, **processor.collate([p for of_modalities in prompts for p in of_modalities])):
        of_part = [answers[row // len(modalities)] for row in part.rows_N.tolist()]
        for row, sums in zip(part.rows_N.tolist(), _of_part(model, processor, part, of_part), strict=True):
            found[row] = sums
    return {modality: found[at :: len(modalities)] for at, modality in enumerate(modalities)}


def _of_part(
    model: OmniModel, processor: OmniProcessor, part: EncodedPrompts, answers: Sequence[Sequence[list[int]]]
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
    with part.decoding(model.vlm):
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
