"""What a training run would take: parameters, data, memory, time. From configurations alone, without weights.

The model is built on torch's meta device, so a plan for 8B parameters takes seconds. Memory and time are counts, no
measurements: bytes of what must be held, and multiplications at an assumed speed. `experiments/step_cost.py` measures.
"""

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from selfkd.data.dataset import open_mixture, split_weight
from selfkd.data.example import MANIFEST
from selfkd.errors import InputError
from selfkd.losses import CHUNK_ROWS, LossConfig, needs_responses, needs_teacher
from selfkd.model.checkpoint_files import reading
from selfkd.model.configuration_omni import OmniConfig
from selfkd.model.modeling_omni import OmniModel
from selfkd.model.processing_omni import OmniProcessor
from selfkd.training.data import CHARACTERS_PER_TOKEN
from selfkd.training.trainable import set_trainable

FRAMES_PER_SECOND = 50  # of a Whisper encoder
WINDOW_SECONDS = 30  # that it reads where clips are padded
NATIVE_STACK = 2  # Qwen2.5-Omni and Gemma make 25 vectors a second, others fewer
TEMPLATE_TOKENS = 30  # of a chat's template, about
ASSUMED_TERAFLOPS = 400.0  # bf16 on an H100, at 40% of its peak
GIGABYTE = 1e9


@dataclass(frozen=True)
class Load:
    """What an average example of the data holds. The defaults are a LLaVA-like question about a picture of 7 tiles."""

    examples: int = 50_000
    questions_per_image: float = 1.0
    prefix_tokens: int = 7 * 256 + TEMPLATE_TOKENS
    question_tokens: int = 20
    speech_seconds: float = 4.0
    response_tokens: int = 60


def read_model_config(path: str) -> OmniConfig:
    """The configuration of an `OmniModel` from a JSON file, as those in recipes/model_configs."""
    if not Path(path).is_file():
        raise InputError(f"skeleton: {path or '(empty)'}: no such file; it stands in where the model is not there yet")
    try:
        values = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"skeleton: {path}: no JSON ({error})") from error
    with reading(path, "model_config"):
        return OmniConfig(**values)


def load_of(
    data: Sequence[str], processor: OmniProcessor | None, left_out: Mapping[Path, Collection[int]] | None = None
) -> Load | None:
    """The load of complete folders of spoken questions; None where one is not there yet. Without a processor, which
    knows how many tokens a picture takes, those of a picture stay what they are assumed to be."""
    if not all((split_weight(entry)[0] / MANIFEST).is_file() for entry in data):
        return None
    known = open_mixture(data, 0, left_out).sketches()
    count, prefix_tokens = len(known), Load.prefix_tokens
    if processor is not None or not any(s.width for s in known):
        sizes = Counter((s.width, s.height) for s in known)
        seen = sum(n * processor.image_tokens(*size) for size, n in sizes.items()) if processor else 0
        prefix_tokens = round(seen / count) + TEMPLATE_TOKENS
    return Load(
        prefix_tokens=prefix_tokens,
        examples=count,
        questions_per_image=count / len({s.image for s in known}),
        question_tokens=round(sum(s.question_characters for s in known) / count / CHARACTERS_PER_TOKEN),
        speech_seconds=sum(s.speech_seconds for s in known) / count,
        response_tokens=round(sum(s.answer_characters for s in known) / count / CHARACTERS_PER_TOKEN) + 1,
    )


def plan(
    config: Any,
    model_config: OmniConfig,
    processor: OmniProcessor | None,
    objective: LossConfig,
    left_out: Mapping[Path, Collection[int]] | None = None,
) -> dict[str, Any]:
    """Prints and returns the plan of a training configuration (`TrainConfig`) for a model of `model_config`, which is
    there already where it has a processor. `left_out` are the positions of rows that are not taken, by folder."""
    try:
        with torch.device("meta"):
            model = OmniModel(model_config)
            trained = set_trainable(model, config.trainable, config.lora)
    except ImportError as error:  # Gemma 3n's eyes are timm's
        raise InputError(f"model: {' '.join(str(error).split())}") from error
    counted, total = load_of(config.data, processor, left_out), sum(p.numel() for p in model.parameters())
    load = counted or Load()
    batches = int(config.training.get("gradient_accumulation_steps", 1))
    flops = batches * step_flops(model, load, config.batch_size, config.trainable, objective)
    result = {
        "parameters": total,
        "trained_parameters": trained,
        "load": asdict(load),
        "epochs": config.steps * batches * config.batch_size / load.examples,
        "gigabytes": memory(model, load, config.batch_size, trained, objective, bool(config.weight_averaging)),
        "step_teraflop": flops / 1e12,
        "hours": flops * config.steps / (ASSUMED_TERAFLOPS * 1e12) / 3600,
    }
    folders = ", ".join(config.data)
    data = f"assumed, {folders} is not there yet" if counted is None else folders
    Console().print(_table(config, result, data))
    return result


