"""A trained model as one plain checkpoint, for whatever loads such checkpoints.

A native omni model is written in its own layout, as transformers and the servers that read it expect. Adapters are
merged into the LLM: they are then on in the written view and in the image prefix too, where training had them off.
"""

from dataclasses import dataclass
from pathlib import Path

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from selfkd.errors import InputError
from selfkd.files import follow_umask
from selfkd.model.checkpoint import is_ours, load_omni


@dataclass
class MergeConfig:
    """A trained model as one plain checkpoint, its adapters merged.

    Args:
        model: Folder of the model (the output of selfkd distill, with /model).
        output: Folder to write to; it must be new or empty.
    """

    model: str
    output: Path


def merge(config: MergeConfig) -> None:
    """Writes `output`: a native omni model in its own layout, any other as an `OmniModel` without adapters."""
    if config.output.exists() and any(config.output.iterdir()):
        raise InputError(f"output: {config.output}: not empty; give another")
    is_ours(config.model)
    config.output.mkdir(
        parents=True, exist_ok=True
    )  # below a file, on a disk without room: said before weights are read
    model, processor = load_omni(config.model)
    merged = merge_adapters(model.vlm)
    model.config.llm_lora = None
    (model.vlm if model.hears_natively else model).save_pretrained(config.output)
    processor.save_pretrained(config.output)
    follow_umask(config.output)
    if merged:
        print(f"{merged} adapted layers merged: written answers are no longer those of the base model")
    print(config.output)


def merge_adapters(vlm: nn.Module) -> int:
    """Puts the weights of adapters into those of the layers that they adapt; returns how many layers that were."""
    adapted = [(name, m) for name, m in vlm.named_modules() if isinstance(m, BaseTunerLayer)]
    for name, layer in adapted:
        layer._disable_adapters = False
        layer.merge(safe_merge=True)
        parent, _, own = name.rpartition(".")
        setattr(vlm.get_submodule(parent), own, layer.get_base_layer())
    return len(adapted)
