"""VLM backbones at tiny dimensions with random weights: the shared prefix gives the logits of transformers' forward.

Each is created from its real configuration class. docs/backbones.md lists what is verified, for real weights too.
"""

import pytest
import torch
from examples import toy_examples
from native_models import QWEN_TEMPLATE, QWEN_TOKENS, TEMPLATE, ids_of, tokenizer
from transformers import (
    AutoModelForImageTextToText,
    CLIPImageProcessorPil,
    FastVlmConfig,
    Qwen2_5_VLConfig,
    Qwen2VLConfig,
    Qwen2VLImageProcessorPil,
    Qwen3VLConfig,
    SmolVLMConfig,
    WhisperConfig,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from selfkd.losses import LossConfig
from selfkd.model.image_processor import image_processor_class
from selfkd.model.modeling_omni import OmniModel
from selfkd.model.prefix_cache import continue_prefix, encode_prefix
from selfkd.training.align import AlignConfig, assemble
from selfkd.training.data import PairedCollator, paired_item
from selfkd.training.self_kd import paired_loss
from selfkd.training.trainable import freeze_all_but

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
MROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
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


@pytest.fixture(scope="module", params=list(BACKBONES))
def backbone(request):
    """(OmniModel, image inputs of two images, image tokens of each)."""
    torch.manual_seed(0)
    make, images = BACKBONES[request.param]
    vlm = AutoModelForImageTextToText.from_config(make())
    encoder = WhisperConfig(
        d_model=16, encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=24, decoder_layers=0
    )
    model = OmniModel.from_parts(vlm, WhisperEncoder(encoder), audio_token_id=VOCABULARY)
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


def test_shared_prefix_gives_the_logits_of_whole_sequences(backbone):
    """Two images with prefixes of unequal length, three queries; the second and third share an image."""
    model, image_inputs, tokens = backbone
    prefixes = prefixes_of_unequal_length(tokens)
    questions, group = [[20, 21, 22, 23], [30, 31], [40, 41, 42]], [0, 1, 1]
    ids, mask = padded_left(prefixes)
    with torch.no_grad():
        prefix = encode_prefix(model.vlm, ids, mask, **image_inputs).rows(torch.tensor(group))
        right, right_mask = padded_right(questions)
        hidden = continue_prefix(model.vlm, prefix, {"input_ids": right}, right_mask)
        ours = model.get_output_embeddings()(hidden)
        for row, (question, g) in enumerate(zip(questions, group, strict=True)):
            whole = torch.tensor([prefixes[g] + question])
            expected = model.vlm(input_ids=whole, **one_image(image_inputs, g, whole)).logits[0, -len(question) :]
            torch.testing.assert_close(ours[row, : len(question)], expected, rtol=1e-4, atol=1e-5)


def test_generation_after_the_prefix_equals_transformers_generate(backbone):
    model, image_inputs, tokens = backbone
    prefixes = prefixes_of_unequal_length(tokens)
    questions = [[20, 21, 22, 23], [30, 31]]
    settings = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": PAD}
    ids, mask = padded_left(prefixes)
    suffix, suffix_mask = padded_right(questions)
    ours = model.generate(ids, mask, torch.tensor([0, 1]), suffix, suffix_mask, image_inputs, **settings)
    for g, (prefix, question) in enumerate(zip(prefixes, questions, strict=True)):
        whole = torch.tensor([prefix + question])
        expected = model.vlm.generate(input_ids=whole, **one_image(image_inputs, g, whole), **settings)
        assert ours[g].tolist() == expected[0, whole.shape[1] :].tolist()


def one_image(image_inputs, index, ids):
    """The image inputs of one of the two images, as transformers' own processors return them."""
    if "image_grid_thw" not in image_inputs:
        return {"pixel_values": image_inputs["pixel_values"][index : index + 1]}
    start = int(GRIDS[:index].prod(-1).sum())
    pixels = image_inputs["pixel_values"][start : start + int(GRIDS[index].prod())]
    types = (ids == IMAGE).int()
    return {"pixel_values": pixels, "image_grid_thw": GRIDS[index : index + 1], "mm_token_type_ids": types}


def test_text_queries_have_the_logits_of_the_plain_model(backbone):
    """Text queries run through the VLM only: the logits are bit-identical."""
    model, image_inputs, tokens = backbone
    ids = torch.tensor([[5, VISION_START, *[IMAGE] * tokens[0], VISION_END, 20, 21]])
    inputs = one_image(image_inputs, 0, ids)
    mask = torch.ones_like(ids)
    with torch.no_grad():
        ours = model(input_ids=ids, attention_mask=mask, **inputs).logits
        assert torch.equal(ours, model.vlm(input_ids=ids, attention_mask=mask, **inputs).logits)


@pytest.mark.parametrize("model_type", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_processor_of_a_hub_checkpoint_matches_transformers(model_type, tmp_path):
    """Loads a folder as it is on the hub, without torchvision: the text prompt equals transformers' own."""
    torch.manual_seed(0)
    made = tokenizer(QWEN_TOKENS, QWEN_TEMPLATE)
    config = {"qwen2_vl": qwen2_vl, "qwen2_5_vl": qwen2_5_vl, "qwen3_vl": qwen3_vl}[model_type]()
    config.image_token_id, config.video_token_id = made.image_token_id, made.video_token_id
    config.vision_start_token_id = made.vision_bos_token_id
    for name, value in ids_of(made).items():
        setattr(config.text_config, name, value)
    images = Qwen2VLImageProcessorPil(patch_size=4, merge_size=2, size={"shortest_edge": 64, "longest_edge": 1024})
    own = image_processor_class(model_type)(image_processor=images, tokenizer=made, chat_template=QWEN_TEMPLATE)
    own.save_pretrained(tmp_path / "vlm")
    AutoModelForImageTextToText.from_config(config).save_pretrained(tmp_path / "vlm")

    model, processor = assemble(AlignConfig([], tmp_path, vlm=str(tmp_path / "vlm"), projector="stack"))
    example, settings = toy_examples(1)[0], {"max_new_tokens": 5, "do_sample": False}
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": example.question}]}
    chat = own.apply_chat_template([turn], add_generation_prompt=True)
    whole = own(text=[chat], images=[example.load_image()], return_tensors="pt")
    prompt = processor.text_prompt(example.question, processor.encode_image(example.load_image()))
    assert prompt.prefix_ids + prompt.suffix_ids == whole["input_ids"][0].tolist()
    expected = model.eval().vlm.generate(**whole, **settings)[:, whole["input_ids"].shape[1] :]
    assert model.generate(**processor.collate([prompt]), **settings).tolist() == expected.tolist()
    freeze_all_but(model, ["projector"])
    loss = paired_loss(
        model, PairedCollator(processor)([paired_item(processor, e) for e in toy_examples(3)]), LossConfig(0.5)
    )
    assert torch.isfinite(loss.total) and loss.kd > 0


def test_fast_vlm_is_joined_and_trained_with_its_own_processor(tmp_path):
    """A folder in FastVLM's layout (LLaVA's processor), here around EfficientNet."""
    torch.manual_seed(0)
    template = TEMPLATE % ("<image>\n", "")
    made = tokenizer({"image_token": "<image>"}, template)
    config = fast_vlm()
    config.image_token_id = made.image_token_id
    for name, value in ids_of(made).items():
        setattr(config.text_config, name, value)
    side = {"height": 64, "width": 64}
    images = CLIPImageProcessorPil(size=side, crop_size=side)
    own = image_processor_class("fast_vlm")(
        image_processor=images,
        tokenizer=made,
        patch_size=32,
        vision_feature_select_strategy="full",
        chat_template=template,
        num_additional_image_tokens=0,
    )
    own.save_pretrained(tmp_path / "vlm")
    AutoModelForImageTextToText.from_config(config).save_pretrained(tmp_path / "vlm")
    model, processor = assemble(AlignConfig([], tmp_path, vlm=str(tmp_path / "vlm"), projector="stack"))
    encoded = processor.encode_image(toy_examples(1)[0].load_image())
    prompt = processor.text_prompt("What?", encoded)
    assert prompt.prefix_ids.count(made.image_token_id) == 4
    statistics = [m.running_mean.clone() for m in model.vlm.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    freeze_all_but(model, ["projector"])
    model.train()
    batch = PairedCollator(processor)([paired_item(processor, e) for e in toy_examples(3)])
    assert torch.isfinite(paired_loss(model, batch, LossConfig(0.5)).total)
    after = [m.running_mean for m in model.vlm.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert statistics and all(map(torch.equal, statistics, after)), (
        "batch statistics of a frozen vision encoder changed"
    )
