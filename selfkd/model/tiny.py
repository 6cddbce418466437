"""The two models in the package, InternVL and Whisper classes at a size that trains on a laptop: `selfkd-tiny` with a
CTC projector, and `selfkd-tiny-stack` with a frame-stacking projector, the paper baseline after stage 1.

`selfkd/assets` holds their weights: a VLM, an ASR model whose vocabulary are tokens of the VLM, and the frame-stacking
projector between the two; `tools/tiny_model` trained them.
"""

from collections.abc import Iterable
from pathlib import Path

from safetensors.torch import load_file
from transformers.utils import SAFE_WEIGHTS_NAME

from selfkd.files import asset_path
from selfkd.model.backbones import (
    load_feature_extractor,
    load_speech_encoder,
    load_vlm,
    load_vlm_processor,
    read_config,
)
from selfkd.model.configuration_omni import OmniConfig
from selfkd.model.ctc_asr import joined_config, load_joined
from selfkd.model.modeling_omni import OmniModel
from selfkd.model.processing_omni import OmniProcessor

# their names, for `load_model` and for fields that name a model
TINY_MODEL, TINY_STACK_MODEL = "selfkd-tiny", "selfkd-tiny-stack"
TINY_MODELS = (TINY_MODEL, TINY_STACK_MODEL)
TOY_SOURCES = {"words", "world", "world-noisy", "easy-vqa", "mmalign-world"}  # images of coloured shapes, or none
TINY_NOTE = "The bundled model knows coloured shapes only. Photographs: selfkd demo --real"


def vlm_path() -> Path:
    return asset_path("vlm")


def asr_model_path() -> Path:
    return asset_path("asr_model")


def tiny_model_paths(name: str = TINY_MODEL) -> tuple[Path, ...]:
    """The folders with the weights of one of `TINY_MODELS`: VLM, ASR model, and a frame-stacking projector."""
    parts = vlm_path(), asr_model_path()
    return parts if name == TINY_MODEL else (*parts, asset_path("stack_projector"))


def load_tiny_model(name: str = TINY_MODEL, processor: OmniProcessor | None = None) -> tuple[OmniModel, OmniProcessor]:
    """One of `TINY_MODELS`, and its processor, or the given one of `tiny_model_config`."""
    vlm, asr_model, *projector = tiny_model_paths(name)
    if not projector:
        return load_joined(vlm, asr_model, processor)
    processor = processor or tiny_model_config(name)[1]
    model = OmniModel.from_parts(load_vlm(vlm), load_speech_encoder(asr_model), processor.audio_token_id)
    model.stop_at(processor.end_id)
    model.projector.load_state_dict(load_file(projector[0] / SAFE_WEIGHTS_NAME))
    return model, processor


def tiny_model_config(name: str = TINY_MODEL) -> tuple[OmniConfig, OmniProcessor]:
    """Its configuration and processor, without weights."""
    vlm, asr_model, *projector = tiny_model_paths(name)
    if not projector:
        return joined_config(vlm, asr_model)
    processor = OmniProcessor(load_vlm_processor(vlm), load_feature_extractor(asr_model, "speech_encoder"))
    parts = read_config(vlm, "vlm"), read_config(asr_model, "speech_encoder")
    return OmniConfig(*parts, audio_token_id=processor.audio_token_id), processor


def note_tiny_llm(config: OmniConfig, sources: Iterable[str] = ()) -> None:
    """Prints what a model with the tiny LLM can see, unless all images are the toy world's: `sources` are those of the
    questions, none where a user will give images."""
    known = set(sources)
    if has_tiny_llm(config) and not (known and known <= TOY_SOURCES):
        print(TINY_NOTE)


def has_tiny_llm(config: OmniConfig) -> bool:
    """Whether a model's LLM is of the tiny model's size and vocabulary: then it knows the toy world's words only, as
    the bundled ASR model does."""
    text, tiny = config.get_text_config(), read_config(vlm_path(), "vlm")["text_config"]
    return all(getattr(text, name, None) == tiny[name] for name in ("hidden_size", "num_hidden_layers", "vocab_size"))
