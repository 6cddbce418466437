"""What does a step of each recipe cost on a GPU, at full size, and does `--dry-run` predict it?

    python experiments/recipe_cost.py [--recipes recipes/internvl2_8b.yaml ...] [--output runs/recipe_cost.json]
    python experiments/recipe_cost.py --device cpu --layers 1 --batch_size 1    # only that it runs

Each model has its recipe's model config, random weights, and the average example of the estimate: an image of 1,792
tokens (encoded by its own vision tower), a text query of 20 tokens, an audio query of 4 s through Whisper-large-v3's
encoder, a response of 60 tokens; the recipe's batch. A step is forward, backward, clipping and AdamW, in bf16 with the
trained weights in fp32, as in `selfkd distill`.

"plain" is the common implementation (InternVL2 only): two full passes, logits of all tokens, gradients through the
image's tokens; in as many pieces as fit in memory. "CTC-only" is stage 1 of the CTC projector.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from flops import flop_counter
from torch import Tensor
from torch.nn import functional as F

from selfkd.files import write_json
from selfkd.losses import LossConfig
from selfkd.model.configuration_omni import OmniConfig
from selfkd.model.modeling_omni import OmniModel
from selfkd.training.device_kinds import device_kind
from selfkd.training.estimate import read_model_config
from selfkd.training.estimate_counts import Load, layer_passes, memory, step_flops
from selfkd.training.self_kd import paired_loss
from selfkd.training.trainable import AUDIO_PARTS, LORA, set_trainable

LOAD = Load()
CTC_TOKENS, QUESTION_IDS = 4000, 12  # in "CTC-only": tokens of the CTC head, and of a question
IMAGE_ID = 2
RECIPES = [
    f"recipes/{name}.yaml"
    for name in ("internvl2_8b", "internvl2_1b", "qwen2_vl_7b", "internvl2_2b", "internvl2_4b", "qwen2_vl_2b",
                 "qwen2_5_vl_3b", "qwen3_vl_2b")
]  # fmt: skip
Step = Callable[[OmniModel, dict[str, Any]], Tensor]


def build(config: OmniConfig, trainable: list[str], device: torch.device) -> OmniModel:
    """The model as `load_model` gives it except for the weights: the VLM in bf16, the audio parts in fp32."""
    config.vlm_config.dtype = torch.bfloat16
    torch.set_default_dtype(torch.bfloat16)
    with device:
        model = OmniModel(config)
    torch.set_default_dtype(torch.float32)
    model.speech_encoder.float()
    model.projector.float()
    set_trainable(model, trainable, LORA)
    return model.train()


def configuration(path: str, layers: int) -> OmniConfig:
    """A model config, with `layers` layers in each part unless that is 0."""
    config = read_model_config(path)
    vision_encoder = config.vlm_config.vision_config
    if config.vlm_config.image_token_id >= config.get_text_config().vocab_size:
        config.vlm_config.image_token_id = IMAGE_ID  # the file does not have it
    for part in (config.audio_config, config.get_text_config(), vision_encoder) if layers else ():
        for name in {"num_hidden_layers", "depth", "encoder_layers"} & set(vars(part)):
            setattr(part, name, layers)
    if layers and hasattr(vision_encoder, "deepstack_visual_indexes"):
        vision_encoder.deepstack_visual_indexes = []
    return config


def load_image(config: OmniConfig, count: int) -> dict[str, Tensor]:
    """The processor's output for `count` images of 1,792 tokens each."""
    vision = config.vlm_config.vision_config
    if config.vlm_config.model_type == "internvl":
        return {"pixel_values": torch.randn(count * 7, 3, *vision.image_size)}
    grid = torch.tensor([[1, 64, 112]] * count)
    size = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    return {"pixel_values": torch.randn(int(grid.prod(1).sum()), size), "image_grid_thw": grid}


