"""The estimate of a training run (`--dry-run`): parameters, data, memory, FLOPs, hours, from configurations without
weights.

The model is built on torch's meta device, so an estimate for 8B parameters takes seconds. Memory is a count of bytes,
time a count of FLOPs at an assumed speed; `experiments/step_cost.py` measures both.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from selfkd.data.dataset import open_mixture, split_weight
from selfkd.data.example import MANIFEST
from selfkd.errors import InputError
from selfkd.losses import CHUNK_ROWS, LossConfig, needs_responses, needs_teacher
from selfkd.model.checkpoint_files import read_json_object, reading
from selfkd.model.configuration_omni import OmniConfig
from selfkd.model.modeling_omni import OmniModel
from selfkd.model.processing_omni import OmniProcessor
from selfkd.terminal import table_console
from selfkd.training.sampler import CHARACTERS_PER_TOKEN
from selfkd.training.trainable import set_trainable

FRAMES_PER_SECOND = 50  # of a Whisper encoder
WINDOW_SECONDS = 30  # its input with `pad_to_window`
NATIVE_STACK = 2  # encoder frames per audio embedding of Qwen2.5-Omni and Gemma (25 a second); others have more
TEMPLATE_TOKENS = 30  # of a chat template, about
ASSUMED_TERAFLOPS = 400.0  # bf16 on an H100, at 40% of its peak
GIGABYTE = 1e9


@dataclass(frozen=True)
class Load:
    """Size of the data and of its average example. The defaults are LLaVA-like questions about images of 7 tiles."""

    examples: int = 50_000
    questions_per_image: float = 1.0
    prefix_tokens: int = 7 * 256 + TEMPLATE_TOKENS
    question_tokens: int = 20
    speech_seconds: float = 4.0
    response_tokens: int = 60
    turns: float = 1.0  # of an example; the other numbers but those of the prefix are over all its turns


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
    image, the number of prefix tokens is the default. `left_out` are positions of skipped rows, by folder."""
    if not all((split_weight(entry)[0] / MANIFEST).is_file() for entry in data):
        return None
    sketches = open_mixture(data, 0, left_out).metadata()
    count, prefix_tokens = len(sketches), Load.prefix_tokens
    turns = sum(s.turns for s in sketches) / count
    if processor is not None or not any(s.width for s in sketches):
        sizes = Counter((s.width, s.height) for s in sketches)
        image_tokens = sum(n * processor.image_tokens(*size) for size, n in sizes.items()) if processor else 0
        prefix_tokens = round(image_tokens / count) + TEMPLATE_TOKENS
    return Load(
        prefix_tokens=prefix_tokens,
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
) -> dict[str, Any]:
    """Prints and returns the estimate of a training configuration (`TrainConfig`) for a model of `model_config`.
    `processor` is None where the model does not exist yet; `left_out` are positions of skipped rows, by folder."""
    try:
        with torch.device("meta"):
            model = OmniModel(model_config)
            trained = set_trainable(model, config.trainable, config.lora)
    except ImportError as error:  # Gemma 3n's vision encoder comes from timm
        raise InputError(f"model: {' '.join(str(error).split())}") from error
    measured, total = load_of(config.data, processor, left_out), sum(p.numel() for p in model.parameters())
    load = measured or Load()
    batches = int(config.training.get("gradient_accumulation_steps", 1))
    flops = batches * step_flops(model, load, config.batch_size, config.trainable, loss_config)
    result = {
        "parameters": total,
        "trained_parameters": trained,
        "load": asdict(load),
        "epochs": config.steps * batches * config.batch_size / load.examples,
        "gigabytes": memory(model, load, config.batch_size, trained, loss_config, bool(config.weight_averaging)),
        "step_teraflop": flops / 1e12,
        "hours": flops * config.steps / (ASSUMED_TERAFLOPS * 1e12) / 3600,
    }
    folders = ", ".join(config.data)
    data = f"assumed, {folders} does not exist yet" if measured is None else folders
    table_console().print(_table(config, result, data))
    return result


