"""Projectors: encoder frames -> vectors in the LLM's embedding space.

`StackProjector` stacks k frames: LayerNorm, linear, GELU, linear (the paper's baseline form). `CTCProjector` gives one
soft token embedding for each CTC token: a CTC head over the LLM's tokens, and for each run of frames with the same
likeliest token the mean of the LLM's embeddings under the frames' posteriors (cf. LegoSLM, arXiv 2505.11352). The LLM
was trained on embeddings of tokens; the posteriors keep what a transcript loses, the encoder's uncertainty, and the
gradient.

Legend: B clips, S encoder frames, D width, P tokens of the CTC vocabulary, U labels or vectors.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence


class CTCOutput(NamedTuple):
    """What a head reads in frames: log-probabilities (B, S, V) in fp32, and which frames there are (B, S)."""

    log_probs: Tensor
    mask: Tensor

    @property
    def blank(self) -> int:
        return self.log_probs.shape[2] - 1


class CTCOutputs(NamedTuple):
    """What ears that hear tokens read in the frames: tokens, and characters where they spell."""

    tokens: CTCOutput
    characters: CTCOutput | None


def ctc_output(head: nn.Linear, frames_BSD: Tensor, mask_BS: Tensor) -> CTCOutput:
    return CTCOutput(F.log_softmax(head(frames_BSD.to(head.weight.dtype)).float(), dim=-1), mask_BS)


def ctc_loss(reading: CTCOutput, labels_BU: Tensor) -> Tensor:
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


def run_starts(reading: CTCOutput) -> tuple[Tensor, Tensor, Tensor]:
    """(likeliest piece of each frame, whether one is said there, whether a run begins there), all (B, S). A run is one
    piece for some frames on end; the blank, and what lies beyond a clip's end, is in none."""
    best_BS = reading.log_probs.argmax(-1)
    said_BS = (best_BS != reading.blank) & reading.mask
    before_BS = F.pad(best_BS, (1, 0), value=reading.blank)[:, :-1]
    return best_BS, said_BS, said_BS & (best_BS != before_BS)


def runs_of(reading: CTCOutput) -> tuple[Tensor, Tensor]:
    """(the run that each frame is part of, -1 for none (B, S); which runs there are (B, most runs))."""
    _, said_BS, starts_BS = run_starts(reading)
    run_BS = torch.where(said_BS, starts_BS.cumsum(-1) - 1, -1)
    counts_B = starts_BS.sum(-1)
    most = int(counts_B.max()) if len(counts_B) else 0
    return run_BS, torch.arange(most, device=run_BS.device) < counts_B[:, None]


def transcripts_of(reading: CTCOutput) -> list[list[int]]:
    """The pieces that each clip's runs are of."""
    best_BS, _, starts_BS = run_starts(reading)
    return [best_S[starts_S].tolist() for best_S, starts_S in zip(best_BS, starts_BS, strict=True)]


class AudioEmbeddings(NamedTuple):
    """What ears make of a batch of clips: vectors (B, U, LLM width) and their mask, and the transcript of ears that
    hear tokens."""

    vectors: Tensor
    mask: Tensor
    transcript: CTCOutputs | None = None


def stacked_length(frames: int | Tensor, stack: int):
    """Vectors for a number of encoder frames; the last stack may be partly padding."""
    return (frames + stack - 1) // stack


class StackProjector(nn.Module):
    """The paper's "single-layer MLP" between speech encoder and LLM, in the form of InternOmni.

    The paper does not say how it down-samples; we stack `stack` neighbouring frames.
    """

    def __init__(self, speech_width: int, llm_width: int, stack: int):
        super().__init__()
        self.stack = stack
        self.norm = nn.LayerNorm(speech_width * stack)
        self.linear_in = nn.Linear(speech_width * stack, llm_width)
        self.linear_out = nn.Linear(llm_width, llm_width)

    def forward(self, frames_BSD: Tensor, mask_BS: Tensor, embed: nn.Module) -> AudioEmbeddings:
        """(B, S, speech width) -> ceil(S / k) vectors; the LLM's embeddings are not asked."""
        frames_BSD = frames_BSD.to(self.linear_in.weight.dtype) * mask_BS[..., None]
        missing = -frames_BSD.shape[1] % self.stack
        frames_BSD = F.pad(frames_BSD, (0, 0, 0, missing))
        stacked = frames_BSD.reshape(len(frames_BSD), -1, frames_BSD.shape[2] * self.stack)
        lengths = stacked_length(mask_BS.sum(-1, keepdim=True), self.stack)
        mask = torch.arange(stacked.shape[1], device=lengths.device) < lengths
        return AudioEmbeddings(self.linear_out(F.gelu(self.linear_in(self.norm(stacked)))), mask)


CHARACTER_HEAD = "projector.character_head."  # of names of weights that no model is saved with


class CTCProjector(nn.Module):
    """Ears that speak the LLM's tokens. The blank of CTC comes after the P tokens."""

    def __init__(self, speech_width: int, token_ids: Sequence[int]):
        """`token_ids`: the LLM's ids of the tokens that can be heard, in the order of the head."""
        super().__init__()
        self.token_ids = list(token_ids)
        self._place = {token_id: place for place, token_id in enumerate(self.token_ids)}
        self.ctc_head = nn.Linear(speech_width, len(self.token_ids) + 1)
        self.character_logits(())

    def character_logits(self, characters: Sequence[str]) -> None:
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

    def read(self, frames_BSD: Tensor, mask_BS: Tensor) -> CTCOutputs:
        """What is said, for a loss: no embedding is asked."""
        spelt = None if self.character_head is None else ctc_output(self.character_head, frames_BSD, mask_BS)
        return CTCOutputs(ctc_output(self.ctc_head, frames_BSD, mask_BS), spelt)

    def forward(self, frames_BSD: Tensor, mask_BS: Tensor, embed: nn.Module) -> AudioEmbeddings:
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
        return AudioEmbeddings(vectors_BUD, mask_BU, transcript)


def _places(rows: Sequence[Sequence[Any]], place: Mapping[Any, int]) -> Tensor:
    numbers = [torch.tensor([place[piece] for piece in row if piece in place]) for row in rows]
    return pad_sequence([row.long() for row in numbers], True, -100)
