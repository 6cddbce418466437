"""Checks the configuration of an original InternVL2 checkpoint. The conversion honours each field that the original
code reads, or refuses it here by name where transformers' classes have no equivalent.

The original reads the fields of its constructors (OpenGVLab/InternVL, internvl_chat/internvl/model); all other fields
in the file are stored defaults, without effect there and here.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from selfkd.errors import InputError

_NO_LORA = "the weights are wrapped in LoRA; merge it first"
_NO_PRUNING = "heads are pruned, which transformers 5 does not know"
# (field, whether a value has an equivalent in transformers, message for other values); missing fields are not checked
_Rule = tuple[str, Callable[[Any], bool], str]
_WHOLE: tuple[_Rule, ...] = (
    ("use_backbone_lora", lambda value: not value, _NO_LORA),
    ("use_llm_lora", lambda value: not value, _NO_LORA),
    ("pad2square", lambda value: not value, "the original pads images to squares, and the conversion does not"),
    ("image_fold", lambda value: not value, "the original folds images, and the conversion does not"),
    ("quantization_config", lambda value: not value, "the weights are quantized; give the unquantized ones"),
    ("tie_word_embeddings", lambda value: not value, "the original does not read it here; set it in llm_config"),
    ("system_message", lambda value: isinstance(value, str), "expected a text"),
)
_VISION: tuple[_Rule, ...] = (
    ("num_channels", lambda value: value == 3, "expected 3: images are RGB"),
    ("use_moe", lambda value: not value, "the vision encoder has experts, which transformers' has not"),
    ("pruned_heads", lambda value: not value, _NO_PRUNING),
)
_LLM: tuple[_Rule, ...] = (
    ("pruned_heads", lambda value: not value, _NO_PRUNING),
    ("quantization_config", lambda value: not value, "the weights are quantized; give the unquantized ones"),
    ("mlp_bias", lambda value: not value, "the MLPs of InternVL2's language models have no bias"),
    ("rope_parameters", lambda value: not value, "expected rope_theta and rope_scaling"),
)
_INTERNLM2_ROPE = ("linear", "dynamic")


def check_original(original: Mapping[str, Any], path: Path) -> None:
    """Raises InputError naming file and field for what cannot be converted exactly."""
    vision, llm = original["vision_config"], original["llm_config"]
    for prefix, config, rules in (
        ("", original, _WHOLE),
        ("vision_config.", vision, _VISION),
        ("llm_config.", llm, _LLM),
    ):
        for field, is_right, wrong in rules:
            if field in config and not is_right(config[field]):
                raise InputError(f"{path}: field {prefix}{field}: {config[field]!r}: {wrong}")
    if original.get("ps_version", "v1") != "v2":
        raise InputError(f"{path}: field ps_version: 'v1' transposes the image; transformers has 'v2' only")
    size = vision["image_size"]
    if (original.get("force_image_size") or size) != size:
        raise InputError(f"{path}: field force_image_size: differs from vision_config.image_size ({size})")
    _check_tiles(original, path)
    _check_layers(original, vision, path)
    _check_llm(llm, path)


def tiles(original: Mapping[str, Any]) -> tuple[int, int]:
    """The minimum and maximum number of tiles of an image, without the thumbnail; one tile is the whole image. The
    default is that of the published checkpoints, 1 to 12."""
    if not original.get("dynamic_image_size", True):
        return 1, 1
    return original.get("min_dynamic_patch", 1), original.get("max_dynamic_patch", 12)


def _check_tiles(original: Mapping[str, Any], path: Path) -> None:
    min_tiles, max_tiles = tiles(original)
    if not 1 <= min_tiles <= max_tiles:
        raise InputError(f"{path}: field min_dynamic_patch: {min_tiles}, expected 1 to max_dynamic_patch ({max_tiles})")
    if max_tiles > 1 and not original.get("use_thumbnail", True):
        raise InputError(f"{path}: field use_thumbnail: false: transformers adds one after the tiles of an image")
    patches = original["vision_config"]["image_size"] // original["vision_config"]["patch_size"]
    ratio = original.get("downsample_ratio", 0.5)
    if not 0 < ratio <= 1 or int(patches * ratio) != patches * ratio or int(1 / ratio) != 1 / ratio:
        raise InputError(f"{path}: field downsample_ratio: {ratio} does not divide {patches} patches a side evenly")


def _check_layers(original: Mapping[str, Any], vision: Mapping[str, Any], path: Path) -> None:
    layer, layers = original.get("select_layer", -1), vision["num_hidden_layers"]
    if not -layers - 1 <= layer <= layers:
        raise InputError(f"{path}: field select_layer: {layer}, and the vision encoder has {layers} layers")
    epsilon = vision.get("layer_norm_eps", 1e-6)
    if vision.get("qk_normalization", True) and epsilon != 1e-6:
        raise InputError(
            f"{path}: field vision_config.layer_norm_eps: {epsilon}: transformers norms queries and keys with 1e-06"
        )


def _check_llm(llm: Mapping[str, Any], path: Path) -> None:
    head = llm["hidden_size"] // llm["num_attention_heads"]
    if llm.get("head_dim") not in (None, head):
        raise InputError(f"{path}: field llm_config.head_dim: {llm['head_dim']}, and hidden_size says {head}")
    scaling = llm.get("rope_scaling")
    if not scaling:
        return
    rope_type = scaling.get("type") or scaling.get("rope_type")
    if rope_type is None:
        raise InputError(f"{path}: field llm_config.rope_scaling: {scaling!r}: has no type")
    if llm["architectures"][0] == "InternLM2ForCausalLM" and rope_type not in _INTERNLM2_ROPE:
        raise InputError(f"{path}: field llm_config.rope_scaling: type {rope_type!r}; InternLM2 has {_INTERNLM2_ROPE}")
