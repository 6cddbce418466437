"""Synthesized questions a second, from questions of the toy world to finished shards with espeak-ng, no ASR filter.

    python experiments/synthesis.py [--count 3000] [--large 100000] [--check]

Prints one table: one process and two, the memory of a large job over that of one of 5,000 rows (the command's own
process and the two that it starts, questions listed in a file), and how many examples a second the training's loader
makes (from the disk, on one core, without a cache) over what a training step of the tiny model consumes. `--check`
exits with 1 where a bar is missed: 150 a second for one process, two processes 1.8 times as fast, memory of the large
job within 10% of the small one's, the loader 3 times as fast as the step.
"""

import argparse
import json
import random
import resource
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from selfkd.synthesis.synthesize import SynthesizeConfig, synthesize

BARS = {
    "questions a second, one process": 150.0,
    "two processes over one": 1.8,
    "memory, large over small": 1.1,
    "loader over training step": 3.0,
}
SHARD_ROWS, SMALL_JOB = 500, 5000


def seconds(count: int, processes: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        config = SynthesizeConfig(Path(folder) / "out", count=count, processes=processes, shard_rows=SHARD_ROWS)
        start = time.perf_counter()
        synthesize(config)
        return time.perf_counter() - start


def peak_megabytes(rows: int) -> tuple[float, float]:
    """Peak memory of a job of so many rows: of the command's process, and of the largest one that it started."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(_run_job, rows).result()


def _run_job(rows: int) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / "questions.jsonl"
        with listed.open("w") as file:
            for number in range(rows):
                file.write(json.dumps({"question": f"Is there a cat on chair {number}?", "answer": "Yes."}) + "\n")
        synthesize(SynthesizeConfig(Path(folder) / "out", "jsonl", str(listed), count=0, shard_rows=SHARD_ROWS))
    own, started = (
        resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return own, started


def loader_over_step(steps: int = 10, batch: int = 32) -> float:
    """Seconds of a training step over the seconds in which one process makes its batch; both modalities, Self-KD."""
    # imported here: each synthesis worker imports this file, and would hold torch
    import torch

    from selfkd.data.dataset import ExampleFolder
    from selfkd.losses import LossConfig
    from selfkd.training.align import AlignConfig, assemble
    from selfkd.training.data import PairedCollator, PairedDataset
    from selfkd.training.self_kd import paired_loss
    from selfkd.training.trainable import freeze_all_but

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        synthesize(SynthesizeConfig(folder / "data", "world-noisy", count=(steps + 1) * batch))
        model, processor = assemble(AlignConfig([], folder, projector="stack"))
        freeze_all_but(model, ["projector"])
        items = PairedDataset(ExampleFolder(folder / "data"), processor, model.context)
        collate, order = PairedCollator(processor), random.Random(0).sample(range(len(items)), len(items))
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-3)
        loading = training = 0.0
        for step in range(steps + 1):
            start = time.perf_counter()
            inputs = collate([items[i] for i in order[step * batch : (step + 1) * batch]])
            loaded = time.perf_counter()
            paired_loss(model, inputs, LossConfig(1.0)).total.backward()
            optimizer.step()
            optimizer.zero_grad()
            if step:  # the first one warms up
                loading += loaded - start
                training += time.perf_counter() - loaded
        print(
            f"loader: {steps * batch / loading:.0f} examples a second, a step consumes {steps * batch / training:.0f}"
        )
        return training / loading


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=3000, help="questions to synthesize")
    parser.add_argument("--large", type=int, default=100_000, help="questions of the large job")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a bar is missed")
    options = parser.parse_args()
    # the start of processes is not part of the rate: a small job's time is subtracted
    starts = {processes: seconds(2 * processes, processes) for processes in (1, 2)}
    took = {processes: seconds(options.count, processes) - starts[processes] for processes in (1, 2)}
    small, large = peak_megabytes(SMALL_JOB), peak_megabytes(options.large)
    found = {
        "questions a second, one process": options.count / took[1],
        "two processes over one": took[1] / took[2],
        "memory, large over small": (large[0] + 2 * large[1]) / (small[0] + 2 * small[1]),
        "loader over training step": loader_over_step(),
    }
    print(f"n = {options.count}; a start takes {starts[1]:.1f} s; memory of the command and of the two that it starts:")
    for rows, (own, started) in ((SMALL_JOB, small), (options.large, large)):
        print(f"{own:.0f} + 2 x {started:.0f} MB for a job of {rows:,} rows")
    print(f"{'':34}{'found':>8}{'bar':>8}")
    missed = []
    for name, value in found.items():
        is_met = value <= BARS[name] if name.startswith("memory") else value >= BARS[name]
        missed += [] if is_met else [name]
        print(f"{name:34}{value:8.2f}{BARS[name]:8.2f}{'' if is_met else '  missed'}")
    return 1 if options.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
