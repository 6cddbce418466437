"""The shared prefix: what stands before the question is read once and serves every continuation.

Attention is causal and the image comes before the question, so the keys and values of the prefix are the same for the
text view, the speech view, and every further question about the same image. Reading them once and continuing from
them gives exactly what reading each view whole would give; `tests/test_prefix.py` holds it to 1e-5.

Legend: B continuations, G prefixes (groups), P prefix tokens, S continuation tokens, D width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel


@dataclass(frozen=True)
class Prefix:
    """Keys and values of G prefixes, one (keys, values) pair a layer; `mask_GP` is 0 on the left padding."""

    layers: tuple[tuple[Tensor, Tensor], ...]
    mask_GP: Tensor  # noqa: N815

    def rows(self, group_B: Tensor) -> "Prefix":
        """The prefix of each continuation: row b is prefix `group_B[b]`."""
        layers = tuple((keys[group_B], values[group_B]) for keys, values in self.layers)
        return Prefix(layers, self.mask_GP[group_B])


def positions(mask_BT: Tensor) -> Tensor:
    """Position of each token, counted over the tokens that are there; padding gets 0."""
    return (mask_BT.cumsum(-1) - 1).clamp(min=0)


def read_prefix(vlm: PreTrainedModel, input_ids_GP: Tensor, mask_GP: Tensor, **image_inputs: Tensor) -> Prefix:
    """Runs the vision tower and the LLM over the left-padded prefixes and keeps the keys and values."""
    outputs = vlm.base_model(
        input_ids=input_ids_GP,
        attention_mask=mask_GP,
        position_ids=positions(mask_GP),
        use_cache=True,
        **image_inputs,
    )
    return Prefix(tuple((layer.keys, layer.values) for layer in outputs.past_key_values.layers), mask_GP)


def continue_prefix(vlm: PreTrainedModel, prefix: Prefix, embeddings_BSD: Tensor, mask_BS: Tensor) -> Tensor:
    """Last hidden states (B, S, D) of right-padded continuations; `prefix` is left as it was."""
    mask_BT = torch.cat([prefix.mask_GP, mask_BS], dim=1)
    # a cache of its own: `update` concatenates into new tensors, so other continuations never see these tokens
    cache = DynamicCache(ddp_cache_data=prefix.layers)
    outputs = vlm.base_model(
        inputs_embeds=embeddings_BSD,
        attention_mask=mask_BT,
        position_ids=positions(mask_BT)[:, -mask_BS.shape[1] :],
        past_key_values=cache,
        use_cache=True,
    )
    return outputs.last_hidden_state
