"""Where do the CPU seconds of a training step go, and what did a change of the code save?

    python experiments/step_profile.py --output runs/profile [--steps 20] [--before CHECKOUT] [--repeats 3]

Runs the steps of the demo and of the study, each in a process of its own, and prints the ten largest costs of each in
CPU milliseconds a step. With `--before`, another checkout of the repository, its code and this one's take turns, and
each cost has both.

Every example is new in its step (the first epoch), and the first step is not counted. A cost is exclusive: the mel
frames of an item do not count as making the item. Times are CPU seconds of the process, with one thread, so that other
work on the machine disturbs little; the counters take under a hundredth of a step. What runs in the backward pass is
one number.
"""

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

SETTINGS: dict[str, dict[str, Any]] = {
    "Self-KD, frame stacking (demo)": {"model": "selfkd-tiny-stack", "alpha": 1.0, "batch_size": 16},
    "SFT, frame stacking (demo)": {"model": "selfkd-tiny-stack", "alpha": 0.0, "batch_size": 16},
    "Self-KD, CTC projector (study)": {"model": "selfkd-tiny", "alpha": 1.0, "batch_size": 16},
    "on-policy Self-KD, frame stacking": {
        "model": "selfkd-tiny-stack", "alpha": 1.0, "batch_size": 16, "on_policy_fraction": 1.0,
    },
    "CTC only (align)": {"batch_size": 32},
    "Self-KD, the LLM trains (peers)": {
        "model": "selfkd-tiny-stack", "alpha": 1.0, "batch_size": 4, "trainable": ["llm"],
    },
}  # fmt: skip
# part -> the functions that it is, each as module:name; one that a checkout does not have is left out
PARTS: dict[str, tuple[str, ...]] = {
    "read the rows": ("selfkd.data.dataset:ExampleFolder.read",),
    "decode the image": ("selfkd.data.example:Example.load_image", "selfkd.data.lazy_images:LazyImage.load"),
    "decode the audio": ("selfkd.data.example:Example.samples",),
    "image processor": (
        "selfkd.model.queries:QueryProcessor.encode_image",
        "selfkd.model.queries:QueryProcessor.process_image",
    ),
    "log-mel frames": ("selfkd.model.queries:log_mel",),
    "token ids": ("selfkd.model.control_tokens:TextTokenizer.ids", "selfkd.model.queries:QueryProcessor.ids"),
    "items, the rest": ("selfkd.training.data:PairedDataset.__getitem__",),
    "collate": ("selfkd.training.data:PairedCollator.__call__",),
    "SpecAugment": ("selfkd.training.trainer:augment_mel",),
    "prefix: vision encoder and LLM": (
        "selfkd.training.self_kd:encode_prefix",
        "selfkd.training.rollout:encode_prefix",
    ),
    "prefix of each row": ("selfkd.model.prefix_cache:Prefix.rows",),
    "speech encoder": ("selfkd.model.modeling_omni:encode_mel",),
    "hashes of kept frames": (
        "selfkd.model.kept_frames:KeptFrames.encoder_hash",
        "selfkd.model.speech_encoder:hash_of_tensors",
    ),
    "projector": ("selfkd.model.projectors:StackProjector.forward", "selfkd.model.projectors:CTCProjector.forward"),
    "teacher": ("selfkd.training.self_kd:_text_rows",),
    "student": ("selfkd.training.self_kd:_continued_rows",),
    "generate": ("selfkd.training.rollout:generate_responses",),
    "head and loss": ("selfkd.training.self_kd:self_kd_loss",),
    "CTC loss": ("selfkd.training.self_kd:ctc_loss",),
    "backward": ("accelerate:Accelerator.backward",),
    "gradient norm": ("accelerate:Accelerator.clip_grad_norm_",),
    "optimizer": ("accelerate.optimizer:AcceleratedOptimizer.step",),
}  # fmt: skip
REST = "Trainer and the rest"


