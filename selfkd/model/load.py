"""The parts of an `OmniModel` from checkpoints, by hub id or local path; what does not fit is said in one line."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperModel,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from selfkd.errors import InputError
from selfkd.model.picture_processor import InternVLPictureProcessor
from selfkd.model.speech_encoder import RecognizerConfig, SpeechRecognizer, pad_to_window

Source = str | Path
_MOST_TOKENS = 200  # that a clip of 30 s is transcribed to


def load_vlm(source: Source) -> PreTrainedModel:
    """A vision-language model of transformers; raises InputError for a model without an image tower."""
    kind = config_of(source, "vlm").get("model_type")
    if kind == "internvl_chat":
        raise InputError(f"vlm: {source}: an original InternVL checkpoint; give it to selfkd convert first")
    if kind not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise InputError(f"vlm: {source}: {kind!r} is not a model that takes images and text")
    return AutoModelForImageTextToText.from_pretrained(source)


def load_vlm_processor(source: Source) -> Any:
    """The processor of a VLM or OmniModel; InternVL's without its video part, which would need torchvision."""
    config = config_of(source, "vlm")
    internvl = config.get("vlm_config", config)["model_type"] == "internvl"
    return (InternVLPictureProcessor if internvl else AutoProcessor).from_pretrained(source)


def load_speech_encoder(source: Source) -> WhisperEncoder:
    """The encoder of a Whisper checkpoint of any size, or of a `SpeechRecognizer`."""
    kind = config_of(source, "speech_encoder").get("model_type")
    if kind == RecognizerConfig.model_type:
        return SpeechRecognizer.from_pretrained(source).encoder
    if kind == "whisper":
        return WhisperModel.from_pretrained(source, dtype=torch.float32).get_encoder()
    raise InputError(f"speech_encoder: {source}: {kind!r} is not a Whisper checkpoint")


def load_recognizer(source: Source) -> "tuple[SpeechRecognizer | WhisperRecognizer, WhisperFeatureExtractor]":
    """What transcribes for the cascade, and the feature extractor that it was trained with."""
    kind = config_of(source, "recognizer").get("model_type")
    if kind == RecognizerConfig.model_type:
        return SpeechRecognizer.from_pretrained(source).eval(), WhisperFeatureExtractor.from_pretrained(source)
    if kind == "whisper":
        model = WhisperForConditionalGeneration.from_pretrained(source, dtype=torch.float32).eval()
        recognizer = WhisperRecognizer(model, AutoTokenizer.from_pretrained(source))
        return recognizer, WhisperFeatureExtractor.from_pretrained(source)
    raise InputError(f"recognizer: {source}: {kind!r} is neither a Whisper checkpoint nor a recogniser of selfkd")


@dataclass
class WhisperRecognizer:
    """Whisper with its own decoder, as it was trained: on windows of 30 seconds."""

    model: Any
    tokenizer: Any

    @property
    def device(self) -> torch.device:
        return self.model.device

    @torch.no_grad()
    def recognize(self, mel_BFM: Tensor, mel_mask_BM: Tensor) -> list[str]:
        window = pad_to_window(mel_BFM, mel_mask_BM, self.model.config.max_source_positions)
        ids = self.model.generate(input_features=window, max_new_tokens=_MOST_TOKENS, do_sample=False)
        return [t.strip() for t in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]


def config_of(source: Source, name: str) -> dict[str, Any]:
    """The configuration of a checkpoint as it stands in its file; `name` is the field that holds `source`."""
    try:
        config = PretrainedConfig.get_config_dict(source)[0]
    except OSError as error:
        raise InputError(f"{name}: {source}: no checkpoint there ({str(error).splitlines()[0]})") from error
    if not config:
        raise InputError(f"{name}: {source}: no checkpoint there (config.json is missing)")
    return config
