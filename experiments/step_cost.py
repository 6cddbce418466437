"""What does a training step cost: ours, and the common implementation, which is in this file?

    python experiments/step_cost.py [--device cpu] [--check]
    python experiments/step_cost.py --tiny        # the bundled model, batches of 1, 4 and 16
    python experiments/step_cost.py --variants    # attention implementations and torch.compile, on our Self-KD step

Geometry of InternVL2-1B (Qwen2-0.5B: 24 layers, width 896, 151,655 tokens) with 1, 7 and 13 tiles of 256 tokens, 30
tokens of chat template, a text query of 20 tokens or an audio query of 50 embeddings, a response of 60 tokens, and 1 or
4 questions about an image. On a GPU it is the full size; on a CPU depth and width are a quarter and the vocabulary a
sixteenth, so that the head keeps its share of the work. Weights are random. The vision tower is left out on both
sides (ours runs it once, others twice), the LLM is frozen, the projector trains.

"plain": two full forward passes, logits of all tokens, gradients through the image's tokens. `--check` ends with
1 where a bar is missed (7 tiles, 1 question): Self-KD at most 0.42 of the plain Self-KD's FLOPs, 0.60 of the plain
SFT's, 1.06 of our own SFT's; time at most 1.25 times those ratios.

The steps of a row take turns. Seconds are of the clock on a GPU, of the CPU without one; what `selfkd distill` does
around a step (`fast_linear`) is on for both sides.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from flops import flop_counter
from internvl2_1b import FRAME, QUESTION, SPEECH, STACK, TILE, build
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from selfkd.losses import LossConfig
from selfkd.model.fast_linear import fast_linear
from selfkd.model.modeling_omni import OmniModel
from selfkd.model.tiny import TINY_STACK_MODEL, load_tiny_model
from selfkd.training.self_kd import paired_loss
from selfkd.training.trainable import freeze_all_but


@dataclass(frozen=True)
class Lengths:
    """Tokens of a tile, of the chat template, of a text query and of a response; audio embeddings of an audio query."""

    tile: int
    frame: int
    question: int
    response: int
    speech: int
    image_size: int = 0  # pixels; 0 leaves out the vision tower


LARGE, TINY = Lengths(TILE, FRAME, QUESTION, 60, SPEECH), Lengths(16, 6, 12, 4, 22, 64)
BARS = {("ours, Self-KD", "plain, Self-KD"): 0.42, ("ours, Self-KD", "plain, SFT"): 0.60,
        ("ours, Self-KD", "ours, SFT"): 1.06}  # fmt: skip
TIME_SLACK = 1.25


def make_batch(
    tiles: int, questions: int, model: OmniModel, lengths: Lengths = LARGE, images: int = 1
) -> dict[str, Any]:
    """A batch as `PairedCollator` makes it; where the tower is left out, the image's tokens are ordinary ids."""
    device, generator = model.device, torch.Generator().manual_seed(0)

    def ids(rows: int, length: int) -> Tensor:
        return torch.randint(2, len(model.get_input_embeddings().weight), (rows, length), generator=generator).to(
            device
        )

    def ones(*shape: int) -> Tensor:
        return torch.ones(shape, dtype=torch.long, device=device)

    response, question = ids(questions, lengths.response), ids(questions, lengths.question)
    image_token = model.config.vlm_config.image_token_id
    prefix, frames = ids(images, tiles * lengths.tile + lengths.frame), lengths.speech * STACK * 2
    image_inputs = {}
    if lengths.image_size:
        for given in (prefix, question, response):
            given[given == image_token] = 2
        prefix[:, 2 : 2 + lengths.tile] = image_token
        image_inputs["pixel_values"] = torch.randn(images, 3, *[lengths.image_size] * 2, generator=generator).to(device)
    text = torch.cat([question, response[:, :-1]], 1)
    audio = torch.cat([response.new_full((questions, 1), model.config.audio_token_id), response[:, :-1]], 1)
    return {
        "prefix_ids": prefix,
        "prefix_mask": ones(*prefix.shape),
        "group": torch.arange(questions, device=device) * images // questions,
        "image_inputs": image_inputs,
        "text_ids": text,
        "text_mask": ones(*text.shape),
        "text_predicts": torch.arange(text.shape[1], device=device).expand(questions, -1) >= lengths.question - 1,
        "audio_ids": audio,
        "audio_mask": ones(*audio.shape),
        "audio_predicts": torch.ones(audio.shape, dtype=torch.bool, device=device),
        "audio_inputs": {
            "input_features": torch.randn(questions, 80, frames, generator=generator).to(device, model.dtype),
            "feature_attention_mask": ones(questions, frames),
        },
        "labels": response,
    }


