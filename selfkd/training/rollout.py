"""On-policy self-distillation: the student answers what it saw and heard, and the teacher, who reads the question,
scores each token that it said. So the student learns where its own words lead it, as in GKD (arXiv 2306.13649).

Legend: B examples, R response tokens.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from selfkd.model.generation import encode_prompts, generate_responses
from selfkd.model.modeling_omni import OmniModel
from selfkd.model.prefix_cache import encode_prefix, generate_after


@torch.no_grad()
def rollout(model: OmniModel, batch: Mapping[str, Any], end_id: int, max_new_tokens: int) -> dict[str, Any]:
    """The same batch with the student's own replies for responses, drawn at temperature 1. The pictures' prefixes are
    read once for the replies and what is made of them."""
    was_training = model.training
    model.eval()
    prefix = encode_prefix(model.vlm, batch["prefix_ids"], batch["prefix_mask"], **batch["image_inputs"])
    questions = _questions(batch, "audio")
    ids_BS, mask_BS = pad_sequence(questions, True), pad_sequence([torch.ones_like(q) for q in questions], True)
    spoken = torch.ones(len(ids_BS), dtype=torch.bool, device=ids_BS.device)
    asked = batch["prefix_ids"], batch["prefix_mask"], batch["group"], ids_BS, mask_BS
    parts = encode_prompts(model, *asked, batch["image_inputs"], batch["audio_inputs"], spoken, prefix)
    settings = {"do_sample": True, "top_k": 0, "top_p": 1.0, "temperature": 1.0, "num_beams": 1}
    never = model.config.placeholder_ids  # one of them would stand for a picture or a clip that is not there
    predictions = generate_responses(
        model, parts, lambda *on, **how: generate_after(*on, **how)[0], max_new_tokens=max_new_tokens,
        eos_token_id=[end_id], pad_token_id=end_id, suppress_tokens=never, repetition_penalty=1.0, **settings,
    )  # fmt: skip
    model.train(was_training)
    rolled = with_responses(batch, [_ended(row, end_id) for row in predictions])
    return rolled if model.llm_trains else rolled | {"prefix": prefix}


def with_responses(batch: Mapping[str, Any], responses: Sequence[Tensor]) -> dict[str, Any]:
    """A batch of `PairedCollator` with other responses (ids, the end of the turn included) in both views."""
    changed: dict[str, Any] = {"labels": pad_sequence(list(responses), True, -100)}
    for modality in ("text", "audio"):
        rows = [torch.cat([ids, r[:-1]]) for ids, r in zip(_questions(batch, modality), responses, strict=True)]
        changed[f"{modality}_ids"] = pad_sequence(rows, True)
        changed[f"{modality}_mask"] = pad_sequence([torch.ones_like(row) for row in rows], True)
    return {**batch, **changed}


def _questions(batch: Mapping[str, Any], modality: str) -> list[Tensor]:
    """The ids of each row up to where its response begins; the last response token stands in the labels alone."""
    rows = []
    for ids, mask, labels in zip(batch[f"{modality}_ids"], batch[f"{modality}_mask"], batch["labels"], strict=True):
        rows.append(ids[: int(mask.sum()) - int((labels != -100).sum()) + 1])
    return rows


def _ended(response_R: Tensor, end_id: int) -> Tensor:
    """A reply up to its first end; one that was cut off has none, and its last token is a label like the others."""
    ends = (response_R == end_id).nonzero().flatten()
    return response_R[: int(ends[0]) + 1] if len(ends) else response_R
