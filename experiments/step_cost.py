"""What does a training step cost: ours, and the common implementation, which is in this file?

    python experiments/step_cost.py [--device cpu] [--check]

Geometry of InternVL2-1B (Qwen2-0.5B: 24 layers, width 896, 151,655 tokens) with 1, 7 and 13 tiles of 256 tokens, 30
tokens of chat template, a text query of 20 tokens or an audio query of 50 embeddings, a response of 60 tokens, and 1 or
4 questions about an image. On a GPU it is the full size; on a CPU depth and width are a quarter and the vocabulary a
sixteenth, so that the head keeps its share of the work. Weights are random. The vision tower is left out on both
sides (ours runs it once, others twice), the LLM is frozen, the projector trains.

"plain": two full forward passes, logits of all tokens, gradients through the image's tokens. `--check` ends with
1 where a bar is missed (7 tiles, 1 question): Self-KD at most 0.42 of the plain Self-KD's FLOPs, 0.60 of the plain
SFT's, 1.06 of our own SFT's; wall time at most 1.25 times those ratios.
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
from internvl2_1b import FRAME, QUESTION, SPEECH, SPEECH_TOKEN, STACK, TILE, build
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from selfkd.losses import LossConfig
from selfkd.model.modeling_omni import OmniModel
from selfkd.training.self_kd import paired_loss

RESPONSE = 60
BARS = {("ours, Self-KD", "plain, Self-KD"): 0.42, ("ours, Self-KD", "plain, SFT"): 0.60,
        ("ours, Self-KD", "ours, SFT"): 1.06}  # fmt: skip
WALL_TIME_SLACK = 1.25


def make_batch(tiles: int, questions: int, model: OmniModel) -> dict[str, Any]:
    """A batch as `PairedCollator` makes it; the image's tokens are ordinary ids, because the tower is left out."""
    device, generator = model.device, torch.Generator().manual_seed(0)

    def ids(rows: int, length: int) -> Tensor:
        return torch.randint(2, len(model.get_input_embeddings().weight), (rows, length), generator=generator).to(
            device
        )

    response, question = ids(questions, RESPONSE), ids(questions, QUESTION)
    frames = SPEECH * STACK * 2
    return {
        "prefix_ids": ids(1, tiles * TILE + FRAME),
        "prefix_mask": torch.ones(1, tiles * TILE + FRAME, dtype=torch.long, device=device),
        "group": torch.zeros(questions, dtype=torch.long, device=device),
        "image_inputs": {},
        "text_ids": torch.cat([question, response[:, :-1]], 1),
        "text_mask": torch.ones(questions, QUESTION + RESPONSE - 1, dtype=torch.long, device=device),
        "audio_ids": torch.cat([response.new_full((questions, 1), SPEECH_TOKEN), response[:, :-1]], 1),
        "audio_mask": torch.ones(questions, RESPONSE, dtype=torch.long, device=device),
        "audio_inputs": {
            "input_features": torch.randn(questions, 80, frames, generator=generator).to(device, model.dtype),
            "feature_attention_mask": torch.ones(questions, frames, dtype=torch.long, device=device),
        },
        "labels": response,
    }


def our_step(model: OmniModel, batch: dict[str, Any], alpha: float) -> Tensor:
    loss = paired_loss(model, batch, LossConfig(alpha))
    (loss.total / loss.tokens).backward()
    return loss.total.detach() / loss.tokens


def plain_step(model: OmniModel, batch: dict[str, Any], alpha: float) -> Tensor:
    """Two full forward passes with the logits of all tokens, then a mask: the common implementation."""
    questions = len(batch["group"])
    embed = model.get_input_embeddings()
    prefix = embed(batch["prefix_ids"]).expand(questions, -1, -1)
    vectors = model.encode_audio(**batch["audio_inputs"]).vectors
    response = embed(batch["audio_ids"][:, 1:])
    logits = model.vlm(inputs_embeds=torch.cat([prefix, vectors.to(prefix.dtype), response], 1)).logits
    student = logits[:, -RESPONSE:].flatten(0, 1).float()
    loss = (1 - alpha) * F.cross_entropy(student, batch["labels"].flatten())
    if alpha > 0:
        with torch.no_grad():
            teacher = model.vlm(inputs_embeds=torch.cat([prefix, embed(batch["text_ids"])], 1)).logits
        teacher = teacher[:, -RESPONSE:].flatten(0, 1).float().log_softmax(-1)
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


def measure(step: Callable[[], Tensor], model: OmniModel, repeats: int) -> Cost:
    with flop_counter() as counter:
        loss = step()
    seconds = []
    on_gpu = model.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    for _ in range(repeats):
        model.zero_grad()
        started = time.perf_counter()
        step()
        if on_gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    peak = torch.cuda.max_memory_allocated() if on_gpu else _peak_bytes_on_cpu(step)
    return Cost(counter.get_total_flops(), statistics.median(seconds), peak, loss.item())


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
    options = parser.parse_args()
    torch.manual_seed(0)
    model = build(options.device != "cpu", options.device)
    steps = {
        "plain, SFT": (plain_step, 0.0),
        "plain, Self-KD": (plain_step, 1.0),
        "ours, SFT": (our_step, 0.0),
        "ours, Self-KD": (our_step, 1.0),
    }
    size = "full size, bf16" if options.device != "cpu" else "reduced, fp32"
    print(f"InternVL2-1B geometry, {size}, {options.device}, torch {torch.__version__}; median of {options.repeats}")
    print(f"{'tiles':>5} {'questions':>9}  {'step':<15}{'GFLOP':>9}{'of plain':>9}{'ms':>9}{'of plain':>9}{'MB':>8}")
    missed: list[str] = []
    for tiles, questions in ((1, 1), (7, 1), (13, 1), (1, 4), (7, 4), (13, 4)):
        batch = make_batch(tiles, questions, model)
        with NoFullLogits(questions * RESPONSE, len(model.get_input_embeddings().weight)):
            our_step(model, batch, 1.0)
        costs = {n: measure(partial(s, model, batch, a), model, options.repeats) for n, (s, a) in steps.items()}
        for name, cost in costs.items():
            plain = costs[name.replace("ours", "plain")]
            ratios = cost.flops / plain.flops, cost.seconds / plain.seconds
            print(
                f"{tiles:>5} {questions:>9}  {name:<15}{cost.flops / 1e9:>9.1f}{ratios[0]:>9.2f}"
                f"{cost.seconds * 1e3:>9.0f}{ratios[1]:>9.2f}{cost.peak_bytes / 1e6:>8.0f}"
            )
            assert abs(cost.loss - plain.loss) < 0.02 * abs(plain.loss) + 1e-3, f"{name}: another loss than {plain}"
        if (tiles, questions) == (7, 1):
            missed = missed_bars(costs)
    print("\n".join(missed) or "all bars are met")
    return 1 if options.check and missed else 0


def missed_bars(costs: dict[str, Cost]) -> list[str]:
    missed = []
    for (name, other), bar in BARS.items():
        flops, seconds = costs[name].flops / costs[other].flops, costs[name].seconds / costs[other].seconds
        for metric, ratio, limit in (("FLOPs", flops, bar), ("wall time", seconds, bar * WALL_TIME_SLACK)):
            print(f"{name} against {other}: {ratio:.3f} of the {metric} (bar {limit:.3f})")
            if ratio > limit:
                missed.append(f"missed: {metric} of {name} against {other}: {ratio:.3f} > {limit:.3f}")
    return missed


if __name__ == "__main__":
    sys.exit(main())