def our_step(model: OmniModel, batch: dict[str, Any], alpha: float) -> Tensor:
    loss = paired_loss(model, batch, LossConfig(alpha))
    (loss.total / loss.tokens).backward()
    return loss.total.detach() / loss.tokens


def plain_step(model: OmniModel, batch: dict[str, Any], alpha: float) -> Tensor:
    """Two full forward passes with the logits of all tokens, then a mask: the common implementation."""
    embed, rows, group = model.get_input_embeddings(), batch["labels"].shape[1], batch["group"]
    prefix_ids, images = batch["prefix_ids"][group], {n: v[group] for n, v in batch["image_inputs"].items()}
    if images:
        logits = model(torch.cat([prefix_ids, batch["audio_ids"]], 1), **batch["audio_inputs"], **images).logits
    else:
        vectors = model.encode_audio(**batch["audio_inputs"]).vectors.to(embed.weight.dtype)
        parts = embed(prefix_ids), vectors, embed(batch["audio_ids"][:, 1:])
        logits = model.vlm(inputs_embeds=torch.cat(parts, 1)).logits
    student = logits[:, -rows:].flatten(0, 1).float()
    loss = (1 - alpha) * F.cross_entropy(student, batch["labels"].flatten())
    if alpha > 0:
        with torch.no_grad():
            teacher = model.vlm(torch.cat([prefix_ids, batch["text_ids"]], 1), **images).logits
        teacher = teacher[:, -rows:].flatten(0, 1).float().log_softmax(-1)
        loss = loss + alpha * F.kl_div(student.log_softmax(-1), teacher, log_target=True, reduction="batchmean")
    loss.backward()
    return loss.detach()


class NoFullLogits(TorchDispatchMode):
    """Fails where a tensor holds logits of more than the response rows."""

    def __init__(self, rows: int, vocabulary: int):
        super().__init__()
        self.rows, self.vocabulary = rows, vocabulary

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        outputs = function(*args, **(kwargs or {}))
        if any(r.alias_info is not None for r in function._schema.returns):
            return outputs  # a view, for example of the head
        for tensor in outputs if isinstance(outputs, (tuple, list)) else (outputs,):
            if isinstance(tensor, Tensor) and tensor.ndim and tensor.shape[-1] == self.vocabulary:
                assert tensor.numel() <= self.rows * self.vocabulary, f"logits of shape {tuple(tensor.shape)} were made"
        return outputs


@dataclass(frozen=True)
class Cost:
    flops: float
    seconds: float
    peak_bytes: float
    loss: float


def measure(steps: dict[str, Callable[[], Tensor]], model: OmniModel, repeats: int) -> dict[str, Cost]:
    """The costs of steps that take turns, after one that is not timed."""
    on_gpu, seconds = model.device.type == "cuda", {name: list[float]() for name in steps}
    flops, losses, peaks = {}, {}, {}
    for name, step in steps.items():
        with flop_counter() as counter:
            losses[name] = step().item()
        flops[name] = counter.get_total_flops()
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        peaks[name] = 0.0 if on_gpu else _peak_bytes_on_cpu(step)
        if on_gpu:
            step()
            peaks[name] = torch.cuda.max_memory_allocated()
    clock = time.perf_counter if on_gpu else time.process_time
    with fast_linear():  # whose products the counter does not know
        for number in range(repeats + 1):
            for name, step in steps.items():
                model.zero_grad()
                started = clock()
                step()
                if on_gpu:
                    torch.cuda.synchronize()
                if number:
                    seconds[name].append(clock() - started)
    return {n: Cost(flops[n], statistics.median(seconds[n]), peaks[n], losses[n]) for n in steps}


