"""How long an answer takes to a written question, to a spoken one by each model's own ears, and by a cascade.

    python experiments/latency.py DATA MODEL [MODEL ...] [--asr_model R] [--count 60] [--batch_size 1] [--rounds 5]

DATA is a folder of spoken questions; the written path and the cascade are the first model's. All systems answer the
same questions, one system after another in each round; prints the median over rounds of milliseconds a question, the
quarters around it, and the ratio to the written question in the same round.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from selfkd.data.dataset import ExampleFolder
from selfkd.evaluation.backends.base import LocalBackend, Modality
from selfkd.evaluation.backends.transcriber import Transcriber
from selfkd.model.checkpoint import inspect_checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--asr_model", default="", help="of the cascade: the embedded one without it")
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    examples = ExampleFolder(options.data)
    wanted = list(range(min(options.count, len(examples))))
    transcriber = Transcriber.from_pretrained(options.asr_model)
    systems = [
        LocalBackend(inspect_checkpoint(m), transcriber, options.batch_size, 48, likelihood=False)
        for m in options.models
    ]

    def timed(system: LocalBackend, modality: Modality) -> Callable[[], float]:
        def run() -> float:
            start = time.perf_counter()
            list(system.answer(examples, {modality: wanted}))
            return 1000 * (time.perf_counter() - start) / len(wanted)

        return run

    asked = {"written": timed(systems[0], "text"), "cascade": timed(systems[0], "cascade")}
    asked |= {f"spoken, {name}": timed(system, "audio") for name, system in zip(options.models, systems, strict=True)}
    for run in asked.values():  # the first time warms up
        run()
    rounds = [{name: run() for name, run in asked.items()} for _ in range(options.rounds)]
    print(f"n = {len(wanted)}, {options.rounds} rounds, {options.batch_size} at once, {options.threads} threads")
    print(f"{'ms a question':<48}{'median':>8}{'quarters':>16}{'over written':>14}")
    for name in asked:
        low, middle, high = statistics.quantiles([r[name] for r in rounds], n=4)
        ratio = statistics.median(r[name] / r["written"] for r in rounds)
        print(f"{name[-47:]:<48}{middle:>8.1f}{f'{low:.1f} to {high:.1f}':>16}{ratio:>14.2f}")


if __name__ == "__main__":
    main()
