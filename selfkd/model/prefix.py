"""The shared prefix: what stands before the question is read once and serves every continuation.

Attention is causal and the image comes before the question, so the keys and values of the prefix are the same for the
text view, the speech view, and every further question about the same image. Reading them once and continuing from
them gives exactly what reading each view whole would give; `tests/test_prefix.py` holds it to 1e-5.

Legend: B continuations, G prefixes (groups), P prefix tokens, S continuation tokens, D width.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
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


def read_prefix(vlm: Any, input_ids_GP: Tensor, mask_GP: Tensor, **image_inputs: Tensor) -> Prefix:
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
    outputs = vlm.base_model(
        attention_mask=torch.cat([prefix.mask_GP, mask_BS], dim=1),
        position_ids=prefix.next_G[:, None] + positions(mask_BS),
        past_key_values=_PrefixCache(prefix.layers),
        use_cache=True,
        **inputs,
        **prefix.again,
    )
    return outputs.last_hidden_state


def generate_after(
    vlm: Any, prefix: Prefix, inputs: Mapping[str, Tensor], mask_BS: Tensor, **generate_inputs: Any
) -> Tensor:
    """Ids of the replies (B, new tokens) to left-padded continuations; takes the arguments of `generate`."""
    text_config, lengths = vlm.config.get_text_config(), mask_BS.sum(-1)
    window = getattr(text_config, "sliding_window", None)
    if window is None or prefix.mask_GP.shape[1] + mask_BS.shape[1] <= window or len(lengths.unique()) == 1:
        return _generate_after(vlm, prefix, inputs, mask_BS, **generate_inputs)
    # a window that slides counts places, and so the padding between prefix and continuation: there must be none
    replies: dict[int, Tensor] = {}
    for length in lengths.unique().tolist():
        rows = (lengths == length).nonzero().flatten()
        some = {name: value[rows] for name, value in inputs.items()}
        some |= {name: some[name][:, -length:] for name in ("input_ids", "inputs_embeds") if name in some}
        ids = _generate_after(vlm, prefix.rows(rows), some, mask_BS[rows, -length:], **generate_inputs)
        replies |= dict(zip(rows.tolist(), ids, strict=True))
    return pad_sequence([replies[row] for row in range(len(lengths))], True, text_config.pad_token_id or 0)


def _generate_after(
    vlm: Any, prefix: Prefix, inputs: Mapping[str, Tensor], mask_BS: Tensor, **generate_inputs: Any
) -> Tensor:
    # generate cuts from its inputs what the cache holds already: it wants them whole
    whole, skipped = dict(inputs), 0
    if "input_ids" in whole:
        whole["input_ids"] = torch.cat([prefix.ids_GP, whole["input_ids"]], dim=1)
        skipped = whole["input_ids"].shape[1]
    else:
        embeddings = whole["inputs_embeds"]
        nothing = embeddings.new_zeros(*prefix.ids_GP.shape, embeddings.shape[2])
        whole["inputs_embeds"] = torch.cat([nothing, embeddings], dim=1)
    after = prefix.next_G[:, None] + positions(mask_BS)
    reply_ids = vlm.generate(
        attention_mask=torch.cat([prefix.mask_GP, mask_BS], dim=1),
        position_ids=torch.cat([positions(prefix.mask_GP), after], dim=1),
        past_key_values=DynamicCache(ddp_cache_data=prefix.layers),
        **whole,
        **prefix.again,
        **generate_inputs,
    )
    return reply_ids[:, skipped:]


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