def _sizes(model: OmniModel) -> dict[str, float]:
    """Parameters of the parts that a token, a patch or a frame is multiplied with; of experts, those that take part."""
    head, text = model.get_output_embeddings().weight, model.config.get_text_config()
    of_ears = {id(p) for module in model.part("speech_encoder") for p in module.parameters()}
    of_projector = {id(p) for module in model.part("projector") for p in module.parameters()}
    looked_up = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    sizes = {"vision": 0.0, "llm": 0.0, "head": float(head.numel()), "encoder": 0.0, "projector": 0.0}
    for name, p in model.named_parameters():
        if id(p) in of_projector:
            sizes["projector"] += p.numel()
        elif id(p) in of_ears:
            sizes["encoder"] += p.numel()
        elif id(p) not in looked_up and p is not head:
            of_experts = text.num_experts_per_tok / text.num_experts if ".experts." in name else 1
            sizes["vision" if "vis" in name else "llm"] += p.numel() * of_experts
    return sizes


def _encoder_frames(model: OmniModel, load: Load) -> float:
    """That the speech encoder reads of a clip."""
    return FRAMES_PER_SECOND * (WINDOW_SECONDS if model.config.pad_to_window else load.speech_seconds)


def _stack(model: OmniModel) -> int:
    return NATIVE_STACK if model.is_native else model.config.stack_factor


def step_flops(model: OmniModel, load: Load, batch: int, trainable: list[str], objective: LossConfig) -> float:
    """Two per parameter and token forward, as many for the gradient of what stands before, as many where weights train.

    The picture's prefix and the teacher are forward alone. Where the LLM trains, the teacher reads a prefix of its own
    and the student's has a gradient. Where no response is learnt from, only the ears are run.
    """
    llm_trains = "llm" in trainable
    size, images = _sizes(model), batch / load.questions_per_image
    frames = batch * _encoder_frames(model, load)
    vectors = batch * load.speech_seconds * FRAMES_PER_SECOND / _stack(model)
    responses = batch * load.response_tokens
    encoder = (6 if "speech_encoder" in trainable else 2) * frames * size["encoder"] + 6 * vectors * size["projector"]
    if not needs_responses(objective):
        return encoder
    seen, read = _prefix_flops(model, load, size)
    prefix = images * (seen + (3 if llm_trains else 1) * read)
    teacher = images * (seen + read) if llm_trains else 0
    teacher += 2 * (batch * load.question_tokens + responses) * size["llm"] + 2 * responses * size["head"]
    passes = 6 if llm_trains else 4
    student = passes * (vectors + responses) * size["llm"] + passes * responses * size["head"]
    return prefix + student + encoder + (teacher if needs_teacher(objective) else 0)


