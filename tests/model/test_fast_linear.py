"""oneDNN's linear layers give what torch's own give, values and gradients, and are gone after their context."""

from copy import deepcopy

import pytest
import torch
from examples import toy_examples
from torch import nn
from torch.nn import functional as F

from selfkd.losses import LossConfig
from selfkd.model import fast_linear as module
from selfkd.model.fast_linear import fast_linear
from selfkd.model.kept_frames import keep_frames
from selfkd.model.speech_encoder import encode_mel
from selfkd.training.data import PairedCollator, paired_item
from selfkd.training.self_kd import paired_loss
from selfkd.training.trainable import freeze_all_but

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")
plain = F.linear


@pytest.fixture(autouse=True)
def everywhere(monkeypatch):
    """On any processor."""
    monkeypatch.setattr(module, "mkl_is_slow", lambda: True)


@pytest.fixture
def calls(monkeypatch):
    """The number of rows of every product by oneDNN."""
    found, product = [], module._product
    monkeypatch.setattr(module, "_product", lambda rows, *rest: found.append(rows.shape) or product(rows, *rest))
    return found


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(300, 96), (4, 75, 96), (2, 3, 50, 96)])
@pytest.mark.parametrize("frozen", [True, False])
def test_values_and_gradients_equal_those_of_float64(shape, bias, frozen, calls):
    torch.manual_seed(0)
    layer = nn.Linear(96, 128, bias=bias).requires_grad_(not frozen)
    rows, upstream = torch.randn(shape, requires_grad=True), torch.randn(*shape[:-1], 128)
    exact_layer, exact_rows = deepcopy(layer).double(), rows.detach().double().requires_grad_()
    exact = exact_layer(exact_rows)
    exact.backward(upstream.double())
    with fast_linear():
        values = layer(rows)
        values.backward(upstream)
    assert len(calls) == (2 if frozen else 3)
    torch.testing.assert_close(values.double(), exact, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(rows.grad.double(), exact_rows.grad, rtol=1e-5, atol=1e-5)
    for own, other in zip(layer.parameters(), exact_layer.parameters(), strict=True):
        if frozen:
            assert own.grad is None
        else:
            torch.testing.assert_close(own.grad.double(), other.grad, rtol=1e-5, atol=1e-4)


def test_small_products_and_other_dtypes_are_torchs_own(calls):
    rows, layer = torch.randn(300, 96), nn.Linear(96, 128)
    with fast_linear():
        assert torch.equal(layer(rows[:2]), plain(rows[:2], layer.weight, layer.bias))
        layer.bfloat16()(rows.bfloat16())
        layer.float()
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(rows).dtype == torch.bfloat16
        assert not calls
        layer(rows)
    assert len(calls) == 1


def test_it_ends_with_the_outermost_context_also_after_an_error():
    with fast_linear(), fast_linear():
        assert F.linear is module.linear
    with pytest.raises(ZeroDivisionError), fast_linear():
        raise ZeroDivisionError
    assert F.linear is plain and not module.linear_is_fast()


def test_other_processors_keep_torchs_own(monkeypatch):
    monkeypatch.setattr(module, "mkl_is_slow", lambda: False)
    with fast_linear():
        assert F.linear is plain and not module.linear_is_fast()


@pytest.mark.parametrize("parts_that_train", [["projector"], ["projector", "speech_encoder"], ["llm"]])
def test_a_training_step_has_the_same_loss_and_gradients(parts, parts_that_train, calls):
    model = deepcopy(parts[0])
    freeze_all_but(model, parts_that_train)
    model.train()
    batch = PairedCollator(parts[1])([paired_item(parts[1], example) for example in toy_examples(4)])

    def step():
        model.zero_grad()
        loss = paired_loss(model, batch, LossConfig(0.0 if "llm" in parts_that_train else 0.5))
        loss.total.backward()
        return loss.total.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    loss, gradients = step()
    with fast_linear():
        fast_loss, fast_gradients = step()
    torch.testing.assert_close(fast_loss, loss, rtol=1e-5, atol=1e-5)
    assert fast_gradients.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(
            fast_gradients[name], gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max()), msg=name
        )


def test_kept_frames_do_not_mix_both(parts, calls):
    """Otherwise the frames of a clip would depend on which stage of a process saw it first."""
    item = paired_item(parts[1], toy_examples(1)[0])
    mel = item.audio_inputs["input_features"], item.audio_inputs["feature_attention_mask"]
    encoder = parts[0].speech_encoder.eval().requires_grad_(False)
    with keep_frames() as kept:
        own, _ = encode_mel(encoder, *mel)
        with fast_linear():
            other, _ = encode_mel(encoder, *mel)
        assert len(kept.frames) == 2
    torch.testing.assert_close(own, other, rtol=1e-3, atol=1e-3)
