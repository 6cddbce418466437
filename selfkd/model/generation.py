# SPDX-License-Identifier: Apache-2.0
"""Encodes prompts up to their last token; generation and the likelihood of given responses continue from there.

Prompts about one image share its prefix in both modalities. Text and audio prompts are encoded separately from there,
because LoRA is active for audio prompts only. Greedy responses differ in length ("yes" ends after one token, a
description after fifteen), and `transformers` continues all rows to the end of the longest. Early-exit decoding
generates a few tokens at a time, removes finished rows from the batch and continues the others from their cache.

Legend: B prompts, G images (prefixes), P prefix tokens, S tokens after it, N prompts of one modality.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from .configuration_omni import OmniConfig
from .lora import adapters_on
from .prefix_cache import Prefix, extend_prefix, generate_after, join_prefixes
from .projectors import AudioEmbeddings

FIRST_STEP_TOKENS = 4  # each step of early-exit decoding has twice as many tokens as the one before


class AudioVLM(Protocol):
    """The part of `OmniModel` that generation uses."""

    vlm: Any
    config: OmniConfig

    @property
    def device(self) -> torch.device: ...

    def merge_audio_embeddings(
        self, ids_BT: Tensor, mask_BT: Tensor, audio_inputs: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], Tensor, AudioEmbeddings | None]: ...

    def encode_prefix(
        self, ids_GP: Tensor, mask_GP: Tensor, image_inputs: Mapping[str, Tensor], audio_inputs: Mapping[str, Tensor]
    ) -> Prefix: ...


def generate_with_early_exit(
    vlm: Any, prefix: Prefix, last_ids_B: Tensor, max_new_tokens: int, eos_token_id: list[int], pad_token_id: int
) -> Tensor:
    """Ids of the greedy responses (B, new tokens), padded after their end: the same tokens that a single `generate`
    call gives. A checkpoint's own repetition penalty is off: it would count the words of a text query but not those of
    an audio query."""
    predictions = last_ids_B.new_full((len(last_ids_B), max_new_tokens), pad_token_id)
    rows, stop_ids = torch.arange(len(last_ids_B), device=last_ids_B.device), last_ids_B.new_tensor(eos_token_id)
    done, tokens = 0, FIRST_STEP_TOKENS
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
        unfinished = (~torch.isin(ids, stop_ids).any(1)).nonzero().flatten()
        rows, prefix, last_ids_B = rows[unfinished], prefix.rows(unfinished), ids[unfinished, -1]
    return predictions[:, :done]


def on_device(values: Any, device: torch.device) -> Any:
    """Tensors, and those in mappings and tuples, on a device."""
    if isinstance(values, Tensor):
        return values.to(device)
    if isinstance(values, Mapping):
        return {name: on_device(value, device) for name, value in values.items()}
    return tuple(on_device(value, device) for value in values)


Generate = Callable[..., Tensor]  # (VLM, prefix, last ids of its rows, **settings) -> ids of the responses


@dataclass(frozen=True)
class EncodedPrompts:
    """The text prompts or the audio prompts of a batch: their rows in the batch (N,), all their tokens but the last as
    N prefixes, and that last token (N,)."""

    is_audio: bool
    rows_N: Tensor  # noqa: N815
    prefix: Prefix
    last_ids_N: Tensor  # noqa: N815

    @contextmanager
    def decoding(self, vlm: Any) -> Iterator[None]:
        """The context to continue these prompts in: adapters are active for audio prompts."""
        if not self.is_audio:
            yield
            return
        with adapters_on(vlm):
            yield


@torch.no_grad()
def encode_prompts(
    model: AudioVLM,
    prefix_ids: Tensor,
    prefix_mask: Tensor,
    group: Tensor,
    suffix_ids: Tensor,
    suffix_mask: Tensor,
    image_inputs: dict[str, Tensor],
    audio_inputs: dict[str, Tensor],
    has_audio: Tensor,
    prefix: Prefix | None = None,
    prefix_audio_inputs: dict[str, Tensor] | None = None,
) -> list[EncodedPrompts]:
    """Encodes what `OmniProcessor.collate` returns, on any device.

    Args:
        prefix_ids, prefix_mask: Prefixes (G, P), padded on the left.
        group: The prefix of each prompt (B,).
        suffix_ids, suffix_mask: The tokens after the prefix (B, S), padded on the right.
        has_audio: Which prompts have clips (B,), in the prefix or after it; `audio_inputs` holds those after it.
        prefix: The encoded prefixes, where they are known already.
        prefix_audio_inputs: The clips in the prefixes.
    """
    prefix_ids, prefix_mask, group, suffix_ids, suffix_mask, image_inputs, audio_inputs, has_audio = on_device(
        (prefix_ids, prefix_mask, group, suffix_ids, suffix_mask, image_inputs, audio_inputs, has_audio), model.device
    )
    prefix_audio = on_device(prefix_audio_inputs or {}, model.device)
    prefix = prefix or model.encode_prefix(prefix_ids, prefix_mask, image_inputs, prefix_audio)
    encoded = []
    lengths_B = suffix_mask.sum(-1)
    last_B = suffix_ids.gather(1, lengths_B[:, None] - 1).squeeze(1)
    columns = torch.arange(suffix_ids.shape[1], device=suffix_ids.device)
    before_last = (columns < lengths_B[:, None] - 1).long()
    for is_audio in (False, True):
        rows = (has_audio == is_audio).nonzero().flatten()
        if not len(rows):
            continue
        width = int(lengths_B[rows].max()) - 1
        ids, mask = suffix_ids[rows, :width], before_last[rows, :width]
        inputs, mask = (
            model.merge_audio_embeddings(ids, mask, audio_inputs)[:2] if is_audio else ({"input_ids": ids}, mask)
        )
        prompts = EncodedPrompts(is_audio, rows, prefix.rows(group[rows]), last_B[rows])
        with prompts.decoding(model.vlm):
            extended = extend_prefix(model.vlm, prompts.prefix, inputs, mask)
        encoded.append(EncodedPrompts(is_audio, rows, extended, prompts.last_ids_N))
    return encoded


def stop_token_ids(model: AudioVLM, *end_ids: int) -> list[int]:
    """Ids that end a response: `end_ids`, such as the end of a turn in the chat template, and those of the checkpoint's
    generation config."""
    own = model.vlm.generation_config.eos_token_id
    return sorted({*end_ids, *(own if isinstance(own, list) else [own])} - {None})


def generate_responses(
    model: AudioVLM, encoded: list[EncodedPrompts], generate: Generate, **generate_inputs: Any
) -> Tensor:
    """Ids of the responses (B, new tokens), in the order of the prompts. All rows are generated in one batch, except
    with
    a model that has adapters: they would be active for text prompts too."""
    if model.config.llm_lora is None and len(encoded) > 1:
        rows, last = (torch.cat([getattr(p, name) for p in encoded]) for name in ("rows_N", "last_ids_N"))
        encoded = [EncodedPrompts(False, rows, join_prefixes([p.prefix for p in encoded]), last)]
    predictions: dict[int, Tensor] = {}
    for prompts in encoded:
        with prompts.decoding(model.vlm):
            ids = generate(model.vlm, prompts.prefix, prompts.last_ids_N, **generate_inputs)
        predictions |= dict(zip(prompts.rows_N.tolist(), ids, strict=True))
    rows_in_order = [predictions[row] for row in range(len(predictions))]
    return pad_sequence(rows_in_order, True, _padding_id(model, generate_inputs))


def _padding_id(model: AudioVLM, generate_inputs: dict[str, Any]) -> int:
    """The id with which `generate` pads responses that end before others of their batch."""
    own = model.vlm.generation_config
    for name in ("pad_token_id", "eos_token_id"):
        given = generate_inputs.get(name)
        found = getattr(own, name) if given is None else given
        if found is not None:
            return found[0] if isinstance(found, list) else found
    return 0  # no token ends a response: all have the same length
