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


def has_tiny_llm(config: OmniConfig) -> bool:
    """Whether a model's LLM is of the tiny model's size and vocabulary: then it knows the toy world's words only, as
    the bundled ASR model does."""
    text, tiny = config.get_text_config(), read_config(vlm_path(), "vlm")["text_config"]
    return all(getattr(text, name, None) == tiny[name] for name in ("hidden_size", "num_hidden_layers", "vocab_size"))
