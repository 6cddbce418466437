"""LoRA on the LLM, active for the student's query and response only.

Without its adapters the LLM's output is bit-identical to that of the original weights: text responses, the teacher, and
the keys and values of the shared prefix do not change. For this reason the adapters are never merged during training.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import PreTrainedModel

from selfkd.model.native_omni import MODALITY_ENCODERS

ADAPTER_MARK = "lora_"  # in the names that peft gives to adapter parameters


def add_adapters(vlm: PreTrainedModel, settings: dict[str, Any]) -> None:
    """Adds LoRA to every linear layer of the LLM, in fp32, inactive; `settings` are fields of `peft.LoraConfig`."""
    decoder = vlm.get_decoder()
    encoders = [rf"{name}\..*" for name, _ in decoder.named_children() if name in MODALITY_ENCODERS]
    targets = {"target_modules": "all-linear", "exclude_modules": "|".join(encoders) or None}
    inject_adapter_in_model(LoraConfig(**{**targets, **settings}), decoder)
    for parameter in adapter_parameters(vlm):
        parameter.data = parameter.data.float()
    _set_active(vlm, False)


def is_adapter(name: str) -> bool:
    """Whether the parameter of this name belongs to an adapter."""
    return ADAPTER_MARK in name


def adapter_parameters(vlm: nn.Module) -> list[nn.Parameter]:
    return [p for name, p in vlm.named_parameters() if is_adapter(name)]


@contextmanager
def adapters_on(vlm: nn.Module) -> Iterator[None]:
    """Activates the adapters, if the model has any, within the context."""
    _set_active(vlm, True)
    try:
        yield
    finally:
        _set_active(vlm, False)


def train_adapters(vlm: nn.Module, mode: bool) -> None:
    """Sets training mode (dropout) of the adapters only, where they train."""
    for layer in (m for m in vlm.modules() if isinstance(m, BaseTunerLayer)):
        for name, child in layer.named_children():
            if is_adapter(name):
                child.train(mode and any(is_adapter(n) and p.requires_grad for n, p in layer.named_parameters()))


def adapter_contexts(vlm: nn.Module) -> tuple[AbstractContextManager, AbstractContextManager]:
    """Contexts for activation checkpointing: of a layer's forward pass, and of its recomputation in the backward pass,
    when adapters are inactive again. The adapters are active in both or in neither."""
    are_on = next((not m._disable_adapters for m in vlm.modules() if isinstance(m, BaseTunerLayer)), False)
    return nullcontext(), adapters_on(vlm) if are_on else nullcontext()


def _set_active(vlm: nn.Module, active: bool) -> None:
    for module in vlm.modules():
        if isinstance(module, BaseTunerLayer):
            # peft's own `enable_adapters` also freezes the adapters that it deactivates
            module._disable_adapters = not active
