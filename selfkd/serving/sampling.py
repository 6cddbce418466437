"""Sampling for the rows of one batch, each with settings and random numbers of its own, and the texts that end a
response (`stop`): the response is what comes before the first of them.

Legend: B rows, T tokens, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from selfkd.serving.schema import Sampling


class RowSampler(LogitsProcessor):
    """Leaves each sampled row of the logits one token, which a greedy `generate` then chooses. Greedy rows stay as they
    are.

    The settings apply in transformers' order: temperature, top-k, top-p. A row takes one random number for each token,
    from a generator of its own with the request's seed, whatever the other rows and the device are.
    """

    def __init__(self, settings: Sequence[Sampling]):
        """One for each row; raises ValueError for a sampled one without a seed."""
        self._rows: list[tuple[int, LogitsProcessorList, torch.Generator]] = []
        for row, sampling in enumerate(settings):
            if sampling.is_greedy:
                continue
            if sampling.seed is None:
                raise ValueError("a sampled row needs a seed")
            self._rows.append((row, _warpers(sampling), torch.Generator().manual_seed(sampling.seed)))

    def __call__(self, input_ids: Any, scores: Tensor) -> Tensor:
        """`input_ids` (B, T), `scores` (B, V): logits."""
        if not self._rows:
            return scores
        chosen_BV = scores.clone()
        for row, warpers, generator in self._rows:
            # relative to the largest, so that the quotient by a small temperature does not overflow
            row_1V = scores[row : row + 1].float()
            warped_1V = warpers(input_ids[row : row + 1], row_1V - row_1V.amax())
            token = _sample(warped_1V[0], torch.rand((), dtype=torch.float64, generator=generator).item())
            chosen_BV[row] = -torch.inf
            chosen_BV[row, token] = 0.0
        return chosen_BV


def _warpers(sampling: Sampling) -> LogitsProcessorList:
    warpers = LogitsProcessorList([TemperatureLogitsWarper(sampling.temperature)])
    if sampling.top_k:
        warpers.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        warpers.append(TopPLogitsWarper(sampling.top_p))
    return warpers


def _sample(logits_V: Tensor, uniform: float) -> Tensor:
    """The token at the quantile `uniform` (0 to 1, exclusive) of the distribution. Logits that are no numbers give some
    token: `torch.multinomial` would end the CUDA context of all requests."""
    cumulative_V = logits_V.double().softmax(0).cumsum(0)
    token = torch.searchsorted(cumulative_V, cumulative_V[-1:] * uniform, right=True)[0]
    return token.clamp(max=len(logits_V) - 1)


def cut_at_stop(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """(`text` up to the first of `stops` in it, whether there is one)."""
    found = [index for index in (text.find(stop) for stop in stops) if index >= 0]
    return (text[: min(found)], True) if found else (text, False)


def without_partial_stop(text: str, stops: Sequence[str]) -> str:
    """`text` without an end that may become one of `stops` as the response grows."""
    for start in range(max(0, len(text) - max(map(len, stops), default=0)), len(text)):
        if any(stop.startswith(text[start:]) for stop in stops):
            return text[:start]
    return text
