"""What more of everything brings: accuracy of the bundled frame-stacking projector on audio questions, against the
training questions, voices and steps of Self-KD, and against the hours of audio and the voices of stage 1.

    python experiments/scale.py --output runs/scale [--seeds 0] [--axes questions voices steps hours]

One axis varies at a time, four points a factor of four apart (steps: of two); the rest stays at `BASE`. Every clip is
espeak-ng's, in the first so many of its training voices in a random order; the test questions are those of
`when_to_distill.py`: 400 in held-out voices of espeak-ng and 400 by SVOX Pico.

For each axis and test the power law `error = a * amount ** -b` is fitted by least squares on the logarithms; b has an
interval over items (a bootstrap that resamples the questions, the same in all points). How far the fit may be trusted
is told by its forecast: the law of the first three points against the accuracy that the fourth has.

Writes OUTPUT/scores.json and OUTPUT/table.md, and OUTPUT/scale.svg where matplotlib is installed. Finished runs are
kept: the same command resumes, and processes with different axes may share the folder; a last call with all of them
writes the table.
"""

import argparse
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from projector_table import load_samples
from when_to_distill import benchmarks_of, evaluated, test_data

from selfkd.data.dataset import ExampleFolder
from selfkd.files import write_json
from selfkd.model.kept_frames import keep_frames
from selfkd.model.tiny import TINY_MODEL, TINY_STACK_MODEL
from selfkd.run_dir import MODEL, once
from selfkd.synthesis.config import SourceName, SynthesizeConfig
from selfkd.synthesis.synthesize import synthesize
from selfkd.synthesis.tts.base import ESPEAK_VOICES
from selfkd.training.align import align
from selfkd.training.config import AlignConfig, DistillConfig
from selfkd.training.distill import distill

Axis = Literal["questions", "voices", "steps", "hours"]
BATCH_SIZE, ALIGN_STEPS = 16, 300
RESAMPLES = 2000
ERRORS = (0.05, 0.1, 0.2, 0.4, 0.8)  # ticks of the figure


@dataclass(frozen=True)
class Amounts:
    questions: int = 800
    voices: int = 64
    steps: int = 250
    sentences: int = 0  # of a stage 1 from a new projector; 0: the bundled one's


BASE = Amounts()
POINTS: dict[Axis, list[Amounts]] = {
    "questions": [replace(BASE, questions=n) for n in (50, 200, 800, 3200)],
    "voices": [replace(BASE, voices=n) for n in (1, 4, 16, 64)],
    "steps": [replace(BASE, steps=n) for n in (32, 64, 125, 250)],
    "hours": [replace(BASE, sentences=n) for n in (125, 500, 2000, 8000)],
}


def voices(count: int) -> str:
    """The first `count` of the training voices in a random order: fewer are a part of more."""
    return ",".join(random.Random("scale").sample(ESPEAK_VOICES["training"], len(ESPEAK_VOICES["training"]))[:count])


def synthesized(output: Path, source: SourceName, count: int, amounts: Amounts, seed: int) -> Path:
    folder = output / "data" / f"{source}-{count}-in-{amounts.voices}-seed-{seed}"
    synthesize(SynthesizeConfig(folder, source, count=count, voices=voices(amounts.voices), seed=seed))
    return folder


def trained(output: Path, amounts: Amounts, seed: int) -> tuple[str, float]:
    """(folder of the model, hours of its training audio): stage 1 of a new projector, or Self-KD of the bundled one."""
    if amounts.sentences:
        data = synthesized(output, "words", amounts.sentences, amounts, seed)
        folder = output / f"seed-{seed}" / f"align-{amounts.sentences}"
        stage_1 = AlignConfig([str(data)], folder, projector="stack", steps=ALIGN_STEPS, seed=seed)
        once(align, stage_1)
    else:
        data = synthesized(output, "world-noisy", amounts.questions, amounts, seed)
        name = f"selfkd-{amounts.questions}-in-{amounts.voices}-{amounts.steps}-steps"
        folder = output / f"seed-{seed}" / name
        config = DistillConfig([str(data)], folder, model=TINY_STACK_MODEL, alpha=1.0, steps=amounts.steps, seed=seed)
        once(distill, replace(config, batch_size=BATCH_SIZE))
    seconds = sum(example.duration_seconds for example in ExampleFolder(data))
    return str(folder / MODEL), seconds / 3600


def power_law(amounts: Sequence[float], errors: NDArray[np.float64]) -> tuple[float, float]:
    """(a, b) of error = a * amount ** -b; an error of 0 counts as half an item's, which a logarithm can take."""
    slope, intercept = np.polyfit(np.log(amounts), np.log(errors), 1)
    return float(np.exp(intercept)), float(-slope)


