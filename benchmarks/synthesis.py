"""Spoken questions a second, from questions of the embedded world to finished shards with espeak-ng, ASR check apart.

    python benchmarks/synthesis.py [--count 3000] [--check]

Prints one table: one process and two, the memory of a worker over a small and a large job, and how many examples a
second the training's loader makes (from the disk, on one core, none of them kept) over what a training step of the
embedded model eats. `--check` exits with 1 where a bar is missed: 150 a second for one process, two processes 1.8 times
as fast, memory of the large job within 10% of the small one's, the loader 3 times as fast as the step.
"""

import argparse
import random
import resource
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from selfkd.data.sources import open_source
from selfkd.data.speak_shard import speak_shard
from selfkd.data.speakers import ESPEAK_VOICES
from selfkd.data.synthesize import SynthesizeConfig, synthesize
from selfkd.losses import Objective

BARS = {
    "questions a second, one process": 150.0,
    "two processes over one": 1.8,
    "memory, large over small": 1.1,
    "loader over training step": 3.0,
}
SHARD_ROWS = 500


def seconds(count: int, processes: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        config = SynthesizeConfig(Path(folder) / "out", count=count, processes=processes, shard_rows=SHARD_ROWS)
        start = time.perf_counter()
        synthesize(config)
        return time.perf_counter() - start


def peak_megabytes(rows: int) -> float:
    """Peak memory of a process of its own that makes one shard of so many rows."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(_shard_of, rows).result()


def _shard_of(rows: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        config = SynthesizeConfig(Path(folder))
        voices = dict.fromkeys(ESPEAK_VOICES["training"], 1.0)
        speak_shard(config, open_source(config), voices, (0, rows), "shard")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def loader_over_step(steps: int = 10, batch: int = 32) -> float:
    """Seconds of a training step over the seconds in which one process makes its batch; both views, Self-KD."""
    # imported here: each process that speaks imports this file, and would hold torch
    import torch

    from selfkd.data.folder import ExampleFolder
    from selfkd.data.views import PairedCollator, PairedDataset
    from selfkd.training.align import AlignConfig, assemble
    from selfkd.training.parts import freeze_all_but

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        synthesize(SynthesizeConfig(folder / "data", "world-annotated", count=(steps + 1) * batch))
        model, processor = assemble(AlignConfig([], folder, ears="stacked"))
        freeze_all_but(model, ["projector"])
        items = PairedDataset(ExampleFolder(folder / "data"), processor, model.context)
        collate, order = PairedCollator(processor), random.Random(0).sample(range(len(items)), len(items))
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-3)
        loading = training = 0.0
        for step in range(steps + 1):
            start = time.perf_counter()
            inputs = collate([items[i] for i in order[step * batch : (step + 1) * batch]])
            loaded = time.perf_counter()
            model(paired=inputs, objective=Objective(1.0)).total.backward()
            optimizer.step()
            optimizer.zero_grad()
            if step:  # the first one warms up
                loading += loaded - start
                training += time.perf_counter() - loaded
        print(f"loader: {steps * batch / loading:.0f} examples a second, a step eats {steps * batch / training:.0f}")
        return training / loading


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=3000, help="questions to speak")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a bar is missed")
    options = parser.parse_args()
    # the start of processes is no part of the rate: a small job's time is taken off
    starts = {processes: seconds(2 * processes, processes) for processes in (1, 2)}
    took = {processes: seconds(options.count, processes) - starts[processes] for processes in (1, 2)}
    small, large = peak_megabytes(250), peak_megabytes(5000)
    found = {
        "questions a second, one process": options.count / took[1],
        "two processes over one": took[1] / took[2],
        "memory, large over small": large / small,
        "loader over training step": loader_over_step(),
    }
    print(f"n = {options.count}; a start takes {starts[1]:.1f} s; a worker holds {small:.0f} MB at 250 rows a shard,")
    print(f"{large:.0f} MB at 5,000\n{'':34}{'found':>8}{'bar':>8}")
    missed = []
    for name, value in found.items():
        is_met = value <= BARS[name] if name.startswith("memory") else value >= BARS[name]
        missed += [] if is_met else [name]
        print(f"{name:34}{value:8.2f}{BARS[name]:8.2f}{'' if is_met else '  missed'}")
    return 1 if options.check and missed else 0


if __name__ == "__main__":
    sys.exit(main())
