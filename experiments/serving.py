"""vLLM with selfkd's plugin against `selfkd serve`: answers a second, latency, reuse of an image's prefix.

    python experiments/serving.py DATA MODEL --vllm VENV [--requests 64] [--repeats 5] [--output serving.json]

MODEL is a folder that both serve, VENV an environment with vLLM and `selfkd[vllm]`. Each of the two servers starts once
and stays idle while the other one works. In each repeat both get the same requests, all at the same time, through the
official client: 32 other examples of DATA, each as a text query and as an audio query about the same image. The servers
take turns in going first. Prints medians over the repeats, the ratio within each repeat, and vLLM's own counts of
prompt tokens that its prefix cache had. CPU seconds of each process (Linux) say what a shared machine hides: a server
that has c of them for 64 requests cannot answer those in less than c / 2 seconds on two cores.
"""

import argparse
import asyncio
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from openai import AsyncOpenAI

from selfkd.data.dataset import ExampleFolder
from selfkd.evaluation.backends.endpoint import user_message
from selfkd.files import write_json

START_SECONDS = 600
NAME = "selfkd"  # of the model in requests
CPU = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--vllm", type=Path, required=True, help="virtual environment with vLLM and selfkd[vllm]")
    parser.add_argument("--requests", type=int, default=64, help="at the same time, half of them audio queries")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2, help="of each server")
    parser.add_argument("--block_size", type=int, default=32, help="of vLLM's prefix cache, in tokens")
    parser.add_argument("--warm_up", type=int, default=64, help="requests before the first repeat")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    examples = ExampleFolder(options.data)
    ports = {"selfkd": free_port(), "vllm": free_port()}
    commands = {
        "selfkd": [sys.executable, "-m", "selfkd.cli", "serve", "--model", str(options.model), "--served_name", NAME],
        # as `vllm serve`, which builds of vLLM under another name do not have
        "vllm": [str(options.vllm / "bin" / "python"), "-m", "vllm.entrypoints.openai.api_server", "--model",
                 str(options.model.resolve()), "--served-model-name", NAME, "--dtype", "float32", "--enforce-eager",
                 "--max-num-seqs", "64", "--block-size", str(options.block_size)],
    }  # fmt: skip
    with ExitStack() as stack:
        roots = {
            name: stack.enter_context(running([*command, "--port", str(ports[name])], ports[name], options.threads)).pid
            for name, command in commands.items()
        }
        warm = requests(examples, options.repeats, options.requests)[: options.warm_up]
        for port in ports.values():
            asyncio.run(answered(port, warm))
        before = {name: cpu_seconds(root) for name, root in roots.items()}
        own = time.process_time()
        repeats: list[dict[str, Any]] = []
        for repeat in range(options.repeats):
            turns = requests(examples, repeat, options.requests)
            order = sorted(ports, reverse=repeat % 2 == 1)
            repeats.append({name: asyncio.run(answered(ports[name], turns)) for name in order})
        own = (time.process_time() - own) / (2 * options.repeats)
        cpu = {name: spent(before[name], cpu_seconds(root), options.repeats) for name, root in roots.items()}
        cache = prefix_cache(ports["vllm"])
    result = {
        "requests": options.requests,
        "repeats": options.repeats,
        "threads": options.threads,
        "prefix_cache": cache,
        "cpu_seconds_per_repeat": {**cpu, "client": own},
    }
    result |= summary(repeats)
    print(json.dumps(result, indent=2))
    if options.output:
        write_json(options.output, result | {"each": repeats})