def make_batch(config: OmniConfig, count: int, device: torch.device) -> dict[str, Any]:
    """A batch as `PairedCollator` makes it."""
    image_tokens, frames = 7 * 256, round(LOAD.speech_seconds * 100)

    def ids(length: int) -> Tensor:
        return torch.randint(IMAGE_ID + 1, CTC_TOKENS, (count, length))

    response, question, frame = (
        ids(LOAD.response_tokens),
        ids(LOAD.question_tokens),
        ids(LOAD.prefix_tokens - image_tokens),
    )
    parts = [frame[:, :4], torch.full((count, image_tokens), config.vlm_config.image_token_id)]
    prefix = torch.cat([*parts, frame[:, 4:]], 1)
    audio_token = torch.full((count, 1), config.audio_token_id)
    batch: dict[str, Any] = {
        "prefix_ids": prefix,
        "group": torch.arange(count),
        "text_ids": torch.cat([question, response[:, :-1]], 1),
        "audio_ids": torch.cat([audio_token, response[:, :-1]], 1),
        "labels": response,
        "transcript_ids": question[:, :QUESTION_IDS],
    }
    batch |= {f"{modality}_mask": torch.ones_like(batch[f"{modality}_ids"]) for modality in ("prefix", "text", "audio")}
    batch = {name: tensor.to(device) for name, tensor in batch.items()}
    mel = torch.randn(count, config.audio_config.num_mel_bins, frames)
    mask = torch.ones(count, frames, dtype=torch.long, device=device)
    batch["audio_inputs"] = {"input_features": mel.to(device), "feature_attention_mask": mask}
    batch["image_inputs"] = {
        name: tensor.to(device, torch.bfloat16 if tensor.is_floating_point() else None)
        for name, tensor in load_image(config, count).items()
    }
    return batch


def ours(loss_config: LossConfig) -> Step:
    def step(model: OmniModel, batch: dict[str, Any]) -> Tensor:
        loss = paired_loss(model, batch, loss_config)
        return loss.total / loss.tokens

    return step


def plain(model: OmniModel, batch: dict[str, Any]) -> Tensor:
    """Self-KD by two full passes with the logits of all tokens, then a mask."""
    student_ids = torch.cat([batch["prefix_ids"], batch["audio_ids"]], 1)
    student = model(student_ids, **batch["audio_inputs"], **batch["image_inputs"]).logits
    with torch.no_grad():
        teacher = model(torch.cat([batch["prefix_ids"], batch["text_ids"]], 1), **batch["image_inputs"]).logits
    length = batch["labels"].shape[1]
    student, teacher = (logits[:, -length:].flatten(0, 1).float().log_softmax(-1) for logits in (student, teacher))
    return F.kl_div(student, teacher, log_target=True, reduction="batchmean")


