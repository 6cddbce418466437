"""A Whisper encoder that is fed the frames there are, and a recogniser made of it.

transformers' `WhisperEncoder.forward` wants 30 seconds whatever was said. Here its own layers run over the real frames,
with padding masked, so that a clip costs what it lasts and gives the same vectors alone and in a batch.

Legend: B clips, F mel bins, M mel frames (100 a second), S encoder frames (50 a second), D width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel, WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from selfkd.model.projectors import CTCOutput, ctc_output, transcripts_of


def encoder_frames(mel_frames: int | Tensor):
    """Encoder frames for a number of mel frames: the second convolution has stride 2."""
    return (mel_frames + 1) // 2


def pad_to_window(mel_BFM: Tensor, mel_mask_BM: Tensor, positions: int) -> Tensor:
    """Clips as Whisper was trained on them: silence up to the whole window (30 s: `positions` = 1500).

    Whisper's log-mel reaches two below its highest value, so that is what silence looks like.
    """
    missing = 2 * positions - mel_BFM.shape[2]
    silence_B11 = mel_BFM.masked_fill(~mel_mask_BM[:, None].bool(), -torch.inf).amax((1, 2), keepdim=True) - 2
    mask = F.pad(mel_mask_BM, (0, missing))
    return torch.where(mask[:, None].bool(), F.pad(mel_BFM, (0, missing)), silence_B11)


def encode_flac(
    encoder: WhisperEncoder, mel_BFM: Tensor, mel_mask_BM: Tensor, padded: bool = False
) -> tuple[Tensor, Tensor]:
    """(hidden states (B, S, D), mask (B, S)) of clips that are padded on the right with zeros.

    With `padded` the encoder reads 30 seconds, as Whisper was trained, and the frames of the speech are kept: ten times
    the cost for a question of 3 s.
    """
    mel_BFM = mel_BFM.to(encoder.conv1.weight.dtype)
    length = encoder_frames(mel_BFM.shape[2])
    mask_BS = torch.arange(length, device=mel_BFM.device) < encoder_frames(mel_mask_BM.sum(-1, keepdim=True))
    if padded:
        window = pad_to_window(mel_BFM, mel_mask_BM, encoder.config.max_source_positions)
        return encoder(window).last_hidden_state[:, :length], mask_BS
    mel_BFM = mel_BFM * mel_mask_BM[:, None]  # beyond its end a clip looks as to the convolution of that clip alone
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
    """A Whisper configuration, the pieces of text that can be heard (the CTC blank comes after them), and whether the
    encoder reads 30 seconds whatever was said."""

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
        return ctc_output(self.ctc_head, *encode_flac(self.encoder, mel_BFM, mel_mask_BM, self.config.pad_to_window))

    @torch.no_grad()
    def recognize(self, mel_BFM: Tensor, mel_mask_BM: Tensor) -> list[str]:
        """What is heard in each clip: the likeliest piece a frame, repeats and blanks removed."""
        heard = transcripts_of(self(mel_BFM, mel_mask_BM))
        return ["".join(self.config.pieces[i] for i in ids) for ids in heard]
