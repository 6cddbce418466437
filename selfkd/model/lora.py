# SPDX-License-Identifier: Apache-2.0
"""LoRA on the LLM, active for the student's query and response only.

Without its adapters the LLM's output is bit-identical to that of the original weights: text responses, the teacher, and
the keys and values of the shared prefix do not change. For this reason the adapters are never merged during training.
"""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import is_peft_available

from .input_error import InputError
from .native_omni import MODALITY_ENCODERS

if is_peft_available():
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora import Linear as LinearAdapter
    from peft.tuners.tuners_utils import BaseTunerLayer
else:  # a checkpoint without adapters runs without it: no module is an instance of these
    BaseTunerLayer = LinearAdapter = ()  # type: ignore[assignment,misc]

ADAPTER_MARK = "lora_"  # in the names that peft gives to adapter parameters


def add_adapters(vlm: PreTrainedModel, settings: dict[str, Any]) -> None:
    """Adds LoRA to every linear layer of the LLM, in fp32, inactive; `settings` are fields of `peft.LoraConfig`."""
    decoder = vlm.get_decoder()
    encoders = [rf"{name}\..*" for name, _ in decoder.named_children() if name in MODALITY_ENCODERS]
    targets = {"target_modules": "all-linear", "exclude_modules": "|".join(encoders) or None}
    inject_adapter_in_model(LoraConfig(**{**targets, **settings}), decoder)
    for parameter in adapter_parameters(vlm):
        parameter.data = parameter.data.float()
    _set_active(_layers(vlm), False)


def is_adapter(name: str) -> bool:
    """Whether the parameter of this name belongs to an adapter."""
    return ADAPTER_MARK in name


def adapter_parameters(vlm: nn.Module) -> list[nn.Parameter]:
    return [p for name, p in vlm.named_parameters() if is_adapter(name)]


@dataclass
class AdapterMask:
    """Where adapters are active in a pass: `rows` (B, S) has a column for each of its tokens."""

    rows: Tensor | None = None


# of the passes that run now, for `adapter_contexts`
_active_mask: ContextVar[AdapterMask | None] = ContextVar("_active_mask", default=None)


@contextmanager
def masked_adapters(vlm: nn.Module, where: AdapterMask) -> Iterator[None]:
    """Activates the adapters within the context for the tokens of `where.rows`, which the caller sets for each pass;
    for all other tokens the output is that of the original weights. Raises InputError for adapters whose output is not
    a sum of the two (DoRA), and for those of the experts of a mixture, which have no output of their own."""
    layers = _layers(vlm)
    if any(not isinstance(layer, LinearAdapter) or layer.lora_variant for layer in layers):
        raise InputError(
            "llm_lora: adapters of experts, and DoRA, are active for whole rows only; query this model with "
            "generate_responses"
        )

    def masked(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        assert where.rows is not None  # noqa: S101 an invariant of this code, no check of input
        # a mixture of experts gives the tokens of all rows as one; layers of Gemma 4 that share their keys get the last
        # tokens only
        mask = where.rows.reshape(-1) if output.ndim == 2 else where.rows[:, -output.shape[-2] :]
        return output * mask[..., None].to(output.dtype)

    handles = [up.register_forward_hook(masked) for layer in layers for up in layer.get_submodule("lora_B").children()]
    token = _active_mask.set(where)
    try:
        with adapters_on(vlm):
            yield
    finally:
        _active_mask.reset(token)
        for handle in handles:
            handle.remove()


@contextmanager
def adapters_on(vlm: nn.Module) -> Iterator[None]:
    """Activates the adapters, if the model has any, within the context."""
    layers = _layers(vlm)
    _set_active(layers, True)
    try:
        yield
    finally:
        _set_active(layers, False)


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
    if not are_on:
        return nullcontext(), nullcontext()
    active = _active_mask.get()
    if active is None:
        return nullcontext(), adapters_on(vlm)
    return nullcontext(), masked_adapters(vlm, AdapterMask(active.rows))  # that one changes with the next pass


def _layers(vlm: nn.Module) -> list[Any]:
    return [module for module in vlm.modules() if isinstance(module, BaseTunerLayer)]


def _set_active(layers: Iterable[BaseTunerLayer], active: bool) -> None:
    for layer in layers:
        layer._disable_adapters = not active  # peft's own `enable_adapters` also freezes those that it deactivates
