"""VLM backbones at tiny dimensions with random weights, each from its real configuration class, and rows for them."""

import torch
from native_models import MROPE, QWEN_TEMPLATE, QWEN_TOKENS, ids_of, tokenizer
from transformers import (
    AutoModelForImageTextToText,
    FastVlmConfig,
    Qwen2_5_VLConfig,
    Qwen2VLConfig,
    Qwen2VLImageProcessorPil,
    Qwen3VLConfig,
    SmolVLMConfig,
    WhisperConfig,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from selfkd.model.image_processor import image_processor_class
from selfkd.model.modeling_omni import OmniModel

VOCABULARY, IMAGE, VISION_START, VISION_END, PAD = 120, 100, 101, 102, 0
TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": PAD,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
QWEN_IDS = {
    "image_token_id": IMAGE,
    "video_token_id": 103,
    "vision_start_token_id": VISION_START,
    "vision_end_token_id": VISION_END,
}
GRIDS = torch.tensor([[1, 4, 6], [1, 8, 4]])  # patches: height x width; tokens are 2 x 2 patches


def qwen2_vl():
    vision = {"depth": 2, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "patch_size": 4, "mlp_ratio": 2}
    return Qwen2VLConfig(text_config=TEXT | {"rope_parameters": MROPE}, vision_config=vision, **QWEN_IDS)


def qwen2_5_vl():
    vision = {"depth": 2, "hidden_size": 16, "out_hidden_size": 32, "num_heads": 2, "patch_size": 4}
    vision |= {"intermediate_size": 24, "window_size": 16, "fullatt_block_indexes": [1]}
    return Qwen2_5_VLConfig(text_config=TEXT | {"rope_parameters": MROPE}, vision_config=vision, **QWEN_IDS)


def qwen3_vl():
    vision = {"depth": 3, "hidden_size": 16, "out_hidden_size": 32, "num_heads": 2, "patch_size": 4}
    vision |= {"intermediate_size": 24, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]}
    text = TEXT | {"head_dim": 8, "rope_parameters": MROPE | {"mrope_interleaved": True}}
    return Qwen3VLConfig(text_config=text, vision_config=vision, **QWEN_IDS)


def smolvlm():
    vision = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision |= {"image_size": 16, "patch_size": 4}
    text = TEXT | {"model_type": "llama"}
    return SmolVLMConfig(text_config=text, vision_config=vision, image_token_id=IMAGE, scale_factor=2, pad_token_id=PAD)


def fast_vlm():
    """FastVLM's LLaVA around a convolutional vision encoder: EfficientNet, 4 tokens for an image of 64 pixels."""
    stages = {name: [value] * 4 for name, value in {"kernel_sizes": 3, "strides": 2, "num_block_repeats": 1}.items()}
    stages |= {
        "in_channels": [32] * 4,
        "out_channels": [32] * 4,
        "expand_ratios": [1, 2, 2, 2],
        "depthwise_padding": [],
    }
    vision = {"model_type": "efficientnet", "width_coefficient": 0.25, "depth_coefficient": 1.0} | stages
    vision |= {"hidden_dim": 320, "hidden_size": 320}  # a quarter of 1,280
    text = TEXT | {"model_type": "llama"}
    return FastVlmConfig(vision_config=vision, text_config=text, image_token_index=IMAGE, image_seq_length=4)


def qwen_images(config):
    patches = int(GRIDS.prod(-1).sum())
    width = 3 * config.vision_config.temporal_patch_size * config.vision_config.patch_size**2
    return {"pixel_values": torch.randn(patches, width), "image_grid_thw": GRIDS}, (GRIDS.prod(-1) // 4).tolist()


def fast_vlm_images(config):
    return {"pixel_values": torch.randn(2, 3, 64, 64)}, [4, 4]


def smolvlm_images(config):
    return {"pixel_values": torch.randn(2, 3, 3, 16, 16)}, [3 * 4, 3 * 4]


BACKBONES = {
    "Qwen2-VL": (qwen2_vl, qwen_images),
    "Qwen2.5-VL": (qwen2_5_vl, qwen_images),
    "Qwen3-VL": (qwen3_vl, qwen_images),
    "SmolVLM": (smolvlm, smolvlm_images),
    "FastVLM": (fast_vlm, fast_vlm_images),
}


def joined(name: str, projector: str = "stack"):
    """(OmniModel around the backbone of that name, image inputs of two images, image tokens of each)."""
    torch.manual_seed(0)
    make, images = BACKBONES[name]
    vlm = AutoModelForImageTextToText.from_config(make())
    encoder = WhisperConfig(
        d_model=16, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=24, decoder_layers=0
    )
    ctc_token_ids = list(range(20, 60)) if projector == "ctc" else None
    model = OmniModel.from_parts(vlm, WhisperEncoder(encoder), VOCABULARY, ctc_token_ids=ctc_token_ids)
    return model.eval(), *images(vlm.config)


def prefixes_of_unequal_length(tokens):
    return [[5, 6, VISION_START, *[IMAGE] * n, VISION_END, *range(10, 10 + 3 * i)] for i, n in enumerate(tokens)]


def padded_left(rows):
    width = max(map(len, rows))
    ids = torch.tensor([[PAD] * (width - len(r)) + r for r in rows])
    return ids, torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows])


def padded_right(rows):
    width = max(map(len, rows))
    ids = torch.tensor([r + [PAD] * (width - len(r)) for r in rows])
    return ids, torch.tensor([[1] * len(r) + [0] * (width - len(r)) for r in rows])


def one_image(image_inputs, index, ids):
    """The image inputs of one of the two images, as transformers' own processors return them."""
    if "image_grid_thw" not in image_inputs:
        return {"pixel_values": image_inputs["pixel_values"][index : index + 1]}
    start = int(GRIDS[:index].prod(-1).sum())
    pixels = image_inputs["pixel_values"][start : start + int(GRIDS[index].prod())]
    types = (ids == IMAGE).int()
    return {"pixel_values": pixels, "image_grid_thw": GRIDS[index : index + 1], "mm_token_type_ids": types}


def save_qwen_vlm(model_type, folder):
    """Writes a folder in the layout of the hub, with random weights; returns its own processor."""
    torch.manual_seed(0)
    made = tokenizer(QWEN_TOKENS, QWEN_TEMPLATE)
    config = {"qwen2_vl": qwen2_vl, "qwen2_5_vl": qwen2_5_vl, "qwen3_vl": qwen3_vl}[model_type]()
    config.image_token_id, config.video_token_id = made.image_token_id, made.video_token_id
    config.vision_start_token_id = made.vision_bos_token_id
    for name, value in ids_of(made).items():
        setattr(config.text_config, name, value)
    images = Qwen2VLImageProcessorPil(patch_size=4, merge_size=2, size={"shortest_edge": 64, "longest_edge": 1024})
    own = image_processor_class(model_type)(image_processor=images, tokenizer=made, chat_template=QWEN_TEMPLATE)
    own.save_pretrained(folder)
    AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
    return own
