"""Folders with an `OmniModel` on each VLM that vLLM runs, at sizes that its CPU attention takes (heads of 32), with
random weights; and the greedy responses of `OmniModel` and of vLLM to the same examples."""

from pathlib import Path

import torch
from native_models import QWEN_TEMPLATE, QWEN_TOKENS, TEMPLATE, ids_of, tokenizer
from transformers import (
    AutoModelForImageTextToText,
    Qwen2_5_VLConfig,
    Qwen2VLConfig,
    Qwen2VLImageProcessorPil,
    Qwen3VLConfig,
    SmolVLMConfig,
    SmolVLMImageProcessorPil,
    WhisperConfig,
    WhisperFeatureExtractor,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from selfkd.evaluation.backends.endpoint import user_message
from selfkd.model.image_processor import image_processor_class
from selfkd.model.modeling_omni import OmniModel
from selfkd.model.processing_omni import OmniProcessor

TEXT = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 32, "max_position_embeddings": 1024, "bos_token_id": None,
}  # fmt: skip
MROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 6, 6]}
VISION = {"num_heads": 2, "patch_size": 4, "hidden_size": 64}
SMOLVLM_TOKENS = {
    "image_token": "<image>", "fake_image_token": "<fake_token_around_image>", "global_image_token": "<global-img>",
    "end_of_utterance_token": "<end_of_utterance>",
}  # fmt: skip


def qwen(model_type: str):
    made = tokenizer(QWEN_TOKENS, QWEN_TEMPLATE)
    ids = {
        "image_token_id": made.image_token_id,
        "video_token_id": made.video_token_id,
        "vision_start_token_id": made.vision_bos_token_id,
        "vision_end_token_id": made.vision_eos_token_id,
    }
    text = TEXT | ids_of(made) | {"rope_parameters": MROPE}
    if model_type == "qwen2_vl":
        vision = VISION | {"depth": 2, "embed_dim": 64, "mlp_ratio": 2}
        config = Qwen2VLConfig(text_config=text, vision_config=vision, **ids)
    elif model_type == "qwen2_5_vl":
        vision = VISION | {"depth": 2, "out_hidden_size": 64, "intermediate_size": 96, "window_size": 16}
        config = Qwen2_5_VLConfig(text_config=text, vision_config=vision | {"fullatt_block_indexes": [1]}, **ids)
    else:
        vision = VISION | {"depth": 3, "out_hidden_size": 64, "intermediate_size": 96, "num_position_embeddings": 64}
        text["rope_parameters"] = MROPE | {"mrope_interleaved": True}
        config = Qwen3VLConfig(text_config=text, vision_config=vision | {"deepstack_visual_indexes": [0, 1]}, **ids)
    images = Qwen2VLImageProcessorPil(patch_size=4, merge_size=2, size={"shortest_edge": 64, "longest_edge": 1024})
    return config, image_processor_class(model_type)(
        image_processor=images, tokenizer=made, chat_template=QWEN_TEMPLATE
    )


def smolvlm(model_type: str):
    template = TEMPLATE % ("<image>", "")
    made = tokenizer(SMOLVLM_TOKENS, template)
    vision = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision |= {"image_size": 16, "patch_size": 4}
    text = TEXT | ids_of(made) | {"model_type": "llama"}
    config = SmolVLMConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=made.image_token_id,
        scale_factor=2,
        pad_token_id=made.pad_token_id,
    )
    images = SmolVLMImageProcessorPil(size={"longest_edge": 32}, max_image_size={"longest_edge": 16})
    return config, image_processor_class(model_type)(
        image_processor=images, tokenizer=made, video_processor=None, image_seq_len=4, chat_template=template
    )


BACKBONES = {"qwen2_vl": qwen, "qwen2_5_vl": qwen, "qwen3_vl": qwen, "smolvlm": smolvlm}


def save_backbone(model_type: str, folder: Path) -> None:
    """Writes an `OmniModel` with a frame-stacking projector. The weights are large: with small ones all tokens would be
    about equally probable."""
    torch.manual_seed(0)
    config, vlm_processor = BACKBONES[model_type](model_type)
    processor = OmniProcessor(vlm_processor, WhisperFeatureExtractor())
    vlm = AutoModelForImageTextToText.from_config(config)
    encoder = WhisperConfig(
        d_model=16, encoder_layers=2, encoder_attention_heads=2, encoder_ffn_dim=24, decoder_layers=0
    )
    model = OmniModel.from_parts(vlm, WhisperEncoder(encoder), processor.audio_token_id)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def own_responses(model, processor, examples, modality, new_tokens):
    """Token ids of `OmniModel`'s greedy responses, beyond the token that would end them."""
    found = []
    for example in examples:
        image, context = processor.encode_image(example.load_image()), (example.instruction, example.answer_format)
        if modality == "text":
            prompt = processor.text_prompt(example.question, image, *context)
        else:
            prompt = processor.audio_prompt(processor.encode_audio(example.samples()), image, *context)
        settings = {"max_new_tokens": new_tokens, "do_sample": False, "eos_token_id": [10**6]}
        found += model.generate_responses(**processor.collate([prompt]), **settings).tolist()
    return found


def vllm_responses(llm, examples, modality, new_tokens):
    """Token ids of vLLM's greedy responses, beyond the token that would end them."""
    from vllm import SamplingParams

    settings = SamplingParams(temperature=0, max_tokens=new_tokens, ignore_eos=True)
    outputs = llm.chat([[user_message(example, modality)] for example in examples], settings, use_tqdm=False)
    return [list(output.outputs[0].token_ids) for output in outputs]
