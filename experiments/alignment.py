"""Does aligning audio with text directly help? Soft-DTW, contrastive, hidden-state and attention losses of the bundled
frame-stacking projector, each by itself and added to Self-KD, over seeds.

    python experiments/alignment.py --output runs/alignment [--seeds 0 1 2 3 4] [--steps 250] [--only NAME ...]

The questions are those of `when_to_distill.py` with responses in another style, 30% of them wrong: SFT loses by them,
a loss without labels does not. Every model answers 400 questions in held-out voices of espeak-ng and 400 by SVOX Pico,
and repeats 100 sentences. All weights are 1, not tuned.

Writes OUTPUT/scores.json (with the correctness of each item, as bits) and OUTPUT/table.md. Finished runs are kept: the
same command resumes.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from attention_transfer import transfer
from projector_table import percent
from when_to_distill import benchmarks_of, evaluated, row, test_data, training_data

from selfkd.demo import DISTILL_BATCH_SIZE, DemoConfig
from selfkd.files import write_json
from selfkd.model.kept_frames import keep_frames
from selfkd.model.tiny import TINY_MODEL, TINY_STACK_MODEL
from selfkd.run_dir import MODEL, once
from selfkd.training.config import DistillConfig
from selfkd.training.distill import distill

RESPONSES = "other-30"
ATTENTION, ATTENTION_WEIGHT = "attention", 1.0
TERMS: dict[str, dict[str, Any]] = {
    "soft-DTW": {"soft_dtw_weight": 1.0},
    "contrastive": {"contrastive_weight": 1.0},
    "hidden states, last layer": {"hidden_mse_weight": 1.0},
    "hidden states, 3 layers": {"hidden_mse_weight": 1.0, "hidden_mse_layers": 3},
}
WITHOUT_RESPONSES: dict[str, Any] = {"response_weight": 0.0}
METHODS: dict[str, dict[str, Any]] = {
    "SFT": {"alpha": 0.0},
    "Self-KD": {},
    **{f"{name} only": WITHOUT_RESPONSES | settings for name, settings in TERMS.items()},
    **{f"Self-KD + {name}": settings for name, settings in TERMS.items()},
    f"Self-KD + {ATTENTION}": {},  # patches the package's loss: the last one of a process
}


def trainings(options: argparse.Namespace) -> Iterator[tuple[str, int, DistillConfig]]:
    for name in (name for name in METHODS if name in options.only):
        for seed in options.seeds:
            data = training_data(seed, RESPONSES, options.output)
            folder = options.output / f"seed-{seed}" / name.lower().replace(", ", "-").replace(" ", "-")
            config = DistillConfig(data, folder, model=TINY_STACK_MODEL, seed=seed, steps=options.steps, alpha=1.0)
            yield name, seed, replace(config, batch_size=DISTILL_BATCH_SIZE, **METHODS[name])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--steps", type=int, default=DemoConfig.distill_steps)
    parser.add_argument("--only", nargs="+", choices=list(METHODS), default=list(METHODS))
    options = parser.parse_args()
    data = test_data("test", options.output)
    benchmarks = benchmarks_of(data)
    trained: dict[str, dict[str, Path]] = {}
    with keep_frames():
        text = evaluated(TINY_MODEL, data, options.output / "eval-base", ["text", "cascade"])
        start = evaluated(TINY_STACK_MODEL, data, options.output / "eval-stage-1")
        for name, seed, config in trainings(options):
            if ATTENTION in name:
                transfer(ATTENTION_WEIGHT)
            once(distill, config)
            run = config.output.with_name(f"eval-{config.output.name}")
            trained.setdefault(name, {})[str(seed)] = evaluated(str(config.output / MODEL), data, run)
    found = {"stage 1 only": row({"": start}, benchmarks, {}, text)}
    for name, by_seed in trained.items():
        found[name] = row(by_seed, benchmarks, trained.get("Self-KD", {}), text, "minus_selfkd")
    write_json(options.output / "scores.json", found)
    (options.output / "table.md").write_text(table := markdown(found, benchmarks))
    print(table)


def markdown(found: dict[str, Any], benchmarks: list[str]) -> str:
    lines = [f"| losses | {' | '.join(benchmarks)} | minus Self-KD, {benchmarks[0]} (95%) |"]
    lines.append(f"|---|{'---|' * len(benchmarks)}---|")
    for name, scores in found.items():
        cells = [scores[benchmark] for benchmark in benchmarks]
        shown = [percent(cell) for cell in cells]
        over = cells[0].get("minus_selfkd")
        low_high = "{:+.1f} ({:+.1f} to {:+.1f})"
        shown.append(low_high.format(*(100 * x for x in (over["difference"], *over["interval"]))) if over else "")
        lines.append(f"| {name} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
