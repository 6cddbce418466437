# SPDX-License-Identifier: Apache-2.0
"""The shared prefix: the tokens before the query are encoded once, and all continuations use their keys and values.

Attention is causal and the image comes before the query, so the prefix has the same keys and values for the text
modality, the audio modality and every other query about the same image. Continuing from them gives exactly what
encoding each whole sequence gives; `tests/model/test_prefix_cache.py` checks it to 1e-5.

Legend: B continuations, G prefixes (groups), P prefix tokens, S continuation tokens, D width.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from .input_error import InputError

Layers = tuple[tuple[Tensor, Tensor], ...]


@dataclass(frozen=True)
class Prefix:
    """Keys and values of G prefixes, one (keys, values) pair per layer. `mask_GP` is 0 on the left padding, `next_G`
    the position of the token that follows each prefix, `repeated` the inputs that a model takes with every
    continuation."""

    layers: Layers
    ids_GP: Tensor  # noqa: N815
    mask_GP: Tensor  # noqa: N815
    next_G: Tensor  # noqa: N815
    repeated: Mapping[str, Tensor]

    def rows(self, group_B: Tensor) -> "Prefix":
        """The prefix of each continuation: row b is prefix `group_B[b]`."""
        if group_B.tolist() == list(range(len(self.next_G))):
            return self
        layers = tuple((keys[group_B], values[group_B]) for keys, values in self.layers)
        return Prefix(layers, self.ids_GP[group_B], self.mask_GP[group_B], self.next_G[group_B], self.repeated)


def positions(mask_BT: Tensor) -> Tensor:
    """Position of each token among the unmasked tokens of its row; padding gets 0."""
    return (mask_BT.cumsum(-1) - 1).clamp(min=0)


def encode_prefix(vlm: Any, input_ids_GP: Tensor, mask_GP: Tensor, **image_inputs: Tensor) -> Prefix:
    """Runs vision encoder and LLM over left-padded prefixes and returns their keys and values."""
    inputs: dict[str, Any] = dict(image_inputs)
    if image_inputs:
        inputs |= _token_types(vlm, input_ids_GP)
    has_mrope = "image_grid_thw" in image_inputs
    if not has_mrope:
        inputs["position_ids"] = positions(mask_GP)
    cache = _PrefixCache()  # keeps whole layers: a cache of the model's own would truncate sliding-window layers
    try:
        vlm.base_model(input_ids=input_ids_GP, attention_mask=mask_GP, past_key_values=cache, use_cache=True, **inputs)
    except ValueError as error:  # the model's own checks: other placeholders than it has embeddings for
        raise InputError(f"image: the model does not take what its processor gives ({error})") from error
    layers = tuple(cache.new[i] for i in sorted(cache.new))
    next_G = mask_GP.sum(-1)
    if has_mrope:  # an image of h x w tokens takes only max(h, w) positions; the model computed the difference
        next_G = next_G + vlm.base_model.rope_deltas.flatten().to(next_G)
    return Prefix(layers, input_ids_GP, mask_GP, next_G, _repeated_inputs(image_inputs))


def _token_types(vlm: Any, input_ids_GP: Tensor) -> dict[str, Tensor]:
    """1 for image tokens, under the names that the model's forward has for it."""
    parameters = inspect.signature(vlm.base_model.forward).parameters
    names = [name for name in ("mm_token_type_ids", "token_type_ids") if name in parameters]
    return {name: (input_ids_GP == vlm.config.image_token_id).int() for name in names}


