"""The shared prefix: what stands before the question is read once and serves every continuation.

Attention is causal and the image comes before the question, so the keys and values of the prefix are the same for the
text view, the speech view, and every further question about the same image. Reading them once and continuing from
them gives exactly what reading each view whole would give; `tests/test_prefix.py` holds it to 1e-5.

Legend: B continuations, G prefixes (groups), P prefix tokens, S continuation tokens, D width.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel


@dataclass(frozen=True)
class Prefix:
    """Keys and values of G prefixes, one (keys, values) pair a layer; `mask_GP` is 0 on the left padding; `next_G` is
    the position of the token that comes after each."""

    layers: tuple[tuple[Tensor, Tensor], ...]
    mask_GP: Tensor  # noqa: N815
    next_G: Tensor  # noqa: N815

    def rows(self, group_B: Tensor) -> "Prefix":
        """The prefix of each continuation: row b is prefix `group_B[b]`."""
        if group_B.tolist() == list(range(len(self.next_G))):
            return self
        layers = tuple((keys[group_B], values[group_B]) for keys, values in self.layers)
        return Prefix(layers, self.mask_GP[group_B], self.next_G[group_B])


def positions(mask_BT: Tensor) -> Tensor:
    """Position of each token, counted over the tokens that are there; padding gets 0."""
    return (mask_BT.cumsum(-1) - 1).clamp(min=0)


def prefix_positions(
    vlm: Any, input_ids_GP: Tensor, mask_GP: Tensor, image_inputs: dict[str, Tensor]
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """(positions, (G, P) or with M-RoPE (3, G, P); the position of the next token (G,); inputs that go with them).

    With M-RoPE (Qwen2-VL and its kin) an image of h x w tokens takes only max(h, w) positions, so the next position is
    not the length of the prefix.
    """
    if "image_grid_thw" not in image_inputs:
        position_ids = positions(mask_GP)
        return position_ids, mask_GP.sum(-1), {}
    token_types = (input_ids_GP == vlm.config.image_token_id).int()
    position_ids, _ = vlm.base_model.get_rope_index(
        input_ids_GP,
        mm_token_type_ids=token_types,
        image_grid_thw=image_inputs["image_grid_thw"],
        attention_mask=mask_GP,
    )
    return position_ids, position_ids.amax((0, 2)) + 1, {"mm_token_type_ids": token_types}


def read_prefix(vlm: PreTrainedModel, input_ids_GP: Tensor, mask_GP: Tensor, **image_inputs: Tensor) -> Prefix:
    """Runs the vision tower and the LLM over the left-padded prefixes and keeps the keys and values."""
    position_ids, next_G, more = prefix_positions(vlm, input_ids_GP, mask_GP, image_inputs)
    outputs = vlm.base_model(
        input_ids=input_ids_GP,
        attention_mask=mask_GP,
        position_ids=position_ids,
        use_cache=True,
        **image_inputs,
        **more,
    )
    layers = tuple((layer.keys, layer.values) for layer in outputs.past_key_values.layers)
    return Prefix(layers, mask_GP, next_G)


def continue_prefix(vlm: PreTrainedModel, prefix: Prefix, embeddings_BSD: Tensor, mask_BS: Tensor) -> Tensor:
    """Last hidden states (B, S, D) of right-padded continuations; `prefix` is left as it was."""
    mask_BT = torch.cat([prefix.mask_GP, mask_BS], dim=1)
    outputs = vlm.base_model(
        inputs_embeds=embeddings_BSD,
        attention_mask=mask_BT,
        position_ids=prefix.next_G[:, None] + positions(mask_BS),
        past_key_values=_cache(prefix),
        use_cache=True,
    )
    return outputs.last_hidden_state


def generate_after(vlm: Any, prefix: Prefix, embeddings_BSD: Tensor, mask_BS: Tensor, **generate_inputs: Any) -> Tensor:
    """Ids of the replies (B, new tokens) to left-padded continuations; takes the arguments of `generate`."""
    # generate cuts from its inputs what the cache holds already: it wants them whole, whatever stands in that part
    whole = torch.cat([embeddings_BSD.new_zeros(*prefix.mask_GP.shape, embeddings_BSD.shape[2]), embeddings_BSD], dim=1)
    after = prefix.next_G[:, None] + positions(mask_BS)
    return vlm.generate(
        inputs_embeds=whole,
        attention_mask=torch.cat([prefix.mask_GP, mask_BS], dim=1),
        position_ids=torch.cat([positions(prefix.mask_GP), after], dim=1),
        past_key_values=_cache(prefix),
        **generate_inputs,
    )


def _cache(prefix: Prefix) -> DynamicCache:
    # a cache of its own: `update` concatenates into new tensors, so other continuations never see these tokens
    return DynamicCache(ddp_cache_data=prefix.layers)
