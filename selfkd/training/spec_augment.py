"""Other speakers and holes, made of log-mel frames while a speech encoder trains.

Legend: B clips, F mel bins, M mel frames.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

MASKED_BINS, MASKED_FRAMES = 12, 10  # SpecAugment: the widest stripe in each direction
WARP = 0.12  # of the frequency axis: vocal tracts are up to so much longer or shorter
VOWEL_SHIFT = 2.5  # mel bins, at each of five knots apart: in another accent the formants of a vowel lie elsewhere


Generators = Sequence[torch.Generator]  # one a clip


def augmented(mel_BFM: Tensor, mask_BM: Tensor, generators: Generators, strength: float = 1.0) -> Tensor:
    """Each clip warped, then masked, by up to `strength` times what the constants say. What becomes of a clip follows
    from its own generator (of the CPU, whatever the device of the frames), not from the clips beside it."""
    return masked(warped(mel_BFM, generators, strength), mask_BM, generators, strength)


def warped(mel_BFM: Tensor, generators: Generators, strength: float = 1.0) -> Tensor:
    """Another speaker: bin f takes what was at f times a random factor (the length of the vocal tract; VTLP, Jaitly &
    Hinton 2013), and at a random distance from there (first and second formants move apart from each other)."""
    _, bins, frames = mel_BFM.shape
    knots = strength * VOWEL_SHIFT * _between(-1, 1, (1, 5), generators)
    shift_BF = F.interpolate(knots, bins, mode="linear", align_corners=True)[:, 0]
    factor_B1 = 1 + strength * WARP * _between(-1, 1, (1,), generators)
    place_BF = (torch.arange(bins) * factor_B1 + shift_BF).clamp(0, bins - 1).to(mel_BFM.device)
    low = place_BF.floor().long()
    below, above = (
        mel_BFM.gather(1, at[..., None].expand(-1, -1, frames)) for at in (low, (low + 1).clamp(max=bins - 1))
    )
    return torch.lerp(below, above, (place_BF - low)[..., None].to(mel_BFM.dtype))


def masked(mel_BFM: Tensor, mask_BM: Tensor, generators: Generators, strength: float = 1.0) -> Tensor:
    """SpecAugment (Park et al. 2019): two stripes of mel bins and two of frames are set to the clip's mean."""
    clips, bins, _ = mel_BFM.shape
    there_B1M = mask_BM[:, None].to(mel_BFM.dtype)
    mean_B11 = (mel_BFM * there_B1M).sum((1, 2), keepdim=True) / (bins * there_B1M.sum((1, 2), keepdim=True))
    for _ in range(2):
        rows_BF = _stripe(torch.full((clips,), bins), strength * MASKED_BINS, bins, generators)
        columns_BM = _stripe(mask_BM.sum(-1).cpu(), strength * MASKED_FRAMES, mask_BM.shape[1], generators)
        holes = (rows_BF[:, :, None] | columns_BM[:, None]).to(mel_BFM.device)
        mel_BFM = torch.where(holes, mean_B11, mel_BFM)
    return mel_BFM


def _stripe(lengths_B: Tensor, widest: float, size: int, generators: Generators) -> Tensor:
    """(B, size): a stripe of up to `widest` places somewhere within each clip's length."""
    width = (_between(0, 1, (), generators) * (widest + 1)).long()
    start = (_between(0, 1, (), generators) * (lengths_B - width).clamp(min=1)).long()
    place = torch.arange(size)
    return (place >= start[:, None]) & (place < (start + width)[:, None])


def _between(low: float, high: float, shape: tuple[int, ...], generators: Generators) -> Tensor:
    """(B, *shape)"""
    return low + (high - low) * torch.stack([torch.rand(shape, generator=g) for g in generators])
