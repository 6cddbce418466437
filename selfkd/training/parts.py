"""What trains: names of parts, and everything else frozen."""

from collections.abc import Sequence

from selfkd.model.adapters import adapter_parameters
from selfkd.model.omni import OmniModel

ADAPTERS = "llm_adapters"
TRAINABLE = ("projector", "speech_encoder", ADAPTERS)


def freeze_all_but(model: OmniModel, parts: Sequence[str]) -> int:
    """Lets only the named parts train; returns how many parameters that is."""
    model.requires_grad_(False)
    for part in parts:
        trained = adapter_parameters(model.vlm) if part == ADAPTERS else model.get_submodule(part).parameters()
        for parameter in trained:
            parameter.requires_grad_(True)
    model.speech_encoder.embed_positions.requires_grad_(False)  # fixed sinusoids
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
