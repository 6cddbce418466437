# SPDX-License-Identifier: Apache-2.0
"""Projectors: encoder frames -> audio embeddings in the LLM's embedding space.

`StackProjector` stacks k frames: LayerNorm, linear, GELU, linear (the paper's baseline form). `CTCProjector` gives one
soft token embedding for each CTC token: a CTC head over the LLM's tokens, and for each run of frames with the same most
probable token the mean of the LLM's embeddings under the frames' posteriors (cf. LegoSLM, arXiv 2505.11352). The LLM
was trained on token embeddings; the posteriors keep what a transcript loses, the encoder's uncertainty, and the
gradient.

Legend: B clips, S encoder frames, D width, P tokens of the CTC vocabulary, V classes of a head (its tokens and the
blank), U labels or audio embeddings.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from .configuration_omni import OmniConfig


class CTCOutput(NamedTuple):
    """The output of a CTC head: log-probabilities (B, S, V) in fp32, and the mask of the frames (B, S)."""

    log_probs: Tensor
    mask: Tensor

    @property
    def blank(self) -> int:
        return self.log_probs.shape[2] - 1


class CTCOutputs(NamedTuple):
    """The outputs of a CTC projector's heads: over tokens, and over characters where it has that auxiliary head."""

    tokens: CTCOutput
    characters: CTCOutput | None


def ctc_output(head: nn.Linear, frames_BSD: Tensor, mask_BS: Tensor) -> CTCOutput:
    return CTCOutput(F.log_softmax(head(frames_BSD.to(head.weight.dtype)).float(), dim=-1), mask_BS)


def ctc_loss(output: CTCOutput, labels_BU: Tensor) -> Tensor:
    """-log p(labels), in nats, of each clip (B,); `labels_BU` are classes of the head, -100 pads.

    A clip with fewer frames than its labels need has no alignment; its loss is 0."""
    return F.ctc_loss(
        output.log_probs.transpose(0, 1),
        labels_BU.clamp(min=0),
        output.mask.sum(-1),
        (labels_BU != -100).sum(-1),
        blank=output.blank,
        reduction="none",
        zero_infinity=True,
    )


def run_starts(output: CTCOutput) -> tuple[Tensor, Tensor, Tensor]:
    """(most probable class of each frame, whether it is a token, whether a run begins there), all (B, S). A run is a
    sequence of frames with one token; blank frames and padding are in no run."""
    best_BS = output.log_probs.argmax(-1)
    token_BS = (best_BS != output.blank) & output.mask
    previous_BS = F.pad(best_BS, (1, 0), value=output.blank)[:, :-1]
    return best_BS, token_BS, token_BS & (best_BS != previous_BS)


def runs_of(output: CTCOutput) -> tuple[Tensor, Tensor]:
    """(index of each frame's run, -1 for none (B, S); mask of the runs of each clip (B, max runs))."""
    _, token_BS, starts_BS = run_starts(output)
    run_BS = torch.where(token_BS, starts_BS.cumsum(-1) - 1, -1)
    counts_B = starts_BS.sum(-1)
    max_runs = int(counts_B.max()) if len(counts_B) else 0
    return run_BS, torch.arange(max_runs, device=run_BS.device) < counts_B[:, None]


def greedy_transcripts(output: CTCOutput) -> list[list[int]]:
    """The class of each run, by clip: the greedy CTC transcript."""
    best_BS, _, starts_BS = run_starts(output)
    return [best_S[starts_S].tolist() for best_S, starts_S in zip(best_BS, starts_BS, strict=True)]


class AudioEmbeddings(NamedTuple):
    """Clips as the LLM takes them: vectors (B, U, LLM width), their mask (B, U), and of a CTC projector the outputs of
    its heads."""

    vectors: Tensor
    mask: Tensor
    ctc: CTCOutputs | None = None


def stacked_length(frames: int | Tensor, stack_factor: int):
    """Audio embeddings for a number of encoder frames; the last stack may be partly padding."""
    return (frames + stack_factor - 1) // stack_factor


