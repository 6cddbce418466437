"""Weights of an original InternVL2 checkpoint (`InternVLChatModel`) under the names that transformers gives them.

Each key is renamed, or cut: the original fuses query, key and value into one matrix, InternViT one after another,
InternLM2 by groups of heads. InternLM2 is Llama under other names.

Layouts: OpenGVLab/InternVL, internvl_chat/internvl/model (MIT).
"""

import re
from collections.abc import Callable, Mapping

from torch import Tensor

from selfkd.errors import InputError

_VISION, _LLM = "model.vision_tower", "model.language_model"
_PARTS_OF_BOTH = (
    (r"vision_model\.embeddings\.class_embedding", rf"{_VISION}.embeddings.cls_token"),
    (r"vision_model\.embeddings\.position_embedding", rf"{_VISION}.embeddings.position_embeddings"),
    (
        r"vision_model\.embeddings\.patch_embedding\.(weight|bias)",
        rf"{_VISION}.embeddings.patch_embeddings.projection.\1",
    ),
    (r"vision_model\.encoder\.layers\.(\d+)\.norm1\.(\w+)", rf"{_VISION}.encoder.layer.\1.layernorm_before.\2"),
    (r"vision_model\.encoder\.layers\.(\d+)\.norm2\.(\w+)", rf"{_VISION}.encoder.layer.\1.layernorm_after.\2"),
    (r"vision_model\.encoder\.layers\.(\d+)\.ls([12])", rf"{_VISION}.encoder.layer.\1.lambda_\2"),
    (
        r"vision_model\.encoder\.layers\.(\d+)\.attn\.proj\.(\w+)",
        rf"{_VISION}.encoder.layer.\1.attention.projection_layer.\2",
    ),
    (
        r"vision_model\.encoder\.layers\.(\d+)\.attn\.([qk])_norm\.weight",
        rf"{_VISION}.encoder.layer.\1.attention.\2_norm.weight",
    ),
    (r"vision_model\.encoder\.layers\.(\d+)\.mlp\.(fc[12]\.\w+)", rf"{_VISION}.encoder.layer.\1.mlp.\2"),
    (r"mlp1\.0\.(weight|bias)", r"model.multi_modal_projector.layer_norm.\1"),
    (r"mlp1\.1\.(weight|bias)", r"model.multi_modal_projector.linear_1.\1"),
    (r"mlp1\.3\.(weight|bias)", r"model.multi_modal_projector.linear_2.\1"),
)
_PARTS_OF_TRANSFORMERS_LLM = (
    (r"language_model\.model\.(.+)", rf"{_LLM}.\1"),
    (r"language_model\.(lm_head\.\w+)", r"\1"),
)
_PARTS_OF_INTERNLM2 = (
    (r"language_model\.model\.tok_embeddings\.weight", rf"{_LLM}.embed_tokens.weight"),
    (r"language_model\.model\.norm\.weight", rf"{_LLM}.norm.weight"),
    (r"language_model\.model\.layers\.(\d+)\.attention_norm\.weight", rf"{_LLM}.layers.\1.input_layernorm.weight"),
    (r"language_model\.model\.layers\.(\d+)\.ffn_norm\.weight", rf"{_LLM}.layers.\1.post_attention_layernorm.weight"),
    (r"language_model\.model\.layers\.(\d+)\.attention\.wo\.(\w+)", rf"{_LLM}.layers.\1.self_attn.o_proj.\2"),
    (r"language_model\.model\.layers\.(\d+)\.feed_forward\.w1\.weight", rf"{_LLM}.layers.\1.mlp.gate_proj.weight"),
    (r"language_model\.model\.layers\.(\d+)\.feed_forward\.w3\.weight", rf"{_LLM}.layers.\1.mlp.up_proj.weight"),
    (r"language_model\.model\.layers\.(\d+)\.feed_forward\.w2\.weight", rf"{_LLM}.layers.\1.mlp.down_proj.weight"),
    (r"language_model\.output\.weight", r"lm_head.weight"),
)
_VISION_QKV = re.compile(r"vision_model\.encoder\.layers\.(\d+)\.attn\.qkv\.(\w+)")
_INTERNLM2_QKV = re.compile(r"language_model\.model\.layers\.(\d+)\.attention\.wqkv\.(\w+)")
# buffers that some checkpoints carry and transformers works out by itself
_WORKED_OUT = re.compile(r".*\.rotary_emb\.inv_freq")


def converted(name: str, tensor: Tensor, llm: Mapping) -> dict[str, Tensor]:
    """What one original tensor becomes, by new name. `llm` is the checkpoint's `llm_config`.

    Raises InputError for a name that no part of InternVL2 has.
    """
    is_internlm2 = llm["architectures"][0] == "InternLM2ForCausalLM"
    if _WORKED_OUT.fullmatch(name):
        return {}
    if match := _VISION_QKV.fullmatch(name):
        layer, kind = match.groups()
        parts = tensor.chunk(3)
        return {
            f"{_VISION}.encoder.layer.{layer}.attention.{x}_proj.{kind}": part.contiguous()
            for x, part in zip("qkv", parts, strict=True)
        }
    if is_internlm2 and (match := _INTERNLM2_QKV.fullmatch(name)):
        layer, kind = match.groups()
        return {f"{_LLM}.layers.{layer}.self_attn.{x}_proj.{kind}": part for x, part in _by_head(tensor, llm).items()}
    table = (*_PARTS_OF_BOTH, *(_PARTS_OF_INTERNLM2 if is_internlm2 else _PARTS_OF_TRANSFORMERS_LLM))
    for pattern, new_name in table:
        if match := re.fullmatch(pattern, name):
            return {match.expand(new_name): tensor}
    raise InputError(f"key {name}: no part of InternVL2 with {llm['architectures'][0]} has this name")


def _by_head(wqkv: Tensor, llm: Mapping) -> dict[str, Tensor]:
    """InternLM2 puts behind the queries of each group of heads the group's key and value."""
    groups = llm.get("num_key_value_heads") or llm["num_attention_heads"]
    head = llm["hidden_size"] // llm["num_attention_heads"]
    rows = wqkv.reshape(groups, -1, head, *wqkv.shape[1:])
    flat: Callable[[Tensor], Tensor] = lambda part: part.reshape(-1, *wqkv.shape[1:]).contiguous()  # noqa: E731
    return {"q": flat(rows[:, :-2]), "k": flat(rows[:, -2]), "v": flat(rows[:, -1])}