def requests(examples: ExampleFolder, repeat: int, count: int) -> list[list[dict[str, Any]]]:
    """The requests of a repeat: each repeat has examples of its own, so that nothing of them is in a cache before."""
    half = count // 2
    if len(examples) < half * (repeat + 1):
        raise SystemExit(f"{examples.folder}: {len(examples)} examples; each repeat takes {half} others")
    own = [examples[half * repeat + i] for i in range(half)]
    return [[user_message(example, modality)] for example in own for modality in ("text", "audio")]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def running(command: list[str], port: int, threads: int):
    """A server in a process of its own, until it answers."""
    environment = os.environ | CPU | {"OMP_NUM_THREADS": str(threads)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            end = time.monotonic() + START_SECONDS
            while not answers(port):
                if process.poll() is not None or time.monotonic() > end:
                    raise SystemExit(f"{' '.join(command)}: did not start (exit status {process.poll()})")
                time.sleep(1)
            yield process
        finally:
            process.terminate()


def cpu_seconds(root: int) -> dict[int, tuple[str, float]]:
    """{id of a process: (its name, CPU seconds so far)} of a process and its descendants."""
    found: dict[int, tuple[str, float]] = {}
    waiting = [root]
    while waiting:
        process = Path("/proc") / str(waiting.pop())
        fields = (process / "stat").read_text().rpartition(")")[2].split()
        seconds = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        found[int(process.name)] = (process / "comm").read_text().strip(), seconds
        for task in (process / "task").iterdir():
            waiting += map(int, (task / "children").read_text().split())
    return found


def spent(before: dict[int, tuple[str, float]], after: dict[int, tuple[str, float]], repeats: int) -> dict[str, float]:
    """CPU seconds of a repeat by process, those with next to none left out, and their sum."""
    each = {f"{name} {i}": (now - before.get(i, ("", 0.0))[1]) / repeats for i, (name, now) in after.items()}
    return {name: seconds for name, seconds in each.items() if seconds >= 0.01} | {"sum": sum(each.values())}


def answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
            return True
    except OSError:
        return False


async def answered(port: int, turns: list[Any]) -> dict[str, Any]:
    """Sends all requests at once; seconds of each, and of all."""
    async with AsyncOpenAI(
        base_url=f"http://127.0.0.1:{port}/v1", api_key="none", timeout=300, max_retries=0
    ) as client:

        async def one(messages: Any) -> tuple[float, str]:
            start = time.perf_counter()
            response = await client.chat.completions.create(model=NAME, messages=messages, temperature=0, max_tokens=32)
            return time.perf_counter() - start, response.choices[0].message.content or ""

        start = time.perf_counter()
        found = await asyncio.gather(*map(one, turns))
        return {
            "seconds": time.perf_counter() - start,
            "latencies": [seconds for seconds, _ in found],
            "responses": [text.strip() for _, text in found],
        }


def prefix_cache(port: int) -> dict[str, float]:
    """vLLM's counts of prompt tokens: all that were looked up, and those that were there."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as response:
        text = response.read().decode()
    counts = {
        name: sum(float(value) for value in re.findall(rf"^vllm:{name}_total\S* (\S+)$", text, re.MULTILINE))
        for name in ("prefix_cache_queries", "prefix_cache_hits", "mm_cache_queries", "mm_cache_hits")
    }
    queries = counts["prefix_cache_queries"]
    return counts | {"rate": counts["prefix_cache_hits"] / queries if queries else 0.0}


def summary(repeats: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in repeats[0]:
        runs = [repeat[name] for repeat in repeats]
        cuts = [statistics.quantiles(run["latencies"], n=20) for run in runs]
        found[name] = {
            "answers_per_second": statistics.median(len(run["latencies"]) / run["seconds"] for run in runs),
            "p50_seconds": statistics.median(cut[9] for cut in cuts),
            "p95_seconds": statistics.median(cut[18] for cut in cuts),
        }
    ratios = [repeat["selfkd"]["seconds"] / repeat["vllm"]["seconds"] for repeat in repeats]
    found["vllm_over_selfkd_answers_per_second"] = {"median": statistics.median(ratios), "each": sorted(ratios)}
    pairs = [pair for r in repeats for pair in zip(r["selfkd"]["responses"], r["vllm"]["responses"], strict=True)]
    found["equal_responses"] = {"equal": sum(a == b for a, b in pairs), "of": len(pairs)}
    return found


if __name__ == "__main__":
    main()
