"""The estimate of a training run (`--dry-run`): parameters, data, memory, disk, FLOPs, hours, from configurations
without weights.

The counts are those of `estimate_counts`, the speeds those of `device_kinds`, for the device that `device_kind` names.
`experiments/estimate_errors.py` compares both with every step that was measured.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from selfkd.data.dataset import open_mixture, split_weight
from selfkd.data.example import MANIFEST
from selfkd.errors import InputError
from selfkd.losses import LossConfig
from selfkd.model.checkpoint_files import read_json_object, reading
from selfkd.model.configuration_omni import OmniConfig
from selfkd.model.modeling_omni import OmniModel
from selfkd.model.processing_omni import OmniProcessor
from selfkd.terminal import table_console
from selfkd.training.config import AUDIO_PARTS
from selfkd.training.device_kinds import DeviceKind, device_gigabytes, device_kind
from selfkd.training.estimate_counts import TEMPLATE_TOKENS, Load, disk, layer_passes, memory, step_flops
from selfkd.training.sampler import CHARACTERS_PER_TOKEN
from selfkd.training.trainable import set_trainable


def read_model_config(path: str) -> OmniConfig:
    """The configuration of an `OmniModel` from a JSON file, as those in recipes/model_configs."""
    if not Path(path).is_file():
        raise InputError(
            f"model_config: {path or '(empty)'}: no such file; an estimate needs it where there is no model"
        )
    values = read_json_object(Path(path), "model_config")
    with reading(path, "model_config"):
        return OmniConfig(**values)


def load_of(
    data: Sequence[str], processor: OmniProcessor | None, left_out: Mapping[Path, Collection[int]] | None = None
) -> Load | None:
    """The load of data folders; None where one does not exist yet. Without a processor, which knows the tokens of an
    image, an image has the default's. `left_out` are positions of skipped rows, by folder."""
    if not all((split_weight(entry)[0] / MANIFEST).is_file() for entry in data):
        return None
    sketches = open_mixture(data, 0, left_out).metadata()
    count, turns = len(sketches), sum(s.turns for s in sketches) / len(sketches)
    if processor is None:
        image_tokens = Load.image_tokens * sum(s.width > 0 for s in sketches)
    else:
        sizes = Counter((s.width, s.height) for s in sketches)
        image_tokens = sum(n * processor.image_tokens(*size) for size, n in sizes.items())
    return Load(
        image_tokens=round(image_tokens / count),
        prefix_tokens=round(image_tokens / count) + TEMPLATE_TOKENS,
        examples=count,
        questions_per_image=count / len({s.image for s in sketches}),
        question_tokens=round(sum(s.question_characters for s in sketches) / count / CHARACTERS_PER_TOKEN)
        + round(TEMPLATE_TOKENS * (turns - 1)),
        speech_seconds=sum(s.speech_seconds for s in sketches) / count,
        response_tokens=round(sum(s.answer_characters for s in sketches) / count / CHARACTERS_PER_TOKEN) + round(turns),
        turns=turns,
    )


