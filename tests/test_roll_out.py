"""Roll-outs: the batch with other responses is the batch that the collator would have made of them."""

from dataclasses import replace

import torch
from conftest import world_examples

from selfkd.data.views import PairedCollator, paired_item
from selfkd.losses import Objective
from selfkd.model.bundled import load_bundled
from selfkd.training.mel_augment import augmented, masked, warped
from selfkd.training.parts import freeze_all_but
from selfkd.training.roll_out import roll_out, with_responses


def test_other_responses_make_the_batch_that_the_collator_would_make(processor):
    examples = world_examples(5)
    answers = "no", "a red circle", "2", "yes", "x y z"
    others = [replace(e, answer=answer) for e, answer in zip(examples, answers, strict=True)]
    batch, expected = (
        PairedCollator(processor)([paired_item(processor, e) for e in some]) for some in (examples, others)
    )
    found = with_responses(batch, [torch.tensor([*processor.ids(e.answer), processor.end_id]) for e in others])
    assert torch.equal(found["labels"], expected["labels"])
    for view in ("text", "speech"):
        mask = expected[f"{view}_mask"]
        assert torch.equal(found[f"{view}_mask"], mask)
        assert torch.equal(found[f"{view}_ids"][mask.bool()], expected[f"{view}_ids"][mask.bool()])


def test_replies_are_the_students_own_and_the_prefix_is_read_once():
    """Drawn at temperature 1 from a model that is sure of itself, replies are the likeliest ones; and the loss on them
    is that of the batch without the prefix at hand."""
    model, processor = load_bundled()
    freeze_all_but(model, ["projector"])
    batch = PairedCollator(processor)([paired_item(processor, e) for e in world_examples(4)])
    torch.manual_seed(0)
    rolled = roll_out(model, batch, processor.end_id, 8)
    assert rolled["prefix"] is not None and len(rolled["labels"]) == 4
    again = {k: v for k, v in rolled.items() if k != "prefix"}
    ours, plain = (model(paired=b, objective=Objective(1.0)) for b in (rolled, again))
    torch.testing.assert_close(ours.total, plain.total)
    torch.manual_seed(0)
    assert torch.equal(roll_out(model, batch, processor.end_id, 8)["labels"], rolled["labels"])


def test_voices_are_warped_and_masked_within_the_clip():
    mel, mask = torch.randn(3, 80, 50), torch.ones(3, 50, dtype=torch.long)
    mask[1, 30:] = 0
    first, same, other = (augmented(mel, mask, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first, same) and not torch.equal(first, other)
    assert first.shape == mel.shape and torch.isfinite(first).all()
    holes = masked(mel, mask, torch.Generator().manual_seed(0)) != mel
    assert not holes[1, :, 30:].all(0).any()  # a stripe of frames lies within the clip
    assert 0 < holes.float().mean() < 0.6
    flat = torch.arange(80.0)[None, :, None].expand(1, 80, 5)  # each bin holds its own number: where it came from
    moved = warped(flat, torch.Generator().manual_seed(3))[0, :, 0]
    assert (moved.diff() >= 0).all() and (moved - torch.arange(80.0)).abs().max() <= 0.12 * 80 + 2.5
