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
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from peers_inputs import make_inputs, make_pope, make_questions
from peers_items import measure_items, write_tasks
from peers_runs import ENVIRONMENTS, in_turn, python_of, ratios, run, spread
from peers_steps import BATCH, PROBES

from selfkd.data.example import MANIFEST

SETTINGS = {
    "on-policy": "on-policy, a projector trains",
    "on-policy-LLM": "on-policy, the LLM trains",
    "off-policy-LLM": "responses of the data, the LLM trains",  # TRL reads words in place of the image
}
QUESTIONS = 64  # each is used once


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
        code = "import peers_inputs as made, pathlib, sys; made.make_with_video(pathlib.Path(sys.argv[1]), sys.argv[2])"
        run(with_torchvision, "-c", code, folder / size, size)
    return folder / size


def step_folder(folder: Path, size: str, with_torchvision: Path | None = None) -> Path:
    """`model_folder` with questions to train on."""
    here = model_folder(folder, size, with_torchvision)
    if not (here / "questions" / MANIFEST).is_file():
        make_questions(here, QUESTIONS)
    return here


def measure_steps(peer: str, python: Path, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """{size and setting: for each repeat {side: what `peers_steps.py` wrote}}."""
    found: dict[str, Any] = {}
    for size in options.sizes:
        here = step_folder(folder, size, python if peer == "ms-swift" else None)
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
                here = step_folder(folder, "tiny")
                found["probes"][name] = worker(python, here, folder / "result.json", "--probe", name)
                print(f"{name}: {found['probes'][name]}", flush=True)
        (folder / f"steps-{peer}.json").write_text(json.dumps(found, indent=1))
    if options.only in (None, "lmms-eval"):
        python, counts = python_of(folder, "lmms-eval"), dict(zip(("tiny", "middle"), options.items, strict=True))
        make_pope(folder / "pope.parquet", max(counts[size] for size in options.sizes))
        write_tasks(python, folder, options.sizes)
        found = {}
        for size in options.sizes:
            model_folder(folder, size, python)
            found[size] = measure_items(python, folder, size, options.repeats, counts[size])
        (folder / "items.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
