"""Prompts encoded up to their last token, which generation and the likelihood of given responses continue.

Prompts about one image share its prefix in both modalities. Text and audio queries are encoded apart from there, for
LoRA is active for audio queries alone. Greedy responses differ in length ("yes" ends after one token, a description
after fifteen), and `transformers` carries all to the end of the longest: here a few tokens are generated at a time,
finished prompts leave the batch (early-exit decoding), and the others continue from their cache.

Legend: B prompts, G images (prefixes), P prefix tokens, S tokens after it, N prompts of one modality.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import send_to_device
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from selfkd.model.lora import adapters_on
from selfkd.model.prefix_cache import Prefix, encode_prefix, extend_prefix, generate_after, join_prefixes

if TYPE_CHECKING:
    from selfkd.model.modeling_omni import OmniModel


FIRST_ROUND = 4  # tokens; each round has twice as many as the one before


def generate_with_early_exit(
    vlm: Any, prefix: Prefix, last_ids_B: Tensor, max_new_tokens: int, eos_token_id: list[int], pad_token_id: int
) -> Tensor:
    """Ids of the likeliest replies (B, new tokens), padded after their end: token for token those of one call. A
    checkpoint's own penalty on repetition is off: it would count a written question's words and not a spoken one's."""
    predictions = last_ids_B.new_full((len(last_ids_B), max_new_tokens), pad_token_id)
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
        predictions[rows, done : done + ids.shape[1]] = ids
        done, tokens = done + ids.shape[1], 2 * tokens
        going = (~torch.isin(ids, ends).any(1)).nonzero().flatten()
        rows, prefix, last_ids_B = rows[going], prefix.rows(going), ids[going, -1]
    return predictions[:, :done]


Generate = Callable[..., Tensor]  # ids of the replies from the VLM, a prefix, the last ids of its rows, and settings


@dataclass(frozen=True)
class Query:
    """The written or the spoken ones of some prompts: which rows (N,) they were, all of them but the last token (N
    prefixes), and that token (N,)."""

    is_spoken: bool
    rows_N: Tensor  # noqa: N815
    prefix: Prefix
    last_ids_N: Tensor  # noqa: N815

    @contextmanager
    def going_on(self, vlm: Any) -> Iterator[None]:
        """Within it the model goes on as it has read these prompts."""
        if not self.is_spoken:
            yield
            return
        with adapters_on(vlm):
            yield


@torch.no_grad()
def encode_prompts(
    model: "OmniModel",
    prefix_ids: Tensor,
    prefix_mask: Tensor,
    group: Tensor,
    suffix_ids: Tensor,
    suffix_mask: Tensor,
    image_inputs: dict[str, Tensor],
    audio_inputs: dict[str, Tensor],
    spoken: Tensor,
    prefix: Prefix | None = None,
) -> list[Query]:
    """Takes what `OmniProcessor` makes of prompts, on any device: prefixes (G, P), padded on the left; `group` (B,),
    the prefix of each prompt; what follows it (B, S), padded on the right; clips, one for each prompt that is `spoken`.
    `prefix` is what the prefixes have been read to, where they have been."""
    prefix_ids, prefix_mask, group, suffix_ids, suffix_mask, image_inputs, audio_inputs, spoken = send_to_device(
        (prefix_ids, prefix_mask, group, suffix_ids, suffix_mask, image_inputs, audio_inputs, spoken), model.device
    )
    prefix = prefix or encode_prefix(model.vlm, prefix_ids, prefix_mask, **image_inputs)
    parts = []
    lengths_B = suffix_mask.sum(-1)
    last_B = suffix_ids.gather(1, lengths_B[:, None] - 1).squeeze(1)
    place = torch.arange(suffix_ids.shape[1], device=suffix_ids.device)
    before_last = (place < lengths_B[:, None] - 1).long()
    for is_spoken in (False, True):
        rows = (spoken == is_spoken).nonzero().flatten()
        if not len(rows):
            continue
        width = int(lengths_B[rows].max()) - 1
        ids, mask = suffix_ids[rows, :width], before_last[rows, :width]
        inputs, mask = (
            model.merge_audio_embeddings(ids, mask, audio_inputs)[:2] if is_spoken else ({"input_ids": ids}, mask)
        )
        part = Query(is_spoken, rows, prefix.rows(group[rows]), last_B[rows])
        with part.going_on(model.vlm):
            read = extend_prefix(model.vlm, part.prefix, inputs, mask)
        parts.append(Query(is_spoken, rows, read, part.last_ids_N))
    return parts


def ends_of(model: "OmniModel", end_id: int) -> list[int]:
    """Ids that end a reply: `end_id`, with which the chat template ends one, and what the checkpoint names besides."""
    own = model.vlm.generation_config.eos_token_id
    return sorted({end_id, *(own if isinstance(own, list) else [own])} - {None})


def generate_responses(model: "OmniModel", parts: list[Query], generate: Generate, **generate_inputs: Any) -> Tensor:
    """Ids of the replies (B, new tokens), in the order that the prompts had. All rows are generated together, but for
    those of a model with adapters: they would be on for the written ones too."""
    if model.config.llm_lora is None and len(parts) > 1:
        rows, last = (torch.cat([getattr(p, name) for p in parts]) for name in ("rows_N", "last_ids_N"))
        parts = [Query(False, rows, join_prefixes([p.prefix for p in parts]), last)]
    predictions: dict[int, Tensor] = {}
    for part in parts:
        with part.going_on(model.vlm):
            ids = generate(model.vlm, part.prefix, part.last_ids_N, **generate_inputs)
        predictions |= dict(zip(part.rows_N.tolist(), ids, strict=True))
    return pad_sequence([predictions[row] for row in range(len(predictions))], True, _padding(model, generate_inputs))


def _padding(model: "OmniModel", generate_inputs: dict[str, Any]) -> int:
    """What `generate` fills a reply up with that has ended before others of its batch."""
    own = model.vlm.generation_config
    for name in ("pad_token_id", "eos_token_id"):
        asked = generate_inputs.get(name)
        found = getattr(own, name) if asked is None else asked
        if found is not None:
            return found[0] if isinstance(found, list) else found
    return 0  # nothing ends a reply: all are of one length
