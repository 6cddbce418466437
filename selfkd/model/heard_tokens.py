"""Speech frames -> one vector for each token that is heard: a CTC head over the LLM's tokens, and its embeddings.

The LLM was never shown a frame; it was shown embeddings of tokens. A transcript would hand it those, and lose what the
recogniser doubted. Here each run of frames with the same likeliest token gives the mean of the LLM's embeddings under
the frames' posteriors, so the doubt stays, and so does the gradient.

Legend: B clips, S encoder frames, D width of the LLM, P tokens that can be heard, U labels, C characters.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from selfkd.model.projector import Heard

SPELLING = "projector.character_head."  # of names of weights that no model is saved with


class HeardTokens(nn.Module):
    """Ears that speak the LLM's tokens. The blank of CTC (Graves et al. 2006) comes after the P tokens."""

    def __init__(self, speech_width: int, token_ids: Sequence[int]):
        """`token_ids`: the LLM's ids of the tokens that can be heard, in the order of the head."""
        super().__init__()
        self.token_ids = list(token_ids)
        self._place = {token_id: place for place, token_id in enumerate(self.token_ids)}
        self.ctc_head = nn.Linear(speech_width, len(self.token_ids) + 1)
        self.spell(())

    def spell(self, characters: Sequence[str]) -> None:
        """From here on the frames are read as characters, too (`Heard.spelled`); with none of them no more.

        For the time that a new head over tokens learns: a word is many frames and a character few, so that CTC over
        tokens alone is long content to say nothing, and an encoder that has learnt to spell shows it where they lie.
        """
        self._character = {character: place for place, character in enumerate(characters)}
        self.character_head = nn.Linear(self.ctc_head.in_features, len(characters) + 1) if characters else None

    @property
    def blank(self) -> int:
        return len(self.token_ids)

    def labels(self, ids_BU: Tensor) -> Tensor:
        """The LLM's ids (-100 pads) as places in the head; a token that cannot be heard is left out."""
        return _places(ids_BU.tolist(), self._place).to(ids_BU.device)

    def spelling(self, texts: Sequence[str]) -> Tensor:
        """Texts as places in the head over characters (B, U), -100 pads."""
        return _places(texts, self._character)

    def forward(self, frames_BSD: Tensor, mask_BS: Tensor, embed: nn.Module) -> Heard:
        """A clip in which every frame is blank gives no vector."""
        frames_BSD = frames_BSD.to(self.ctc_head.weight.dtype)
        log_probs_BSP = F.log_softmax(self.ctc_head(frames_BSD).float(), dim=-1)
        spelled_BSC = None
        if self.character_head is not None:
            spelled_BSC = F.log_softmax(self.character_head(frames_BSD).float(), dim=-1)
        run_BS, mask_BU = runs_of(log_probs_BSP.argmax(-1), mask_BS, self.blank)
        table_PD = embed(torch.tensor(self.token_ids, device=mask_BS.device)).float()
        probs_BSP = log_probs_BSP[..., : self.blank].exp()
        width = mask_BU.shape[1] + 1  # the last place takes the frames of no run
        place_BS = torch.where(run_BS < 0, width - 1, run_BS)
        weighted = torch.cat([probs_BSP @ table_PD, probs_BSP.sum(-1, keepdim=True)], dim=-1)
        sums = weighted.new_zeros(len(weighted), width, weighted.shape[2])
        sums = sums.scatter_add(1, place_BS[..., None].expand_as(weighted), weighted)[:, :-1]
        vectors_BUD = sums[..., :-1] / sums[..., -1:].clamp(min=1e-6)
        return Heard(vectors_BUD, mask_BU, log_probs_BSP, mask_BS, spelled_BSC)


def _places(rows: Sequence[Sequence[Any]], place: Mapping[Any, int]) -> Tensor:
    numbers = [torch.tensor([place[piece] for piece in row if piece in place]) for row in rows]
    return pad_sequence([row.long() for row in numbers], True, -100)


def runs_of(best_BS: Tensor, mask_BS: Tensor, blank: int) -> tuple[Tensor, Tensor]:
    """(the run that each frame is part of, -1 for none (B, S); which runs there are (B, most runs)). A run is one token
    for some frames on end; blank, and what lies beyond a clip's end, is in none."""
    said = (best_BS != blank) & mask_BS
    before = F.pad(best_BS, (1, 0), value=blank)[:, :-1]
    starts = said & (best_BS != before)
    run_BS = torch.where(said, starts.cumsum(-1) - 1, -1)
    counts = starts.sum(-1)
    most = int(counts.max()) if len(counts) else 0
    return run_BS, torch.arange(most, device=best_BS.device) < counts[:, None]


def transcript_loss(heard: Heard, labels_BU: Tensor) -> Tensor:
    """sum over clips of -log p(labels), in nats, by CTC; `labels_BU` are places in the head, -100 pads.

    A clip too short for its labels counts for nothing, as it has no alignment."""
    return _ctc(heard.log_probs, heard, labels_BU)


def spelling_loss(heard: Heard, labels_BU: Tensor) -> Tensor:
    """The same over characters, for ears that spell."""
    return _ctc(heard.spelled, heard, labels_BU)


def _ctc(log_probs_BSV: Tensor | None, heard: Heard, labels_BU: Tensor) -> Tensor:
    assert log_probs_BSV is not None and heard.frames_mask is not None, "these ears have no transcript"
    return F.ctc_loss(
        log_probs_BSV.transpose(0, 1),
        labels_BU.clamp(min=0),
        heard.frames_mask.sum(-1),
        (labels_BU != -100).sum(-1),
        blank=log_probs_BSV.shape[2] - 1,
        reduction="sum",
        zero_infinity=True,
    )