def piece(batch: dict[str, Any], start: int, stop: int, of: int) -> dict[str, Any]:
    """Some examples of a batch of `of`; images are concatenated, with equally many rows each."""

    def cut(tensor: Tensor) -> Tensor:
        return tensor[start * len(tensor) // of : stop * len(tensor) // of]

    parts = {n: {k: cut(t) for k, t in v.items()} if isinstance(v, dict) else cut(v) for n, v in batch.items()}
    return parts | {"group": batch["group"][: stop - start]}


def measure(step: Step, model: OmniModel, batch: dict[str, Any], pieces: int, repeats: int) -> dict[str, Any]:
    """Median seconds of a step of `pieces` parts, their range, its TFLOP, and the peak memory."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer, on_gpu = torch.optim.AdamW(trained, lr=1e-5), model.device.type == "cuda"
    of = len(batch["labels"])
    size = -(-of // pieces)

    def whole() -> float:
        total = 0.0
        for start in range(0, of, size):
            stop = min(start + size, of)
            with torch.autocast(model.device.type, torch.bfloat16):
                loss = step(model, piece(batch, start, stop, of)) * ((stop - start) / of)
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return total

    with flop_counter() as counter:
        loss = whole()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        whole()
        if on_gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return {
        "seconds": statistics.median(seconds),
        "range": [min(seconds), max(seconds)],
        "teraflop": counter.get_total_flops() / 1e12,
        "gigabytes": torch.cuda.max_memory_allocated() / 1e9 if on_gpu else None,
        "pieces": pieces,
        "loss": loss,
    }


def in_pieces(step: Step, model: OmniModel, batch: dict[str, Any], repeats: int) -> dict[str, Any]:
    """`measure`, in as few pieces as memory allows."""
    pieces = 1
    while True:
        try:
            return measure(step, model, batch, pieces, repeats)
        except torch.OutOfMemoryError:
            if pieces >= len(batch["labels"]):  # a single example is too much
                raise
            model.zero_grad()
        torch.cuda.empty_cache()  # here, because the error no longer holds tensors of the step
        pieces *= 2


def measured(path: str, options: argparse.Namespace, device: torch.device) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each step of a recipe by name, measured and estimated."""
    recipe = yaml.safe_load(Path(path).read_text())
    model_config, count = recipe["model_config"], options.batch_size or recipe["batch_size"]
    config = configuration(model_config, options.layers)
    model, batch = build(config, recipe["trainable"], device), make_batch(config, count, device)
    for name, loss_config in (("Self-KD", LossConfig(1.0)), ("SFT", LossConfig(0.0))):
        found = in_pieces(ours(loss_config), model, batch, options.repeats)
        yield name, found | {"batch_size": count, "estimate": estimated(model, count, recipe["trainable"], loss_config)}
    if config.vlm_config.model_type == "internvl":
        yield "plain Self-KD", in_pieces(plain, model, batch, options.repeats)
    if path == options.recipes[0]:
        config.ctc_token_ids = list(range(CTC_TOKENS))
        model, loss_config = build(config, list(AUDIO_PARTS), device), LossConfig(ctc_weight=1.0, response_weight=0.0)
        found = in_pieces(ours(loss_config), model, batch, options.repeats)
        yield "CTC-only", found | {"estimate": estimated(model, count, list(AUDIO_PARTS), loss_config)}


def estimated(model: OmniModel, count: int, trainable: list[str], loss_config: LossConfig) -> dict[str, float]:
    """What `--dry-run` says of the same step, on the device that is there."""
    flops = step_flops(model, LOAD, count, trainable, loss_config)
    passes, width = layer_passes(model, trainable, loss_config), model.config.get_text_config().hidden_size
    return {
        "teraflop": sum(flops.values()) / 1e12,
        "seconds": device_kind(None).seconds(flops, passes, width),
        "gigabytes": sum(memory(model, LOAD, count, trainable, loss_config, False).values()),
    }


def show(path: str, name: str, cost: dict[str, Any]) -> None:
    estimate = cost.get("estimate", {})
    print(
        f"{Path(path).stem:<16}{name:<15}{cost['seconds']:>8.3f} s{estimate.get('seconds', 0):>8.3f}"
        f"{cost['teraflop']:>8.0f} TF{estimate.get('teraflop', 0):>7.0f}{cost['gigabytes'] or 0:>7.1f} GB"
        f"{estimate.get('gigabytes', 0):>6.1f}  in {cost['pieces']}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=RECIPES)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--layers", type=int, default=0, help="of each part, in place of the recipe's")
    parser.add_argument("--batch_size", type=int, default=0, help="in place of the recipe's")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("runs/recipe_cost.json"))
    options = parser.parse_args()
    torch.manual_seed(0)
    device = torch.device(options.device)
    gpu = torch.cuda.get_device_name() if device.type == "cuda" else "no GPU"
    result: dict[str, Any] = {"torch": torch.__version__, "gpu": gpu, "repeats": options.repeats, "recipes": {}}
    print(f"{gpu}, torch {torch.__version__}; a step, measured and estimated")
    for path in options.recipes:
        steps = result["recipes"].setdefault(Path(path).stem, {})
        for name, found in measured(path, options, device):
            steps[name] = found
            show(path, name, found)
            write_json(options.output, result)
        if device.type == "cuda":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