def _sizes(model: OmniModel) -> dict[str, float]:
    """Parameters by part that a token, a patch or a frame is multiplied with; of experts the active share only."""
    head, text = model.get_output_embeddings().weight, model.config.get_text_config()
    in_encoder = {id(p) for module in model.part("speech_encoder") for p in module.parameters()}
    in_projector = {id(p) for module in model.part("projector") for p in module.parameters()}
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    sizes = {"vision": 0.0, "llm": 0.0, "head": float(head.numel()), "encoder": 0.0, "projector": 0.0}
    for name, p in model.named_parameters():
        if id(p) in in_projector:
            sizes["projector"] += p.numel()
        elif id(p) in in_encoder:
            sizes["encoder"] += p.numel()
        elif id(p) not in embeddings and p is not head:
            active = text.num_experts_per_tok / text.num_experts if ".experts." in name else 1
            sizes["vision" if "vis" in name else "llm"] += p.numel() * active
    return sizes


def _encoder_frames(model: OmniModel, load: Load) -> float:
    """Frames that the speech encoder makes of an average clip."""
    return FRAMES_PER_SECOND * (WINDOW_SECONDS * load.turns if model.config.pad_to_window else load.speech_seconds)


def _stack(model: OmniModel) -> int:
    return NATIVE_STACK if model.is_native else model.config.stack_factor


def step_flops(model: OmniModel, load: Load, batch: int, trainable: list[str], loss_config: LossConfig) -> float:
    """FLOPs of an optimizer step: 2 per parameter and token for the forward pass, 2 for the gradient of the inputs, 2
    for the gradient of the weights.

    The image prefix and the teacher have a forward pass only. Where the LLM trains, the teacher encodes a prefix of its
    own and the student's prefix has a gradient. Without a loss on responses only speech encoder and projector run.
    """
    llm_trains = "llm" in trainable
    size, images = _sizes(model), batch / load.questions_per_image
    frames = batch * _encoder_frames(model, load)
    vectors = batch * load.speech_seconds * FRAMES_PER_SECOND / _stack(model)
    template = batch * TEMPLATE_TOKENS * (load.turns - 1)  # between the turns
    responses = batch * load.response_tokens
    encoder = (6 if "speech_encoder" in trainable else 2) * frames * size["encoder"] + 6 * vectors * size["projector"]
    if not needs_responses(loss_config):
        return encoder
    vision, llm = _prefix_flops(model, load, size)
    prefix = images * (vision + (3 if llm_trains else 1) * llm)
    teacher = images * (vision + llm) if llm_trains else 0
    teacher += 2 * (batch * load.question_tokens + responses) * size["llm"] + 2 * responses * size["head"]
    passes = 6 if llm_trains else 4
    student = passes * (vectors + template + responses) * size["llm"] + passes * responses * size["head"]
    return prefix + student + encoder + (teacher if needs_teacher(loss_config) else 0)


