"""`selfkd-tiny`, the model in the package: InternVL and Whisper classes at a size that trains on a laptop.

`selfkd/assets` holds its weights, as a VLM and an ASR model whose vocabulary are tokens of the VLM; `tools/tiny_model`
trained them.
"""

from importlib.resources import files
from pathlib import Path

from selfkd.model.backbones import read_config
from selfkd.model.configuration_omni import OmniConfig
from selfkd.model.ctc_asr import joined_config, load_joined
from selfkd.model.modeling_omni import OmniModel
from selfkd.model.processing_omni import OmniProcessor

TINY_MODEL = "selfkd-tiny"  # its name, for `load_model` and for fields that name a model


def vlm_path() -> Path:
    return Path(str(files("selfkd") / "assets" / "vlm"))


def asr_model_path() -> Path:
    return Path(str(files("selfkd") / "assets" / "asr_model"))


def tiny_model_paths() -> tuple[Path, Path]:
    """The VLM and the ASR model that `selfkd-tiny` consists of."""
    return vlm_path(), asr_model_path()


def load_tiny_model(processor: OmniProcessor | None = None) -> tuple[OmniModel, OmniProcessor]:
    """The model, and its processor, or the given one of `tiny_model_config`."""
    return load_joined(*tiny_model_paths(), processor)


def tiny_model_config() -> tuple[OmniConfig, OmniProcessor]:
    """Its configuration and processor, without weights."""
    return joined_config(*tiny_model_paths())


def has_tiny_encoder(config: OmniConfig) -> bool:
    """Whether a model's speech encoder is of the size of the tiny model's."""
    if config.audio_config is None:
        return False
    tiny = read_config(asr_model_path(), "asr_model")
    sizes = ("num_mel_bins", "d_model", "encoder_layers", "encoder_attention_heads", "encoder_ffn_dim", "dropout")
    return all(getattr(config.audio_config, name) == tiny[name] for name in sizes)
