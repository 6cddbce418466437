"""VLM backbones at tiny dimensions with random weights: the shared prefix gives the logits of transformers' forward.

Each is created from its real configuration class. docs/backbones.md lists what is verified, for real weights too.
"""

import pytest
import torch
from examples import toy_examples
from native_models import TEMPLATE, ids_of, tokenizer
from transformers import (
    AutoModelForImageTextToText,
    CLIPImageProcessorPil,
)
from vlm_backbones import (
    BACKBONES,
    IMAGE,
    PAD,
    VISION_END,
    VISION_START,
    fast_vlm,
    joined,
    one_image,
    padded_left,
    padded_right,
    prefixes_of_unequal_length,
    save_qwen_vlm,
)

from selfkd.losses import LossConfig
from selfkd.model.image_processor import image_processor_class
from selfkd.model.prefix_cache import continue_prefix, encode_prefix
from selfkd.training.align import AlignConfig, assemble
from selfkd.training.data import PairedCollator, paired_item
from selfkd.training.self_kd import paired_loss
from selfkd.training.trainable import freeze_all_but


@pytest.fixture(scope="module", params=list(BACKBONES))
def backbone(request):
    """(OmniModel, image inputs of two images, image tokens of each)."""
    return joined(request.param)


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
    ours = model.generate_responses(ids, mask, torch.tensor([0, 1]), suffix, suffix_mask, image_inputs, **settings)
    for g, (prefix, question) in enumerate(zip(prefixes, questions, strict=True)):
        whole = torch.tensor([prefix + question])
        expected = model.vlm.generate(input_ids=whole, **one_image(image_inputs, g, whole), **settings)
        assert ours[g].tolist() == expected[0, whole.shape[1] :].tolist()


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
    own = save_qwen_vlm(model_type, tmp_path / "vlm")
    model, processor = assemble(AlignConfig([], tmp_path, vlm=str(tmp_path / "vlm"), projector="stack"))
    example, settings = toy_examples(1)[0], {"max_new_tokens": 5, "do_sample": False}
    turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": example.question}]}
    chat = own.apply_chat_template([turn], add_generation_prompt=True)
    whole = own(text=[chat], images=[example.load_image()], return_tensors="pt")
    prompt = processor.text_prompt(example.question, processor.encode_image(example.load_image()))
    assert prompt.prefix_ids + prompt.suffix_ids == whole["input_ids"][0].tolist()
    expected = model.eval().vlm.generate(**whole, **settings)[:, whole["input_ids"].shape[1] :]
    assert model.generate_responses(**processor.collate([prompt]), **settings).tolist() == expected.tolist()
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
