"""Writes a trained model for others: whole, as an adapter of the size of what was trained, or with LoRA merged.

A native omni model keeps its own layout when merged, which transformers and other servers read. Once merged, LoRA is
active for text queries and in the image prefix too, where training had it off.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from selfkd.errors import InputError
from selfkd.files import check_new, write_folder_atomically
from selfkd.hub import from_hub

if TYPE_CHECKING:
    from torch import Tensor, nn

    from selfkd.model.modeling_omni import OmniModel


@dataclass
class ExportConfig:
    """Writes a trained model for others: whole, or as an adapter of the size of what was trained.

    Args:
        model: Folder of the model (output of selfkd distill or align, with /model) or hub id; an adapter too.
        output: Folder to write to; must be new or empty.
        adapter: Whether to write only the weights that differ from the VLM's and from an untrained speech encoder's;
            loading it takes those from where they are.
        vlm: VLM that the adapter builds on, by hub id or folder; by default the one that training started from. Of a
            native omni model, that model.
        speech_encoder: Whisper checkpoint that the adapter builds on, where the encoder was not trained; by default the
            one that training started from.
    """

    model: str
    output: Path
    adapter: bool = False
    vlm: str = ""
    speech_encoder: str = ""


def export(config: ExportConfig) -> None:
    """Writes the folder; raises InputError where the VLM that an adapter builds on is not known."""
    from safetensors.torch import save_file  # with torch, which other commands do not need
    from transformers.utils import SAFE_WEIGHTS_NAME

    from selfkd.model.checkpoint import inspect_checkpoint

    check_new(config.output)
    if not config.adapter and (config.vlm or config.speech_encoder):
        raise InputError(f"{'vlm' if config.vlm else 'speech_encoder'}: only an adapter builds on it (--adapter)")
    model, processor = inspect_checkpoint(config.model).load()
    weights = _differing_weights(config, model) if config.adapter else None
    with write_folder_atomically(config.output) as folder:
        model.save_pretrained(folder, state_dict=weights)
        if weights is not None:  # by the names in the model, which transformers renames as in the VLM's checkpoint
            save_file(weights, folder / SAFE_WEIGHTS_NAME, {"format": "pt"})
        processor.save_pretrained(folder)
    _print_size(config.output, model)


def _differing_weights(config: ExportConfig, model: "OmniModel") -> "dict[str, Tensor]":
    """Weights of an adapter; its base models are now in the model's configuration."""
    from selfkd.model.checkpoint_files import reading
    from selfkd.model.configuration_omni import BaseModel
    from selfkd.model.release import load_base_model, trained_weights, weights_hash

    sources = _base_sources(config, model)
    base_models, named = {}, {}
    for part, source in sources.items():
        with reading(source, part):
            where = from_hub(source)
            name, revision = str(where["pretrained_model_name_or_path"]), where.get("revision")
            base = load_base_model(part, model.config, name, revision)
        sha256 = weights_hash(base)
        if part == "speech_encoder" and weights_hash(model.speech_encoder) != sha256:
            continue  # trained: the adapter has all of it
        name = str(Path(name).resolve()) if Path(name).is_dir() else name
        base_models[part] = base
        named[part] = BaseModel(base_model_name_or_path=name, revision=revision, sha256=sha256)
        if Path(name).is_dir():
            print(f"{part}: {name}: a folder, where the adapter will look for it; --{part} OWNER/NAME is for others")
    weights = trained_weights(model, base_models)
    model.config.base_models = named
    return weights


def _base_sources(config: ExportConfig, model: "OmniModel") -> dict[str, str]:
    """{part of the model: hub id or folder}, the speech encoder's only where it is a Whisper checkpoint."""
    from selfkd.model.backbones import check_speech_encoder
    from selfkd.model.parts import parts_of_run

    roles = {"vlm": ("VLM", "model"), "speech_encoder": ("speech encoder",)}
    parts = parts_of_run(Path(config.model).parent)
    found = {}
    for part, names in roles.items():
        given = getattr(config, part)
        commits = (
            f"{p.source.partition('@')[0]}@{p.commit}" if p.commit else p.source for p in parts if p.role in names
        )
        found[part] = given or next(commits, "")
    if not found["vlm"]:
        raise InputError(f"vlm: {config.model}: nothing says what it was trained from; give a hub id or a folder")
    encoder = found.pop("speech_encoder")
    if model.is_native or not encoder:
        return found
    if check_speech_encoder(encoder) == "whisper":
        return found | {"speech_encoder": encoder}
    if config.speech_encoder:
        raise InputError(f"speech_encoder: {encoder}: an ASR model of selfkd; an adapter builds on Whisper checkpoints")
    return found


def _print_size(folder: Path, model: "OmniModel") -> None:
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    whole = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    print(f"{folder}: {size / 1e6:,.1f} MB of weights{'' if size >= whole else f', of {whole / 1e6:,.1f} MB in all'}")


@dataclass
class MergeConfig:
    """Writes a trained model as one plain checkpoint, with its adapters merged.

    Args:
        model: Folder of the model (output of selfkd distill, with /model).
        output: Folder to write to; must be new or empty.
    """

    model: str
    output: Path


def merge(config: MergeConfig) -> None:
    """Writes a native omni model in its own layout, any other as an `OmniModel` without adapters."""
    from selfkd.model.checkpoint import inspect_checkpoint

    check_new(config.output)
    checkpoint = inspect_checkpoint(config.model)
    with write_folder_atomically(config.output) as folder:
        model, processor = checkpoint.load()
        merged = merge_adapters(model.vlm)
        model.config.llm_lora = None
        for part in (model.vlm, processor.vlm_processor) if model.is_native else (model, processor):
            part.save_pretrained(folder)
    if merged:
        print(f"{merged} adapted layers merged: responses to text queries now differ from the VLM backbone")
    print(config.output)


def merge_adapters(vlm: "nn.Module") -> int:
    """Merges adapters into the weights of their layers; returns the number of merged layers."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    adapted = [(name, m) for name, m in vlm.named_modules() if isinstance(m, BaseTunerLayer)]
    for name, layer in adapted:
        layer._disable_adapters = False
        layer.merge(safe_merge=True)
        parent, _, attribute = name.rpartition(".")
        setattr(vlm.get_submodule(parent), attribute, layer.get_base_layer())
    return len(adapted)
