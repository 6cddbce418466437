# SPDX-License-Identifier: Apache-2.0
"""Inputs of encoders as tensors: audio samples -> log-mel frames, without padding to 30 seconds; items -> a batch.

Legend: B clips, F mel bins, M mel frames (100 a second).
"""

from collections.abc import Hashable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from transformers import WhisperFeatureExtractor

from .input_error import InputError

# the numbers of selfkd.data.example, which a checkpoint does not carry
SAMPLE_RATE_HZ = 16_000
MAX_AUDIO_SECONDS = 30.0
SHORTEST_SECONDS = 0.025


def check_duration(
    samples: NDArray[np.float32], name: str, rate_hz: int = SAMPLE_RATE_HZ, limit: float = MAX_AUDIO_SECONDS
) -> None:
    """Raises InputError for audio shorter than 25 ms or longer than `limit` seconds; `name` is that of the example."""
    seconds = len(samples) / rate_hz
    if seconds < SHORTEST_SECONDS:
        raise InputError(f"{name}: field audio: {seconds:.3f} s of audio is too short")
    if seconds > limit:
        raise InputError(f"{name}: field audio: {seconds:.1f} s is over the encoder's {limit:.0f} s")


def log_mel(extractor: WhisperFeatureExtractor, samples: NDArray[np.float32], name: str) -> Tensor:
    """(F, M) log-mel frames; raises InputError as `check_duration` does."""
    check_duration(samples, name, extractor.sampling_rate, extractor.chunk_length)
    features = extractor(samples, sampling_rate=extractor.sampling_rate, padding="do_not_pad", return_tensors="np")
    return torch.from_numpy(features["input_features"][0])


def pad_mels(mels: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """(mel_BFM, mel_mask_BM) of clips of different lengths."""
    frames = max(m.shape[1] for m in mels)
    mel_BFM = torch.stack([F.pad(m, (0, frames - m.shape[1])) for m in mels])
    lengths = torch.tensor([m.shape[1] for m in mels])
    return mel_BFM, (torch.arange(frames) < lengths[:, None]).long()


def group_by_key(keys: Sequence[Hashable]) -> tuple[Tensor, list[int]]:
    """(group of each item (B,), index of the first item of each group); items with equal keys are one group."""
    first: dict[Hashable, int] = {}
    for i, key in enumerate(keys):
        first.setdefault(key, i)
    number = {key: g for g, key in enumerate(first)}
    return torch.tensor([number[key] for key in keys]), list(first.values())


def join_inputs(items: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Inputs of several images or clips as one batch: concatenated along the first dimension, the others padded with
    zeros to the largest (an Idefics-like backbone ignores a tile of zeros; audio comes with a mask)."""
    non_empty = [item for item in items if item]
    return {name: _join([item[name] for item in non_empty]) for name in (non_empty[0] if non_empty else {})}


def _join(tensors: Sequence[Tensor]) -> Tensor:
    sizes = [max(t.shape[d] for t in tensors) for d in range(1, tensors[0].ndim)]
    return torch.cat([_padded(t, sizes) for t in tensors])


def _padded(tensor: Tensor, sizes: Sequence[int]) -> Tensor:
    padding = [p for size, wanted in zip(tensor.shape[:0:-1], sizes[::-1], strict=True) for p in (0, wanted - size)]
    return F.pad(tensor, padding) if any(padding) else tensor
