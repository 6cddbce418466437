"""The environments of `peers.py`, commands in them, and the summary of repeats."""

import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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


def spread(values: Sequence[float]) -> str:
    """Median, and the range."""
    return f"{statistics.median(values):.3g} ({min(values):.3g} to {max(values):.3g})"


def in_turn(sides: Sequence[str], number: int) -> list[str]:
    """The sides in the order of a repeat: reversed in every second one."""
    return list(sides) if number % 2 == 0 else list(sides)[::-1]


def ratios(repeats: Sequence[Mapping[str, float]], side: str, other: str) -> list[float]:
    """side / other within each repeat."""
    return [found[side] / found[other] for found in repeats]
