"""Speech frames -> one vector for each token that is heard: a CTC head over the LLM's tokens, and its embeddings.

The LLM was never shown a frame; it was shown embeddings of tokens. A transcript would hand it those, and lose what the
recogniser doubted. Here each run of frames with the same likeliest token gives the mean of the LLM's embeddings under
the frames' posteriors, so the doubt stays, and so does the gradient.

Legend: B clips, S encoder frames, D width, P tokens that can be heard, U labels or vectors.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from selfkd.model.ctc import Transcript, read_frames, runs_of
from selfkd.model.projector import Heard

SPELLING = "projector.character_head."  # of names of weights that no model is saved with


class HeardTokens(nn.Module):
    """Ears that speak the LLM's tokens. The blank of CTC comes after the P tokens."""

    def __init__(self, speech_width: int, token_ids: Sequence[int]):
        """`token_ids`: the LLM's ids of the tokens that can be heard, in the order of the head."""
        super().__init__()
        self.token_ids = list(token_ids)
        self._place = {token_id: place for place, token_id in enumerate(self.token_ids)}
        self.ctc_head = nn.Linear(speech_width, len(self.token_ids) + 1)
        self.spell(())

    def spell(self, characters: Sequence[str]) -> None:
        """From here on the frames are read as characters, too; with none of them no more.

        For the time that a new head over tokens learns: a word is many frames and a character few, so that CTC over
        tokens alone is long content to say nothing, and an encoder that has learnt to spell shows it where they lie.
        """
        self._character = {character: place for place, character in enumerate(characters)}
        self.character_head = nn.Linear(self.ctc_head.in_features, len(characters) + 1) if characters else None

    def labels(self, ids_BU: Tensor) -> Tensor:
        """The LLM's ids (-100 pads) as places in the head; a token that cannot be heard is left out."""
        return _places(ids_BU.tolist(), self._place).to(ids_BU.device)

    def spelling(self, texts: Sequence[str]) -> Tensor:
        """Texts as places in the head over characters (B, U), -100 pads."""
        return _places(texts, self._character)

    def read(self, frames_BSD: Tensor, mask_BS: Tensor) -> Transcript:
        """What is said, for a loss: no embedding is asked."""
        spelt = None if self.character_head is None else read_frames(self.character_head, frames_BSD, mask_BS)
        return Transcript(read_frames(self.ctc_head, frames_BSD, mask_BS), spelt)

    def forward(self, frames_BSD: Tensor, mask_BS: Tensor, embed: nn.Module) -> Heard:
        """A clip in which every frame is blank gives no vector."""
        transcript = self.read(frames_BSD, mask_BS)
        run_BS, mask_BU = runs_of(transcript.tokens)
        table_PD = embed(torch.tensor(self.token_ids, device=mask_BS.device)).float()
        probs_BSP = transcript.tokens.log_probs[..., :-1].exp()  # without the blank
        width = mask_BU.shape[1] + 1  # the last place takes the frames of no run
        place_BS = torch.where(run_BS < 0, width - 1, run_BS)
        weighted = torch.cat([probs_BSP @ table_PD, probs_BSP.sum(-1, keepdim=True)], dim=-1)
        sums = weighted.new_zeros(len(weighted), width, weighted.shape[2])
        sums = sums.scatter_add(1, place_BS[..., None].expand_as(weighted), weighted)[:, :-1]
        vectors_BUD = sums[..., :-1] / sums[..., -1:].clamp(min=1e-6)
        return Heard(vectors_BUD, mask_BU, transcript)


def _places(rows: Sequence[Sequence[Any]], place: Mapping[Any, int]) -> Tensor:
    numbers = [torch.tensor([place[piece] for piece in row if piece in place]) for row in rows]
    return pad_sequence([row.long() for row in numbers], True, -100)
