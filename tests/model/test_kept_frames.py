"""Frames of a frozen speech encoder are computed once within `keep_frames`, with the same loss and gradients."""

from copy import deepcopy

import pytest
import torch
from examples import toy_examples

from selfkd.losses import LossConfig
from selfkd.model import speech_encoder
from selfkd.model.kept_frames import KeptFrames, keep_frames
from selfkd.model.speech_encoder import encode_mel
from selfkd.training.data import PairedCollator, paired_item
from selfkd.training.self_kd import paired_loss
from selfkd.training.trainable import freeze_all_but


@pytest.fixture
def student(parts):
    model = deepcopy(parts[0])
    freeze_all_but(model, ["projector"])
    return model.train()


@pytest.fixture
def batch(parts):
    return PairedCollator(parts[1])([paired_item(parts[1], e) for e in toy_examples(4)])


@pytest.fixture
def encoded(monkeypatch):
    """The number of clips of every call of the encoder."""
    clips, encode = [], speech_encoder._encode_mel
    monkeypatch.setattr(
        speech_encoder, "_encode_mel", lambda encoder, mel, *rest: clips.append(len(mel)) or encode(encoder, mel, *rest)
    )
    return clips


def loss_and_gradient(model, batch):
    model.zero_grad()
    loss = paired_loss(model, batch, LossConfig(0.5)).total
    loss.backward()
    return loss.detach(), model.projector.linear_out.weight.grad.clone()


def test_kept_frames_give_the_same_loss_and_gradients_and_are_computed_once(student, batch, encoded):
    plain = loss_and_gradient(student, batch)
    assert encoded == [4]
    with keep_frames():
        kept, again = loss_and_gradient(student, batch), loss_and_gradient(student, batch)
        with keep_frames():  # of another run in the same process
            loss_and_gradient(student, batch)
        assert encoded == [4] + 4 * [1]
    loss_and_gradient(student, batch)
    assert encoded[-1] == 4, "nothing is kept outside"
    torch.testing.assert_close(kept, plain, rtol=1e-3, atol=1e-4)
    assert all(torch.equal(a, b) for a, b in zip(kept, again, strict=True))


def test_values_do_not_depend_on_the_batch(student, batch):
    mel, mask = batch["audio_inputs"]["input_features"], batch["audio_inputs"]["feature_attention_mask"]
    with keep_frames() as kept:
        hidden, hidden_mask = encode_mel(student.speech_encoder, mel, mask)
    assert len(kept.frames) == 4
    with keep_frames():
        single, _ = encode_mel(student.speech_encoder, mel[2:3], mask[2:3])
    length = int(hidden_mask[2].sum())
    assert torch.equal(hidden[2, :length], single[0, :length])
    plain, plain_mask = encode_mel(student.speech_encoder, mel, mask)
    torch.testing.assert_close(hidden[hidden_mask], plain[plain_mask], rtol=1e-3, atol=1e-3)
    assert torch.equal(hidden_mask, plain_mask)


def test_changed_weights_have_frames_of_their_own(student, batch, encoded):
    with keep_frames():
        loss_and_gradient(student, batch)
        with torch.no_grad():
            student.speech_encoder.layer_norm.bias += 1
        loss_and_gradient(student, batch)
    assert len(encoded) == 8


def test_an_encoder_that_is_gone_lends_its_hash_to_no_other(student, batch):
    """A new object may have the id, and as many changes, of one that is gone."""
    mel, mask = batch["audio_inputs"]["input_features"][:1], batch["audio_inputs"]["feature_attention_mask"][:1]
    with keep_frames() as kept, torch.no_grad():
        for shift in range(8):
            encoder = deepcopy(student.speech_encoder)
            encoder.layer_norm.bias.fill_(shift)
            plain, plain_mask = speech_encoder._encode_mel(encoder, mel, mask, False)
            hidden, hidden_mask = encode_mel(encoder, mel, mask)
            torch.testing.assert_close(hidden[hidden_mask], plain[plain_mask], rtol=1e-3, atol=1e-3)
            del encoder
        assert len(kept.frames) == 8 and len(kept._encoders) <= 1


def test_weights_that_are_replaced_have_frames_of_their_own(student, batch, encoded):
    """`module.to` and `module.float` give a parameter other data without a change in place."""
    with keep_frames():
        loss_and_gradient(student, batch)
        bias = student.speech_encoder.layer_norm.bias
        bias.data = bias.data + 1
        loss_and_gradient(student, batch)
    assert len(encoded) == 8


@pytest.mark.parametrize("trainable", [["projector", "speech_encoder"]])
def test_a_trained_encoder_is_run_in_every_step(parts, batch, encoded, trainable):
    model = deepcopy(parts[0])
    freeze_all_but(model, trainable)
    with keep_frames() as kept:
        loss_and_gradient(model, batch)
    assert encoded == [4] and not kept.frames


def test_no_clip_and_the_limit():
    kept = KeptFrames(limit=40)
    first, second, third = (torch.zeros(1, 5) for _ in range(3))
    assert kept.get(("1",), lambda: first) is kept.get(("1",), lambda: third) is first
    kept.get(("2",), lambda: second)
    assert kept.get(("1",), lambda: third) is first and kept.free_bytes == 0
    assert kept.get(("3",), lambda: third) is third and set(kept.frames) == {("1",), ("3",)}
