"""What trains: names of parts, and everything else frozen."""

from collections.abc import Mapping, Sequence
from typing import Any

from selfkd.model.adapters import adapter_parameters
from selfkd.model.omni import OmniModel

ADAPTERS = "llm_adapters"
TRAINABLE = ("projector", "speech_encoder", ADAPTERS)


def let_train(model: OmniModel, parts: Sequence[str], lora: Mapping[str, Any]) -> int:
    """`freeze_all_but`, with adapters added first where they are to train and the model has none."""
    if ADAPTERS in parts and model.config.llm_lora is None:
        model.add_llm_adapters(**lora)
    return freeze_all_but(model, parts)


def freeze_all_but(model: OmniModel, parts: Sequence[str]) -> int:
    """Lets only the named parts train; returns how many parameters that is."""
    model.requires_grad_(False)
    for part in parts:
        trained = adapter_parameters(model.vlm) if part == ADAPTERS else model.get_submodule(part).parameters()
        for parameter in trained:
            parameter.requires_grad_(True)
    model.speech_encoder.embed_positions.requires_grad_(False)  # fixed sinusoids
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
