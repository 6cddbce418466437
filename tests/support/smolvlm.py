"""SmolVLM-256M-Instruct and whisper-base in the layout of the hub, of their own classes at tiny dimensions, with random
weights. SmolVLM of the first generation is of the classes of Idefics3."""

import torch
from native_models import TEXT, ids_of, tokenizer
from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessorPil,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizerFast,
)

from selfkd.model.image_processor import image_processor_class

_TEMPLATE = (  # SmolVLM's own, without the parts for system prompts
    "<|im_start|>{% for m in messages %}{{ m['role'] | capitalize }}"
    "{% if m['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for p in m['content'] %}{% if p['type'] == 'text' %}{{ p['text'] }}{% else %}{{ '<image>' }}{% endif %}"
    "{% endfor %}<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
_TOKENS = ["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>"]
_TOKENS += [f"<row_{i + 1}_col_{j + 1}>" for i in range(6) for j in range(6)]


def save_smolvlm(folder) -> None:
    torch.manual_seed(0)
    made = tokenizer({f"token_{i}": token for i, token in enumerate(_TOKENS)}, _TEMPLATE)
    images = Idefics3ImageProcessorPil(
        size={"longest_edge": 32}, max_image_size={"longest_edge": 16}, do_image_splitting=True
    )
    parts = {"image_processor": images, "tokenizer": made, "image_seq_len": 4, "chat_template": _TEMPLATE}
    processor = image_processor_class("idefics3")(**parts)
    vision = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision |= {"image_size": 16, "patch_size": 4}
    text = {k: v for k, v in TEXT.items() if v is not None} | {"model_type": "llama", **ids_of(made)}
    text |= {"bos_token_id": made.convert_tokens_to_ids("<|im_start|>")}
    config = Idefics3Config(
        text_config=text, vision_config=vision, scale_factor=2, pad_token_id=made.pad_token_id,
        image_token_id=made.convert_tokens_to_ids("<image>"),
    )  # fmt: skip
    processor.save_pretrained(folder)
    Idefics3ForConditionalGeneration(config).save_pretrained(folder)


def save_whisper(folder) -> None:
    """Multilingual, as whisper-base is; its decoder ends after a token or two."""
    torch.manual_seed(0)
    letters = tokenizer({}, "").get_vocab()
    made = WhisperTokenizerFast(vocab=letters, merges=[])
    config = WhisperConfig(
        vocab_size=len(made) + 2000, num_mel_bins=80, d_model=32, encoder_layers=2, encoder_attention_heads=2,
        encoder_ffn_dim=64, decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=64, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, decoder_start_token_id=1, suppress_tokens=None, begin_suppress_tokens=None,
    )  # fmt: skip
    model = WhisperForConditionalGeneration(config)
    model.generation_config.max_length = 3
    model.save_pretrained(folder)
    made.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(folder)
