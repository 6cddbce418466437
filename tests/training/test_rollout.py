"""Roll-outs: the batch with other responses is the batch that the collator would have made of them."""

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
from selfkd.training.spec_augment import augmented, masked, warped
from selfkd.training.trainable import freeze_all_but


def test_other_responses_make_the_batch_that_the_collator_would_make(processor):
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


def test_replies_are_the_students_own_and_the_prefix_is_read_once():
    """Drawn at temperature 1 from a model that is sure of itself, replies are the likeliest ones; and the loss on them
    is that of the batch without the prefix at hand."""
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
def test_no_reply_holds_a_token_that_stands_for_a_picture_or_a_clip(name):
    """It would have no picture to stand for. Here the model would say hardly anything else."""
    torch.manual_seed(0)
    vlm, its_processor = NATIVE[name]()
    model, processor = OmniModel.from_native(vlm), OmniProcessor(its_processor)
    never = torch.tensor(model.config.placeholder_ids)
    assert model.config.audio_token_id in never and len(never) >= 2
    batch = PairedCollator(processor)([paired_item(processor, e) for e in toy_examples(4)])
    liked = torch.zeros(model.config.get_text_config().vocab_size).index_fill(0, never, 50.0)
    model.get_output_embeddings().register_forward_hook(lambda _, __, logits: logits + liked)
    labels = rollout(model, batch, processor.end_id, 8)["labels"]
    assert labels.numel() and not torch.isin(labels, never).any()


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_voices_are_warped_and_masked_within_the_clip():
    mel, mask = torch.randn(3, 80, 50), torch.ones(3, 50, dtype=torch.long)
    mask[1, 30:] = 0
    first, same, other = (augmented(mel, mask, generators(s, 7, 8)) for s in (1, 1, 2))
    assert torch.equal(first, same) and not torch.equal(first[0], other[0])
    assert torch.equal(first[1:], other[1:]), "what becomes of a clip hangs on its own generator alone"
    alone = augmented(mel[1:2, :, :30], mask[1:2, :30], generators(7))
    torch.testing.assert_close(alone, first[1:2, :, :30])
    assert first.shape == mel.shape and torch.isfinite(first).all()
    holes = masked(mel, mask, generators(0, 1, 2)) != mel
    assert not holes[1, :, 30:].all(0).any()  # a stripe of frames lies within the clip
    assert 0 < holes.float().mean() < 0.6
    flat = torch.arange(80.0)[None, :, None].expand(1, 80, 5)  # each bin holds its own number: where it came from
    moved = warped(flat, generators(3))[0, :, 0]
    assert (moved.diff() >= 0).all() and (moved - torch.arange(80.0)).abs().max() <= 0.12 * 80 + 2.5
