"""Does Self-KD beat SFT on the toy world, over seeds, with noisy labels and with clean ones?

    python experiments/toy_effect.py --output runs/effect [--seeds 0 1 2] [--alphas 0 0.5 1] [--split test]

For every seed: one alignment, then with both sets of labels SFT (alpha 0), the mix (0.5) and Self-KD (1) on the same
data in the same order; all are evaluated on the same questions in held-out voices. Writes OUTPUT/scores.json (every
seed) and prints mean and standard deviation. `--split validation` is for choosing settings; nothing is chosen on the
test split. Finished runs are kept: a call with more seeds or alphas continues the folder.
"""

import argparse
import statistics
from dataclasses import replace
from pathlib import Path

from selfkd.evaluation.evaluate import EvaluateConfig, evaluate
from selfkd.files import write_json
from selfkd.run_dir import MODEL, once
from selfkd.synthesis.config import SourceName
from selfkd.synthesis.synthesize import SynthesizeConfig, synthesize
from selfkd.toy_world.scenes import Split
from selfkd.training.align import AlignConfig, align
from selfkd.training.distill import DistillConfig, distill

LABELS: dict[str, SourceName] = {"noisy": "world-noisy", "clean": "world"}
TEST_SEED: dict[Split, int] = {"test": 100, "validation": 200}


def run_seed(seed: int, output: Path, test_set: Path, alphas: list[float], trainable: list[str]) -> dict[str, dict]:
    """{system: scores on the world} of one seed."""
    folder = output / f"seed-{seed}"
    words = SynthesizeConfig(folder / "words", "words", count=3000, seed=seed + 1)
    synthesize(words)
    aligned = AlignConfig([str(words.output)], folder / "align", projector="stack", steps=400, seed=seed)
    once(align, aligned)
    start = str(aligned.output / MODEL)
    aligned_eval = EvaluateConfig(
        start, [str(test_set)], folder / f"eval-{test_set.name}-align", modalities=["text", "audio", "cascade"]
    )
    scores = {f"align, {modality}": s for modality, s in once(evaluate, aligned_eval)["world"].items()}
    for labels, source in LABELS.items():
        train = SynthesizeConfig(folder / labels, source, count=3000, seed=seed)
        synthesize(train)
        for alpha in alphas:
            name = f"{labels}-alpha-{alpha:g}"
            settings = DistillConfig([str(train.output)], folder / name, trainable, steps=400, seed=seed, model=start)
            once(distill, replace(settings, alpha=alpha))
            run = folder / f"eval-{test_set.name}-{name}"
            audio_eval = EvaluateConfig(str(folder / name / MODEL), [str(test_set)], run, modalities=["audio"])
            scores[f"{labels}, alpha {alpha:g}"] = once(evaluate, audio_eval)["world"]["audio"]
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--alphas", type=float, nargs="+", default=[0.0, 0.5, 1.0])
    parser.add_argument("--split", choices=list(TEST_SEED), default="test")
    parser.add_argument("--trainable", nargs="+", default=["projector"])
    options = parser.parse_args()
    test_set = options.output / options.split
    synthesize(
        SynthesizeConfig(
            test_set, "world", split=options.split, count=400, voices="heldout", seed=TEST_SEED[options.split]
        )
    )
    seeds = {s: run_seed(s, options.output, test_set, options.alphas, options.trainable) for s in options.seeds}
    write_json(options.output / "scores.json", seeds)
    print(f"\nToy world, {options.split} split, n = 400 a seed, seeds {options.seeds}, trains: {options.trainable}")
    print(f"{'system':<24}{'mean':>7}{'sd':>7}   per seed")
    for system in next(iter(seeds.values())):
        accuracies = [scores[system]["accuracy"] for scores in seeds.values()]
        spread = statistics.stdev(accuracies) if len(accuracies) > 1 else float("nan")
        each = "  ".join(f"{a:.3f}" for a in accuracies)
        print(f"{system:<24}{statistics.mean(accuracies):>7.3f}{spread:>7.3f}   {each}")


if __name__ == "__main__":
    main()
