"""Other projects' own code next to selfkd on the same model and data: a distillation step of TRL and of ms-swift, items
a second of lmms-eval.

    python experiments/peers.py --folder runs/peers [--only trl] [--sizes tiny middle] [--repeats 3]

FOLDER gets an environment for each peer (`ENVIRONMENTS`: pinned versions; gigabytes), the models and data
(`peers_inputs.py`), and `steps-PEER.json` and `items.json`. Both sides run in the peer's environment, one thread each:
a repeat runs the one and then the other in a process of its own; their order alternates. What a peer does not support
is tried too (`peers_steps.py --probe`), and what its code did is printed. Seconds of the clock depend on what else the
machine does, CPU seconds of one thread hardly; compare within one run only.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from peers_inputs import make_inputs, make_pope, make_questions
from peers_steps import BATCH, PROBES

from selfkd.data.example import MANIFEST

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENTS = {
    "trl": ["torch==2.13.0", "transformers==5.23.0", "accelerate==1.15.0", "datasets==5.2.0", "trl==1.16.0",
            "soxr==0.5.0.post1"],
    # its InternVL wants torchvision, which comes with this torch; it also imports msgspec without declaring it
    "ms-swift": ["torch==2.14.1", "torchvision==0.29.1", "transformers==5.19.0", "trl==0.29.1", "msgspec==0.23.0",
                 "timm==1.0.31", "ms-swift==4.6.0"],
    # torchvision, which lmms-eval imports, comes with this torch; its evaluator imports filelock._api, which is gone
    "lmms-eval": ["torch==2.14.1", "torchvision==0.29.1", "transformers==5.23.0", "filelock==3.24.2",
                  "lmms-eval==0.7.3"],
}  # fmt: skip
SETTINGS = {
    "on-policy": "on-policy, a projector trains",
    "on-policy-LLM": "on-policy, the LLM trains",
    "off-policy-LLM": "responses of the data, the LLM trains",  # TRL reads words in place of the image
}
NEW_TOKENS = 16
QUESTIONS = 64  # each is used once
POPE = """
include: {pope}
task: pope_here
dataset_path: parquet
dataset_kwargs: {{data_files: {{test: {copy}}}}}
generation_kwargs: {{max_new_tokens: {tokens}, temperature: 0, do_sample: false}}
"""
WRAPPERS = {
    "lmms-eval, internvl_hf": ("internvl_hf", "vlm", 1),  # its wrapper asserts a batch of 1
    "lmms-eval, selfkd's adapter": ("selfkd", "model", 50),
}
BATCHES = {"selfkd evaluate": 50, "selfkd evaluate, batch of 1": 1}


def spread(values: Sequence[float]) -> str:
    """Median, and the range."""
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


def in_turn(sides: Sequence[str], number: int) -> list[str]:
    """The sides in the order of a repeat: reversed in every second one."""
    return list(sides) if number % 2 == 0 else list(sides)[::-1]


def ratios(repeats: Sequence[Mapping[str, float]], side: str, other: str) -> list[float]:
    """side / other within each repeat."""
    return [found[side] / found[other] for found in repeats]


def rate(few: tuple[int, float], many: tuple[int, float]) -> float:
    """Items a second of (items, seconds) of two runs: what does not depend on the items cancels. Raises ValueError
    where the longer run took no longer."""
    if many[1] <= few[1]:
        raise ValueError(f"{many[0]} items took {many[1]:.1f} s, {few[0]} items {few[1]:.1f} s: too few to measure")
    return (many[0] - few[0]) / (many[1] - few[1])


def python_of(folder: Path, name: str) -> Path:
    """The interpreter of a peer's environment, which is made where it is not there with the same versions."""
    environment, made = folder / "environments" / name, folder / "environments" / f"{name}.txt"
    python, wanted = environment / "bin" / "python", "\n".join(ENVIRONMENTS[name])
    if not made.is_file() or made.read_text() != wanted:
        venv.create(environment, with_pip=True, clear=True)
        with tempfile.TemporaryDirectory() as copy:  # pip builds in the folder that it installs
            shutil.copytree(ROOT / "selfkd", Path(copy) / "selfkd")
            for file in ("pyproject.toml", "README.md", "LICENSE"):
                shutil.copy(ROOT / file, copy)
            subprocess.run([python, "-m", "pip", "install", "--quiet", *ENVIRONMENTS[name], copy], check=True)
        made.write_text(wanted)
    return python


