"""Rows a second of `selfkd synthesize` in two checkouts, interleaved: what a journal of rows costs, and what engines in
parallel within a shard bring.

    python experiments/synthesis_rows.py --before ../older [--kokoro FOLDER] [--endpoint_seconds 0.5] [--repeats 5]

The endpoint is a server of this script, which takes its seconds for each request and answers with a tone. A round
runs each setting in one checkout and then in the other; their order alternates. The time of a run with a tenth of the
rows is subtracted: the start is no part of the rate.
"""

import argparse
import io
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import soundfile

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


@contextmanager
def endpoint(seconds_each: float) -> Iterator[str]:
    """Base URL of a server with OpenAI's speech interface that takes `seconds_each` for a request."""
    buffer = io.BytesIO()
    soundfile.write(buffer, 0.1 * np.sin(np.arange(24_000) / 12), 16_000, format="WAV", subtype="PCM_16")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            time.sleep(seconds_each)
            self.send_response(200)
            self.send_header("Content-Length", str(buffer.getbuffer().nbytes))
            self.end_headers()
            self.wfile.write(buffer.getvalue())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()


def measure(name: str, before: Path, arguments: list[str], rows: int, repeats: int) -> None:
    """Prints rows a second of both checkouts and their ratio, by round."""
    found: dict[str, list[float]] = {"before": [], "after": []}
    for number in range(repeats):
        both = [("before", before), ("after", HERE)]
        for which, checkout in both if number % 2 else both[::-1]:
            found[which].append(rate(checkout, arguments, rows))
    ratios = [after / before for before, after in zip(found["before"], found["after"], strict=True)]
    print(f"{name}, {rows} rows, n = {repeats}")
    for which, values in (*found.items(), ("after / before", ratios)):
        print(f"  {which}: median {statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="the other checkout")
    parser.add_argument("--kokoro", type=Path, help="folder of Kokoro's files; without it only espeak-ng is measured")
    parser.add_argument("--endpoint_seconds", type=float, help="of a request; without it no endpoint is measured")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rows", type=int, default=600, help="of espeak-ng; of others a thirtieth")
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
    with nullcontext() if options.endpoint_seconds is None else endpoint(options.endpoint_seconds) as url:
        if url:
            engine = ["--engine", "openai", "--engine_path", url, "--engine_model", "tone", "--voices", "tone"]
            name = f"endpoint of {options.endpoint_seconds:g} s, 4 processes, one shard"
            settings[name] = [*engine, "--processes", "4"], options.rows // 30
        for name, (arguments, rows) in settings.items():
            if options.only in name:
                measure(name, options.before.resolve(), arguments, rows, options.repeats)


if __name__ == "__main__":
    main()
