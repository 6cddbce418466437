"""What does a step of each recipe take on a GPU, at full size, and does `--dry-run` foretell it?

    python experiments/recipe_cost.py [--recipes recipes/internvl2_8b.yaml ...] [--output runs/recipe_cost.json]
    python experiments/recipe_cost.py --device cpu --layers 1 --batch_size 1    # that it runs, nothing else

Each model has its recipe's skeleton for a configuration, weights at random, and an average example of the plan's: a
picture of 1,792 tokens (seen by its own vision tower), 20 tokens of a written question, 4 s of a spoken one through
Whisper-large-v3's encoder, 60 tokens of response; the recipe's batch. A step is forward, backward, clipping and AdamW,
in bf16 with what trains in fp32, as `selfkd distill` has it.

"plain" is how it is done elsewhere (InternVL2 alone): two full passes, logits of all tokens, gradients through the
picture's tokens; in as many pieces as it takes to fit. "CTC alone" is stage 1 of ears that hear tokens.
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
from selfkd.training.estimate import ASSUMED_TERAFLOPS, Load, memory, read_model_config, step_flops
from selfkd.training.self_kd import paired_loss
from selfkd.training.trainable import AUDIO_PARTS, LORA, set_trainable

LOAD = Load()
HEARD, QUESTION_IDS = 4000, 12  # tokens that the ears of "CTC alone" can hear, and those of a question
IMAGE_ID = 2
RECIPES = [
    f"recipes/{name}.yaml"
    for name in ("internvl2_8b", "internvl2_1b", "qwen2_vl_7b", "internvl2_2b", "internvl2_4b", "qwen2_vl_2b",
                 "qwen2_5_vl_3b", "qwen3_vl_2b")
]  # fmt: skip
Step = Callable[[OmniModel, dict[str, Any]], Tensor]


def build(config: OmniConfig, trainable: list[str], device: torch.device) -> OmniModel:
    """The model as `load_omni` gives it, but for its weights: the VLM in bf16, the ears in fp32."""
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
    """A skeleton's, with `layers` to each part unless that is 0."""
    config = read_model_config(path)
    vision_encoder = config.vlm_config.vision_config
    if config.vlm_config.image_token_id >= config.get_text_config().vocab_size:
        config.vlm_config.image_token_id = IMAGE_ID  # a skeleton says nothing of it
    for part in (config.audio_config, config.get_text_config(), vision_encoder) if layers else ():
        for name in {"num_hidden_layers", "depth", "encoder_layers"} & set(vars(part)):
            setattr(part, name, layers)
    if layers and hasattr(vision_encoder, "deepstack_visual_indexes"):
        vision_encoder.deepstack_visual_indexes = []
    return config


def load_image(config: OmniConfig, count: int) -> dict[str, Tensor]:
    """What a processor gives of `count` pictures that take 1,792 tokens each."""
    vision = config.vlm_config.vision_config
    if config.vlm_config.model_type == "internvl":
        return {"pixel_values": torch.randn(count * 7, 3, *vision.image_size)}
    grid = torch.tensor([[1, 64, 112]] * count)
    size = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    return {"pixel_values": torch.randn(int(grid.prod(1).sum()), size), "image_grid_thw": grid}


def make_batch(config: OmniConfig, count: int, device: torch.device) -> dict[str, Any]:
    """A batch as `PairedCollator` makes it."""
    seen, frames = 7 * 256, round(LOAD.speech_seconds * 100)

    def ids(length: int) -> Tensor:
        return torch.randint(IMAGE_ID + 1, HEARD, (count, length))

    response, question, frame = ids(LOAD.response_tokens), ids(LOAD.question_tokens), ids(LOAD.prefix_tokens - seen)
    prefix = torch.cat([frame[:, :4], torch.full((count, seen), config.vlm_config.image_token_id), frame[:, 4:]], 1)
    heard = torch.full((count, 1), config.audio_token_id)
    batch: dict[str, Any] = {
        "prefix_ids": prefix,
        "group": torch.arange(count),
        "text_ids": torch.cat([question, response[:, :-1]], 1),
        "audio_ids": torch.cat([heard, response[:, :-1]], 1),
        "labels": response,
        "transcript_ids": question[:, :QUESTION_IDS],
    }
    batch |= {f"{modality}_mask": torch.ones_like(batch[f"{modality}_ids"]) for modality in ("prefix", "text", "audio")}
    batch = {name: tensor.to(device) for name, tensor in batch.items()}
    mel = torch.randn(count, config.audio_config.num_mel_bins, frames)
    heard_B = torch.ones(count, frames, dtype=torch.long, device=device)
    batch["audio_inputs"] = {"mel_BFM": mel.to(device), "mel_mask_BM": heard_B}
    batch["image_inputs"] = {
        name: tensor.to(device, torch.bfloat16 if tensor.is_floating_point() else None)
        for name, tensor in load_image(config, count).items()
    }
    return batch


