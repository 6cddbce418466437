"""Greedy replies of very unequal length: prompts whose reply has ended leave the batch.

"yes" ends after one token and a description after fifteen; `transformers` carries both to the end of the longest. Here
it generates a few tokens, those that have ended go, and the others go on from what has been read of them.
"""

from typing import Any

import torch
from torch import Tensor

from selfkd.model.prefix import Prefix, generate_after

FIRST_ROUND = 4  # tokens; each round has twice as many as the one before


def generate_in_rounds(
    vlm: Any, prefix: Prefix, last_ids_B: Tensor, max_new_tokens: int, eos_token_id: list[int], pad_token_id: int
) -> Tensor:
    """Ids of the likeliest replies (B, new tokens), padded after their end: token for token those of one call. A
    checkpoint's own penalty on repetition is off: it would count a written question's words and not a spoken one's."""
    replies = last_ids_B.new_full((len(last_ids_B), max_new_tokens), pad_token_id)
    rows, ends = torch.arange(len(last_ids_B), device=last_ids_B.device), last_ids_B.new_tensor(eos_token_id)
    done, tokens = 0, FIRST_ROUND
    while done < max_new_tokens and len(rows):
        ids, prefix = generate_after(
            vlm,
            prefix,
            last_ids_B,
            max_new_tokens=min(tokens, max_new_tokens - done),
            eos_token_id=eos_token_id,
            pad_token_id=pad_token_id,
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,
        )
        replies[rows, done : done + ids.shape[1]] = ids
        done, tokens = done + ids.shape[1], 2 * tokens
        going = (~torch.isin(ids, ends).any(1)).nonzero().flatten()
        rows, prefix, last_ids_B = rows[going], prefix.rows(going), ids[going, -1]
    return replies[:, :done]
