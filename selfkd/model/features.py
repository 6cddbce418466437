"""Audio samples -> log-mel frames, without padding to 30 seconds; batches are padded on the right.

Legend: B clips, F mel bins, M mel frames (100 a second).
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import WhisperFeatureExtractor

from selfkd.data.example import MAX_AUDIO_SECONDS, SAMPLE_RATE_HZ, SHORTEST_SECONDS
from selfkd.errors import InputError


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
    mel_BFM = torch.stack([torch.nn.functional.pad(m, (0, frames - m.shape[1])) for m in mels])
    lengths = torch.tensor([m.shape[1] for m in mels])
    return mel_BFM, (torch.arange(frames) < lengths[:, None]).long()
