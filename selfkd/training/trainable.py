"""Which parameters train: parts by name, everything else frozen."""

from collections.abc import Mapping, Sequence
from typing import Any

from selfkd.errors import InputError
from selfkd.model.lora import is_adapter
from selfkd.model.modeling_omni import OmniModel
from selfkd.training.config import ADAPTERS, AUDIO_PARTS, LORA, TRAINABLE

__all__ = ["ADAPTERS", "AUDIO_PARTS", "LORA", "TRAINABLE", "freeze_all_but", "set_trainable"]

_NEVER_TRAINED = {
    "embed_positions.weight",  # Whisper's fixed sinusoids
    "audio_bos_eos_token.weight",  # of Qwen2.5-Omni's encoder, whose forward does not use it
}


def set_trainable(model: OmniModel, parts: Sequence[str], lora: Mapping[str, Any]) -> int:
    """`freeze_all_but`, after adding adapters where they are to train and the model has none. Raises InputError for
    invalid LoRA settings, and for settings that differ from those of the model's adapters."""
    if ADAPTERS in parts and model.config.llm_lora is None:
        try:
            model.add_llm_adapters(**lora)
        except (ValueError, TypeError) as error:
            raise InputError(f"lora: {str(error).strip().splitlines()[0]}") from error
    elif ADAPTERS in parts and lora not in (LORA, model.config.llm_lora):
        raise InputError(f"lora: {dict(lora)}: the model's adapters have {model.config.llm_lora}")
    return freeze_all_but(model, parts)


def freeze_all_but(model: OmniModel, parts: Sequence[str]) -> int:
    """Freezes all parameters but those of the named parts; returns the number of trainable parameters."""
    model.requires_grad_(False)
    for part in parts:
        modules = [model.vlm] if part == ADAPTERS else list(model.part(part))
        for name, parameter in ((n, p) for module in modules for n, p in module.named_parameters()):
            if is_adapter(name) == (part == ADAPTERS) and name not in _NEVER_TRAINED:
                parameter.data = parameter.data.float()  # a native model may be in bf16
                parameter.requires_grad_(True)
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