def _repeated_inputs(image_inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # Phi-4 chooses its audio projection by whether there is an image; it does not encode that image again
    return {name: value for name, value in image_inputs.items() if name == "image_pixel_values"}


def continue_prefix(vlm: Any, prefix: Prefix, inputs: Mapping[str, Tensor], mask_BS: Tensor) -> Tensor:
    """Last hidden states (B, S, D) of right-padded continuations: `inputs` are `input_ids` (B, S) and the features that
    belong to them, or `inputs_embeds` (B, S, D). `prefix` does not change."""
    return _continue(vlm, prefix, inputs, mask_BS, _PrefixCache(prefix.layers))


def extend_prefix(vlm: Any, prefix: Prefix, inputs: Mapping[str, Tensor], mask_BS: Tensor) -> Prefix:
    """The prefixes with right-padded continuations appended: prefixes of whatever follows."""
    if not mask_BS.any():
        return prefix
    cache = _cache_of(prefix.layers)
    _continue(vlm, prefix, inputs, mask_BS, cache)
    new_ids = inputs.get(
        "input_ids", torch.zeros_like(mask_BS)
    )  # embeddings have no ids; these are not looked up again
    ids, mask = torch.cat([prefix.ids_GP, new_ids], dim=1), torch.cat([prefix.mask_GP, mask_BS], dim=1)
    return _left_padded(Prefix(_layers(cache), ids, mask, prefix.next_G + mask_BS.sum(-1), prefix.repeated))


def join_prefixes(prefixes: Sequence[Prefix]) -> Prefix:
    """The rows of several prefixes of the same images as one batch."""
    if len(prefixes) == 1:
        return prefixes[0]
    width = max(p.mask_GP.shape[1] for p in prefixes)
    missing = [width - p.mask_GP.shape[1] for p in prefixes]

    def joined(tensors: Sequence[Tensor]) -> Tensor:
        return torch.cat([F.pad(t, (0, 0, n, 0)) for t, n in zip(tensors, missing, strict=True)])

    layers = tuple(
        (joined([keys for keys, _ in same]), joined([values for _, values in same]))
        for same in zip(*(p.layers for p in prefixes), strict=True)
    )
    ids, mask = (
        torch.cat([F.pad(getattr(p, name), (n, 0)) for p, n in zip(prefixes, missing, strict=True)])
        for name in ("ids_GP", "mask_GP")
    )
    return Prefix(layers, ids, mask, torch.cat([p.next_G for p in prefixes]), prefixes[0].repeated)


def generate_after(vlm: Any, prefix: Prefix, last_ids_B: Tensor, **generate_inputs: Any) -> tuple[Tensor, Prefix]:
    """(ids of the responses (B, new tokens), the prefix extended by all but their last token) for prompts of which
    `prefix` holds all but the last token; takes the arguments of `generate`."""
    # generate expects whole inputs and removes from them what the cache already holds
    whole, cache = torch.cat([prefix.ids_GP, last_ids_B[:, None]], dim=1), _cache_of(prefix.layers)
    ids = vlm.generate(
        input_ids=whole,
        attention_mask=F.pad(prefix.mask_GP, (0, 1), value=1),
        position_ids=torch.cat([positions(prefix.mask_GP), prefix.next_G[:, None]], dim=1),
        past_key_values=cache,
        **generate_inputs,
    )
    new = ids.shape[1] - whole.shape[1]
    mask = F.pad(prefix.mask_GP, (0, new), value=1)
    return ids[:, whole.shape[1] :], Prefix(_layers(cache), ids[:, :-1], mask, prefix.next_G + new, prefix.repeated)


def _continue(vlm: Any, prefix: Prefix, inputs: Mapping[str, Tensor], mask_BS: Tensor, cache: DynamicCache) -> Tensor:
    """Last hidden states (B, S, D); `cache` holds the prefix and takes the new keys and values."""
    inner = vlm.base_model
    outputs = inner(
        attention_mask=torch.cat([prefix.mask_GP, mask_BS], dim=1),
        position_ids=prefix.next_G[:, None] + positions(mask_BS),
        past_key_values=cache,
        use_cache=True,
        output_hidden_states=inner is vlm,
        **inputs,
        **prefix.repeated,
    )
    # in transformers 5.19 Qwen-Omni has no model without a head
    return outputs.hidden_states[-1] if inner is vlm else outputs.last_hidden_state


def _cache_of(layers: Layers) -> DynamicCache:
    """A cache of these keys and values themselves: `ddp_cache_data` would copy them. What grows it or chooses among its
    rows makes tensors of its own."""
    cache = DynamicCache()
    _fill(cache, layers)
    return cache


def _fill(cache: DynamicCache, layers: Layers) -> None:
    for keys, values in layers:
        layer = DynamicLayer()
        layer.keys, layer.values, layer.is_initialized = keys, values, True
        layer.dtype, layer.device = keys.dtype, keys.device
        cache.layers.append(layer)


def _layers(cache: Any) -> Layers:
    return tuple((layer.keys, layer.values) for layer in cache.layers)


def _left_padded(prefix: Prefix) -> Prefix:
    """The same prefixes with all padding on the left: a sliding window counts columns, so it would count the padding
    between two parts of a row. Columns that are padding in every row are removed."""
    mask = prefix.mask_GP
    columns_BP = mask.argsort(dim=1, stable=True)[:, -int(mask.sum(-1).max()) :]
    if torch.equal(columns_BP, torch.arange(mask.shape[1], device=mask.device).expand_as(mask)):
        return prefix

    def moved(tensor_BHPD: Tensor) -> Tensor:
        _, heads, _, width = tensor_BHPD.shape
        return tensor_BHPD.gather(2, columns_BP[:, None, :, None].expand(-1, heads, -1, width))

    layers = tuple((moved(keys), moved(values)) for keys, values in prefix.layers)
    ids, mask = prefix.ids_GP.gather(1, columns_BP), mask.gather(1, columns_BP)
    return Prefix(layers, ids, mask, prefix.next_G, prefix.repeated)


class _PrefixCache(DynamicCache):
    """Gives each layer the prefix's keys and values with the new ones appended, and stores the new ones separately.

    Other continuations do not see them, and a layer that runs twice (activation checkpointing recomputes it in the
    backward pass) gets the same keys and values both times.
    """

    def __init__(self, layers: Layers = ()):
        super().__init__()
        _fill(self, layers)  # for their length
        self.past, self.new = layers, dict[int, tuple[Tensor, Tensor]]()

    @torch.compiler.disable  # a compiled layer would be compiled again for each length of `new`
    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any):
        self.new[layer_idx] = key_states, value_states
        if layer_idx >= len(self.past):
            return key_states, value_states
        keys, values = self.past[layer_idx]
        return torch.cat([keys, key_states], dim=-2), torch.cat([values, value_states], dim=-2)
