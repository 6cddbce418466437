"""Native omni models at tiny dimensions with random weights, each from its real configuration and processor classes.

Their chat templates are on the hub; those here put the same tokens around text, image and clip.
"""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForMultimodalLM,
    Gemma3nAudioFeatureExtractor,
    Gemma3nConfig,
    Gemma4AudioFeatureExtractor,
    Gemma4Config,
    Gemma4ImageProcessorPil,
    Phi4MultimodalConfig,
    Phi4MultimodalFeatureExtractor,
    PreTrainedTokenizerFast,
    Qwen2_5OmniThinkerConfig,
    Qwen2VLImageProcessorPil,
    Qwen3OmniMoeThinkerConfig,
    SiglipImageProcessorPil,
    WhisperFeatureExtractor,
)
from transformers.utils import is_timm_available, is_torchvision_available

from selfkd.model.image_processor import image_processor_class

END, PAD = "<|im_end|>", "<|endoftext|>"
QWEN_TOKENS = {
    "image_token": "<|image_pad|>", "video_token": "<|video_pad|>", "audio_token": "<|audio_pad|>",
    "vision_bos_token": "<|vision_start|>", "vision_eos_token": "<|vision_end|>",
    "audio_bos_token": "<|audio_start|>", "audio_eos_token": "<|audio_end|>",
}  # fmt: skip
GEMMA_TOKENS = {
    "image_token": "<|image|>", "boi_token": "<|image>", "eoi_token": "<image|>",
    "audio_token": "<|audio|>", "boa_token": "<|audio>", "eoa_token": "<audio|>",
}  # fmt: skip
TEMPLATE = (
    "{%% for m in messages %%}<|im_start|>{{ m['role'] }}\n{%% for p in m['content'] %%}"
    "{%% if p['type'] == 'image' %%}%s{%% elif p['type'] == 'audio' %%}%s{%% else %%}{{ p['text'] }}{%% endif %%}"
    "{%% endfor %%}<|im_end|>\n{%% endfor %%}{%% if add_generation_prompt %%}<|im_start|>assistant\n{%% endif %%}"
)
QWEN_TEMPLATE = TEMPLATE % (
    "<|vision_start|><|image_pad|><|vision_end|>",
    "<|audio_start|><|audio_pad|><|audio_end|>",
)
TEXT = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 1024, "bos_token_id": None,
}  # fmt: skip
MROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}


def tokenizer(tokens: dict[str, str], template: str, last: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    """Bytes as tokens, and the special tokens of a model, those in `last` after all others."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    others = [t for t in tokens.values() if t not in last]
    backend.add_special_tokens([END, PAD, "<|im_start|>", *others, *last])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=END, pad_token=PAD, chat_template=template, extra_special_tokens=tokens
    )


def ids_of(made: PreTrainedTokenizerFast) -> dict[str, int]:
    return {"vocab_size": len(made) + 8, "pad_token_id": made.pad_token_id, "eos_token_id": made.eos_token_id}


QWEN_AUDIO = {
    "d_model": 16, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 24, "output_dim": 32
}  # fmt: skip


def qwen_processor(model_type: str):
    images = Qwen2VLImageProcessorPil(patch_size=4, merge_size=2, size={"shortest_edge": 64, "longest_edge": 1024})
    return image_processor_class(model_type)(
        image_processor=images,
        feature_extractor=WhisperFeatureExtractor(feature_size=128),
        tokenizer=tokenizer(QWEN_TOKENS, QWEN_TEMPLATE),
        chat_template=QWEN_TEMPLATE,
    )


def qwen2_5_omni():
    processor = qwen_processor("qwen2_5_omni")
    made = processor.tokenizer
    vision = {"depth": 2, "hidden_size": 16, "out_hidden_size": 32, "num_heads": 2, "patch_size": 4}
    vision |= {"intermediate_size": 24, "window_size": 16, "fullatt_block_indexes": [1]}
    config = Qwen2_5OmniThinkerConfig(
        text_config=TEXT | ids_of(made) | {"rope_parameters": MROPE, "tie_word_embeddings": False},
        vision_config=vision,
        audio_config=QWEN_AUDIO,
        audio_token_index=made.audio_token_id,
        image_token_index=made.image_token_id,
        video_token_index=made.video_token_id,
        audio_start_token_id=made.audio_bos_token_id,
        audio_end_token_id=made.audio_eos_token_id,
        vision_start_token_id=made.vision_bos_token_id,
    )
    return AutoModelForMultimodalLM.from_config(config), processor


def qwen3_omni():
    processor = qwen_processor("qwen3_omni_moe")
    made = processor.tokenizer
    vision = {"depth": 3, "hidden_size": 16, "out_hidden_size": 32, "num_heads": 2, "patch_size": 4}
    vision |= {"intermediate_size": 24, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]}
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    config = Qwen3OmniMoeThinkerConfig(
        text_config=TEXT | ids_of(made) | experts | {"rope_parameters": MROPE | {"mrope_interleaved": True}},
        vision_config=vision,
        audio_config=QWEN_AUDIO | {"downsample_hidden_size": 8},
        audio_token_id=made.audio_token_id,
        image_token_id=made.image_token_id,
        video_token_id=made.video_token_id,
        audio_start_token_id=made.audio_bos_token_id,
        vision_start_token_id=made.vision_bos_token_id,
    )
    return AutoModelForMultimodalLM.from_config(config), processor


def gemma4():
    """With Gemma's special features: sliding-window layers, shared keys, per-layer inputs, capped logits."""
    template = TEMPLATE % ("<|image|>", "<|audio|>")
    made = tokenizer(GEMMA_TOKENS, template)
    processor = image_processor_class("gemma4")(
        feature_extractor=Gemma4AudioFeatureExtractor(),
        image_processor=Gemma4ImageProcessorPil(patch_size=4, max_soft_tokens=70, pooling_kernel_size=2),
        tokenizer=made,
        video_processor=None,
        chat_template=template,
    )
    vision = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision |= {"num_key_value_heads": 2, "head_dim": 8, "patch_size": 4, "pooling_kernel_size": 2}
    audio = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "output_proj_dims": 24}
    audio |= {"subsampling_conv_channels": [128, 8]}  # the first must be the mel bins
    layers = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
    text = TEXT | ids_of(made) | {"num_hidden_layers": 4, "layer_types": layers, "sliding_window": 16}
    text |= {"num_kv_shared_layers": 2, "hidden_size_per_layer_input": 8, "final_logit_softcapping": 0.5}
    config = Gemma4Config(
        text_config=text | {"vocab_size_per_layer_input": text["vocab_size"], "global_head_dim": 8},
        vision_config=vision,
        audio_config=audio,
        image_token_id=made.image_token_id,
        audio_token_id=made.audio_token_id,
        boa_token_id=made.boa_token_id,
        video_token_id=processor.video_token_id,
    )
    return AutoModelForMultimodalLM.from_config(config), processor


