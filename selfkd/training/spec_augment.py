"""Augmentation of log-mel frames in training: frequency warping, as of another speaker, and SpecAugment masks.

Legend: B clips, F mel bins, M mel frames.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

MASKED_BINS, MASKED_FRAMES = 12, 10  # SpecAugment: maximum width of a stripe in each direction
WARP = 0.12  # maximum relative change of frequencies: the range of vocal tract lengths
VOWEL_SHIFT = 2.5  # maximum shift in mel bins at each of five knots: formants differ between accents


Generators = Sequence[torch.Generator]  # one for each clip


def augment_mel(mel_BFM: Tensor, mask_BM: Tensor, generators: Generators, strength: float = 1.0) -> Tensor:
    """Warps, then masks each clip, by up to `strength` times the constants. The result for a clip depends on its own
    generator only (on the CPU, on whatever device the frames are), not on the other clips of the batch."""
    return mask_mel(warp_mel(mel_BFM, generators, strength), mask_BM, generators, strength)


def warp_mel(mel_BFM: Tensor, generators: Generators, strength: float = 1.0) -> Tensor:
    """Simulates another speaker: bin f gets the value at f times a random factor (vocal tract length perturbation,
    VTLP, Jaitly & Hinton 2013) plus a random shift that varies over f (formants move independently)."""
    _, bins, frames = mel_BFM.shape
    knots = strength * VOWEL_SHIFT * _uniform(-1, 1, (1, 5), generators)
    shift_BF = F.interpolate(knots, bins, mode="linear", align_corners=True)[:, 0]
    factor_B1 = 1 + strength * WARP * _uniform(-1, 1, (1,), generators)
    source_BF = (torch.arange(bins) * factor_B1 + shift_BF).clamp(0, bins - 1).to(mel_BFM.device)
    low = source_BF.floor().long()
    below, above = (
        mel_BFM.gather(1, at[..., None].expand(-1, -1, frames)) for at in (low, (low + 1).clamp(max=bins - 1))
    )
    return torch.lerp(below, above, (source_BF - low)[..., None].to(mel_BFM.dtype))


def mask_mel(mel_BFM: Tensor, mask_BM: Tensor, generators: Generators, strength: float = 1.0) -> Tensor:
    """SpecAugment (Park et al. 2019): two stripes of mel bins and two of frames are set to the clip's mean."""
    clips, bins, _ = mel_BFM.shape
    mask_B1M = mask_BM[:, None].to(mel_BFM.dtype)
    mean_B11 = (mel_BFM * mask_B1M).sum((1, 2), keepdim=True) / (bins * mask_B1M.sum((1, 2), keepdim=True))
    for _ in range(2):
        rows_BF = _stripe(torch.full((clips,), bins), strength * MASKED_BINS, bins, generators)
        columns_BM = _stripe(mask_BM.sum(-1).cpu(), strength * MASKED_FRAMES, mask_BM.shape[1], generators)
        holes = (rows_BF[:, :, None] | columns_BM[:, None]).to(mel_BFM.device)
        mel_BFM = torch.where(holes, mean_B11, mel_BFM)
    return mel_BFM


def _stripe(lengths_B: Tensor, max_width: float, size: int, generators: Generators) -> Tensor:
    """Mask (B, size) of a stripe of up to `max_width` positions at a random position within each clip's length."""
    width = (_uniform(0, 1, (), generators) * (max_width + 1)).long()
    start = (_uniform(0, 1, (), generators) * (lengths_B - width).clamp(min=1)).long()
    position = torch.arange(size)
    return (position >= start[:, None]) & (position < (start + width)[:, None])


def _uniform(low: float, high: float, shape: tuple[int, ...], generators: Generators) -> Tensor:
    """(B, *shape), uniform."""
    return low + (high - low) * torch.stack([torch.rand(shape, generator=g) for g in generators])