def _prefix_flops(model: OmniModel, load: Load, size: dict[str, float]) -> tuple[float, float]:
    """What one picture with the text before the question takes, forward: (in the vision tower, in the LLM). A tower
    sees four patches for each token it gives, and each attends to all of its tile, or of the picture where it is read
    whole; in the LLM a token attends to those before it. Attention of what comes after the prefix is too little to
    count."""
    text = model.config.get_text_config()
    read = 2 * load.prefix_tokens * size["llm"]
    read += 2 * load.prefix_tokens**2 * text.num_hidden_layers * text.num_attention_heads * _head_width(text)
    patches = 4 * load.prefix_tokens
    seen = 2 * patches * size["vision"]
    vision_encoder: Any = getattr(model.config.vlm_config, "vision_config", None)
    whole = len(getattr(vision_encoder, "fullatt_block_indexes", ()))  # of Qwen2.5's layers; its others see a window
    layers = whole or getattr(vision_encoder, "depth", 0) or getattr(vision_encoder, "num_hidden_layers", 0)
    width = getattr(vision_encoder, "embed_dim", 0) or getattr(vision_encoder, "hidden_size", 0)
    tiled = hasattr(vision_encoder, "image_size") and hasattr(vision_encoder, "patch_size")
    tile = (_side(vision_encoder.image_size) // _side(vision_encoder.patch_size)) ** 2 if tiled else patches
    return seen + 4 * patches * tile * layers * width, read


def _side(pixels: int | Sequence[int]) -> int:
    return pixels if isinstance(pixels, int) else pixels[0]


def _head_width(text: Any) -> int:
    return getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads


def memory(
    model: OmniModel, load: Load, batch: int, trained: int, objective: LossConfig, averaged: bool
) -> dict[str, float]:
    """Gigabytes on one device: a frozen VLM in bf16, frozen ears in fp32, 16 bytes for each parameter that trains (its
    weight, its gradient and AdamW's two moments), 4 more where weights are averaged. The graph of a native model's own
    ears, which are unlike each other, is left out."""
    text = model.config.get_text_config()
    layers, width = text.num_hidden_layers, text.hidden_size
    head_width = _head_width(text)
    frozen = [(name, p) for name, p in model.named_parameters() if not p.requires_grad]
    frozen_bytes = sum((4 if name.startswith("speech_encoder") else 2) * p.numel() for name, p in frozen)
    cache_bytes = 2 * 2 * layers * text.num_key_value_heads * head_width * load.prefix_tokens
    # the pictures' own, and each question's copy of them where it shares one
    cache_rows = batch / load.questions_per_image + (batch if load.questions_per_image > 1 else 0)
    tokens = load.speech_seconds * FRAMES_PER_SECOND / _stack(model) + load.response_tokens
    if model.llm_trains:  # beside a frozen teacher, with the prefix in the graph
        frozen_bytes += 2 * sum(p.numel() for p in model.vlm.parameters())
        tokens += load.prefix_tokens
    # each layer's attention keeps all it looked at, with a mask as many times as there are heads
    seen_bytes = 2 * 2 * layers * text.num_attention_heads * head_width * (load.prefix_tokens + tokens)
    # what a layer keeps of a token for its gradient, bf16: about ten vectors of its width, four of its middle
    middles = text.intermediate_size
    middle = max(middles) if isinstance(middles, list) else middles
    graph_bytes = 2 * layers * tokens * (10 * width + 4 * middle)
    logits_bytes = 3 * 4 * min(CHUNK_ROWS, batch * load.response_tokens) * text.vocab_size
    weights = {
        "frozen weights": frozen_bytes / GIGABYTE,
        "what trains": (20 if averaged else 16) * trained / GIGABYTE,
    }
    encoder = model.config.audio_config
    if encoder is not None and any(q.requires_grad for q in model.speech_encoder.parameters()):
        layers_frames = encoder.encoder_layers * batch * _encoder_frames(model, load)
        weights["the ears' graph"] = 2 * layers_frames * (12 * encoder.d_model + 2 * encoder.encoder_ffn_dim) / GIGABYTE
    if not needs_responses(objective):
        return weights
    return weights | {
        "keys and values of the prefix": cache_rows * cache_bytes / GIGABYTE,
        "the student's graph": batch * (graph_bytes + seen_bytes) / GIGABYTE,
        "logits of a chunk": logits_bytes / GIGABYTE,
    }


def _table(config: Any, result: dict[str, Any], data: str) -> Table:
    load, gigabytes = result["load"], result["gigabytes"]
    table = Table(title="Plan; nothing was written", show_header=False)
    table.add_row("parameters", f"{result['parameters'] / 1e6:,.0f}M, of which train {result['trained_parameters']:,}")
    table.add_row("trains", ", ".join(config.trainable))
    table.add_row("data", data)
    table.add_row("examples", f"{load['examples']:,}; {load['questions_per_image']:.1f} questions a picture")
    each = f"{load['prefix_tokens']:,} tokens before the question, {load['question_tokens']} of it written or"
    table.add_row("an example", f"{each} {load['speech_seconds']:.1f} s spoken, {load['response_tokens']} of response")
    examples = round(result["epochs"] * load["examples"] / config.steps)
    table.add_row("steps", f"{config.steps:,} of {examples} a device: {result['epochs']:.2f} epochs")
    for name, value in gigabytes.items():
        table.add_row(f"memory: {name}", f"{value:.1f} GB")
    table.add_row("memory of a device, about", f"{sum(gigabytes.values()):.0f} GB")
    table.add_row("a step", f"{result['step_teraflop']:.1f} TFLOP a device")
    table.add_row("time, about", f"{result['hours']:.2f} hours at {ASSUMED_TERAFLOPS:.0f} TFLOP/s")
    return table