def run(python: Path, *arguments: Any) -> float:
    """CPU seconds of a command in a peer's environment; its output is shown where it fails."""
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "experiments", ROOT / "tests" / "support")))
    offline = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [python, *map(str, arguments)], env=os.environ | offline | {"PYTHONPATH": paths}, capture_output=True, text=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, arguments))}\n{done.stdout}{done.stderr}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def worker(python: Path, folder: Path, result: Path, *arguments: Any) -> Any:
    """What `peers_steps.py` measured."""
    run(python, Path(__file__).with_name("peers_steps.py"), *arguments, "--folder", folder, "--output", result)
    return json.loads(result.read_text())


def model_folder(folder: Path, size: str, with_torchvision: Path | None = None) -> Path:
    """The models of a size, made where they are not there; an interpreter with torchvision adds those with a video
    processor."""
    if not (folder / size / "model").is_dir():
        make_inputs(folder / size, size)
    if with_torchvision and not (folder / size / "evaluated" / "model").is_dir():
        code = "import sys; from pathlib import Path; from peers_inputs import *; make_with_video(Path(sys.argv[1]))"
        run(with_torchvision, "-c", code, folder / size)
    return folder / size


def measure_steps(peer: str, python: Path, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """{size and setting: for each repeat {side: what `peers_steps.py` wrote}}."""
    found: dict[str, Any] = {}
    for size in options.sizes:
        here = model_folder(folder, size, python if peer == "ms-swift" else None)
        if not (here / "questions" / MANIFEST).is_file():
            make_questions(here, QUESTIONS)
        for setting in options.settings:
            title = f"{size}: {SETTINGS[setting]}"
            runs: list[dict[str, Any]] = []
            for number in range(options.repeats):
                both = {}
                for side in in_turn([peer, "selfkd"], number):
                    arguments = "--side", side, "--setting", setting, "--steps", options.steps
                    both[side] = worker(python, here, folder / "result.json", *arguments)
                runs.append(both)
            found[title] = runs
            show_steps(peer, title, runs)
    return found


def show_steps(peer: str, title: str, runs: Sequence[Mapping[str, Any]]) -> None:
    """Seconds and memory of each side over all steps, and the ratio of its repeats' medians."""
    print(f"{title}; {len(runs)} repeats of {len(runs[0][peer]['steps'])} steps, median (range)")
    medians: dict[str, list[dict[str, float]]] = {n: [] for n in ("cpu_seconds", "seconds", "peak_mib", "added_mib")}
    for side in (peer, "selfkd"):
        values: dict[str, list[float]] = {name: [] for name in medians}
        for both in runs:
            for step in both[side]["steps"]:
                added = step["peak_mib"] - both[side]["resting_mib"]
                for name, value in {**step, "added_mib": added}.items():
                    values[name].append(value)
        print("  " + side.ljust(8), *(f"{name} {spread(of)}" for name, of in values.items()), sep="  ", flush=True)
    for both in runs:
        for name, into in medians.items():
            resting = {side: both[side]["resting_mib"] if name == "added_mib" else 0.0 for side in both}
            field = "peak_mib" if name == "added_mib" else name
            into.append({s: statistics.median(x[field] for x in both[s]["steps"]) - resting[s] for s in both})
    found = (f"{name} {spread(ratios(of, 'selfkd', peer))}" for name, of in medians.items())
    print(f"  selfkd / {peer}, by repeat:", *found, sep="  ", flush=True)


def evaluate(python: Path, folder: Path, here: Path, side: str, limit: int) -> float:
    """CPU seconds of one evaluation, the start included."""
    output = here / f"{side.replace(', ', '-').replace(' ', '-')}-{limit}-{time.time_ns()}"
    if side in WRAPPERS:
        wrapper, model, batch = WRAPPERS[side]
        device = ",device=cpu,device_map=cpu" if wrapper != "selfkd" else ""
        seconds = run(
            python, "-m", "lmms_eval", "eval", "--model", wrapper, "--model_args",
            f"pretrained={here / model}{device}", "--tasks", "pope_here", "--include_path", folder / "tasks",
            "--batch_size", batch, "--limit", limit, "--output_path", output, "--log_samples",
        )  # fmt: skip
        if not list(output.rglob("*results.json")):  # its exit code is 0 where it ends with an error
            sys.exit(f"{side}: no results in {output}")
        return seconds
    return run(
        python, "-m", "selfkd.cli", "evaluate", "--model", here / "model", "--benchmarks", "pope",
        "--local_datasets.pope", folder / "pope.parquet", "--modalities", "text", "--limit", limit, "--max_new_tokens",
        NEW_TOKENS, "--batch_size", BATCHES[side], "--cache", folder / "cache", "--output", output,
    )  # fmt: skip


def measure_items(python: Path, folder: Path, sizes: list[str], repeats: int, counts: Mapping[str, int]) -> Any:
    make_pope(folder / "pope.parquet", max(counts.values()))
    inside = subprocess.run(
        [python, "-c", "import lmms_eval; print(lmms_eval.__path__[0])"], check=True, capture_output=True, text=True
    )
    (folder / "tasks").mkdir(exist_ok=True)
    task = POPE.format(
        pope=Path(inside.stdout.strip()) / "tasks" / "pope" / "pope.yaml",
        copy=folder.resolve() / "pope.parquet",
        tokens=NEW_TOKENS,
    )
    (folder / "tasks" / "here.yaml").write_text(task)
    found: dict[str, Any] = {}
    for size in sizes:
        here, many = model_folder(folder, size, python) / "evaluated", counts[size]
        few = many // 10
        sides = [*WRAPPERS, *BATCHES]
        for limit in (few, many):  # synthesizes the questions into the cache
            evaluate(python, folder, here, "selfkd evaluate", limit)
        found[size] = []
        for number in range(repeats):
            seconds = {s: [evaluate(python, folder, here, s, n) for n in (few, many)] for s in in_turn(sides, number)}
            found[size].append({s: rate((few, a), (many, b)) for s, (a, b) in seconds.items()})
        print(f"{size}: {many} items less {few}, {repeats} repeats: items a CPU second, median (range)")
        for side in sides:
            ratio = spread(ratios(found[size], side, next(iter(WRAPPERS))))
            print(f"  {side:28} {spread([by[side] for by in found[size]])}  ratio by repeat {ratio}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--only", choices=ENVIRONMENTS)
    parser.add_argument("--sizes", nargs="+", default=["tiny", "middle"], choices=["tiny", "middle"])
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=SETTINGS, help="of the steps")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4, help="that count in a repeat; one more runs before them")
    parser.add_argument("--items", type=int, nargs=2, default=[500, 40], help="of the tiny and of the middle size")
    options = parser.parse_args()
    if BATCH * (options.steps + 1) > QUESTIONS:
        parser.error(f"--steps {options.steps}: {QUESTIONS} questions are enough for {QUESTIONS // BATCH - 1}")
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for peer in ("trl", "ms-swift"):
        if options.only not in (None, peer):
            continue
        python = python_of(folder, peer)
        found = {"steps": measure_steps(peer, python, folder, options)}
        if peer == "trl":
            found["probes"] = {}
            for name in PROBES:
                here = model_folder(folder, "tiny")
                found["probes"][name] = worker(python, here, folder / "result.json", "--probe", name)
                print(f"{name}: {found['probes'][name]}", flush=True)
        (folder / f"steps-{peer}.json").write_text(json.dumps(found, indent=1))
    if options.only in (None, "lmms-eval"):
        python, counts = python_of(folder, "lmms-eval"), dict(zip(("tiny", "middle"), options.items, strict=True))
        found = measure_items(python, folder, options.sizes, options.repeats, counts)
        (folder / "items.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
