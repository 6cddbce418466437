"""Clips as vLLM takes them: log-mel frames for a frame-stacking projector, audio embeddings for a CTC projector.

vLLM fixes the positions of a clip in the prompt before any encoder runs. A frame-stacking projector has one vector for
k frames, so the clip's duration tells how many; the mel goes to the engine, whose device encodes it. A CTC projector
has one vector for each CTC token, and only the encoder knows how many there are. So the clip is encoded ahead, where
vLLM processes its requests, and the engine gets the vectors. The price: encoder and projector run on the CPU of that
process, on one thread, one clip after another (vLLM's `--api-server-count` starts more such processes), their weights
are in memory there, and the vectors travel to the engine. vLLM keeps the vectors of clips that it has encoded.

Legend: B clips, F mel bins, M mel frames, U audio embeddings, D width, P tokens of the CTC vocabulary.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor, nn
from transformers import WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from selfkd.errors import InputError
from selfkd.hub import hub_commit, split_revision
from selfkd.model.checkpoint_files import Source, weight_files
from selfkd.model.configuration_omni import OmniConfig
from selfkd.model.features import log_mel, pad_mels
from selfkd.model.projectors import new_projector, stacked_length
from selfkd.model.speech_encoder import encode_mel, encoder_frames

CLIP = "audio"  # what messages call a clip


class SpeechEncoderAndProjector(nn.Module):
    """The modules between mel frames and the LLM, in fp32, with the names that a checkpoint gives to their weights."""

    def __init__(self, config: OmniConfig):
        super().__init__()
        self.pad_to_window = config.pad_to_window
        self.speech_encoder = WhisperEncoder(config.audio_config)
        self.projector = new_projector(config)
        self.float().eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, mels: Sequence[Tensor], embed: nn.Module | None = None) -> list[Tensor]:
        """The audio embeddings (U, D) of each clip, given its frames (F, M)."""
        mel_BFM, mel_mask_BM = pad_mels(mels)
        frames = encode_mel(self.speech_encoder, mel_BFM, mel_mask_BM.to(mel_BFM.device), self.pad_to_window)
        vectors_BUD, mask_BU, *_ = self.projector(*frames, embed)
        return [vectors_UD[mask_U] for vectors_UD, mask_U in zip(vectors_BUD, mask_BU, strict=True)]


class ClipEncoder:
    """Makes of a clip what the engine gets. The weights of a CTC projector's model are read with the first clip."""

    def __init__(self, source: Source, config: OmniConfig, extractor: WhisperFeatureExtractor):
        self.source, self.config, self.extractor = source, config, extractor

    @property
    def encodes_ahead(self) -> bool:
        return self.config.ctc_token_ids is not None

    @property
    def max_vectors(self) -> int:
        """The most audio embeddings that a clip can have: one for each frame, or for each stack."""
        frames = self.config.audio_config.max_source_positions
        return frames if self.encodes_ahead else stacked_length(frames, self.config.stack_factor)

    def vectors_of(self, mel_FM: Tensor) -> int:
        """The number of audio embeddings that a frame-stacking projector makes of a clip."""
        return stacked_length(encoder_frames(mel_FM.shape[1]), self.config.stack_factor)

    def mel(self, samples: NDArray[np.float32]) -> Tensor:
        """(F, M) log-mel frames of a clip (mono, 16 kHz). Raises InputError for one that is too short or too long."""
        return log_mel(self.extractor, np.asarray(samples, dtype=np.float32), CLIP)

    def encode(self, samples: NDArray[np.float32]) -> Tensor:
        """(U, D) audio embeddings of a clip by a CTC projector. Raises InputError for a clip without any token."""
        modules, embed = self._modules
        [vectors_UD] = modules([self.mel(samples)], embed)
        if not len(vectors_UD):
            raise InputError(f"{CLIP}: no speech is recognized in the clip, so there is no query")
        return vectors_UD

    @cached_property
    def _modules(self) -> tuple[SpeechEncoderAndProjector, "RowsOfTable"]:
        modules = SpeechEncoderAndProjector(self.config)
        own: dict[str, Tensor] = {}
        table: list[Tensor] = []
        ids = torch.tensor(self.config.ctc_token_ids)
        for path in weight_files(_folder(self.source), "model"):
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118  it is no dictionary
                    if name.startswith(("speech_encoder.", "projector.")):
                        own[name] = file.get_tensor(name)
                    elif name.startswith("vlm.") and name.endswith("embed_tokens.weight"):
                        table.append(file.get_tensor(name)[ids])
        if len(table) != 1:
            raise InputError(f"model: {self.source}: {len(table)} tables of token embeddings, expected one")
        modules.load_state_dict(own)
        return modules, RowsOfTable(table[0])


class RowsOfTable(nn.Module):
    """The LLM's embeddings of the tokens of a CTC vocabulary, which are all that its projector looks up."""

    def __init__(self, rows_PD: Tensor):
        super().__init__()
        self.rows_PD = rows_PD

    def forward(self, ids_P: Tensor) -> Tensor:
        return self.rows_PD


def _folder(source: Source) -> Path:
    """The folder with the weights of a checkpoint; one on the hub is downloaded, where vLLM has not done so."""
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import snapshot_download

    name = split_revision(source)[0]
    return Path(snapshot_download(name, revision=hub_commit(source), allow_patterns=["*.safetensors*"]))  # nosec B615 a commit
