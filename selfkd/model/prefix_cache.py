"""The shared prefix: what stands before the question is read once and serves every continuation.

Attention is causal and the image comes before the question, so the keys and values of the prefix are the same for the
text view, the speech view, and every further question about the same image. Reading them once and continuing from
them gives exactly what reading each view whole would give; `tests/model/test_prefix_cache.py` holds it to 1e-5.

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


@dataclass(frozen=True)
class Prefix:
    """Keys and values of G prefixes, one (keys, values) pair a layer; `mask_GP` is 0 on the left padding; `next_G` is
    the position of the token that comes after each. `again` are inputs that a model wants with every continuation."""

    layers: tuple[tuple[Tensor, Tensor], ...]
    ids_GP: Tensor  # noqa: N815
    mask_GP: Tensor  # noqa: N815
    next_G: Tensor  # noqa: N815
    again: Mapping[str, Tensor]

    def rows(self, group_B: Tensor) -> "Prefix":
        """The prefix of each continuation: row b is prefix `group_B[b]`."""
        if group_B.tolist() == list(range(len(self.next_G))):
            return self
        layers = tuple((keys[group_B], values[group_B]) for keys, values in self.layers)
        return Prefix(layers, self.ids_GP[group_B], self.mask_GP[group_B], self.next_G[group_B], self.again)


def positions(mask_BT: Tensor) -> Tensor:
    """Position of each token, counted over the tokens that are there; padding gets 0."""
    return (mask_BT.cumsum(-1) - 1).clamp(min=0)


def encode_prefix(vlm: Any, input_ids_GP: Tensor, mask_GP: Tensor, **image_inputs: Tensor) -> Prefix:
    """Runs the vision tower and the LLM over the left-padded prefixes and keeps the keys and values."""
    inputs: dict[str, Any] = dict(image_inputs)
    if image_inputs:
        inputs |= _token_types(vlm, input_ids_GP)
    has_mrope = "image_grid_thw" in image_inputs
    if not has_mrope:
        inputs["position_ids"] = positions(mask_GP)
    cache = _PrefixCache()  # holds layers whole: one of the model's own making would cut those whose window slides
    vlm.base_model(input_ids=input_ids_GP, attention_mask=mask_GP, past_key_values=cache, use_cache=True, **inputs)
    layers = tuple(cache.new[i] for i in sorted(cache.new))
    next_G = mask_GP.sum(-1)
    if has_mrope:  # an image of h x w tokens takes only max(h, w) positions; the model has worked them out
        next_G = next_G + vlm.base_model.rope_deltas.flatten().to(next_G)
    return Prefix(layers, input_ids_GP, mask_GP, next_G, _again(image_inputs))


def _token_types(vlm: Any, input_ids_GP: Tensor) -> dict[str, Tensor]:
    """1 for the tokens of a picture, under the name that the model asks for them by, if it does."""
    asked = inspect.signature(vlm.base_model.forward).parameters
    names = [name for name in ("mm_token_type_ids", "token_type_ids") if name in asked]
    return {name: (input_ids_GP == vlm.config.image_token_id).int() for name in names}


def _again(image_inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # by there being a picture Phi-4 chooses the projection of what it hears; it is not looked at a second time
    return {name: value for name, value in image_inputs.items() if name == "image_pixel_values"}


def continue_prefix(vlm: Any, prefix: Prefix, inputs: Mapping[str, Tensor], mask_BS: Tensor) -> Tensor:
    """Last hidden states (B, S, D) of right-padded continuations: `inputs` are `input_ids` (B, S) with what goes with
    them, or `inputs_embeds` (B, S, D). `prefix` is left as it was."""
    return _continue(vlm, prefix, inputs, mask_BS, _PrefixCache(prefix.layers))


def extend_prefix(vlm: Any, prefix: Prefix, inputs: Mapping[str, Tensor], mask_BS: Tensor) -> Prefix:
    """What comes after right-padded continuations has each of them for its prefix, with all that stood before it."""
    if not mask_BS.any():
        return prefix
    cache = DynamicCache(ddp_cache_data=prefix.layers)
    _continue(vlm, prefix, inputs, mask_BS, cache)
    read = inputs.get("input_ids", torch.zeros_like(mask_BS))  # vectors have no ids, and nobody looks these up again
    ids, mask = torch.cat([prefix.ids_GP, read], dim=1), torch.cat([prefix.mask_GP, mask_BS], dim=1)
    return _padded_left(Prefix(_layers(cache), ids, mask, prefix.next_G + mask_BS.sum(-1), prefix.again))


def join_prefixes(prefixes: Sequence[Prefix]) -> Prefix:
    """The rows of several prefixes of the same pictures, one after another."""
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
    return Prefix(layers, ids, mask, torch.cat([p.next_G for p in prefixes]), prefixes[0].again)


def generate_after(vlm: Any, prefix: Prefix, last_ids_B: Tensor, **generate_inputs: Any) -> tuple[Tensor, Prefix]:
    """(ids of the replies (B, new tokens), all but the last of them read on) to prompts of which `prefix` holds all but
    the last token; takes the arguments of `generate`."""
    # generate cuts from its inputs what the cache holds already: it wants them whole
    whole, cache = torch.cat([prefix.ids_GP, last_ids_B[:, None]], dim=1), DynamicCache(ddp_cache_data=prefix.layers)
    ids = vlm.generate(
        input_ids=whole,
        attention_mask=F.pad(prefix.mask_GP, (0, 1), value=1),
        position_ids=torch.cat([positions(prefix.mask_GP), prefix.next_G[:, None]], dim=1),
        past_key_values=cache,
        **generate_inputs,
    )
    new = ids.shape[1] - whole.shape[1]
    mask = F.pad(prefix.mask_GP, (0, new), value=1)
    return ids[:, whole.shape[1] :], Prefix(_layers(cache), ids[:, :-1], mask, prefix.next_G + new, prefix.again)


def _continue(vlm: Any, prefix: Prefix, inputs: Mapping[str, Tensor], mask_BS: Tensor, cache: DynamicCache) -> Tensor:
    """Last hidden states (B, S, D); `cache` holds the prefix and takes what is new."""
    outputs = vlm.base_model(
        attention_mask=torch.cat([prefix.mask_GP, mask_BS], dim=1),
        position_ids=prefix.next_G[:, None] + positions(mask_BS),
        past_key_values=cache,
        use_cache=True,
        **inputs,
        **prefix.again,
    )
    return outputs.last_hidden_state


def _layers(cache: Any) -> tuple[tuple[Tensor, Tensor], ...]:
    return tuple((layer.keys, layer.values) for layer in cache.layers)


def _padded_left(prefix: Prefix) -> Prefix:
    """The same with all padding on the left: a window that slides counts places, and so the padding between two parts
    of a row. Places where no row has anything go."""
    mask = prefix.mask_GP
    places_BP = mask.argsort(dim=1, stable=True)[:, -int(mask.sum(-1).max()) :]
    if torch.equal(places_BP, torch.arange(mask.shape[1], device=mask.device).expand_as(mask)):
        return prefix

    def moved(tensor_BHPD: Tensor) -> Tensor:
        _, heads, _, width = tensor_BHPD.shape
        return tensor_BHPD.gather(2, places_BP[:, None, :, None].expand(-1, heads, -1, width))

    layers = tuple((moved(keys), moved(values)) for keys, values in prefix.layers)
    ids, mask = prefix.ids_GP.gather(1, places_BP), mask.gather(1, places_BP)
    return Prefix(layers, ids, mask, prefix.next_G, prefix.again)


class _PrefixCache(DynamicCache):
    """Gives each layer what was there with what is new, and keeps the new apart.

    So other continuations never see it, and a layer that runs again, as gradient checkpointing lets it in the backward
    pass, gets the same again.
    """

    def __init__(self, layers: tuple[tuple[Tensor, Tensor], ...] = ()):
        super().__init__(ddp_cache_data=layers)
        self.past, self.new = layers, dict[int, tuple[Tensor, Tensor]]()

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any):
        self.new[layer_idx] = key_states, value_states
        if layer_idx >= len(self.past):
            return key_states, value_states
        keys, values = self.past[layer_idx]
        return torch.cat([keys, key_states], dim=-2), torch.cat([values, value_states], dim=-2)
