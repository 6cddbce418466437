"""What trains: names of parts, and everything else frozen."""

from collections.abc import Mapping, Sequence
from typing import Any

from selfkd.errors import InputError
from selfkd.model.lora import is_adapter
from selfkd.model.modeling_omni import OmniModel

ADAPTERS = "llm_adapters"
LORA = {"r": 16, "lora_alpha": 32}  # fields of peft.LoraConfig that adapters have by default
_NEVER_TRAINED = {
    "embed_positions.weight",  # Whisper's fixed sinusoids
    "audio_bos_eos_token.weight",  # of Qwen2.5-Omni's encoder, which its own forward does not use
}
AUDIO_PARTS = ("projector", "speech_encoder")
TRAINABLE = (*AUDIO_PARTS, ADAPTERS, "llm")


def set_trainable(model: OmniModel, parts: Sequence[str], lora: Mapping[str, Any]) -> int:
    """`freeze_all_but`, with adapters added first where they are to train and the model has none; raises InputError for
    settings of theirs that cannot be, or that are not those of the adapters that it has."""
    if ADAPTERS in parts and model.config.llm_lora is None:
        try:
            model.add_llm_adapters(**lora)
        except (ValueError, TypeError) as error:
            raise InputError(f"lora: {str(error).strip().splitlines()[0]}") from error
    elif ADAPTERS in parts and lora not in (LORA, model.config.llm_lora):
        raise InputError(f"lora: {dict(lora)}: the model's adapters have {model.config.llm_lora}")
    return freeze_all_but(model, parts)


def freeze_all_but(model: OmniModel, parts: Sequence[str]) -> int:
    """Lets only the named parts train; returns how many parameters that is."""
    model.requires_grad_(False)
    for part in parts:
        trained = [model.vlm] if part == ADAPTERS else list(model.part(part))
        for name, parameter in ((n, p) for module in trained for n, p in module.named_parameters()):
            if is_adapter(name) == (part == ADAPTERS) and name not in _NEVER_TRAINED:
                parameter.data = parameter.data.float()  # a native model may come in bf16
                parameter.requires_grad_(True)
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
