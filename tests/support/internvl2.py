"""Original InternVL2 checkpoints, built by hand at tiny size: nothing here uses the table of the converter."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import InternVLForConditionalGeneration, PreTrainedTokenizerFast

from selfkd.model.convert_internvl2 import internvl_config, read_original_config

SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|end|>", "<|user|>", "<|system|>", "<|assistant|>"]
TOKENS = [*SPECIAL, "<img>", "</img>", "<IMG_CONTEXT>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
LLM = {
    "vocab_size": len(TOKENS),
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
}
QUESTION_TYPES = {
    "Hermes-2": LLM | {"architectures": ["Qwen2ForCausalLM"]},
    "internlm2-chat": LLM
    | {"architectures": ["InternLM2ForCausalLM"], "bias": False, "rope_scaling": {"type": "dynamic", "factor": 2.0}},
    "phi3-chat": LLM
    | {
        "architectures": ["Phi3ForCausalLM"],
        "pad_token_id": 0,
        "original_max_position_embeddings": 128,
        "rope_scaling": {"type": "su", "short_factor": [1.0] * 4, "long_factor": [1.5] * 4},
    },
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 7,
    "qkv_bias": True,
    "qk_normalization": False,
    "norm_type": "layer_norm",
}
IMAGE_ID = TOKENS.index("<IMG_CONTEXT>")


def original_layout(model, template) -> dict[str, torch.Tensor]:
    """The model's weights as InternVLChatModel names and fuses them."""
    new, old = model.state_dict(), {}
    for i in range(VISION["num_hidden_layers"]):
        there, here = f"model.vision_tower.encoder.layer.{i}", f"vision_model.encoder.layers.{i}"
        for parameter in ("weight", "bias"):
            qkv = [new.pop(f"{there}.attention.{x}_proj.{parameter}") for x in "qkv"]
            old[f"{here}.attn.qkv.{parameter}"] = torch.cat(qkv)
    if template == "internlm2-chat":
        for i in range(LLM["num_hidden_layers"]):
            there, here = f"model.language_model.layers.{i}", f"language_model.model.layers.{i}"
            q, k, v = (new.pop(f"{there}.self_attn.{x}_proj.weight") for x in "qkv")
            groups = [torch.cat(g) for g in zip(q.chunk(2), k.chunk(2), v.chunk(2), strict=True)]
            old[f"{here}.attention.wqkv.weight"] = torch.cat(groups)
        names = {
            "embed_tokens": "tok_embeddings", "input_layernorm": "attention_norm", "self_attn.o_proj": "attention.wo",
            "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "feed_forward.w1",
            "mlp.up_proj": "feed_forward.w3", "mlp.down_proj": "feed_forward.w2", "lm_head": "language_model.output",
        }  # fmt: skip
    else:
        names = {"lm_head": "language_model.lm_head"}
    names |= {
        "model.vision_tower": "vision_model", "model.language_model": "language_model.model", "encoder.layer.":
        "encoder.layers.", "cls_token": "class_embedding", "position_embeddings": "position_embedding",
        "patch_embeddings.projection": "patch_embedding", "attention.projection_layer": "attn.proj",
        "layernorm_before": "norm1", "layernorm_after": "norm2", "lambda_": "ls",
        "model.multi_modal_projector.layer_norm": "mlp1.0", "model.multi_modal_projector.linear_1": "mlp1.1",
        "model.multi_modal_projector.linear_2": "mlp1.3",
    }  # fmt: skip
    for name, tensor in new.items():
        for theirs, ours in names.items():
            name = name.replace(theirs, ours)
        old[name] = tensor
    return old


def write_original(folder: Path, template: str) -> InternVLForConditionalGeneration:
    """Writes an original checkpoint (`folder`, which must not be there); returns the model that it must become."""
    folder.mkdir()
    config = {
        "model_type": "internvl_chat",
        "template": template,
        "llm_config": QUESTION_TYPES[template],
        "vision_config": VISION,
        "force_image_size": 28,
        "ps_version": "v2",
        "max_dynamic_patch": 12,
        "torch_dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(config))
    backend = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(TOKENS)}, merges=[]))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    backend.add_special_tokens(TOKENS[: IMAGE_ID + 1])
    PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    model = InternVLForConditionalGeneration(internvl_config(read_original_config(folder), IMAGE_ID)).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # norms and biases must differ too
            parameter.add_(0.1 * torch.randn_like(parameter))
    weights = {name: t.contiguous() for name, t in original_layout(model, template).items()}
    save_file(weights, folder / "model.safetensors")
    return model
