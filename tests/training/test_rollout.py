"""Rollouts: a batch with other responses equals the collator's batch of them; augmentation of log-mel frames."""

from dataclasses import replace

import pytest
import torch
from examples import toy_examples
from native_models import NATIVE

from selfkd.losses import LossConfig
from selfkd.model.modeling_omni import OmniModel
from selfkd.model.processing_omni import OmniProcessor
from selfkd.model.tiny import load_tiny_model
from selfkd.training.data import PairedCollator, paired_item
from selfkd.training.rollout import rollout, with_responses
from selfkd.training.self_kd import paired_loss
from selfkd.training.spec_augment import augment_mel, mask_mel, warp_mel
from selfkd.training.trainable import freeze_all_but


def test_with_responses_equals_the_collator(processor):
    examples = toy_examples(5)
    answers = "no", "a red circle", "2", "yes", "x y z"
    others = [replace(e, answer=answer) for e, answer in zip(examples, answers, strict=True)]
    batch, expected = (
        PairedCollator(processor)([paired_item(processor, e) for e in some]) for some in (examples, others)
    )
    found = with_responses(batch, [torch.tensor([*processor.ids(e.answer), processor.end_id]) for e in others])
    assert torch.equal(found["labels"], expected["labels"])
    for modality in ("text", "audio"):
        mask = expected[f"{modality}_mask"]
        assert torch.equal(found[f"{modality}_mask"], mask)
        assert torch.equal(found[f"{modality}_ids"][mask.bool()], expected[f"{modality}_ids"][mask.bool()])


def test_a_rollout_reuses_the_encoded_images_and_follows_the_seed():
    """The loss with the encoded images of the rollout is that of a batch without them."""
    model, processor = load_tiny_model()
    freeze_all_but(model, ["projector"])
    batch = PairedCollator(processor)([paired_item(processor, e) for e in toy_examples(4)])
    torch.manual_seed(0)
    rolled = rollout(model, batch, processor.end_id, 8)
    assert rolled["prefix"] is not None and len(rolled["labels"]) == 4
    again = {k: v for k, v in rolled.items() if k != "prefix"}
    ours, plain = (paired_loss(model, b, LossConfig(1.0)) for b in (rolled, again))
    torch.testing.assert_close(ours.total, plain.total)
    torch.manual_seed(0)
    assert torch.equal(rollout(model, batch, processor.end_id, 8)["labels"], rolled["labels"])


@pytest.mark.parametrize("name", ["Gemma 4", "Qwen2.5-Omni"])
def test_no_response_holds_a_placeholder_of_image_or_audio(name):
    """In a response it would have no image. This model would otherwise generate hardly anything else."""
    torch.manual_seed(0)
    vlm, its_processor = NATIVE[name]()
    model, processor = OmniModel.from_native(vlm), OmniProcessor(its_processor)
    placeholders = torch.tensor(model.config.placeholder_ids)
    assert model.config.audio_token_id in placeholders and len(placeholders) >= 2
    batch = PairedCollator(processor)([paired_item(processor, e) for e in toy_examples(4)])
    bias = torch.zeros(model.config.get_text_config().vocab_size).index_fill(0, placeholders, 50.0)
    model.get_output_embeddings().register_forward_hook(lambda _, __, logits: logits + bias)
    labels = rollout(model, batch, processor.end_id, 8)["labels"]
    assert labels.numel() and not torch.isin(labels, placeholders).any()


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_mel_frames_are_warped_and_masked_within_the_clip():
    mel, mask = torch.randn(3, 80, 50), torch.ones(3, 50, dtype=torch.long)
    mask[1, 30:] = 0
    first, same, other = (augment_mel(mel, mask, generators(s, 7, 8)) for s in (1, 1, 2))
    assert torch.equal(first, same) and not torch.equal(first[0], other[0])
    assert torch.equal(first[1:], other[1:]), "a clip depends on its own generator only"
    single = augment_mel(mel[1:2, :, :30], mask[1:2, :30], generators(7))
    torch.testing.assert_close(single, first[1:2, :, :30])
    assert first.shape == mel.shape and torch.isfinite(first).all()
    holes = mask_mel(mel, mask, generators(0, 1, 2)) != mel
    assert not holes[1, :, 30:].all(0).any()  # stripes of frames are within the clip
    assert 0 < holes.float().mean() < 0.6
    flat = torch.arange(80.0)[None, :, None].expand(1, 80, 5)  # each bin holds its own index
    moved = warp_mel(flat, generators(3))[0, :, 0]
    assert (moved.diff() >= 0).all() and (moved - torch.arange(80.0)).abs().max() <= 0.12 * 80 + 2.5
