"""Shared by the cost benchmarks: the geometry of InternVL2-1B (Qwen2-0.5B: 24 layers, width 896, 151,655 tokens) with a
speech encoder of Whisper's width, and the lengths of its inputs."""

import torch
from transformers import AutoModelForImageTextToText, InternVLConfig, WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from selfkd.model.modeling_omni import OmniModel

# tokens of a tile, of the chat template and of a text query; audio embeddings of an audio query (4 s)
TILE, FRAME, QUESTION, SPEECH = 256, 30, 20, 50
STACK = 4
SPEECH_TOKEN = 151_655  # beyond the vocabulary, as in InternVL2-1B


def build(full_size: bool, device: str, speech_layers: int = 1) -> OmniModel:
    """The model with random weights. On a CPU (not `full_size`) depth and width are a quarter and the vocabulary a
    sixteenth, so that the head keeps its share of the work. The vision tower is a stub: give no images, and
    ordinary ids in place of image tokens."""
    share = 1 if full_size else 4
    text = {
        "model_type": "qwen2",
        "vocab_size": 151_655 // share**2,
        "hidden_size": 896 // share,
        "intermediate_size": 4864 // share,
        "num_hidden_layers": 24 // share,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": 0,
        "pad_token_id": 0,
    }
    vision = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 16}
    config = InternVLConfig(text_config=text, vision_config=vision, image_token_id=1, tie_word_embeddings=True)
    dtype = torch.bfloat16 if full_size else torch.float32
    encoder = WhisperConfig(
        d_model=1280 // share, encoder_layers=speech_layers, encoder_attention_heads=20 // share, decoder_layers=0
    )
    with torch.device(device):
        model = OmniModel.from_parts(
            AutoModelForImageTextToText.from_config(config), WhisperEncoder(encoder), SPEECH_TOKEN, STACK
        )
    torch.nn.Module.to(model, dtype)
    model.requires_grad_(False)
    model.projector.requires_grad_(True)
    return model.train()