def gemma3n():
    """As Gemma 4, with 188 placeholders for any clip and separate vocabularies for images and audio."""
    template = TEMPLATE % ("<image_soft_token>", "<audio_soft_token>")
    tokens = {"boi_token": "<start_of_image>", "boa_token": "<start_of_audio>", "eoi_token": "<end_of_image>"}
    tokens |= {"image_token": "<image_soft_token>", "eoa_token": "<end_of_audio>", "audio_token": "<audio_soft_token>"}
    made = tokenizer(tokens, template, last=tuple(tokens.values())[2:])
    processor = image_processor_class("gemma3n")(
        feature_extractor=Gemma3nAudioFeatureExtractor(),
        image_processor=SiglipImageProcessorPil(size={"height": 64, "width": 64}),
        tokenizer=made,
        chat_template=template,
        image_seq_length=4,
    )
    images, audio_clips = made.eoi_token_id, made.eoa_token_id
    text = TEXT | ids_of(made) | {"num_hidden_layers": 4, "sliding_window": 16, "num_kv_shared_layers": 2}
    text |= {"layer_types": ["sliding_attention", "full_attention"] * 2, "hidden_size_per_layer_input": 8}
    text |= {"laurel_rank": 4, "final_logit_softcapping": 0.5, "vocab_size": len(made)}
    audio = {"hidden_size": 16, "conf_num_hidden_layers": 2, "conf_num_attention_heads": 2}
    audio |= {"sscp_conv_channel_size": [8, 4], "vocab_size": 2, "vocab_offset": audio_clips}
    vision = {"architecture": "test_efficientnet", "hidden_size": 256, "vocab_size": 2, "vocab_offset": images}
    config = Gemma3nConfig(
        text_config=text | {"vocab_size_per_layer_input": images},
        vision_config=vision,
        audio_config=audio,
        vision_soft_tokens_per_image=4,
        image_token_id=made.image_token_id,
        audio_token_id=made.audio_token_id,
    )
    return AutoModelForMultimodalLM.from_config(config), processor


def phi4():
    template = TEMPLATE % ("<|image|>", "<|audio|>")
    made = tokenizer({"image_token": "<|image|>", "audio_token": "<|audio|>"}, template)
    from transformers import Phi4MultimodalImageProcessor  # needs torchvision

    processor = image_processor_class("phi4_multimodal")(
        image_processor=Phi4MultimodalImageProcessor(dynamic_hd=4),
        audio_processor=Phi4MultimodalFeatureExtractor(),
        tokenizer=made,
        chat_template=template,
    )
    vision = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2}
    vision |= {"image_token_id": made.image_token_id}  # its processor expects images of 448 pixels
    audio = {"hidden_size": 16, "intermediate_size": 24, "num_blocks": 2, "num_attention_heads": 2}
    audio |= {"ext_pw_out_channel": 16, "depthwise_separable_out_channel": 16, "nemo_conv_channels": 8}
    config = Phi4MultimodalConfig(
        **TEXT | ids_of(made) | {"max_position_embeddings": 4096},
        vision_config=vision,
        audio_config=audio | {"audio_token_id": made.audio_token_id},
    )
    return AutoModelForMultimodalLM.from_config(config), processor


NATIVE = {"Qwen2.5-Omni": qwen2_5_omni, "Qwen3-Omni": qwen3_omni, "Gemma 4": gemma4}
if is_torchvision_available():
    NATIVE["Phi-4-multimodal"] = phi4
if is_timm_available():
    NATIVE["Gemma 3n"] = gemma3n
