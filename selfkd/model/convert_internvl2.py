"""Converts an original InternVL2 checkpoint (`InternVLChatModel`, with remote code) to the classes of transformers.

Tensors are read, renamed and saved one at a time, so memory holds one shard of the output, whatever the model's size.
Each tensor is renamed or split: the original fuses query, key and value into one matrix, InternViT one after another,
InternLM2 by groups of heads. InternLM2 is Llama with other names. Every key of the input must match a parameter and
every parameter must match a key; otherwise nothing is written.

Layouts: OpenGVLab/InternVL, internvl_chat/internvl/model (MIT).
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import InternVLConfig, InternVLForConditionalGeneration, LlamaConfig, Phi3Config, Qwen2Config
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from selfkd.errors import InputError
from selfkd.files import check_new, write_folder_atomically, write_json
from selfkd.hub import is_hub_id, split_revision
from selfkd.model.checkpoint_files import check_small_files, check_source, read_header, read_json_object, reading
from selfkd.model.convert_config import ConvertConfig
from selfkd.model.convert_internvl2_config import check_original
from selfkd.model.convert_internvl2_processor import convert_processor, image_tokens_a_tile, stop_tokens
from selfkd.progress import progress

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
# buffers that some checkpoints store and transformers computes
_COMPUTED = re.compile(r".*\.rotary_emb\.inv_freq")


def converted(name: str, tensor: Tensor, llm: Mapping) -> dict[str, Tensor]:
    """{new name: tensor} of one original tensor; `llm` is the checkpoint's `llm_config`.

    Raises InputError for a name that InternVL2 does not have.
    """
    is_internlm2 = llm["architectures"][0] == "InternLM2ForCausalLM"
    if _COMPUTED.fullmatch(name):
        return {}
    if match := _VISION_QKV.fullmatch(name):
        layer, parameter = match.groups()
        parts = tensor.chunk(3)
        return {
            f"{_VISION}.encoder.layer.{layer}.attention.{x}_proj.{parameter}": part.contiguous()
            for x, part in zip("qkv", parts, strict=True)
        }
    if is_internlm2 and (match := _INTERNLM2_QKV.fullmatch(name)):
        layer, parameter = match.groups()
        return {
            f"{_LLM}.layers.{layer}.self_attn.{x}_proj.{parameter}": part for x, part in _by_head(tensor, llm).items()
        }
    table = (*_PARTS_OF_BOTH, *(_PARTS_OF_INTERNLM2 if is_internlm2 else _PARTS_OF_TRANSFORMERS_LLM))
    for pattern, new_name in table:
        if match := re.fullmatch(pattern, name):
            return {match.expand(new_name): tensor}
    raise InputError(f"key {name}: no part of InternVL2 with {llm['architectures'][0]} has this name")


def _by_head(wqkv: Tensor, llm: Mapping) -> dict[str, Tensor]:
    """Splits InternLM2's wqkv, which has the key and value of each group of heads after the group's queries."""
    groups = llm.get("num_key_value_heads") or llm["num_attention_heads"]
    head = llm["hidden_size"] // llm["num_attention_heads"]
    rows = wqkv.reshape(groups, -1, head, *wqkv.shape[1:])
    flat: Callable[[Tensor], Tensor] = lambda part: part.reshape(-1, *wqkv.shape[1:]).contiguous()  # noqa: E731
    return {"q": flat(rows[:, :-2]), "k": flat(rows[:, -2]), "v": flat(rows[:, -1])}


_LLM_CONFIGS = {
    "Qwen2ForCausalLM": Qwen2Config,
    "InternLM2ForCausalLM": LlamaConfig,
    "Phi3ForCausalLM": Phi3Config,
    "LlamaForCausalLM": LlamaConfig,
}
# fields that the configurations share with the original's, which also stores many unused defaults
_LLM_FIELDS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "hidden_act", "max_position_embeddings", "original_max_position_embeddings",
    "initializer_range", "rms_norm_eps", "bos_token_id", "eos_token_id", "pad_token_id", "use_sliding_window",
    "sliding_window", "max_window_layers", "attention_bias",
)  # fmt: skip
_HEAD = "lm_head.weight"
_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "tokenization_*.py"]


def convert(config: ConvertConfig) -> Path:
    """Writes and returns `output`: weights, configuration and processor, for `from_pretrained`."""
    check_new(config.output)
    if config.shard_gigabytes <= 0:
        raise InputError(f"shard_gigabytes: {config.shard_gigabytes}: must be above 0")
    check_source(config.source, "source")
    config = replace(config, source=_downloaded(config.source))
    original = read_original_config(config.source)
    check_small_files(config.source, "source")
    for path in sorted(config.source.glob("*.safetensors")):
        read_header(path, "source")
    with write_folder_atomically(config.output) as folder:
        with reading(config.source, "source"):
            processor = convert_processor(config.source, original)
            tokenizer = processor.tokenizer
            model_config = internvl_config(original, tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"))
            with torch.device("meta"):
                model = InternVLForConditionalGeneration(model_config)
        _write_weights(config, original, model, folder)
        processor.save_pretrained(folder)
        model_config.architectures = [type(model).__name__]
        model_config.save_pretrained(folder)
        model.generation_config.eos_token_id = stop_tokens(original, tokenizer)
        model.generation_config.pad_token_id = tokenizer.pad_token_id
        model.generation_config.save_pretrained(folder)
    return config.output


def _downloaded(source: Path) -> Path:
    """The folder itself, or the folder in the hub's cache with the needed files of the repository of that name."""
    if source.exists() or not is_hub_id(source):
        return source
    try:
        name, revision = split_revision(source)
        return Path(snapshot_download(name, revision=revision, allow_patterns=_FILES))
    except OSError as error:
        raise InputError(f"source: {source}: no folder, and not available on the hub ({error})") from error