def _peak_bytes_on_cpu(step: Callable[[], Tensor]) -> float:
    """Peak bytes of torch's allocator, above those at the start."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    held = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--check", action="store_true", help="exit 1 where a bar is missed")
    parser.add_argument("--tiny", action="store_true", help="the bundled model, an image for each question")
    parser.add_argument("--variants", action="store_true", help="attention implementations and torch.compile")
    options = parser.parse_args()
    torch.manual_seed(0)
    if options.tiny:
        model, _ = load_tiny_model(TINY_STACK_MODEL)
        freeze_all_but(model.to(options.device), ["projector"])
        model.train()
    else:
        model = build(options.device != "cpu", options.device)
    size = "InternVL2-1B geometry, " + ("full size, bf16" if options.device != "cpu" else "reduced, fp32")
    print(f"{TINY_STACK_MODEL if options.tiny else size}, {options.device}, torch {torch.__version__}; ", end="")
    print(f"median of {options.repeats}")
    if options.variants:
        return print_variants(model, options.repeats)
    return print_costs(model, options.repeats, options.tiny, options.check)


def print_costs(model: OmniModel, repeats: int, tiny: bool, check: bool) -> int:
    steps = {
        "plain, SFT": (plain_step, 0.0),
        "plain, Self-KD": (plain_step, 1.0),
        "ours, SFT": (our_step, 0.0),
        "ours, Self-KD": (our_step, 1.0),
    }
    print(f"{'tiles':>5} {'questions':>9}  {'step':<15}{'GFLOP':>9}{'of plain':>9}{'ms':>9}{'of plain':>9}{'MB':>8}")
    missed: list[str] = []
    for tiles, questions in ((1, 1), (1, 4), (1, 16)) if tiny else ((1, 1), (7, 1), (13, 1), (1, 4), (7, 4), (13, 4)):
        lengths = TINY if tiny else LARGE
        batch = make_batch(tiles, questions, model, lengths, questions if tiny else 1)
        with NoFullLogits(questions * lengths.response, len(model.get_input_embeddings().weight)):
            our_step(model, batch, 1.0)
        costs = measure({n: partial(s, model, batch, a) for n, (s, a) in steps.items()}, model, repeats)
        for name, cost in costs.items():
            plain = costs[name.replace("ours", "plain")]
            ratios = cost.flops / plain.flops, cost.seconds / plain.seconds
            print(
                f"{tiles:>5} {questions:>9}  {name:<15}{cost.flops / 1e9:>9.1f}{ratios[0]:>9.2f}"
                f"{cost.seconds * 1e3:>9.1f}{ratios[1]:>9.2f}{cost.peak_bytes / 1e6:>8.0f}"
            )
            assert abs(cost.loss - plain.loss) < 0.02 * abs(plain.loss) + 1e-3, f"{name}: another loss than {plain}"
        own = costs["ours, Self-KD"].seconds / costs["ours, SFT"].seconds
        print(f"{'':>15}  ours: Self-KD takes {own:.2f} of SFT's time")
        if (tiles, questions) == (7, 1):
            missed = missed_bars(costs)
    if not tiny:
        print("\n".join(missed) or "all bars are met")
    return 1 if check and missed else 0


ATTENTION = ("sdpa", "eager", "flex_attention", "flash_attention_2")


def print_variants(model: OmniModel, repeats: int) -> int:
    """Time and loss of our Self-KD step with each attention implementation of transformers, then with each layer of
    the speech encoder and of the LLM compiled; what cannot run here has its error."""
    batch = make_batch(7, 4, model)
    print(f"{'variant':<20}{'ms':>9}{'MB':>8}{'loss':>12}")

    def report(name: str) -> None:
        try:
            cost = measure({name: partial(our_step, model, batch, 1.0)}, model, repeats)[name]
        except Exception as error:  # whatever a missing library or kernel raises is the finding
            print(f"{name:<20} {type(error).__name__}: {str(error).strip().splitlines()[0][:90]}")
        else:
            print(f"{name:<20}{cost.seconds * 1e3:>9.1f}{cost.peak_bytes / 1e6:>8.0f}{cost.loss:>12.6f}")

    for implementation in ATTENTION:
        try:
            model.vlm.set_attn_implementation(implementation)
        except (ImportError, ValueError) as error:
            print(f"{implementation:<20} {str(error).strip().splitlines()[0][:100]}")
        else:
            report(implementation)
    model.vlm.set_attn_implementation("sdpa")
    for layer in [*model.speech_encoder.layers, *model.vlm.get_decoder().layers]:
        layer.compile(dynamic=True)
    report("sdpa, compiled")
    return 0


def missed_bars(costs: dict[str, Cost]) -> list[str]:
    missed = []
    for (name, other), bar in BARS.items():
        flops, seconds = costs[name].flops / costs[other].flops, costs[name].seconds / costs[other].seconds
        for metric, ratio, limit in (("FLOPs", flops, bar), ("time", seconds, bar * TIME_SLACK)):
            print(f"{name} against {other}: {ratio:.3f} of the {metric} (bar {limit:.3f})")
            if ratio > limit:
                missed.append(f"missed: {metric} of {name} against {other}: {ratio:.3f} > {limit:.3f}")
    return missed


if __name__ == "__main__":
    sys.exit(main())