def ours(objective: LossConfig) -> Step:
    def step(model: OmniModel, batch: dict[str, Any]) -> Tensor:
        loss = paired_loss(model, batch, objective)
        return loss.total / loss.tokens

    return step


def plain(model: OmniModel, batch: dict[str, Any]) -> Tensor:
    """Self-KD by two full passes with the logits of all tokens, then a mask."""
    student_ids = torch.cat([batch["prefix_ids"], batch["audio_ids"]], 1)
    student = model(student_ids, audio_inputs=batch["audio_inputs"], **batch["image_inputs"]).logits
    with torch.no_grad():
        teacher = model(torch.cat([batch["prefix_ids"], batch["text_ids"]], 1), **batch["image_inputs"]).logits
    length = batch["labels"].shape[1]
    student, teacher = (logits[:, -length:].flatten(0, 1).float().log_softmax(-1) for logits in (student, teacher))
    return F.kl_div(student, teacher, log_target=True, reduction="batchmean")


def piece(batch: dict[str, Any], start: int, stop: int, of: int) -> dict[str, Any]:
    """Some examples of a batch of `of`; pictures lie one after another, as many rows each."""

    def cut(tensor: Tensor) -> Tensor:
        return tensor[start * len(tensor) // of : stop * len(tensor) // of]

    parts = {n: {k: cut(t) for k, t in v.items()} if isinstance(v, dict) else cut(v) for n, v in batch.items()}
    return parts | {"group": batch["group"][: stop - start]}


def measure(step: Step, model: OmniModel, batch: dict[str, Any], pieces: int, repeats: int) -> dict[str, Any]:
    """Median seconds of a step of `pieces` parts, their spread, its TFLOP, and the most memory that was taken."""
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
            if pieces >= len(batch["labels"]):  # an example alone is too much
                raise
            model.zero_grad()
        torch.cuda.empty_cache()  # here, where the error holds no tensors of the step any more
        pieces *= 2


def measured(path: str, options: argparse.Namespace, device: torch.device) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each step of a recipe by name, measured and as the plan has it."""
    recipe = yaml.safe_load(Path(path).read_text())
    model_config, count = recipe["model_config"], options.batch_size or recipe["batch_size"]
    config = configuration(model_config, options.layers)
    model, batch = build(config, recipe["trainable"], device), make_batch(config, count, device)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    for name, objective in (("Self-KD", LossConfig(1.0)), ("SFT", LossConfig(0.0))):
        found = in_pieces(ours(objective), model, batch, options.repeats)
        teraflop = step_flops(model, LOAD, count, recipe["trainable"], objective) / 1e12
        gigabytes = sum(memory(model, LOAD, count, trained, objective, False).values())
        plan = {"teraflop": teraflop, "seconds": teraflop / ASSUMED_TERAFLOPS, "gigabytes": gigabytes}
        yield name, found | {"batch_size": count, "plan": plan}
    if config.vlm_config.model_type == "internvl":
        yield "plain Self-KD", in_pieces(plain, model, batch, options.repeats)
    if path == options.recipes[0]:
        config.ctc_token_ids = list(range(HEARD))
        model, objective = build(config, list(AUDIO_PARTS), device), LossConfig(transcript=1.0, response=0.0)
        plan = {"teraflop": step_flops(model, LOAD, count, list(AUDIO_PARTS), objective) / 1e12}
        yield "CTC alone", in_pieces(ours(objective), model, batch, options.repeats) | {"plan": plan}


def show(path: str, name: str, cost: dict[str, Any]) -> None:
    plan = cost.get("plan", {})
    print(
        f"{Path(path).stem:<16}{name:<15}{cost['seconds']:>8.3f} s{plan.get('seconds', 0):>8.3f}"
        f"{cost['teraflop']:>8.0f} TF{plan.get('teraflop', 0):>7.0f}{cost['gigabytes'] or 0:>7.1f} GB"
        f"{plan.get('gigabytes', 0):>6.1f}  in {cost['pieces']}",
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
    print(f"{gpu}, torch {torch.__version__}; of a step, measured and planned")
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