def estimate(
    config: Any,
    model_config: OmniConfig,
    processor: OmniProcessor | None,
    loss_config: LossConfig,
    left_out: Mapping[Path, Collection[int]] | None = None,
    assumed: Load | None = None,
) -> dict[str, Any]:
    """Prints and returns the estimate of a training configuration (`TrainConfig`) for a model of `model_config`.
    `processor` is None where the model does not exist yet; `left_out` are positions of skipped rows, by folder;
    `assumed` is the load of data that do not exist yet. Raises InputError for a GPU that the table does not have."""
    device = device_kind(config.device_kind)
    try:
        with torch.device("meta"):
            model = OmniModel(model_config)
            trained = set_trainable(model, config.trainable, config.lora)
    except ImportError as error:  # Gemma 3n's vision encoder comes from timm
        raise InputError(f"model: {' '.join(str(error).split())}") from error
    measured, total = load_of(config.data, processor, left_out), sum(p.numel() for p in model.parameters())
    load, averaged = measured or assumed or Load(), bool(config.weight_averaging)
    batches = int(config.training.get("gradient_accumulation_steps", 1))
    flops = step_flops(model, load, config.batch_size, config.trainable, loss_config)
    passes = layer_passes(model, config.trainable, loss_config)
    seconds = batches * device.seconds(flops, passes, model.config.get_text_config().hidden_size)
    result = {
        "parameters": total,
        "trained_parameters": trained,
        "load": asdict(load),
        "epochs": config.steps * batches * config.batch_size / load.examples,
        "gigabytes": memory(model, load, config.batch_size, config.trainable, loss_config, averaged),
        "disk_gigabytes": disk(model, trained, averaged),
        "step_teraflop": batches * sum(flops.values()) / 1e12,
        "step_seconds": seconds,
        "hours": seconds * config.steps / 3600,
        "efficiency": _efficiency(device, model, flops, config.trainable),
    }
    folders = ", ".join(config.data)
    data = f"assumed, {folders} does not exist yet" if measured is None else folders
    table_console().print(_table(config, result, data, device))
    return result


def _efficiency(
    device: DeviceKind, model: OmniModel, flops: Mapping[str, float], trainable: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """{part: share of the peak, and the experiment that measured it: "" where it is assumed}. Nothing but projector and
    speech encoder was ever timed while it trained, and no native model."""
    width, found = model.config.get_text_config().hidden_size, {}
    timed = not model.is_native and set(trainable) <= set(AUDIO_PARTS)
    for part in (part for part, value in flops.items() if value):
        share = device.share(part, width)
        found[part] = {"share": share.value, "measured": share.record if timed else ""}
    return found


def _table(config: Any, result: dict[str, Any], data: str, device: DeviceKind) -> Table:
    load, gigabytes, disk_gigabytes = result["load"], result["gigabytes"], result["disk_gigabytes"]
    table = Table(title="Estimate; nothing was written", show_header=False)
    table.add_row("parameters", f"{result['parameters'] / 1e6:,.0f}M, {result['trained_parameters']:,} trainable")
    table.add_row("trainable parts", ", ".join(config.trainable))
    table.add_row("data", data)
    table.add_row("examples", f"{load['examples']:,}; {load['questions_per_image']:.1f} questions per image")
    if load["turns"] > 1:
        table.add_row("turns", f"{load['turns']:.1f} of an example, all of them below")
    query = f"query of {load['question_tokens']} text tokens or {load['speech_seconds']:.1f} s of audio"
    tokens = f"prefix of {load['prefix_tokens']:,} tokens, {query}, response of {load['response_tokens']} tokens"
    table.add_row("mean example", tokens)
    examples = round(result["epochs"] * load["examples"] / config.steps)
    table.add_row("steps", f"{config.steps:,} of {examples} examples per device: {result['epochs']:.2f} epochs")
    for name, value in gigabytes.items():
        table.add_row(f"memory: {name}", f"{value:.1f} GB")
    needed, there = sum(gigabytes.values()), device_gigabytes(device)
    table.add_row("memory per device, about", f"{needed:.0f} of {there:.0f} GB{'' if needed < there else ': too much'}")
    table.add_row("disk, about", f"{disk_gigabytes['peak']:.3g} GB, {disk_gigabytes['kept']:.3g} GB kept")
    table.add_row("FLOPs per step", f"{result['step_teraflop']:.1f} TFLOP per device")
    for part, found in result["efficiency"].items():
        source = "measured" if found["measured"] else "assumed"
        table.add_row(f"speed: {part}", f"{found['share']:.0%} of the peak, {source}")
    table.add_row(f"time on {device.label}, about", f"{_time(result)}, without loading data")
    return table


def _time(result: dict[str, Any]) -> str:
    seconds, hours = result["step_seconds"], result["hours"]
    return (
        f"{hours:.1f} hours ({seconds:.2f} s a step)"
        if hours >= 1
        else f"{hours * 60:.0f} minutes ({seconds:.2f} s a step)"
    )
