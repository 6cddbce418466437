"""On-policy self-distillation, as in GKD (arXiv 2306.13649): the student responds to the image and the audio query, and
the teacher, with the text query, scores each token of the response. So the student trains on its own output
distribution.

Legend: B examples, S query tokens, R response tokens.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from selfkd.model.generation import encode_prompts, generate_responses
from selfkd.model.modeling_omni import OmniModel
from selfkd.model.prefix_cache import encode_prefix, generate_after
from selfkd.training.data import predicting_positions


@torch.no_grad()
def rollout(
    model: OmniModel, batch: Mapping[str, Any], end_id: int, max_new_tokens: int, temperature: float = 1.0
) -> dict[str, Any]:
    """The batch with the student's own responses, sampled, or greedy at temperature 0. Unless the LLM trains, the
    result holds the encoded images under "prefix", for reuse by the loss."""
    was_training = model.training
    model.eval()
    prefix = encode_prefix(model.vlm, batch["prefix_ids"], batch["prefix_mask"], **batch["image_inputs"])
    queries = _queries(batch, "audio")
    ids_BS, mask_BS = pad_sequence(queries, True), pad_sequence([torch.ones_like(q) for q in queries], True)
    is_audio_B = torch.ones(len(ids_BS), dtype=torch.bool, device=ids_BS.device)
    prompts = batch["prefix_ids"], batch["prefix_mask"], batch["group"], ids_BS, mask_BS
    encoded = encode_prompts(model, *prompts, batch["image_inputs"], batch["audio_inputs"], is_audio_B, prefix)
    settings: dict[str, Any] = {"do_sample": False, "num_beams": 1}
    if temperature:
        settings |= {"do_sample": True, "top_k": 0, "top_p": 1.0, "temperature": temperature}
    placeholders = model.config.placeholder_ids  # in a response they would have no image or clip
    responses = generate_responses(
        model, encoded, lambda *inputs, **how: generate_after(*inputs, **how)[0], max_new_tokens=max_new_tokens,
        eos_token_id=[end_id], pad_token_id=end_id, suppress_tokens=placeholders, repetition_penalty=1.0, **settings,
    )  # fmt: skip
    model.train(was_training)
    rolled = with_responses(batch, [until_end(row, end_id) for row in responses])
    return rolled if model.llm_trains else rolled | {"prefix": prefix}


def with_responses(batch: Mapping[str, Any], responses: Sequence[Tensor]) -> dict[str, Any]:
    """A batch of `PairedCollator` of single questions with other responses (ids, the end of the turn included) in both
    modalities."""
    changed: dict[str, Any] = {"labels": pad_sequence(list(responses), True, -100)}
    lengths = [[len(response)] for response in responses]
    for modality in ("text", "audio"):
        queries = _queries(batch, modality)
        rows = [torch.cat([ids, r[:-1]]) for ids, r in zip(queries, responses, strict=True)]
        changed[f"{modality}_ids"] = ids_BT = pad_sequence(rows, True)
        changed[f"{modality}_mask"] = pad_sequence([torch.ones_like(row) for row in rows], True)
        predicts_BT = predicting_positions([[len(query)] for query in queries], lengths, ids_BT.shape[1])
        changed[f"{modality}_predicts"] = predicts_BT.to(ids_BT.device)
    return {**batch, **changed}


def _queries(batch: Mapping[str, Any], modality: str) -> list[Tensor]:
    """The ids of each row up to where its response begins. The last response token is in the labels only."""
    rows = []
    for ids, mask, labels in zip(batch[f"{modality}_ids"], batch[f"{modality}_mask"], batch["labels"], strict=True):
        rows.append(ids[: int(mask.sum()) - int((labels != -100).sum()) + 1])
    return rows


def until_end(response_R: Tensor, end_id: int) -> Tensor:
    """A response up to its first `end_id`, or all of it where the length limit cut it off."""
    ends = (response_R == end_id).nonzero().flatten()
    return response_R[: int(ends[0]) + 1] if len(ends) else response_R
