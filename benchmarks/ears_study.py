"""Ears x objective on the embedded world: which closes the gap, and does any beat the cascade?

    python benchmarks/ears_study.py --output runs/ears [--seeds 0 1 2 3 4] [--split test] [--only tokens-selfkd ...]

Every recipe sees the annotator's responses to the same questions in the same order; all are asked the same questions in
unseen voices. Stacked ears are aligned first, on spoken sentences (`--align_steps`); ears that hear tokens begin as the
bundled recogniser, which was trained on such sentences for an hour and is the cascade's too. Writes
OUTPUT/scores-SPLIT.json and prints mean and standard deviation over seeds, the share closed of the gap that SFT with
stacked ears leaves, and the interval of the paired difference from the cascade over all items and seeds. `--split
validation` is for choosing; nothing is chosen on the test split. What is done is kept: with more seeds or recipes the
same folder is continued.
"""

import argparse
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

from selfkd.data.synthesize import SynthesizeConfig, synthesize
from selfkd.evaluation.evaluate import EvaluateConfig, evaluate
from selfkd.evaluation.samples import read_samples, samples_path
from selfkd.evaluation.statistics import gap_closed, vision_audio_gap
from selfkd.files import write_json
from selfkd.model.bundled import load_bundled
from selfkd.runs import MODEL, once
from selfkd.training.align import AlignConfig, align
from selfkd.training.distill import DistillConfig, distill

TEST_SEED = {"test": 100, "validation": 200}
PAPER = {"transcript_weight": 0.0}
TOKENS: dict[str, Any] = {"trainable": ["projector", "speech_encoder"], "learning_rate": 4e-4}
DRAWN = TOKENS | {"voices": "drawn", "augment_speech": 1.0}
ADAPTED = DRAWN | {"trainable": ["projector", "speech_encoder", "llm_adapters"]}
RECIPES: dict[str, dict[str, Any]] = {
    "stacked-sft": PAPER | {"alpha": 0.0},
    "stacked-selfkd": PAPER | {"alpha": 1.0},
    "tokens-sft": TOKENS | {"alpha": 0.0},
    "tokens-selfkd": TOKENS,
    "tokens-selfkd-no-transcript": TOKENS | {"transcript_weight": 0.0},
    "tokens-selfkd-reverse": TOKENS | {"divergence": "reverse"},
    "tokens-selfkd-jensen-shannon": TOKENS | {"divergence": "jensen_shannon"},
    "tokens-selfkd-hidden": TOKENS | {"hidden_weight": 1.0},
    "tokens-selfkd-alignment": TOKENS | {"alignment_weight": 0.5},
    "tokens-selfkd-on-policy": TOKENS | {"on_policy": 0.5, "divergence": "reverse"},
    "tokens-selfkd-voices": DRAWN,
    "tokens-sft-voices": DRAWN | {"alpha": 0.0},
    "tokens-selfkd-voices-adapters": ADAPTED,
    "stacked-selfkd-voices": PAPER | {"voices": "drawn", "augment_speech": 1.0},
}


def run_seed(seed: int, only: list[str], options: argparse.Namespace, asked: Path) -> dict[str, Path]:
    """{recipe: its evaluation run} of one seed."""
    folder, runs = options.output / f"seed-{seed}", {}
    tokens = options.output / "tokens"
    if not (tokens / "config.json").is_file():
        for part in load_bundled():
            part.save_pretrained(tokens)
    base = EvaluateConfig(str(tokens), [str(asked)], options.output / f"eval-{asked.name}-base")
    once(evaluate, replace(base, views=["text", "speech", "cascade"]))
    for name in only:
        settings = dict(RECIPES[name])
        voices = settings.pop("voices", "training")
        train = SynthesizeConfig(
            folder / f"train-{voices}", "world-annotated", count=options.samples, seed=seed, voices=voices
        )
        synthesize(train)
        start = tokens if name.startswith("tokens") else _aligned(seed, folder, options)
        how: dict[str, Any] = {"steps": options.steps, "seed": seed, "model": str(start), **settings}
        once(distill, DistillConfig([str(train.output)], folder / name, **how))
        spoken = replace(base, model=str(folder / name / MODEL), output=folder / f"eval-{asked.name}-{name}")
        once(evaluate, replace(spoken, views=["speech"]))
        runs[name] = spoken.output
    return runs


