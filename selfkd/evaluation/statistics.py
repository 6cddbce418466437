"""Scores with their uncertainty."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from selfkd.evaluation.scorers import YES_NO_KINDS

RESAMPLES = 10_000


def summarize(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """n, correct, accuracy, its standard error, parse rate, and the rate of "yes" among yes/no questions beside the
    true rate. A reply that cannot be parsed counts as wrong."""
    n = len(samples)
    correct = sum(s["correct"] for s in samples)
    accuracy = correct / n
    yes_no = [s for s in samples if s["kind"] in YES_NO_KINDS]
    return {
        "n": n,
        "correct": correct,
        "accuracy": accuracy,
        "stderr": float(np.sqrt(accuracy * (1 - accuracy) / n)),
        "parse_rate": sum(s["parsed"] is not None for s in samples) / n,
        "yes_rate": sum(s["parsed"] == "yes" for s in yes_no) / len(yes_no) if yes_no else None,
        "true_yes_rate": sum(s["truth"] == "yes" for s in yes_no) / len(yes_no) if yes_no else None,
    }


def gap_closed(
    text: Sequence[bool], sft: Sequence[bool], selfkd: Sequence[bool], seed: int = 0, resamples: int = RESAMPLES
) -> dict[str, Any]:
    """Share of the gap left by SFT that Self-KD closes, (selfkd - sft) / (text - sft), on the same items.

    The 95% interval is the percentile interval of a paired bootstrap over items; resamples without a gap are left out,
    and where they are more than 1 in 100 share and interval are None: there is no gap to speak of.
    """
    scores = np.array([text, sft, selfkd], dtype=float)
    n = scores.shape[1]
    picks = np.random.default_rng(seed).integers(0, n, (resamples, n))
    t, s, k = (scores[i][picks].mean(1) for i in range(3))
    has_gap = t - s > 0
    share = (k[has_gap] - s[has_gap]) / (t[has_gap] - s[has_gap])
    text_mean, sft_mean, selfkd_mean = scores.mean(1)
    clear = has_gap.mean() >= 0.99 and text_mean > sft_mean
    difference = np.percentile(k - s, [2.5, 97.5])
    return {
        "share": float((selfkd_mean - sft_mean) / (text_mean - sft_mean)) if clear else None,
        "interval": np.percentile(share, [2.5, 97.5]).tolist() if clear else None,
        "selfkd_minus_sft": float(selfkd_mean - sft_mean),
        "selfkd_minus_sft_interval": difference.tolist(),
        "level": 0.95,
        "resamples": resamples,
    }