def read_original_config(source: Path) -> dict[str, Any]:
    """The original `config.json`; raises InputError where it cannot be converted exactly."""
    path = source / "config.json"
    if not path.is_file():
        raise InputError(f"source: {source}: no config.json there")
    original = read_json_object(path, "source")
    if original.get("model_type") != "internvl_chat":
        raise InputError(f"{path}: field model_type: {original.get('model_type')!r}, expected 'internvl_chat'")
    with reading(source, "source", "config.json"):
        architecture = str(original["llm_config"]["architectures"][0])
        original["vision_config"]["image_size"]
    if architecture not in _LLM_CONFIGS:
        raise InputError(f"{path}: field llm_config.architectures: {architecture}; known: {', '.join(_LLM_CONFIGS)}")
    with reading(source, "source", "config.json"):
        check_original(original, path)
    return original


def internvl_config(original: dict[str, Any], image_token_id: int) -> InternVLConfig:
    """The configuration of transformers' class."""
    vision, llm = original["vision_config"], original["llm_config"]
    fields = {name: llm[name] for name in _LLM_FIELDS if llm.get(name) is not None}
    if llm["architectures"][0] == "InternLM2ForCausalLM":
        fields["attention_bias"] = llm.get("bias", True)
    fields["rope_parameters"] = _rope_parameters(llm)
    tied = bool(llm.get("tie_word_embeddings", False))
    text_config = _LLM_CONFIGS[llm["architectures"][0]](**fields, tie_word_embeddings=tied)
    vision_config = {
        "hidden_size": vision["hidden_size"],
        "num_hidden_layers": vision["num_hidden_layers"],
        "num_attention_heads": vision["num_attention_heads"],
        "intermediate_size": vision["intermediate_size"],
        "image_size": vision["image_size"],
        "patch_size": vision["patch_size"],
        "num_channels": vision.get("num_channels", 3),
        "attention_bias": vision.get("qkv_bias", False),
        "use_qk_norm": vision.get("qk_normalization", True),
        "norm_type": vision.get("norm_type", "rms_norm"),
        "hidden_act": vision.get("hidden_act", "gelu"),
        "layer_norm_eps": vision.get("layer_norm_eps", 1e-6),
    }
    return InternVLConfig(
        text_config=text_config,
        vision_config=vision_config,
        image_token_id=image_token_id,
        image_seq_length=image_tokens_a_tile(original),
        downsample_ratio=original.get("downsample_ratio", 0.5),
        vision_feature_layer=original.get("select_layer", -1),
        tie_word_embeddings=tied,
        dtype=original.get("torch_dtype", "bfloat16"),
    )


