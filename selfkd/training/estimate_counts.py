"""What a training step and a run take, counted from configurations: FLOPs by part, bytes of memory by use, bytes on
disk. The model may be on torch's meta device, so that counts for 8B parameters take seconds.

Legend: B examples, P prefix tokens, S tokens after the prefix.
"""

from dataclasses import dataclass
from typing import Any

import torch

from selfkd.losses import CHUNK_ROWS, LossConfig, needs_responses, needs_teacher
from selfkd.model.modeling_omni import OmniModel
from selfkd.training.config import ADAPTERS, AUDIO_PARTS

FRAMES_PER_SECOND = 50  # of a Whisper encoder
WINDOW_SECONDS = 30  # its input with `pad_to_window`
NATIVE_STACK = 2  # encoder frames per audio embedding of Qwen2.5-Omni and Gemma (25 a second); others have more
TEMPLATE_TOKENS = 30  # of a chat template, about
PATCHES_PER_TOKEN = 4
GIGABYTE = 1e9
LOGITS_OF_SFT, LOGITS_OF_KD = 3, 8  # tensors of a chunk's logits, fp32, that the loss holds at once
# parts of a step, each with an efficiency of its own
VISION, LLM, ATTENTION, SPEECH = "vision encoder", "LLM", "attention to the prefix", "speech encoder and projector"


@dataclass(frozen=True)
class Load:
    """Size of the data and of its average example. The defaults are LLaVA-like questions about images of 7 tiles."""

    examples: int = 50_000
    questions_per_image: float = 1.0
    image_tokens: int = 7 * 256
    prefix_tokens: int = 7 * 256 + TEMPLATE_TOKENS  # those of the image included
    question_tokens: int = 20
    speech_seconds: float = 4.0
    response_tokens: int = 60
    turns: float = 1.0  # of an example; the other numbers but those of the prefix are over all its turns


SENTENCES = Load(image_tokens=0, prefix_tokens=TEMPLATE_TOKENS, question_tokens=15, response_tokens=15)  # of stage 1


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


def _audio_embeddings(model: OmniModel, load: Load) -> float:
    return load.speech_seconds * FRAMES_PER_SECOND / (NATIVE_STACK if model.is_native else model.config.stack_factor)


def _between_turns(load: Load) -> float:
    return TEMPLATE_TOKENS * (load.turns - 1)


def step_flops(
    model: OmniModel, load: Load, batch: int, trainable: list[str], loss_config: LossConfig
) -> dict[str, float]:
    """FLOPs of an optimizer step by part: 2 per parameter and token for the forward pass, 2 for the gradient of the
    inputs, 2 for the gradient of the weights.

    The image prefix and the teacher have a forward pass only. Where the LLM trains, the teacher encodes a prefix of its
    own and the student's prefix has a gradient. Without a loss on responses only speech encoder and projector run.
    """
    llm_trains = "llm" in trainable
    size, images = _sizes(model), batch / load.questions_per_image
    frames, vectors = batch * _encoder_frames(model, load), batch * _audio_embeddings(model, load)
    encoder = (6 if "speech_encoder" in trainable else 2) * frames * size["encoder"] + 6 * vectors * size["projector"]
    if not needs_responses(loss_config):
        return {SPEECH: encoder}
    vision, prefix = _prefix_flops(model, load, size)
    responses = batch * load.response_tokens
    passes = 3 if llm_trains else 2  # forward, and gradients: a frozen weight has none
    student = (
        2 * passes * ((vectors + batch * _between_turns(load) + responses) * size["llm"] + responses * size["head"])
    )
    attention = 3 * batch * _attention_flops(model, load, _audio_embeddings(model, load))
    vision, prefix = images * vision, images * prefix * (3 if llm_trains else 1)
    if needs_teacher(loss_config):
        if llm_trains:
            vision, prefix = 2 * vision, prefix + prefix / 3
        student += 2 * ((batch * load.question_tokens + responses) * size["llm"] + responses * size["head"])
        attention += batch * _attention_flops(model, load, load.question_tokens)
    return {VISION: vision, LLM: prefix + student, ATTENTION: attention, SPEECH: encoder}


