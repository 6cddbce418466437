"""Rows a second of `selfkd synthesize` in two checkouts, interleaved: what a journal of rows costs, and what engines in
parallel within a shard bring.

    python experiments/synthesis_rows.py --before ../older [--kokoro FOLDER] [--repeats 5]

A round runs each setting in one checkout and then in the other, whose order alternates. The time of a run with a tenth
of the rows is subtracted: the start is no part of the rate.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]


def seconds(checkout: Path, arguments: list[str], rows: int) -> float:
    """Of one command that makes one shard."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "selfkd.cli", "synthesize", "--count", str(rows), "--shard_rows", str(rows)]
        environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
        start = time.perf_counter()
        run = [*command, *arguments, "--output", f"{folder}/out"]
        subprocess.run(run, check=True, cwd=checkout, env=environment, capture_output=True)
        return time.perf_counter() - start


def rate(checkout: Path, arguments: list[str], rows: int) -> float:
    few = max(2, rows // 10)
    return (rows - few) / (seconds(checkout, arguments, rows) - seconds(checkout, arguments, few))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="the other checkout")
    parser.add_argument("--kokoro", type=Path, help="folder of Kokoro's files; without it only espeak-ng is measured")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rows", type=int, default=600, help="of espeak-ng; of Kokoro a thirtieth")
    parser.add_argument("--only", default="", help="settings whose names hold this text")
    options = parser.parse_args()
    settings = {
        "espeak-ng, 1 process": (["--processes", "1"], options.rows),
        "espeak-ng, 2 processes, one shard": (["--processes", "2"], options.rows),
    }
    if options.kokoro:
        path = str(options.kokoro.resolve())
        engine = ["--engine", "kokoro", "--engine_path", path, "--voices", "af_heart,bm_george"]
        settings |= {
            "Kokoro, 1 process": ([*engine, "--processes", "1"], options.rows // 30),
            "Kokoro, 2 processes, one shard": ([*engine, "--processes", "2"], options.rows // 30),
        }
    for name, (arguments, rows) in ((n, s) for n, s in settings.items() if options.only in n):
        found: dict[str, list[float]] = {"before": [], "after": []}
        for number in range(options.repeats):
            both = [("before", options.before.resolve()), ("after", HERE)]
            for which, checkout in both if number % 2 else both[::-1]:
                found[which].append(rate(checkout, arguments, rows))
        ratios = [after / before for before, after in zip(found["before"], found["after"], strict=True)]
        print(f"{name}, {rows} rows, n = {options.repeats}")
        for which, values in (*found.items(), ("after / before", ratios)):
            spread = f"{min(values):.3g} to {max(values):.3g}"
            print(f"  {which}: median {statistics.median(values):.3g} ({spread})", flush=True)


if __name__ == "__main__":
    main()
