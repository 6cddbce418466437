"""LoRA on the LLM, on for the student's question and response alone.

Off, the LLM is what it was, to the bit: so are the written answers, the teacher, and the keys and values of the shared
prefix. That is why they are never merged.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import PreTrainedModel

from selfkd.model.native_omni import SENSES

ADAPTER_MARK = "lora_"  # in the names that peft gives to an adapter's parameters


def add_adapters(vlm: PreTrainedModel, settings: dict[str, Any]) -> None:
    """Adds LoRA to every linear layer of the LLM, in fp32, switched off; `settings` are `peft.LoraConfig`'s fields."""
    decoder = vlm.get_decoder()
    senses = [rf"{name}\..*" for name, _ in decoder.named_children() if name in SENSES]
    where = {"target_modules": "all-linear", "exclude_modules": "|".join(senses) or None}
    inject_adapter_in_model(LoraConfig(**{**where, **settings}), decoder)
    for parameter in adapter_parameters(vlm):
        parameter.data = parameter.data.float()
    _switch(vlm, on=False)


def is_adapter(name: str) -> bool:
    """Whether a parameter of this name is an adapter's."""
    return ADAPTER_MARK in name


def adapter_parameters(vlm: nn.Module) -> list[nn.Parameter]:
    return [p for name, p in vlm.named_parameters() if is_adapter(name)]


@contextmanager
def adapters_on(vlm: nn.Module) -> Iterator[None]:
    """Within it the adapters, if there are any, take part."""
    _switch(vlm, on=True)
    try:
        yield
    finally:
        _switch(vlm, on=False)


def train_adapters(vlm: nn.Module, mode: bool) -> None:
    """Training mode for the adapters alone, for their dropout, where they train."""
    for layer in (m for m in vlm.modules() if isinstance(m, BaseTunerLayer)):
        for name, child in layer.named_children():
            if is_adapter(name):
                child.train(mode and any(is_adapter(n) and p.requires_grad for n, p in layer.named_parameters()))


def adapters_as_now(vlm: nn.Module) -> tuple[AbstractContextManager, AbstractContextManager]:
    """Contexts of a layer's pass now, and of the one that makes its activations again in the backward pass, when
    adapters are off once more: they take part in both or in neither."""
    are_on = next((not m._disable_adapters for m in vlm.modules() if isinstance(m, BaseTunerLayer)), False)
    return nullcontext(), adapters_on(vlm) if are_on else nullcontext()


def _switch(vlm: nn.Module, on: bool) -> None:
    for module in vlm.modules():
        if isinstance(module, BaseTunerLayer):
            # peft's own `enable_adapters` also freezes what it turns off, and that must stay as it is
            module._disable_adapters = not on
