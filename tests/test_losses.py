"""The losses: zero at identity, closed form, chunked == whole, fp32 from bf16."""

import math

import pytest
import torch
from torch.nn import functional as F

from selfkd.losses import LossConfig, cross_entropy, divergence, self_kd_loss


def random_problem(rows=23, width=16, vocabulary=50, seed=0):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(rows, width, generator=generator) for _ in range(2))
    head = torch.randn(vocabulary, width, generator=generator)
    labels = torch.randint(0, vocabulary, (rows,), generator=generator)
    return student.requires_grad_(), teacher, head, labels


def test_kl_is_zero_with_zero_gradient_where_student_and_teacher_agree():
    student, _, head, labels = random_problem()
    loss = self_kd_loss(student, student.detach().clone(), head, labels, LossConfig(1.0))
    loss.total.backward()
    assert loss.total.item() == pytest.approx(0, abs=1e-5)
    assert student.grad.abs().max() < 1e-5


def test_kl_of_two_known_distributions():
    teacher, student = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.9, 0.1]]).log()
    expected = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    assert divergence(teacher, student).item() == pytest.approx(expected, rel=1e-6)
    # the direction matters: KL(student || teacher) is another number
    assert divergence(student, teacher).item() != pytest.approx(expected, rel=1e-2)


def test_temperature_is_squared_back():
    """At a high temperature T^2 KL tends to half the variance of the logit difference, whatever T."""
    student, teacher, head, _ = random_problem()
    a, b = F.linear(student, head).detach(), F.linear(teacher, head)
    hot, hotter = divergence(b, a, 100.0), divergence(b, a, 200.0)
    assert hot.item() == pytest.approx(hotter.item(), rel=0.02)
    assert hot.item() == pytest.approx(0.5 * (a - b).var(1, correction=0).sum().item(), rel=0.05)


def test_alpha_mixes_the_two_sums():
    student, teacher, head, labels = random_problem()
    logits = F.linear(student, head)
    kl, sft = divergence(F.linear(teacher, head), logits), cross_entropy(logits, labels)
    loss = self_kd_loss(student, teacher, head, labels, LossConfig(0.3))
    assert loss.total.item() == pytest.approx((0.3 * kl + 0.7 * sft).item(), rel=1e-6)
    assert (loss.kd.item(), loss.sft.item()) == pytest.approx((kl.item(), sft.item()), rel=1e-6)
    assert loss.tokens == len(labels)


@pytest.mark.parametrize("chunk_rows", [1, 5, 22, 23, 1000])
def test_chunks_equal_the_whole(chunk_rows):
    gradients, totals = [], []
    for size in (chunk_rows, 10_000):
        student, teacher, head, labels = random_problem()
        head.requires_grad_()
        loss = self_kd_loss(student, teacher, head, labels, LossConfig(0.5, 2.0), chunk_rows=size)
        loss.total.backward()
        totals.append(loss.total.item())
        gradients.append((student.grad, head.grad))
    assert totals[0] == pytest.approx(totals[1], rel=1e-6)
    for ours, whole in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("alpha", "temperature"), [(0.0, 1.0), (0.5, 2.0), (1.0, 1.0)])
@pytest.mark.parametrize("head_trains", [True, False])
def test_gradient_of_the_forward_pass_equals_autograd(alpha, temperature, head_trains):
    gradients = []
    for fused in (True, False):
        student, teacher, head, labels = random_problem()
        head.requires_grad_(head_trains)
        if fused:
            total = self_kd_loss(student, teacher, head, labels, LossConfig(alpha, temperature), chunk_rows=7).total
        else:
            logits, teacher_logits = F.linear(student, head), F.linear(teacher, head).detach()
            kl, sft = divergence(teacher_logits, logits, temperature), cross_entropy(logits, labels)
            total = alpha * kl + (1 - alpha) * sft
        (total / 3).backward()
        gradients.append((student.grad, head.grad))
    (student, head), (plain_student, plain_head) = gradients
    torch.testing.assert_close(student, plain_student, rtol=1e-5, atol=1e-5)
    assert (head is None) == (not head_trains)
    if head_trains:
        torch.testing.assert_close(head, plain_head, rtol=1e-5, atol=1e-5)


def test_the_loss_exists_without_gradients():
    student, teacher, head, labels = random_problem()
    with torch.no_grad():
        loss = self_kd_loss(student, teacher, head, labels, LossConfig(0.5))
    assert loss.total > 0 and not loss.total.requires_grad


def test_sums_are_fp32_even_from_bf16():
    student, teacher, head, labels = (t.detach() for t in random_problem())
    loss = self_kd_loss(student.bfloat16(), teacher.bfloat16(), head.bfloat16(), labels, LossConfig(0.5))
    assert loss.total.dtype == torch.float32 and torch.isfinite(loss.total)


def test_rows_that_do_not_match_are_refused():
    student, teacher, head, labels = random_problem()
    with pytest.raises(ValueError, match="do not line up"):
        self_kd_loss(student, teacher[:-1], head, labels, LossConfig(1.0))
    with pytest.raises(ValueError, match="labels for"):
        self_kd_loss(student, teacher, head, labels[:-1], LossConfig(1.0))
    with pytest.raises(ValueError, match="teacher"):
        self_kd_loss(student, None, head, labels, LossConfig(0.5))


def test_divergences_of_two_known_distributions():
    p, q = torch.tensor([0.5, 0.5]), torch.tensor([0.9, 0.1])
    kl = lambda a, b: float((a * (a / b).log()).sum())  # noqa: E731
    mixture = (p + q) / 2
    expected = {"forward": kl(p, q), "reverse": kl(q, p), "jensen_shannon": (kl(p, mixture) + kl(q, mixture)) / 2}
    for kind, value in expected.items():
        assert divergence(p.log()[None], q.log()[None], kind=kind).item() == pytest.approx(value, rel=1e-5), kind
        assert divergence(p.log()[None], p.log()[None], kind=kind).item() == pytest.approx(0, abs=1e-7)


def test_hidden_mse_is_the_mean_squared_distance():
    student, teacher, head, labels = random_problem()
    loss = self_kd_loss(student, teacher, head, labels, LossConfig(0.0, hidden_mse_weight=0.25))
    distance = (student - teacher).square().mean(-1).sum()
    assert loss.terms["hidden_mse"].item() == pytest.approx(distance.item(), rel=1e-6)
    assert loss.total.item() == pytest.approx((loss.sft + 0.25 * distance).item(), rel=1e-6)
