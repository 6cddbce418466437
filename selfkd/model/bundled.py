"""The model that comes with the package: the embedded VLM with ears that hear its tokens. A recogniser whose pieces are
tokens of the VLM makes such ears, and such ears make a recogniser."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from selfkd.errors import InputError
from selfkd.model.checkpoint_files import Source, reading
from selfkd.model.ctc import Reading, transcripts_of
from selfkd.model.embedded import recognizer_path, vlm_path
from selfkd.model.heard_tokens import HeardTokens
from selfkd.model.load import config_of, load_feature_extractor, load_recognizer, load_vlm, load_vlm_processor
from selfkd.model.omni import OmniModel
from selfkd.model.omni_config import OmniConfig
from selfkd.model.processor import OmniProcessor
from selfkd.model.speech_encoder import SpeechRecognizer, encode_speech


def bundled_paths() -> tuple[Path, Path]:
    """The VLM and the recogniser that the bundled model is made of."""
    return vlm_path(), recognizer_path()


def load_bundled() -> tuple[OmniModel, OmniProcessor]:
    return load_listening(*bundled_paths())


def bundled_config() -> tuple[OmniConfig, OmniProcessor]:
    """Of the bundled model, without its weights."""
    return listening_config(*bundled_paths())


def listening_config(vlm_source: Source, recognizer_source: Source) -> tuple[OmniConfig, OmniProcessor]:
    """Configuration and processor of what `load_listening` makes of the same parts, without reading weights."""
    vlm, ears = config_of(vlm_source, "vlm"), config_of(recognizer_source, "speech_encoder")
    processor = OmniProcessor(
        load_vlm_processor(vlm_source), load_feature_extractor(recognizer_source, "speech_encoder")
    )
    with reading(recognizer_source, "speech_encoder", "config.json"):
        pieces = [str(piece) for piece in ears["pieces"]]
    with reading(vlm_source, "vlm", "config.json"):
        config = OmniConfig(vlm, ears, speech_token_id=processor.speech_token_id)
    config.speech_tokens = tokens_of(pieces, processor)
    return config, processor


def tokens_of(pieces: Sequence[str], processor: OmniProcessor) -> list[int]:
    """The LLM's tokens that are a recogniser's pieces; raises InputError for a piece that is none."""
    token_ids = []
    for piece in pieces:
        ids = processor.text_ids(piece)
        if len(ids) != 1:
            raise InputError(f"speech_encoder: hears {piece!r}, which is no token of the language model")
        token_ids += ids
    return token_ids


def load_listening(vlm_source: Source, recognizer_source: Source) -> tuple[OmniModel, OmniProcessor]:
    """A VLM that hears by a recogniser whose pieces are the VLM's own tokens; nothing in it is new or trained here."""
    recognizer, extractor = load_recognizer(recognizer_source)
    if not isinstance(recognizer, SpeechRecognizer):
        raise InputError(
            f"speech_encoder: {recognizer_source}: has no CTC head (python -m selfkd.training.pretrain_recognizer)"
        )
    return join_recognizer(load_vlm(vlm_source), load_vlm_processor(vlm_source), recognizer, extractor)


def join_recognizer(
    vlm: PreTrainedModel, vlm_processor: Any, recognizer: SpeechRecognizer, extractor: WhisperFeatureExtractor
) -> tuple[OmniModel, OmniProcessor]:
    processor = OmniProcessor(vlm_processor, extractor)
    token_ids = tokens_of(recognizer.config.pieces, processor)
    model = OmniModel.from_parts(vlm, recognizer.encoder, processor.speech_token_id, speech_tokens=token_ids)
    model.get_submodule("projector.ctc_head").load_state_dict(recognizer.ctc_head.state_dict())
    return model, processor


@dataclass
class OwnEars:
    """The ears of a model that hears tokens, as a recogniser of their own: its parts, without the LLM."""

    speech_encoder: WhisperEncoder
    projector: HeardTokens
    speech_padded: bool
    processor: OmniProcessor

    @property
    def device(self) -> torch.device:
        return self.speech_encoder.device

    @torch.no_grad()
    def read(self, mel_BFM: Tensor, mel_mask_BM: Tensor) -> Reading:
        return self.projector.read(*encode_speech(self.speech_encoder, mel_BFM, mel_mask_BM, self.speech_padded)).tokens

    def recognize(self, mel_BFM: Tensor, mel_mask_BM: Tensor) -> list[str]:
        """What is heard in each clip. Tokens are read together: one alone may be half a letter, or lose its space."""
        heard = transcripts_of(self.read(mel_BFM, mel_mask_BM))
        return self.processor.decode([[self.projector.token_ids[place] for place in places] for places in heard])


def recognizer_of(model: OmniModel, processor: OmniProcessor) -> tuple[OwnEars, WhisperFeatureExtractor]:
    """Raises InputError for ears that hear no tokens."""
    if model.config.speech_tokens is None or processor.feature_extractor is None:
        raise InputError("recognizer: this model's ears hear no tokens, so there is no transcript of what they hear")
    assert isinstance(model.projector, HeardTokens)
    ears = OwnEars(model.speech_encoder.eval(), model.projector.eval(), model.config.speech_padded, processor)
    return ears, processor.feature_extractor