class Meter:
    """Exclusive CPU seconds of each part between two resets."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._open: list[tuple[str, float]] = []  # part, CPU seconds of what ran within it

    def wrap(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def metered(*args: Any, **kwargs: Any) -> Any:
            within = self._open[-1][0] if self._open else ""
            own = within if (within, part) == ("teacher", "student") else part  # the same function runs both
            started = time.process_time()
            self._open.append((own, 0.0))
            try:
                return function(*args, **kwargs)
            finally:
                whole = time.process_time() - started
                _, inner = self._open.pop()
                self.seconds[own] += whole - inner
                if self._open:
                    outer, before = self._open[-1]
                    self._open[-1] = outer, before + whole

        return metered

    def install(self) -> None:
        for part, functions in PARTS.items():
            for name in functions:
                module, _, path = name.partition(":")
                holder: Any = importlib.import_module(module)
                *parents, last = path.split(".")
                for parent in parents:
                    holder = getattr(holder, parent, None)
                if holder is not None and hasattr(holder, last):
                    setattr(holder, last, self.wrap(part, getattr(holder, last)))


def run_steps(setting: str, data: list[str], steps: int) -> list[dict[str, float]]:
    """CPU seconds of each part in each step after the first, in this process."""
    from transformers import TrainerCallback, trainer

    from selfkd.training.align import align
    from selfkd.training.distill import distill

    meter, found = Meter(), list[dict[str, float]]()
    meter.install()

    class Steps(TrainerCallback):
        def restart(self) -> None:
            meter.seconds.clear()
            self.started = time.process_time()

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.restart()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            whole = time.process_time() - self.started
            found.append({**meter.seconds, REST: whole - sum(meter.seconds.values()), "whole step": whole})
            self.restart()

    trainer.DEFAULT_CALLBACKS.append(Steps())  # type: ignore[arg-type]  # a stage function takes no callbacks
    with tempfile.TemporaryDirectory() as output:
        given = {"data": data, "output": Path(output) / "run", "steps": steps + 1, **SETTINGS[setting]}
        (align if setting.endswith("(align)") else distill)(**given)
    return found[1:]


def measured(setting: str, data: list[str], steps: int, checkout: Path) -> list[dict[str, float]]:
    """`run_steps` with the code of a checkout, in a new process."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "steps.json"
        command = [sys.executable, __file__, "--one", setting, "--steps", str(steps), "--output", str(output)]
        command += ["--data", *data]
        env = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
        subprocess.run(command, check=True, env=env, cwd=folder, stdout=subprocess.DEVNULL)
        return json.loads(output.read_text())


def means(runs: list[list[dict[str, float]]]) -> dict[str, float]:
    """Mean milliseconds a step of each part, over all steps of all runs."""
    steps = [step for run in runs for step in run]
    return {part: 1e3 * statistics.fmean(s.get(part, 0.0) for s in steps) for part in {p for s in steps for p in s}}


def table(found: dict[str, dict[str, list[list[dict[str, float]]]]], count: int = 10) -> str:
    """The largest costs of each setting, and the whole step: before and after, or after only."""
    lines = []
    for setting, sides in found.items():
        by_side = {side: means(runs) for side, runs in sides.items()}
        first = next(iter(by_side.values()))
        parts = sorted((p for p in first if p != "whole step"), key=lambda p: -first[p])[:count]
        lines += [f"\n**{setting}**, CPU ms a step\n", f"| part | {' | '.join(by_side)} | share |"]
        lines.append("|---" * (len(by_side) + 2) + "|")
        for part in [*parts, "whole step"]:
            values = " | ".join(f"{of.get(part, 0.0):.1f}" for of in by_side.values())
            lines.append(f"| {part} | {values} | {first[part] / first['whole step']:.0%} |")
        if len(sides) == 2:
            pairs = zip(*sides.values(), strict=True)
            ratios = [means([after])["whole step"] / means([before])["whole step"] for before, after in pairs]
            lines.append(
                f"\nafter / before, by repeat: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            )
    return "\n".join(lines)


def make_data(output: Path, count: int) -> list[str]:
    """The demo's training data: questions in voices of espeak-ng, and those of the package."""
    from selfkd import synthesize
    from selfkd.files import asset_path

    folder = output / "questions"
    if not folder.exists():
        synthesize(output=folder, source="world-noisy", split="train", count=count, voices="random")
    return [str(folder), *(str(asset_path("speech") / "training" / voice) for voice in ("flite", "kokoro"))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=20, help="that count; one more runs before them")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--before", type=Path, help="another checkout of the repository")
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=SETTINGS)
    parser.add_argument("--data", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        options.output.write_text(json.dumps(run_steps(options.one, options.data, options.steps)))
        return
    options.output.mkdir(parents=True, exist_ok=True)
    data = make_data(options.output.resolve(), 800)
    sides = {"before": options.before.resolve()} if options.before else {}
    sides["after"] = Path(__file__).resolve().parents[1]
    found: dict[str, Any] = {setting: {side: [] for side in sides} for setting in options.settings}
    for repeat in range(options.repeats):
        for setting in options.settings:
            for side in list(sides)[:: -1 if repeat % 2 else 1]:
                found[setting][side].append(measured(setting, data, options.steps, sides[side]))
                (options.output / "steps.json").write_text(json.dumps(found))
                print(f"{repeat + 1} of {options.repeats}: {setting}, {side}", file=sys.stderr)
    print(table(found))


if __name__ == "__main__":
    main()