def _prefix_flops(model: OmniModel, load: Load, size: dict[str, float]) -> tuple[float, float]:
    """(FLOPs of the vision encoder, of the LLM) for a forward pass over one image and the text before the question. The
    vision encoder has four patches per token, and each attends to all patches of its tile, or of an image without
    tiles. In the LLM a token attends to those before it. Attention after the prefix is left out as negligible."""
    text = model.config.get_text_config()
    llm_flops = 2 * load.prefix_tokens * size["llm"]
    llm_flops += 2 * load.prefix_tokens**2 * text.num_hidden_layers * text.num_attention_heads * _head_width(text)
    patches = 4 * load.prefix_tokens
    vision_flops = 2 * patches * size["vision"]
    vision_encoder: Any = getattr(model.config.vlm_config, "vision_config", None)
    full = len(getattr(vision_encoder, "fullatt_block_indexes", ()))  # Qwen2.5's other layers attend within a window
    layers = full or getattr(vision_encoder, "depth", 0) or getattr(vision_encoder, "num_hidden_layers", 0)
    width = getattr(vision_encoder, "embed_dim", 0) or getattr(vision_encoder, "hidden_size", 0)
    tiled = hasattr(vision_encoder, "image_size") and hasattr(vision_encoder, "patch_size")
    tile = (_side(vision_encoder.image_size) // _side(vision_encoder.patch_size)) ** 2 if tiled else patches
    return vision_flops + 4 * patches * tile * layers * width, llm_flops


def _side(pixels: int | Sequence[int]) -> int:
    return pixels if isinstance(pixels, int) else pixels[0]


def _head_width(text: Any) -> int:
    return getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads


def memory(
    model: OmniModel, load: Load, batch: int, trained: int, loss_config: LossConfig, averaged: bool
) -> dict[str, float]:
    """Gigabytes on one device, by use: a frozen VLM in bf16, a frozen speech encoder in fp32, 16 bytes for each
    trainable parameter (weight, gradient, AdamW's two moments), 4 more with weight averaging. The activations of a
    native model's audio encoder are left out, since these encoders differ too much."""
    text = model.config.get_text_config()
    layers, width = text.num_hidden_layers, text.hidden_size
    head_width = _head_width(text)
    frozen = [(name, p) for name, p in model.named_parameters() if not p.requires_grad]
    frozen_bytes = sum((4 if name.startswith("speech_encoder") else 2) * p.numel() for name, p in frozen)
    cache_bytes = 2 * 2 * layers * text.num_key_value_heads * head_width * load.prefix_tokens
    # one row for each image, and a copy for each question where questions share images
    cache_rows = batch / load.questions_per_image + (batch if load.questions_per_image > 1 else 0)
    tokens = load.speech_seconds * FRAMES_PER_SECOND / _stack(model) + load.response_tokens
    tokens += TEMPLATE_TOKENS * (load.turns - 1)
    if model.llm_trains:  # a frozen copy is the teacher, and the prefix is in the graph
        frozen_bytes += 2 * sum(p.numel() for p in model.vlm.parameters())
        tokens += load.prefix_tokens
    # the attention of each layer keeps its keys and values, repeated for each head
    attention_bytes = 2 * 2 * layers * text.num_attention_heads * head_width * (load.prefix_tokens + tokens)
    # activations of a token in a layer, bf16: about ten vectors of the hidden size, four of the intermediate size
    sizes = text.intermediate_size
    intermediate = max(sizes) if isinstance(sizes, list) else sizes
    graph_bytes = 2 * layers * tokens * (10 * width + 4 * intermediate)
    logits_bytes = 3 * 4 * min(CHUNK_ROWS, batch * load.response_tokens) * text.vocab_size
    weights = {
        "frozen weights": frozen_bytes / GIGABYTE,
        "trainable weights, gradients, optimizer": (20 if averaged else 16) * trained / GIGABYTE,
    }
    encoder = model.config.audio_config
    if encoder is not None and any(q.requires_grad for q in model.speech_encoder.parameters()):
        layers_frames = encoder.encoder_layers * batch * _encoder_frames(model, load)
        values = 12 * encoder.d_model + 2 * encoder.encoder_ffn_dim
        weights["speech encoder activations"] = 2 * layers_frames * values / GIGABYTE
    if not needs_responses(loss_config):
        return weights
    return weights | {
        "KV cache of the prefix": cache_rows * cache_bytes / GIGABYTE,
        "student activations": batch * (graph_bytes + attention_bytes) / GIGABYTE,
        "logits of a chunk": logits_bytes / GIGABYTE,
    }


def _table(config: Any, result: dict[str, Any], data: str) -> Table:
    load, gigabytes = result["load"], result["gigabytes"]
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
    table.add_row("memory per device, about", f"{sum(gigabytes.values()):.0f} GB")
    table.add_row("FLOPs per step", f"{result['step_teraflop']:.1f} TFLOP per device")
    table.add_row("time, about", f"{result['hours']:.2f} hours at {ASSUMED_TERAFLOPS:.0f} TFLOP/s")
    return table