def layer_passes(model: OmniModel, trainable: list[str], loss_config: LossConfig) -> float:
    """Passes of single layers in a step, one after the other; a backward pass counts as two."""
    encoder = model.config.audio_config
    speech = (3 if "speech_encoder" in trainable else 1) * (0 if encoder is None else encoder.encoder_layers)
    if not needs_responses(loss_config):
        return speech
    llm_trains, with_teacher = "llm" in trainable, needs_teacher(loss_config)
    prefixes = (3 if llm_trains else 1) + (llm_trains and with_teacher)
    llm_layers = model.config.get_text_config().num_hidden_layers
    return speech + _vision_layers(model) + llm_layers * (prefixes + 3 + with_teacher)


def _prefix_flops(model: OmniModel, load: Load, size: dict[str, float]) -> tuple[float, float]:
    """(FLOPs of the vision encoder, of the LLM) for a forward pass over one image and the text before the question. In
    the vision encoder each patch attends to all patches of its tile, or of an image without tiles. In the LLM a token
    attends to those before it."""
    text = model.config.get_text_config()
    llm_flops = 2 * load.prefix_tokens * size["llm"]
    llm_flops += 2 * load.prefix_tokens**2 * text.num_hidden_layers * text.num_attention_heads * head_width(text)
    patches = PATCHES_PER_TOKEN * load.image_tokens
    vision_encoder: Any = getattr(model.config.vlm_config, "vision_config", None)
    full = len(getattr(vision_encoder, "fullatt_block_indexes", ()))  # Qwen2.5's other layers attend within a window
    width = getattr(vision_encoder, "embed_dim", 0) or getattr(vision_encoder, "hidden_size", 0)
    tiled = hasattr(vision_encoder, "image_size") and hasattr(vision_encoder, "patch_size")
    tile = (_side(vision_encoder.image_size) // _side(vision_encoder.patch_size)) ** 2 if tiled else patches
    return 2 * patches * size["vision"] + 4 * patches * tile * (full or _vision_layers(model)) * width, llm_flops


def _attention_flops(model: OmniModel, load: Load, query_tokens: float) -> float:
    """FLOPs of a forward pass of attention from query and response to the prefix and to what stands before them."""
    text = model.config.get_text_config()
    tokens = query_tokens + _between_turns(load) + load.response_tokens
    keys = load.prefix_tokens + tokens / 2
    return 4 * tokens * keys * text.num_hidden_layers * text.num_attention_heads * head_width(text)


def _vision_layers(model: OmniModel) -> int:
    vision_encoder: Any = getattr(model.config.vlm_config, "vision_config", None)
    return getattr(vision_encoder, "depth", 0) or getattr(vision_encoder, "num_hidden_layers", 0)


def _side(pixels: Any) -> int:
    return pixels if isinstance(pixels, int) else pixels[0]


def head_width(text: Any) -> int:
    return getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads


def vlm_bytes(model: OmniModel) -> int:
    """Bytes of a value in the dtype of the VLM's checkpoint: bf16 unless its configuration says otherwise."""
    dtype = model.config.vlm_config.dtype
    return 4 if dtype in (torch.float32, "float32") else 2


def memory(
    model: OmniModel, load: Load, batch: int, trainable: list[str], loss_config: LossConfig, averaged: bool
) -> dict[str, float]:
    """Gigabytes on one device, by use, at the step's peak: a frozen VLM in its checkpoint's dtype, a frozen speech
    encoder in fp32, 16 bytes for each trainable parameter (weight, gradient, AdamW's two moments), 4 more with weight
    averaging. The activations of a native model's audio encoder are left out, since these encoders differ too much."""
    value = vlm_bytes(model)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = [(name, p) for name, p in model.named_parameters() if not p.requires_grad]
    frozen_bytes = sum((4 if name.startswith(AUDIO_PARTS) else value) * p.numel() for name, p in frozen)
    if model.llm_trains and needs_teacher(loss_config):  # a frozen copy is the teacher
        frozen_bytes += value * sum(p.numel() for p in model.vlm.parameters())
    weights = {
        "frozen weights": frozen_bytes / GIGABYTE,
        "trainable weights, gradients, optimizer": (20 if averaged else 16) * trained / GIGABYTE,
    }
    encoder = model.config.audio_config
    if encoder is not None and any(q.requires_grad for q in model.speech_encoder.parameters()):
        layers_frames = encoder.encoder_layers * batch * _encoder_frames(model, load)
        values = 12 * encoder.d_model + 2 * encoder.encoder_ffn_dim
        weights["speech encoder activations"] = value * layers_frames * values / GIGABYTE
    if not needs_responses(loss_config):
        return weights
    phases = _prefix_phase(model, load, batch), _student_phase(model, load, batch, trainable, loss_config)
    return weights | {use: held / GIGABYTE for use, held in max(phases, key=lambda uses: sum(uses.values())).items()}


def _cache_bytes(model: OmniModel, load: Load, rows: float) -> float:
    text = model.config.get_text_config()
    per_token = 2 * vlm_bytes(model) * text.num_hidden_layers * text.num_key_value_heads * head_width(text)
    return per_token * load.prefix_tokens * rows


def _prefix_phase(model: OmniModel, load: Load, batch: int) -> dict[str, float]:
    """Bytes while the prefix is encoded, by use: that of its last layer, the widest, next to all keys and values."""
    text, images = model.config.get_text_config(), batch / load.questions_per_image
    values = 5 * text.hidden_size + 3 * _intermediate_size(text)
    transient = images * load.prefix_tokens * vlm_bytes(model) * values
    return {
        "KV cache of the prefix": _cache_bytes(model, load, images),
        "a layer's pass over the prefix": transient,
    }


def _student_phase(
    model: OmniModel, load: Load, batch: int, trainable: list[str], loss_config: LossConfig
) -> dict[str, float]:
    """Bytes from the end of the student's forward pass to the start of its backward pass, by use. The loss holds
    logits; the backward pass holds the gradients of a layer's keys and values, before and after they are summed over
    shared heads. The forward pass of every step that was measured held a copy of the prefix too, which transformers
    made into its cache; it makes none any more, so the estimate is an upper bound until steps are measured again."""
    text, value = model.config.get_text_config(), vlm_bytes(model)
    layers, width = text.num_hidden_layers, text.hidden_size
    heads_width = text.num_attention_heads * head_width(text)
    tokens = _audio_embeddings(model, load) + load.response_tokens + _between_turns(load)
    keys = load.prefix_tokens + tokens
    if model.llm_trains:  # the prefix is in the graph
        tokens += load.prefix_tokens
    # Kept of a layer for each token: the inputs of two norms in fp32; query and output of attention; gate, activation
    # and other input of the product. A weight that trains, an adapter's too, keeps its input next to that.
    values = 2 * heads_width + 3 * _intermediate_size(text)
    if {"llm", ADAPTERS} & set(trainable):
        values += 2 * width + _intermediate_size(text)
    graph_bytes = layers * tokens * (2 * 4 * width + value * values)
    attention_bytes = 2 * value * layers * heads_width * keys  # keys and values of all, repeated for each head
    encoder = model.config.audio_config
    outside_bytes = 16 * width * tokens + (0 if encoder is None else 8 * encoder.d_model * _encoder_frames(model, load))
    cache_bytes = _cache_bytes(model, load, batch)
    logits_bytes = 4 * min(CHUNK_ROWS, batch * load.response_tokens) * text.vocab_size
    logits_bytes *= LOGITS_OF_KD if needs_teacher(loss_config) else LOGITS_OF_SFT
    return {
        "KV cache of the prefix": cache_bytes,
        "student activations": batch * (graph_bytes + attention_bytes + outside_bytes),
        "a copy of the KV cache, logits, or gradients": max(
            cache_bytes, logits_bytes, 2 * batch * attention_bytes / layers
        ),
    }


def _intermediate_size(text: Any) -> int:
    sizes = text.intermediate_size
    return max(sizes) if isinstance(sizes, list) else sizes


def disk(model: OmniModel, trained: int, averaged: bool) -> dict[str, float]:
    """Gigabytes of a run directory: `kept`, the trained model; `peak`, with what stands next to it on the way. A
    checkpoint has fp32 weights and AdamW's two moments of what trains; the one before is deleted after it is written.
    """
    value = vlm_bytes(model)
    audio = 0 if model.is_native else sum(p.numel() for name in AUDIO_PARTS for p in getattr(model, name).parameters())
    kept = value * (sum(p.numel() for p in model.parameters()) - audio) + 4 * audio
    checkpoint = (16 if averaged else 12) * trained
    return {"kept": kept / GIGABYTE, "peak": (checkpoint + max(checkpoint, kept)) / GIGABYTE}
