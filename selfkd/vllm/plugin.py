"""Registers the architectures of `OmniModel` in each process of vLLM.

It imports no model: vLLM imports the class of an architecture when it loads a checkpoint of it.
"""

from selfkd.vllm.configuration import ARCHITECTURES, ServedOmniConfig


def register() -> None:
    """The entry point of `vllm.general_plugins`; vLLM calls it once or more in each of its processes."""
    from transformers import AutoConfig
    from vllm import ModelRegistry

    AutoConfig.register(ServedOmniConfig.model_type, ServedOmniConfig, exist_ok=True)
    known = ModelRegistry.get_supported_archs()
    for name in ARCHITECTURES.values():
        if name not in known:
            ModelRegistry.register_model(name, f"selfkd.vllm.models:{name}")
