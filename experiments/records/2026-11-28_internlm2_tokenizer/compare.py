"""The original code of InternVL2 with InternLM2 and `selfkd convert`, on a tiny checkpoint: ids and logits.

PYTHONPATH=.:tests python compare.py tokenizer FOLDER false|true          # with add_dummy_prefix
PYTHONPATH=TRANSFORMERS_4_44:InternVL/internvl_chat python compare.py original FOLDER SELECT_LAYER
PYTHONPATH=.:tests python compare.py ours FOLDER
"""

import json
import random
import sys
from pathlib import Path
from types import ModuleType

import torch

ATOMS = [
    "<|im_end|>", "<|im_start|>", "<IMG_CONTEXT>", "<img>", "</img>", "<s>", "</s>", "<unk>", " ", "  ", "   ", "\n",
    "\t", "é", "日本", "👩", "a", "aa", "aaa", "the ", "image", "What", "▁", "<0x0A>", "[UNUSED", "\u3000", "fox", "?",
]  # fmt: skip
VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
          "image_size": 28, "patch_size": 7, "qkv_bias": True, "qk_normalization": False,
          "norm_type": "layer_norm"}  # fmt: skip
LLM = {"architectures": ["InternLM2ForCausalLM"], "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
       "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, "rms_norm_eps": 1e-5,
       "rope_theta": 1e6, "bias": False, "rope_scaling": {"type": "dynamic", "factor": 2.0}}  # fmt: skip
TOKENS_A_TILE = 4


def texts() -> list[str]:
    draw = random.Random(0)
    return ["".join(draw.choice(ATOMS) for _ in range(draw.randint(0, 12))) for _ in range(1000)]


def prompt(tiles: int, words: int) -> str:
    image = "<img>" + "<IMG_CONTEXT>" * (TOKENS_A_TILE * tiles) + "</img>"
    return f"<|im_start|>user\n{image}\n" + "What is in the image? " * words + "<|im_end|><|im_start|>assistant\n"


def original(folder: Path, select_layer: int) -> None:
    import transformers  # noqa: F401 (before the stubs: it looks which packages there are)
    from transformers import LlamaForCausalLM, LlamaTokenizer, Qwen2ForCausalLM  # noqa: F401

    # DropPath is an identity in evaluation, LoRA is not used; timm would need torchvision
    sys.modules["timm"] = sys.modules["timm.models"] = ModuleType("timm")
    sys.modules["timm.models.layers"] = layers = ModuleType("timm.models.layers")
    layers.DropPath = torch.nn.Identity  # type: ignore[attr-defined]
    sys.modules["peft"] = peft = ModuleType("peft")
    peft.LoraConfig = peft.get_peft_model = None  # type: ignore[attr-defined]
    from internvl.model.internlm2.tokenization_internlm2 import InternLM2Tokenizer
    from internvl.model.internvl_chat.configuration_internvl_chat import InternVLChatConfig
    from internvl.model.internvl_chat.modeling_internvl_chat import InternVLChatModel

    tokenizer = InternLM2Tokenizer.from_pretrained(folder)
    size = tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>") + 1
    config = InternVLChatConfig(
        VISION, LLM | {"vocab_size": size}, template="internlm2-chat", ps_version="v2", force_image_size=28,
        dynamic_image_size=True, use_thumbnail=True, max_dynamic_patch=12, select_layer=select_layer,
    )  # fmt: skip
    torch.manual_seed(0)
    model = InternVLChatModel(config, use_flash_attn=False).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():  # norms and biases too must be told apart
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    cases = []
    for tiles, words in ((1, 1), (5, 8), (13, 30)):
        ids = tokenizer(prompt(tiles, words), return_tensors="pt")["input_ids"]
        pixels = torch.randn(tiles, 3, 28, 28)
        model.img_context_token_id = size - 1
        with torch.no_grad():
            logits = model(pixels, ids, torch.ones_like(ids), image_flags=torch.ones(tiles, 1)).logits
        cases.append((tiles, words, ids, pixels, logits))
    torch.save({"ids": [tokenizer(t)["input_ids"] for t in texts()], "cases": cases}, folder / "original.pt")


def ours(folder: Path) -> None:
    from selfkd.model.convert import ConvertConfig, convert
    from selfkd.model.load import load_vlm_processor
    from transformers import InternVLForConditionalGeneration

    out = convert(ConvertConfig(folder, folder / "ours"))
    tokenizer = load_vlm_processor(out).tokenizer
    model = InternVLForConditionalGeneration.from_pretrained(out).eval()
    found = torch.load(folder / "original.pt")
    differ = sum(tokenizer(t)["input_ids"] != ids for t, ids in zip(texts(), found["ids"], strict=True))
    print(f"texts with other ids: {differ} of {len(found['ids'])}")
    for tiles, words, ids, pixels, logits in found["cases"]:
        own = tokenizer(prompt(tiles, words), return_tensors="pt")["input_ids"]
        with torch.no_grad():
            difference = (model(input_ids=own, pixel_values=pixels).logits - logits).abs().max()
        same, most = torch.equal(own, ids), logits.abs().max()
        print(f"{ids.shape[1]} tokens, {tiles} tiles: ids equal {same}, logits to {most:.1f} within {difference:.1e}")


if __name__ == "__main__":
    what, there = sys.argv[1], Path(sys.argv[2])
    if what == "tokenizer":
        from internlm2 import write_tokenizer

        there.mkdir(parents=True)
        write_tokenizer(there, add_dummy_prefix=json.loads(sys.argv[3]))
    elif what == "original":
        original(there, int(sys.argv[3]))
    else:
        ours(there)