def _aligned(seed: int, folder: Path, options: argparse.Namespace) -> Path:
    words = SynthesizeConfig(folder / "words", "words", count=3000, seed=seed + 1)
    synthesize(words)
    aligned = AlignConfig([str(words.output)], folder / "align", ears="stacked", steps=options.align_steps, seed=seed)
    once(align, aligned)
    return aligned.output / MODEL


def table(options: argparse.Namespace, runs: dict[int, dict[str, Path]]) -> dict[str, Any]:
    """Prints a row a recipe and returns what it says."""
    base = options.output / f"eval-{options.split}-base"
    written, untrained, cascade = (
        read_samples(samples_path(base, "world", view)) for view in ("text", "speech", "cascade")
    )
    found: dict[str, Any] = {"n": len(written), "seeds": list(runs)}
    spoken = {name: [_samples(of[name]) for of in runs.values()] for name in next(iter(runs.values()))}
    rows = {"written": [written], "cascade": [cascade], "tokens-untrained": [untrained], **spoken}
    print(f"\nWorld, {options.split} split, n = {len(written)} a seed, seeds {list(runs)}, {options.steps} steps")
    print(f"{'recipe':<32}{'mean':>6}{'sd':>7}{'gap closed':>12}{'minus cascade':>22}")
    for name, by_seed in rows.items():
        scores = [statistics.mean(s["score"] for s in samples) for samples in by_seed]
        spread = statistics.stdev(scores) if len(scores) > 1 else float("nan")
        row: dict[str, Any] = {"mean": statistics.mean(scores), "sd": spread, "by_seed": scores}
        if "stacked-sft" in spoken and name in spoken:
            shares = [
                gap_closed(*([s["score"] for s in of] for of in (written, sft, samples)), seed=0)["share"]
                for sft, samples in zip(spoken["stacked-sft"], by_seed, strict=True)
            ]
            row["gap_closed"] = statistics.mean(shares) if None not in shares else None
        if name != "cascade":
            over = vision_audio_gap([s for samples in by_seed for s in samples], cascade * len(by_seed))
            row["over_cascade"] = {k: over[k] for k in ("gap", "gap_interval", "mcnemar_p")}
        found[name] = row
        closed = f"{row['gap_closed']:.0%}" if row.get("gap_closed") is not None else ""
        over_cascade = row.get("over_cascade")
        interval = "" if over_cascade is None else "{:+.3f} to {:+.3f}".format(*over_cascade["gap_interval"])
        print(f"{name:<32}{row['mean']:>6.3f}{spread:>7.3f}{closed:>12}{interval:>22}")
    return found


def _samples(run: Path) -> list[dict[str, Any]]:
    return read_samples(samples_path(run, "world", "speech"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--split", choices=list(TEST_SEED), default="test")
    parser.add_argument("--only", choices=list(RECIPES), nargs="+", default=list(RECIPES))
    parser.add_argument("--samples", type=int, default=3000)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--align_steps", type=int, default=400)
    parser.add_argument("--count", type=int, default=1000, help="questions asked")
    options = parser.parse_args()
    asked, seed = options.output / options.split, TEST_SEED[options.split]
    synthesize(SynthesizeConfig(asked, "world", options.split, options.count, voices="unseen", seed=seed))
    runs = {seed: run_seed(seed, options.only, options, asked) for seed in options.seeds}
    write_json(options.output / f"scores-{options.split}.json", table(options, runs))


if __name__ == "__main__":
    main()