class StackProjector(nn.Module):
    """The paper's "single-layer MLP" between speech encoder and LLM, in the form of InternOmni.

    The paper does not describe its down-sampling; here it is a stack of `stack_factor` neighbouring frames.
    """

    def __init__(self, speech_width: int, llm_width: int, stack_factor: int):
        super().__init__()
        self.stack_factor = stack_factor
        self.norm = nn.LayerNorm(speech_width * stack_factor)
        self.linear_in = nn.Linear(speech_width * stack_factor, llm_width)
        self.linear_out = nn.Linear(llm_width, llm_width)

    def forward(self, frames_BSD: Tensor, mask_BS: Tensor, embed: nn.Module) -> AudioEmbeddings:
        """(B, S, speech width) -> (B, ceil(S / k), LLM width); does not use `embed`."""
        frames_BSD = frames_BSD.to(self.linear_in.weight.dtype) * mask_BS[..., None]
        missing = -frames_BSD.shape[1] % self.stack_factor
        frames_BSD = F.pad(frames_BSD, (0, 0, 0, missing))
        stacked = frames_BSD.reshape(len(frames_BSD), -1, frames_BSD.shape[2] * self.stack_factor)
        lengths = stacked_length(mask_BS.sum(-1, keepdim=True), self.stack_factor)
        mask = torch.arange(stacked.shape[1], device=lengths.device) < lengths
        return AudioEmbeddings(self.linear_out(F.gelu(self.linear_in(self.norm(stacked)))), mask)


CHARACTER_HEAD = "projector.character_head."  # prefix of weights that are saved with no model


class CTCProjector(nn.Module):
    """One soft token embedding for each CTC token. The CTC blank is the class after the P tokens."""

    def __init__(self, speech_width: int, token_ids: Sequence[int]):
        """`token_ids`: the LLM's ids of the tokens in the CTC vocabulary, in the order of the head's classes."""
        super().__init__()
        self.token_ids = list(token_ids)
        self._class_of_id = {token_id: index for index, token_id in enumerate(self.token_ids)}
        self.ctc_head = nn.Linear(speech_width, len(self.token_ids) + 1)
        self.set_characters(())

    def set_characters(self, characters: Sequence[str]) -> None:
        """Adds a new auxiliary CTC head over these characters; removes it where there are none.

        It helps while a new head over tokens trains: a token spans many frames and a character few, so CTC over only
        tokens stays long at a solution of blanks only, and an encoder that can tell characters apart shows where the
        tokens lie.
        """
        self._class_of_character = {character: index for index, character in enumerate(characters)}
        self.character_head = nn.Linear(self.ctc_head.in_features, len(characters) + 1) if characters else None

    def labels(self, ids_BU: Tensor) -> Tensor:
        """The LLM's ids (-100 pads) as classes of the head; tokens outside of its vocabulary are left out."""
        return _class_indices(ids_BU.tolist(), self._class_of_id).to(ids_BU.device)

    def character_labels(self, texts: Sequence[str]) -> Tensor:
        """Texts as classes of the character head (B, U), -100 pads."""
        return _class_indices(texts, self._class_of_character)

    def ctc_outputs(self, frames_BSD: Tensor, mask_BS: Tensor) -> CTCOutputs:
        """The outputs of the heads, for a CTC loss; computes no embeddings."""
        characters = None if self.character_head is None else ctc_output(self.character_head, frames_BSD, mask_BS)
        return CTCOutputs(ctc_output(self.ctc_head, frames_BSD, mask_BS), characters)

    def forward(self, frames_BSD: Tensor, mask_BS: Tensor, embed: nn.Module) -> AudioEmbeddings:
        """(B, S, speech width) -> (B, max runs, LLM width); a clip of blank frames only has no embedding."""
        ctc = self.ctc_outputs(frames_BSD, mask_BS)
        run_BS, mask_BU = runs_of(ctc.tokens)
        table_PD = embed(torch.tensor(self.token_ids, device=mask_BS.device)).float()
        probs_BSP = ctc.tokens.log_probs[..., :-1].exp()  # without the blank
        width = mask_BU.shape[1] + 1  # the last row collects the frames of no run
        row_BS = torch.where(run_BS < 0, width - 1, run_BS)
        weighted = torch.cat([probs_BSP @ table_PD, probs_BSP.sum(-1, keepdim=True)], dim=-1)
        sums = weighted.new_zeros(len(weighted), width, weighted.shape[2])
        sums = sums.scatter_add(1, row_BS[..., None].expand_as(weighted), weighted)[:, :-1]
        vectors_BUD = sums[..., :-1] / sums[..., -1:].clamp(min=1e-6)
        return AudioEmbeddings(vectors_BUD, mask_BU, ctc)


def new_projector(config: OmniConfig) -> StackProjector | CTCProjector:
    """The projector of a configuration, with new weights."""
    speech_width, llm_width = config.audio_config.d_model, config.get_text_config().hidden_size
    if config.ctc_token_ids is not None:
        return CTCProjector(speech_width, config.ctc_token_ids)
    return StackProjector(speech_width, llm_width, config.stack_factor)


def _class_indices(rows: Sequence[Sequence[Any]], index: Mapping[Any, int]) -> Tensor:
    """Rows of items as a padded tensor (-100) of their indices; items without one are left out."""
    indices = [torch.tensor([index[item] for item in row if item in index]) for row in rows]
    return pad_sequence([row.long() for row in indices], True, -100)