def fitted(amounts: Sequence[float], correct: NDArray[np.float64]) -> dict[str, Any]:
    """`correct` (points, items) in 0 to 1. The law, an interval of its exponent over items, and its forecast of the
    last point from the others."""
    least = 0.5 / correct.shape[1]
    errors = np.maximum(1 - correct.mean(1), least)
    scale, exponent = power_law(amounts, errors)
    rng, exponents = np.random.default_rng(0), []
    for _ in range(RESAMPLES):
        sample = correct[:, rng.integers(correct.shape[1], size=correct.shape[1])]
        exponents.append(power_law(amounts, np.maximum(1 - sample.mean(1), least))[1])
    before = power_law(amounts[:-1], errors[:-1])
    return {
        "amounts": list(amounts),
        "accuracy": (1 - errors).tolist(),
        "n": correct.shape[1],
        "error_at_1": scale,
        "exponent": exponent,
        "interval": np.quantile(exponents, [0.025, 0.975]).tolist(),
        "forecast_of_last": 1 - before[0] * amounts[-1] ** -before[1],
    }


def scores(run: Path, benchmark: str) -> dict[str, float]:
    return {sample["id"]: sample["score"] for sample in load_samples(run, "audio", benchmark)}


def measure(axis: Axis, options: argparse.Namespace, data: list[str]) -> dict[str, Any]:
    """{benchmark: the fit of this axis}."""
    output, amounts = options.output, []
    runs: list[list[Path]] = []  # by point, by seed
    for point in POINTS[axis]:
        models = {seed: trained(output, point, seed) for seed in options.seeds}
        amounts.append(fmean(hours for _, hours in models.values()) if axis == "hours" else getattr(point, axis))
        folders = [Path(model).parent for model, _ in models.values()]
        runs.append([evaluated(str(f / MODEL), data, f.with_name(f"eval-{f.name}")) for f in folders])
    found = {}
    for benchmark in benchmarks_of(data):
        by_point = [[scores(run, benchmark) for run in point] for point in runs]
        items = sorted(by_point[0][0])
        correct = np.array([[fmean(one[item] for one in point) for item in items] for point in by_point])
        found[benchmark] = fitted(amounts, correct)
    return found


def markdown(found: Mapping[str, Mapping[str, Any]]) -> str:
    lines = ["| axis | test | n | accuracy at each point | exponent b (95%) | last point: forecast, measured |"]
    lines.append("|---|---|---|---|---|---|")
    for axis, fits in found.items():
        for benchmark, fit in fits.items():
            points = zip(fit["amounts"], fit["accuracy"], strict=True)
            shown = ", ".join(f"{amount:.3g}: {100 * accuracy:.1f}" for amount, accuracy in points)
            low, high = fit["interval"]
            exponent = f"{fit['exponent']:.2f} ({low:.2f} to {high:.2f})"
            last = f"{100 * fit['forecast_of_last']:.1f}, {100 * fit['accuracy'][-1]:.1f}"
            lines.append(f"| {axis} | {benchmark} | {fit['n']} | {shown} | {exponent} | {last} |")
    return "\n".join(lines) + "\n"


def draw(found: Mapping[str, Mapping[str, Any]], output: Path) -> None:
    """Errors and fitted laws, both axes logarithmic."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("no figure: pip install matplotlib")
        return
    figure = Figure(figsize=(3 * len(found), 3.2), layout="constrained")
    plots: Any = figure.subplots(1, len(found), squeeze=False, sharey=True)[0]
    for plot, (axis, fits) in zip(plots, found.items(), strict=True):
        for benchmark, fit in fits.items():
            amounts = np.array(fit["amounts"])
            (line,) = plot.loglog(amounts, 1 - np.array(fit["accuracy"]), "o", label=benchmark)
            plot.loglog(amounts, fit["error_at_1"] * amounts ** -fit["exponent"], color=line.get_color(), lw=1)
        plot.set(xlabel=axis)
        plot.minorticks_off()
        plot.set_xticks(amounts, [f"{amount:.2g}" if amount < 100 else f"{amount:.0f}" for amount in amounts])
        plot.set_yticks(ERRORS, [f"{error:.0%}" for error in ERRORS])
    plots[0].set_ylabel("errors on audio queries")
    plots[0].legend(fontsize="small")
    figure.savefig(output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--axes", nargs="+", choices=list(POINTS), default=list(POINTS))
    options = parser.parse_args()
    data = test_data("test", options.output)
    with keep_frames():
        bounds = evaluated(TINY_MODEL, data, options.output / "eval-bounds", ["text", "cascade"])
        found = {axis: measure(axis, options, data) for axis in options.axes}
    for modality in ("text", "cascade"):
        shares = {b: fmean(s["score"] for s in load_samples(bounds, modality, b)) for b in benchmarks_of(data)}
        print(modality, ", ".join(f"{benchmark} {100 * share:.1f}" for benchmark, share in shares.items()))
    write_json(options.output / "scores.json", found)
    (options.output / "table.md").write_text(markdown(found))
    print(markdown(found))
    draw(found, options.output / "scale.svg")


if __name__ == "__main__":
    main()
