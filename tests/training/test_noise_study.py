"""What the noise study computes itself: hypotheses of a CTC head, and answers averaged over hypotheses."""

import importlib
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from selfkd.model.projectors import CTCOutput, ctc_loss

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


def _script(name: str) -> Any:
    sys.path.insert(0, str(EXPERIMENTS))  # it imports its neighbours
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(EXPERIMENTS))


@pytest.fixture(scope="module")
def hypotheses() -> Any:
    return _script("noise_hypotheses")


@pytest.fixture(scope="module")
def answers() -> Any:
    return _script("noise_answers")


def test_prefix_search_sums_over_all_alignments(hypotheses, monkeypatch):
    monkeypatch.setattr(hypotheses, "CTC_CLASSES", 3)
    torch.manual_seed(0)
    log_probs = torch.randn(4, 3).log_softmax(-1)  # two labels and the blank
    found = dict(hypotheses.prefix_search(log_probs.numpy(), beams=100))
    mask = torch.ones(1, 4, dtype=torch.bool)
    for labels, score in found.items():
        if math.isfinite(score):  # more labels than frames have no alignment
            loss = ctc_loss(CTCOutput(log_probs[None], mask), torch.tensor([labels or [-100]]))
            assert score == pytest.approx(-float(loss), abs=1e-5)
    assert sum(math.exp(score) for score in found.values()) == pytest.approx(1, abs=1e-5)
    assert max(found, key=lambda labels: found[labels]) == next(iter(found))


def test_equal_texts_are_one_hypothesis(hypotheses):
    (best, score), other = hypotheses.merged([("a", math.log(0.3)), ("b", math.log(0.4)), ("a", math.log(0.2))])
    assert best == "a" and math.exp(score) == pytest.approx(0.5) and other[0] == "b"


def test_answers_are_averaged_by_posterior_and_by_prior(answers):
    readings = [
        answers.Reading("a", math.log(0.8), math.log(0.1), [1.0, 0.0]),
        answers.Reading("b", math.log(0.2), math.log(0.4), [0.0, 1.0]),
    ]
    np.testing.assert_allclose(answers.averaged(readings), [0.8, 0.2])
    np.testing.assert_allclose(answers.averaged(readings, prior_weight=1.0), [0.5, 0.5])
    np.testing.assert_allclose(answers.averaged(readings, temperature=1e6), [0.5, 0.5], atol=1e-5)