def _rope_parameters(llm: dict[str, Any]) -> dict[str, Any]:
    rope = dict(llm.get("rope_scaling") or {"type": "default"})
    rope_type = rope.pop("type", None) or rope.pop("rope_type")
    if rope_type == "su":  # the first name of LongRoPE in Phi-3
        rope_type, rope["original_max_position_embeddings"] = "longrope", llm["original_max_position_embeddings"]
    return {"rope_type": rope_type, "rope_theta": float(llm.get("rope_theta", 10_000)), **rope}


def _write_weights(config: ConvertConfig, original: dict[str, Any], model: torch.nn.Module, folder: Path) -> None:
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if original["llm_config"].get("tie_word_embeddings"):
        del wanted[_HEAD]
    shards, size = 0, 0
    shard: dict[str, Tensor] = {}
    where: dict[str, int] = {}
    for old_name, tensor in _original_tensors(config.source):
        with reading(config.source, "source"):
            parts = converted(old_name, tensor, original["llm_config"])
        for name, part in parts.items():
            if name not in wanted:
                reason = (
                    "field llm_config.tie_word_embeddings: true: the embeddings are the head" if name == _HEAD else name
                )
                raise InputError(f"key {old_name}: the configuration has no such parameter ({reason})")
            if wanted[name] != tuple(part.shape):
                raise InputError(f"key {old_name}: shape {tuple(part.shape)}, the configuration says {wanted[name]}")
            if name in where:
                raise InputError(f"key {old_name}: {name} is given twice")
            bytes_of_part = part.numel() * part.element_size()
            if shard and size + bytes_of_part > config.shard_gigabytes * 1e9:
                save_file(shard, folder / f"{shards}.safetensors", {"format": "pt"})
                shards, shard, size = shards + 1, {}, 0
            shard[name], where[name], size = part, shards, size + bytes_of_part
    missing = sorted(set(wanted) - set(where))
    if missing:
        raise InputError(f"source: {config.source}: {len(missing)} keys are missing, among them {missing[0]}")
    save_file(shard, folder / f"{shards}.safetensors", {"format": "pt"})
    names = [f"model-{i + 1:05d}-of-{shards + 1:05d}.safetensors" for i in range(shards + 1)]
    names = [SAFE_WEIGHTS_NAME] if shards == 0 else names
    for i, name in enumerate(names):
        (folder / f"{i}.safetensors").rename(folder / name)
    if shards:
        total = sum((folder / n).stat().st_size for n in names)
        index = {"metadata": {"total_size": total}, "weight_map": {n: names[i] for n, i in sorted(where.items())}}
        write_json(folder / SAFE_WEIGHTS_INDEX_NAME, index)


def _original_tensors(source: Path) -> Iterator[tuple[str, Tensor]]:
    paths = sorted(source.glob("*.safetensors"))
    if not paths:
        raise InputError(f"source: {source}: no safetensors file there (pickled weights are refused)")
    with progress("converting", len(paths), "files") as shown:
        for path in shown.over(paths):
            try:
                with safe_open(path, "pt") as file:
                    for name in file.keys():  # noqa: SIM118 (not a dict)
                        yield name, file.get_tensor(name)
            except (OSError, SafetensorError) as error:
                raise InputError(f"{path}: not a whole safetensors file ({error})") from error
