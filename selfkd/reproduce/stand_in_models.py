"""Stand-ins of the models of a recipe, in the files and classes that the hub has, with random weights.

InternVL2 is written in its original layout, from the table below, so that `selfkd convert` has its real work; names of
weights and their shapes are those of OpenGVLab/InternVL (MIT). Dimensions come from the recipe's model configuration.
"""

import json
import pydoc_data.topics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessorPil,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME

from selfkd.files import write_json
from selfkd.model.image_processor import image_processor_class

Shapes = dict[str, tuple[int, ...]]
INIT_STD = 0.02
SHARD_BYTES = 2 * 2**30
TRAINED_TOKENS = 20_000  # of a tokenizer; the rest of its vocabulary never occurs
_IMAGES = ["<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>"]
# {model_type of the LLM: (template, architecture, special tokens before those of images)}
_LLMS = {
    "qwen2": ("Hermes-2", "Qwen2ForCausalLM", ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]),
    "llama": ("internlm2-chat", "InternLM2ForCausalLM", ["</s>", "<|im_start|>", "<|im_end|>"]),
    "phi3": ("phi3-chat", "Phi3ForCausalLM", ["</s>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]),
}
_QWEN_IMAGES = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_bos_token": "<|vision_start|>",
    "vision_eos_token": "<|vision_end|>",
}
_QWEN_TEMPLATE = (  # Qwen2-VL's, without its default system message
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for p in m['content'] %}{% if p['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif p['type'] == 'text' %}{{ p['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_level_tokenizer(size: int, special: list[str], **settings: Any) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of `size` tokens, as GPT-2's and Qwen's, trained on Python's own help texts; `special`
    are the last. Beyond what the training gives, the vocabulary is filled with tokens that never occur."""
    wanted = size - len(special)
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=min(wanted, TRAINED_TOKENS), initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(pydoc_data.topics.topics.values(), trainer)
    trained = json.loads(backend.to_str())["model"]
    vocabulary = trained["vocab"] | {f"<unused {i}>": i for i in range(len(trained["vocab"]), wanted)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[tuple(pair) for pair in trained["merges"]]))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    backend.add_special_tokens(special)
    return PreTrainedTokenizerFast(tokenizer_object=backend, **settings)


def save_internvl2(folder: Path, dimensions: Mapping[str, Any]) -> None:
    """An original InternVL2 checkpoint; `dimensions` is a `vlm_config` of recipes/model_configs."""
    text, vision = dict(dimensions["text_config"]), dict(dimensions["vision_config"])
    template, architecture, special = _LLMS[text["model_type"]]
    side, patch = (vision[name][0] for name in ("image_size", "patch_size"))
    llm = {name: value for name, value in text.items() if name != "model_type" and value is not None}
    llm |= {"architectures": [architecture], "max_position_embeddings": 32_768, "rms_norm_eps": 1e-6}
    llm |= {"rope_theta": 1e6, "bias": False, "pad_token_id": 0}
    config = {
        "model_type": "internvl_chat",
        "template": template,
        "llm_config": llm,
        "vision_config": vision
        | {"image_size": side, "patch_size": patch, "qkv_bias": True, "qk_normalization": False},
        "force_image_size": side,
        "downsample_ratio": 0.5,
        "ps_version": "v2",
        "max_dynamic_patch": 12,
        "torch_dtype": "bfloat16",
    }
    folder.mkdir(parents=True)
    tokenizer = byte_level_tokenizer(
        text["vocab_size"], [*special, *_IMAGES], eos_token=special[-1], pad_token=special[0]
    )
    tokenizer.save_pretrained(folder)
    write_random_weights(folder, internvl2_shapes(config))
    write_json(folder / "config.json", config)


def internvl2_shapes(config: Mapping[str, Any]) -> Shapes:
    """{name: shape} of an original InternVL2's weights."""
    vision, llm = config["vision_config"], config["llm_config"]
    width, inner, patch = vision["hidden_size"], vision["intermediate_size"], vision["patch_size"]
    patches = (vision["image_size"] // patch) ** 2
    shapes: Shapes = {
        "vision_model.embeddings.class_embedding": (1, 1, width),
        "vision_model.embeddings.position_embedding": (1, patches + 1, width),
        **_linear("vision_model.embeddings.patch_embedding", (width, 3, patch, patch), bias=True),
    }
    for i in range(vision["num_hidden_layers"]):
        at = f"vision_model.encoder.layers.{i}"
        shapes |= {f"{at}.ls1": (width,), f"{at}.ls2": (width,)}
        for norm in ("norm1", "norm2"):
            shapes |= _linear(f"{at}.{norm}", (width,), bias=True)
        shapes |= _linear(f"{at}.attn.qkv", (3 * width, width), bias=True)
        shapes |= _linear(f"{at}.attn.proj", (width, width), bias=True)
        shapes |= _linear(f"{at}.mlp.fc1", (inner, width), bias=True) | _linear(
            f"{at}.mlp.fc2", (width, inner), bias=True
        )
    hidden = llm["hidden_size"]
    shapes |= _linear("mlp1.0", (4 * width,), bias=True)
    shapes |= _linear("mlp1.1", (hidden, 4 * width), bias=True) | _linear("mlp1.3", (hidden, hidden), bias=True)
    return shapes | (_internlm2_shapes(llm) if llm["architectures"] == ["InternLM2ForCausalLM"] else _llm_shapes(llm))


def _llm_shapes(llm: Mapping[str, Any]) -> Shapes:
    """Qwen2 and Phi-3, which have transformers' names; Phi-3 fuses its matrices."""
    hidden, inner, vocabulary = llm["hidden_size"], llm["intermediate_size"], llm["vocab_size"]
    keys = hidden // llm["num_attention_heads"] * llm["num_key_value_heads"]
    is_phi3 = llm["architectures"] == ["Phi3ForCausalLM"]
    shapes: Shapes = {
        "language_model.model.embed_tokens.weight": (vocabulary, hidden),
        "language_model.model.norm.weight": (hidden,),
        "language_model.lm_head.weight": (vocabulary, hidden),
    }
    for i in range(llm["num_hidden_layers"]):
        at = f"language_model.model.layers.{i}"
        shapes |= {f"{at}.{norm}.weight": (hidden,) for norm in ("input_layernorm", "post_attention_layernorm")}
        shapes |= {f"{at}.self_attn.o_proj.weight": (hidden, hidden), f"{at}.mlp.down_proj.weight": (hidden, inner)}
        if is_phi3:
            shapes[f"{at}.self_attn.qkv_proj.weight"] = (hidden + 2 * keys, hidden)
            shapes[f"{at}.mlp.gate_up_proj.weight"] = (2 * inner, hidden)
            continue
        shapes |= {f"{at}.mlp.{name}_proj.weight": (inner, hidden) for name in ("gate", "up")}
        for name, rows in (("q", hidden), ("k", keys), ("v", keys)):
            shapes |= _linear(f"{at}.self_attn.{name}_proj", (rows, hidden), bias=True)
    return shapes


def _internlm2_shapes(llm: Mapping[str, Any]) -> Shapes:
    hidden, inner, vocabulary = llm["hidden_size"], llm["intermediate_size"], llm["vocab_size"]
    keys = hidden // llm["num_attention_heads"] * llm["num_key_value_heads"]
    shapes: Shapes = {
        "language_model.model.tok_embeddings.weight": (vocabulary, hidden),
        "language_model.model.norm.weight": (hidden,),
        "language_model.output.weight": (vocabulary, hidden),
    }
    for i in range(llm["num_hidden_layers"]):
        at = f"language_model.model.layers.{i}"
        shapes |= {f"{at}.attention_norm.weight": (hidden,), f"{at}.ffn_norm.weight": (hidden,)}
        shapes |= {
            f"{at}.attention.wqkv.weight": (hidden + 2 * keys, hidden),
            f"{at}.attention.wo.weight": (hidden, hidden),
        }
        shapes |= {f"{at}.feed_forward.{name}.weight": (inner, hidden) for name in ("w1", "w3")}
        shapes[f"{at}.feed_forward.w2.weight"] = (hidden, inner)
    return shapes


def _linear(name: str, shape: tuple[int, ...], bias: bool) -> Shapes:
    return {f"{name}.weight": shape} | ({f"{name}.bias": shape[:1]} if bias else {})


def write_random_weights(folder: Path, shapes: Shapes) -> None:
    """Shards of bf16 weights: norms and scales are 1, biases 0, the others normal. Holds one shard in memory."""
    generator = torch.Generator().manual_seed(0)
    where: dict[str, str] = {}
    for number, shard in enumerate(_shards(shapes), 1):
        name = f"model-{number:05d}.safetensors"
        save_file({n: _random(n, shapes[n], generator) for n in shard}, folder / name, {"format": "pt"})
        where |= dict.fromkeys(shard, name)
    write_json(folder / SAFE_WEIGHTS_INDEX_NAME, {"metadata": {}, "weight_map": where})


def _shards(shapes: Shapes) -> Iterator[list[str]]:
    names: list[str] = []
    size = 0
    for name, shape in shapes.items():
        of_tensor = 2 * torch.Size(shape).numel()
        if names and size + of_tensor > SHARD_BYTES:
            yield names
            names, size = [], 0
        names.append(name)
        size += of_tensor
    yield names


def _random(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    is_scale = len(shape) == 1 and not name.endswith("bias")
    if len(shape) == 1:
        return torch.full(shape, float(is_scale), dtype=torch.bfloat16)
    return (INIT_STD * torch.randn(shape, generator=generator)).bfloat16()


def save_qwen2_vl(folder: Path, dimensions: Mapping[str, Any]) -> None:
    """A Qwen2-VL of transformers' own classes; `dimensions` is a `vlm_config` of recipes/model_configs."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *_QWEN_IMAGES.values()]
    size = min(151_657, dimensions["text_config"]["vocab_size"] - 1)  # the embeddings have some more rows
    settings = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "extra_special_tokens": _QWEN_IMAGES}
    tokenizer = byte_level_tokenizer(size, special, chat_template=_QWEN_TEMPLATE, **settings)
    values = {name: value for name, value in dimensions.items() if name != "model_type"}
    config = AutoConfig.for_model(dimensions["model_type"], **values)
    config.image_token_id, config.video_token_id = tokenizer.image_token_id, tokenizer.video_token_id
    config.vision_start_token_id = tokenizer.vision_bos_token_id
    config.text_config.eos_token_id = tokenizer.eos_token_id
    config.text_config.pad_token_id = tokenizer.pad_token_id
    patch, sizes = config.vision_config.patch_size, {"shortest_edge": 56 * 56, "longest_edge": 448 * 448}
    images = Qwen2VLImageProcessorPil(patch_size=patch, merge_size=2, size=sizes)
    processor = image_processor_class(dimensions["model_type"])(
        image_processor=images, tokenizer=tokenizer, chat_template=_QWEN_TEMPLATE
    )
    processor.save_pretrained(folder)
    torch.manual_seed(0)
    AutoModelForImageTextToText.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)


def save_whisper(folder: Path, dimensions: Mapping[str, Any], vocabulary: int) -> None:
    """A Whisper whose encoder has the `dimensions` of an `audio_config` of recipes/model_configs, and a decoder of the
    same. Its decoder writes one token and ends: random logits would give a transcript of the maximum length."""
    letters = byte_level_tokenizer(256 + 3, ["<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>"]).get_vocab()
    tokenizer = WhisperTokenizer(vocab=letters, merges=[])
    end, start = letters["<|endoftext|>"], letters["<|startoftranscript|>"]
    config = WhisperConfig(
        **dimensions, vocab_size=vocabulary, decoder_layers=dimensions["encoder_layers"],
        decoder_attention_heads=dimensions["encoder_attention_heads"], decoder_ffn_dim=dimensions["encoder_ffn_dim"],
        pad_token_id=end, bos_token_id=end, eos_token_id=end, decoder_start_token_id=start, suppress_tokens=None,
        begin_suppress_tokens=[end],
    )  # fmt: skip
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(config).half()
    with torch.no_grad():
        decoder = model.model.decoder
        decoder.layer_norm.weight.zero_()
        decoder.layer_norm.bias.fill_(1.0)  # each token's logit is the sum of its embedding
        decoder.embed_tokens.weight[letters["a"]] = 0.5
        decoder.embed_tokens.weight[end] = 1.0
    settings = {"begin_suppress_tokens": [end], "is_multilingual": False, "eos_token_id": end, "pad_token_id": end}
    model.generation_config = GenerationConfig(**settings, decoder_start_token_id=start)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=dimensions["num_mel_bins"]).save_pretrained(folder)
