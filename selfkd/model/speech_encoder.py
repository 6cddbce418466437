# SPDX-License-Identifier: Apache-2.0
"""A Whisper encoder that takes only the frames of a clip, and an ASR model (Whisper encoder + CTC head).

transformers' `WhisperEncoder.forward` takes clips padded to 30 seconds. Here its layers run over the clip's own frames
with padding masked: the cost follows the clip's duration, and a clip gives the same hidden states alone and in a batch.

Legend: B clips, F mel bins, M mel frames (100 a second), S encoder frames (50 a second), D width.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from .fast_linear import linear_is_fast
from .kept_frames import frames_kept_for, hash_of_tensors
from .projectors import CTCOutput, ctc_output, greedy_transcripts


def encoder_frames(mel_frames: int | Tensor):
    """Encoder frames for a number of mel frames: the second convolution has stride 2."""
    return (mel_frames + 1) // 2


def pad_to_window(mel_BFM: Tensor, mel_mask_BM: Tensor, positions: int) -> Tensor:
    """Clips padded with silence to Whisper's training window (30 s: `positions` = 1500).

    Whisper's log-mel is clipped at two below its maximum, so that value is silence.
    """
    missing = 2 * positions - mel_BFM.shape[2]
    silence_B11 = mel_BFM.masked_fill(~mel_mask_BM[:, None].bool(), -torch.inf).amax((1, 2), keepdim=True) - 2
    mask = F.pad(mel_mask_BM, (0, missing))
    return torch.where(mask[:, None].bool(), F.pad(mel_BFM, (0, missing)), silence_B11)


def encode_mel(
    encoder: WhisperEncoder, mel_BFM: Tensor, mel_mask_BM: Tensor, padded: bool = False
) -> tuple[Tensor, Tensor]:
    """(hidden states (B, S, D), mask (B, S)) of clips that are padded on the right with zeros.

    With `padded` the encoder takes 30 seconds, as in Whisper's training, and the clip's own frames are returned: ten
    times the cost for a query of 3 s. Within `keep_frames` each clip is encoded by itself, once.
    """
    kept = frames_kept_for(encoder, mel_BFM.device)
    if kept is None or not len(mel_BFM):
        return _encode_mel(encoder, mel_BFM, mel_mask_BM, padded)
    encoder_hash, frames = kept.encoder_hash(encoder), []
    for mel_FM, mask_M in zip(mel_BFM, mel_mask_BM.bool(), strict=True):
        own_1FM, own_mask_1M = mel_FM[None, :, mask_M], mask_M[None, mask_M].long()
        compute = partial(_encode_one, encoder, own_1FM, own_mask_1M, padded)
        key = encoder_hash, str(padded), str(linear_is_fast()), hash_of_tensors(own_1FM)
        frames.append(kept.get(key, compute))
    lengths = torch.tensor([len(one) for one in frames])
    hidden_BSD = pad_sequence(frames, batch_first=True)
    return hidden_BSD, torch.arange(hidden_BSD.shape[1]) < lengths[:, None]


@torch.no_grad()
def _encode_one(encoder: WhisperEncoder, mel_1FM: Tensor, mel_mask_1M: Tensor, padded: bool) -> Tensor:
    return _encode_mel(encoder, mel_1FM, mel_mask_1M, padded)[0][0]


def _encode_mel(encoder: WhisperEncoder, mel_BFM: Tensor, mel_mask_BM: Tensor, padded: bool) -> tuple[Tensor, Tensor]:
    mel_BFM = mel_BFM.to(encoder.conv1.weight.dtype)
    length = encoder_frames(mel_BFM.shape[2])
    mask_BS = torch.arange(length, device=mel_BFM.device) < encoder_frames(mel_mask_BM.sum(-1, keepdim=True))
    if padded:
        window = pad_to_window(mel_BFM, mel_mask_BM, encoder.config.max_source_positions)
        return encoder(window).last_hidden_state[:, :length], mask_BS
    mel_BFM = mel_BFM * mel_mask_BM[:, None]  # beyond its end: zeros, as in a convolution over that clip only
    hidden = F.gelu(encoder.conv1(mel_BFM)) * mel_mask_BM[:, None]
    hidden_BSD = F.gelu(encoder.conv2(hidden)).transpose(1, 2)
    hidden_BSD = hidden_BSD + encoder.embed_positions.weight[:length]
    hidden_BSD = F.dropout(hidden_BSD, p=encoder.dropout, training=encoder.training)
    bias = torch.zeros(mask_BS.shape, dtype=hidden_BSD.dtype, device=hidden_BSD.device)
    bias = bias.masked_fill(~mask_BS, torch.finfo(hidden_BSD.dtype).min)
    bias_B1SS = bias[:, None, None, :].expand(-1, 1, length, -1)
    for layer in encoder.layers:
        hidden_BSD = layer(hidden_BSD, bias_B1SS)
    return encoder.layer_norm(hidden_BSD), mask_BS


class ASRModelConfig(WhisperConfig):
    """A Whisper configuration, the pieces of text in the CTC vocabulary (the blank comes after them), and whether the
    encoder gets clips padded to 30 seconds."""

    model_type = "selfkd_asr"

    def __init__(self, pieces: Sequence[str] = (), pad_to_window: bool = False, **kwargs):
        self.pieces = list(pieces)
        self.pad_to_window = pad_to_window
        super().__init__(**kwargs)


class ASRModel(PreTrainedModel):
    """A Whisper encoder with a CTC head over pieces of text: characters, or tokens of an LLM."""

    config_class = ASRModelConfig
    base_model_prefix = "encoder"
    main_input_name = "mel_BFM"
    _supports_sdpa = True

    def __init__(self, config: ASRModelConfig):
        super().__init__(config)
        self.encoder = WhisperEncoder(config)
        self.ctc_head = nn.Linear(config.d_model, len(config.pieces) + 1)
        self.post_init()

    def forward(self, mel_BFM: Tensor, mel_mask_BM: Tensor) -> CTCOutput:
        return ctc_output(self.ctc_head, *encode_mel(self.encoder, mel_BFM, mel_mask_BM, self.config.pad_to_window))

    @torch.no_grad()
    def transcribe(self, mel_BFM: Tensor, mel_mask_BM: Tensor) -> list[str]:
        """The greedy CTC transcript of each clip: the most probable piece of each frame, repeats and blanks removed."""
        transcripts = greedy_transcripts(self(mel_BFM, mel_mask_BM))
        return ["".join(self.config.pieces[i] for i in indices) for indices in transcripts]
