"""An ASR model whose CTC vocabulary are tokens of the LLM becomes a CTC projector, and a CTC projector an ASR model.

Legend: B clips, F mel bins, M mel frames (100 a second).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from selfkd.errors import InputError
from selfkd.model.backbones import load_asr_model, load_feature_extractor, load_vlm, load_vlm_processor, read_config
from selfkd.model.checkpoint_files import Source, reading
from selfkd.model.configuration_omni import OmniConfig
from selfkd.model.modeling_omni import OmniModel
from selfkd.model.processing_omni import OmniProcessor
from selfkd.model.projectors import CTCOutput, CTCProjector, greedy_transcripts
from selfkd.model.speech_encoder import ASRModel, encode_mel


def joined_config(vlm_source: Source, asr_model_source: Source) -> tuple[OmniConfig, OmniProcessor]:
    """Configuration and processor of the model that `load_joined` returns for the same parts; reads no weights."""
    vlm, encoder = read_config(vlm_source, "vlm"), read_config(asr_model_source, "speech_encoder")
    processor = OmniProcessor(
        load_vlm_processor(vlm_source), load_feature_extractor(asr_model_source, "speech_encoder")
    )
    with reading(asr_model_source, "speech_encoder", "config.json"):
        pieces = [str(piece) for piece in encoder["pieces"]]
    with reading(vlm_source, "vlm", "config.json"):
        config = OmniConfig(vlm, encoder, audio_token_id=processor.audio_token_id)
    config.ctc_token_ids = token_ids_of_pieces(pieces, processor)
    return config, processor


def token_ids_of_pieces(pieces: Sequence[str], processor: OmniProcessor) -> list[int]:
    """The LLM's token id of each piece of an ASR model's vocabulary; raises InputError for a piece that is no token."""
    token_ids = []
    for piece in pieces:
        ids = processor.text_ids(piece)
        if len(ids) != 1:
            raise InputError(f"speech_encoder: its vocabulary has {piece!r}, which is no token of the language model")
        token_ids += ids
    return token_ids


def load_joined(
    vlm_source: Source, asr_model_source: Source, processor: OmniProcessor | None = None
) -> tuple[OmniModel, OmniProcessor]:
    """A VLM and an ASR model whose pieces are the VLM's tokens as one model with a CTC projector; all weights are those
    of the two checkpoints. `processor` is that of `joined_config`, where it is loaded already."""
    asr_model, extractor = load_asr_model(asr_model_source)
    if not isinstance(asr_model, ASRModel):
        raise InputError(
            f"speech_encoder: {asr_model_source}: has no CTC head (python -m tools.tiny_model.pretrain_asr_model)"
        )
    processor = processor or OmniProcessor(load_vlm_processor(vlm_source), extractor)
    return join_asr_model(load_vlm(vlm_source), processor, asr_model)


def join_asr_model(
    vlm: PreTrainedModel, processor: OmniProcessor, asr_model: ASRModel
) -> tuple[OmniModel, OmniProcessor]:
    token_ids = token_ids_of_pieces(asr_model.config.pieces, processor)
    model = OmniModel.from_parts(vlm, asr_model.encoder, processor.audio_token_id, ctc_token_ids=token_ids)
    model.stop_at(processor.end_id)
    model.get_submodule("projector.ctc_head").load_state_dict(asr_model.ctc_head.state_dict())
    return model, processor


@dataclass
class CTCTranscriber:
    """The speech encoder and CTC projector of a model as an ASR model, without its LLM."""

    speech_encoder: WhisperEncoder
    projector: CTCProjector
    pad_to_window: bool
    processor: OmniProcessor

    @property
    def device(self) -> torch.device:
        return self.speech_encoder.device

    @torch.no_grad()
    def ctc_output(self, mel_BFM: Tensor, mel_mask_BM: Tensor) -> CTCOutput:
        frames = encode_mel(self.speech_encoder, mel_BFM, mel_mask_BM, self.pad_to_window)
        return self.projector.ctc_outputs(*frames).tokens

    def transcribe(self, mel_BFM: Tensor, mel_mask_BM: Tensor) -> list[str]:
        """The greedy CTC transcript of each clip. Tokens are decoded together: a single token may be half a character,
        or lose its space."""
        transcripts = greedy_transcripts(self.ctc_output(mel_BFM, mel_mask_BM))
        return self.processor.response_texts(
            [[self.projector.token_ids[i] for i in indices] for indices in transcripts]
        )


def ctc_transcriber(model: OmniModel, processor: OmniProcessor) -> tuple[CTCTranscriber, Any]:
    """(transcriber, its feature extractor); raises InputError for a model without a CTC projector."""
    extractor: WhisperFeatureExtractor | None = processor.feature_extractor
    if model.config.projector_type != "ctc" or extractor is None:
        raise InputError("asr_model: this model has no CTC projector, so it gives no transcript")
    assert isinstance(model.projector, CTCProjector)  # noqa: S101 an invariant of this code, no check of input
    encoder = CTCTranscriber(model.speech_encoder.eval(), model.projector.eval(), model.config.pad_to_window, processor)
    return encoder, extractor
