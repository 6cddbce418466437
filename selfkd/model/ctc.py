"""CTC (Graves et al. 2006): frames of speech read as pieces of text, a loss for what was said, and the runs of frames
that make a transcript.

Legend: B clips, S encoder frames, D width, V pieces and, last, the blank, U labels.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Reading(NamedTuple):
    """What a head reads in frames: log-probabilities (B, S, V) in fp32, and which frames there are (B, S)."""

    log_probs: Tensor
    mask: Tensor

    @property
    def blank(self) -> int:
        return self.log_probs.shape[2] - 1


class Transcript(NamedTuple):
    """What ears that hear tokens read in the frames: tokens, and characters where they spell."""

    tokens: Reading
    characters: Reading | None


def read_frames(head: nn.Linear, frames_BSD: Tensor, mask_BS: Tensor) -> Reading:
    return Reading(F.log_softmax(head(frames_BSD.to(head.weight.dtype)).float(), dim=-1), mask_BS)


def ctc_loss(reading: Reading, labels_BU: Tensor) -> Tensor:
    """-log p(labels), in nats, of each clip (B,); `labels_BU` are places in the head, -100 pads.

    A clip too short for its labels counts for nothing, as it has no alignment."""
    return F.ctc_loss(
        reading.log_probs.transpose(0, 1),
        labels_BU.clamp(min=0),
        reading.mask.sum(-1),
        (labels_BU != -100).sum(-1),
        blank=reading.blank,
        reduction="none",
        zero_infinity=True,
    )


def run_starts(reading: Reading) -> tuple[Tensor, Tensor, Tensor]:
    """(likeliest piece of each frame, whether one is said there, whether a run begins there), all (B, S). A run is one
    piece for some frames on end; the blank, and what lies beyond a clip's end, is in none."""
    best_BS = reading.log_probs.argmax(-1)
    said_BS = (best_BS != reading.blank) & reading.mask
    before_BS = F.pad(best_BS, (1, 0), value=reading.blank)[:, :-1]
    return best_BS, said_BS, said_BS & (best_BS != before_BS)


def runs_of(reading: Reading) -> tuple[Tensor, Tensor]:
    """(the run that each frame is part of, -1 for none (B, S); which runs there are (B, most runs))."""
    _, said_BS, starts_BS = run_starts(reading)
    run_BS = torch.where(said_BS, starts_BS.cumsum(-1) - 1, -1)
    counts_B = starts_BS.sum(-1)
    most = int(counts_B.max()) if len(counts_B) else 0
    return run_BS, torch.arange(most, device=run_BS.device) < counts_B[:, None]


def transcripts_of(reading: Reading) -> list[list[int]]:
    """The pieces that each clip's runs are of."""
    best_BS, _, starts_BS = run_starts(reading)
    return [best_S[starts_S].tolist() for best_S, starts_S in zip(best_BS, starts_BS, strict=True)]
