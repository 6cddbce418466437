"""Speech frames -> vectors in the LLM's space: k frames stacked, LayerNorm, linear, GELU, linear."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from selfkd.model.ctc import Transcript


class Heard(NamedTuple):
    """What ears make of a batch of clips: vectors (B, U, LLM width) and their mask, and the transcript of ears that
    hear tokens."""

    vectors: Tensor
    mask: Tensor
    transcript: Transcript | None = None


def stacked_length(frames: int | Tensor, stack: int):
    """Vectors for a number of encoder frames; the last stack may be partly padding."""
    return (frames + stack - 1) // stack


class SpeechProjector(nn.Module):
    """The paper's "single-layer MLP" between speech encoder and LLM, in the form of InternOmni.

    The paper does not say how it down-samples; we stack `stack` neighbouring frames.
    """

    def __init__(self, speech_width: int, llm_width: int, stack: int):
        super().__init__()
        self.stack = stack
        self.norm = nn.LayerNorm(speech_width * stack)
        self.linear_in = nn.Linear(speech_width * stack, llm_width)
        self.linear_out = nn.Linear(llm_width, llm_width)

    def forward(self, frames_BSD: Tensor, mask_BS: Tensor, embed: nn.Module) -> Heard:
        """(B, S, speech width) -> ceil(S / k) vectors; the LLM's embeddings are not asked."""
        frames_BSD = frames_BSD.to(self.linear_in.weight.dtype) * mask_BS[..., None]
        missing = -frames_BSD.shape[1] % self.stack
        frames_BSD = F.pad(frames_BSD, (0, 0, 0, missing))
        stacked = frames_BSD.reshape(len(frames_BSD), -1, frames_BSD.shape[2] * self.stack)
        lengths = stacked_length(mask_BS.sum(-1, keepdim=True), self.stack)
        mask = torch.arange(stacked.shape[1], device=lengths.device) < lengths
        return Heard(self.linear_out(F.gelu(self.linear_in(self.norm(stacked)))), mask)
