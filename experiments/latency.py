"""Latency of an answer to a text query, to an audio query with each model's own speech encoder, and with a cascade.

    python experiments/latency.py DATA MODEL [MODEL ...] [--asr_model R] [--count 60] [--batch_size 1] [--repeats 5]

DATA is a folder of audio queries; the text query and the cascade are run with the first model. All systems answer the
same questions, one system after another in each repeat; prints the median over repeats of milliseconds a question, the
quartiles, and the ratio to the text query in the same repeat.
"""

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

import torch

from selfkd.data.dataset import ExampleFolder
from selfkd.evaluation.backends.local import LocalBackend
from selfkd.evaluation.backends.transcriber import Transcriber
from selfkd.evaluation.config import EvalModality
from selfkd.model.checkpoint import inspect_checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--asr_model", default="", help="of the cascade; the bundled one by default")
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    examples = ExampleFolder(options.data)
    wanted = list(range(min(options.count, len(examples))))
    transcriber = Transcriber.from_pretrained(options.asr_model)
    backends = [
        LocalBackend(inspect_checkpoint(m), transcriber, options.batch_size, 48, likelihood=False)
        for m in options.models
    ]

    def timed(backend: LocalBackend, modality: EvalModality) -> Callable[[], float]:
        def run() -> float:
            # of the cascade's verbatim transcript: its question form is one more response, for the evaluation only
            return 1000 * statistics.fmean(p.seconds for *_, p in backend.predict(examples, {modality: wanted}))

        return run

    runs = {"text": timed(backends[0], "text"), "cascade": timed(backends[0], "cascade")}
    runs |= {f"audio, {name}": timed(backend, "audio") for name, backend in zip(options.models, backends, strict=True)}
    for run in runs.values():  # the first time warms up
        run()
    repeats = [{name: run() for name, run in runs.items()} for _ in range(options.repeats)]
    print(f"n = {len(wanted)}, {options.repeats} repeats, {options.batch_size} at once, {options.threads} threads")
    print(f"{'ms a question':<48}{'median':>8}{'quartiles':>16}{'over text':>14}")
    for name in runs:
        low, middle, high = statistics.quantiles([r[name] for r in repeats], n=4)
        ratio = statistics.median(r[name] / r["text"] for r in repeats)
        print(f"{name[-47:]:<48}{middle:>8.1f}{f'{low:.1f} to {high:.1f}':>16}{ratio:>14.2f}")


if __name__ == "__main__":
    main()
