"""The configuration of an `OmniModel` as vLLM reads it: with the architecture of its VLM, or refused."""

from typing import Any

from selfkd.errors import InputError
from selfkd.model.configuration_omni import OmniConfig

# {model type of the VLM: class in models.py}; a subclass of vLLM's own class of that VLM
ARCHITECTURES = {
    "internvl": "OmniInternVL",
    "qwen2_vl": "OmniQwen2VL",
    "qwen2_5_vl": "OmniQwen25VL",
    "qwen3_vl": "OmniQwen3VL",
    "smolvlm": "OmniSmolVLM",
}


class ServedOmniConfig(OmniConfig):
    """An `OmniConfig` whose `architectures` name the class that runs its VLM.

    Raises InputError for a model that vLLM cannot run with the same responses: a VLM without a class here, a native
    omni model in selfkd's format, a release without its base models' weights, and LoRA. Its adapters are off in the
    image and all else that precedes the query, which text and audio queries share; a LoRA request of vLLM changes the
    whole prompt.
    """

    def __init__(self, vlm_config: Any = None, **kwargs: Any):
        super().__init__(vlm_config, **kwargs)
        if self.vlm_config is None:  # transformers makes an empty one, to tell defaults from values
            return
        check_served(self)
        self.architectures = [ARCHITECTURES[self.vlm_config.model_type]]


def check_served(config: OmniConfig) -> None:
    """Raises InputError for a model that vLLM cannot run with the same responses."""
    model_type = config.vlm_config.model_type
    if config.audio_config is None:
        raise InputError(f"vlm_config: {model_type}: a native omni model; vLLM runs its original checkpoint itself")
    if model_type not in ARCHITECTURES:
        raise InputError(f"vlm_config: {model_type}: vLLM runs selfkd's models on {', '.join(ARCHITECTURES)} only")
    if config.base_models:
        raise InputError(
            "base_models: an adapter; vLLM loads whole checkpoints (selfkd export --model ADAPTER --output WHOLE)"
        )
    if config.llm_lora is not None:
        raise InputError(
            "llm_lora: this model has LoRA for audio queries only, which vLLM would apply to the image too; "
            "selfkd serve runs it"
        )
