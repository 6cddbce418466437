"""Projector x loss x data on the toy world: what closes the gap, and does it beat the cascade?

    python experiments/projector_study.py --output runs/projector [--seeds 0 1 2 3 4] [--split test] [--only best ...]
    make study-projector

"best" has the defaults of `selfkd distill` with a CTC projector, 600 steps of 16, and forward KL, which was the default
when the study began; each other recipe changes what its name says, so that "best-jensen-shannon" has the default
divergence. The frame-stacking projector, the paper's, is aligned first, on synthesized sentences. The CTC projector
starts from the bundled ASR model, which was trained on such sentences for an hour and is the cascade's too; only
"ctc-only-whisper" is `selfkd align` with the encoder of the checkpoint that `--whisper` names. In "own cascade" the
transcript of the trained encoder itself is the text query: the difference is what the audio embeddings add. All are
evaluated on the same questions in held-out voices, and on the first of them in the speech that `--conditions` names.

Writes OUTPUT/scores-SPLIT.json and prints mean and standard deviation over seeds, the share closed of the gap that the
paper's SFT leaves, the intervals of the paired differences from the cascade and from "best" over items, text errors
(the answer to the text query is wrong too) and audio-only errors; the file has a paired t-test over seeds, too.
`--split validation` is for choosing; nothing is chosen on the test split. Finished runs are kept: a call with more
seeds or recipes continues the folder. OUTPUT/right-SPLIT.json holds which questions each run answered right: in an
empty folder that file (`experiments/records/` has one) stands for the runs that it holds.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from projector_recipes import BATCH, CONDITIONS, RECIPES, SAMPLES, STEPS, Recipe
from projector_table import HEAD, correct_bits, load_samples, read_correct, row, samples_from_bits, write_correct

from selfkd.errors import InputError
from selfkd.evaluation.samples import samples_path
from selfkd.files import write_json
from selfkd.run_dir import MODEL, RESULT, once
from selfkd.synthesis.synthesize import SynthesizeConfig, synthesize
from selfkd.toy_world.scenes import Split

if TYPE_CHECKING:
    from selfkd.evaluation.config import EvalModality

TEST_SEED: dict[Split, int] = {"test": 100, "validation": 200}
OWN_CASCADE = ", own cascade"


def run_seed(seed: int, only: Sequence[str], options: argparse.Namespace, test_sets: dict[str, Path]) -> None:
    """Trains and evaluates the recipes of one seed, except for finished runs."""
    folder, correct = options.output / f"seed-{seed}", read_correct(correct_file(options.output, options.split))
    for name in only:
        recipe = RECIPES[name]
        if all(str(seed) in correct.get(condition, {}).get(name, {}) for condition in test_sets):
            continue
        data = _training_data(recipe, seed, folder)
        _train(recipe, data, seed, folder / name, options)
        for condition, questions in test_sets.items():
            run, model = folder / f"eval-{name}" / condition, str(folder / name / MODEL)
            modalities: list[EvalModality] = ["audio", "cascade"] if name in ("best", "best-sft") else ["audio"]
            evaluate_once(model, questions, run, modalities, asr_model=model)


def _train(recipe: Recipe, data: list[str], seed: int, output: Path, options: argparse.Namespace) -> None:
    # imported here and below: each synthesis worker imports this file, and would hold torch
    from selfkd.training.align import AlignConfig, align
    from selfkd.training.distill import DistillConfig, distill

    settings: dict[str, Any] = {"steps": STEPS, "batch_size": BATCH, "warmup_steps": 30, "seed": seed}
    settings |= {"training": bf16_arguments()} | recipe.settings
    if recipe.projector == "new head":
        if not options.whisper:  # or align would take the bundled ASR model
            raise InputError("--whisper: is missing; it names the checkpoint whose encoder the recipe trains")
        once(align, AlignConfig(data, output, speech_encoder=options.whisper, **settings))
        return
    start = _aligned(seed, options) if recipe.projector == "stack" else options.output / "ctc"
    once(distill, DistillConfig(data, output, model=str(start), **{"divergence": "forward"} | settings))


def bf16_arguments() -> dict[str, bool]:
    """bf16 where the CPU multiplies it natively. It saves time with a large LLM, none with the tiny model."""
    import torch

    return {"bf16": torch.cpu._is_avx512_bf16_supported()}


def evaluate_once(model: str, data: Path, output: Path, modalities: "list[EvalModality]", asr_model: str = "") -> None:
    from selfkd.evaluation.evaluate import EvaluateConfig, evaluate

    once(evaluate, EvaluateConfig(model, [str(data)], output, modalities=modalities, asr_model=asr_model))


def _training_data(recipe: Recipe, seed: int, folder: Path) -> list[str]:
    name = recipe.voices + ("" if recipe.samples == SAMPLES else f"-{recipe.samples}")
    exact = "" if recipe.responses == "world-noisy" else "-exact"
    questions = SynthesizeConfig(
        folder / f"questions-{name}{exact}", recipe.responses, count=recipe.samples, seed=seed, voices=recipe.voices
    )
    synthesize(questions)
    if not recipe.sentences:
        return [str(questions.output)]
    sentences = replace(questions, output=folder / f"sentences-{name}", source="words", count=recipe.samples // 3)
    synthesize(sentences)
    return [f"{questions.output}:2", f"{sentences.output}:1"]


def _aligned(seed: int, options: argparse.Namespace) -> Path:
    from selfkd.training.align import AlignConfig, align

    folder = options.output / f"seed-{seed}"
    words = SynthesizeConfig(folder / "words", "words", count=3000, seed=seed + 1)
    synthesize(words)
    config = AlignConfig(
        [str(words.output)], folder / "align", projector="stack", steps=400, seed=seed, training=bf16_arguments()
    )
    once(align, config)
    return config.output / MODEL


def make_test_sets(options: argparse.Namespace) -> dict[str, Path]:
    """Folders of the test questions, by condition; evaluates the untrained bundled model on each."""
    from selfkd.model.tiny import asr_model_path, vlm_path

    plain = SynthesizeConfig(
        options.output / options.split, "world", split=options.split, count=options.count, voices="heldout",
        seed=TEST_SEED[options.split],
    )  # fmt: skip
    configs: dict[str, SynthesizeConfig] = {options.split: plain}
    for name in options.conditions:
        speech = CONDITIONS[name] | ({"engine_path": options.kokoro} if name == "Kokoro" else {})
        output = options.output / f"{options.split}, {name}"
        configs[name] = replace(plain, output=output, **({"count": 400} | speech))
    untrained = options.output / "ctc"
    save_untrained_model(vlm_path(), asr_model_path(), untrained)
    for name, config in configs.items():
        synthesize(config)
        run = options.output / "eval-untrained" / name
        evaluate_once(str(untrained), config.output, run, ["text", "audio", "cascade"])
    return {name: config.output for name, config in configs.items()}


def save_untrained_model(vlm: Path, asr_model: Path, output: Path) -> None:
    """Saves the VLM with a CTC projector from an ASR model over its tokens, unless `output` holds it already."""
    from transformers.utils import SAFE_WEIGHTS_NAME

    from selfkd.model.ctc_asr import load_joined

    if not (output / SAFE_WEIGHTS_NAME).is_file():
        # the model last: its file marks the folder as complete
        for part in reversed(load_joined(vlm, asr_model)):
            part.save_pretrained(output)


def table(options: argparse.Namespace) -> dict[str, Any]:
    """Prints a row for each recipe that the folder holds, and returns the values."""
    found: dict[str, Any] = {"steps": STEPS, "batch_size": BATCH}
    correct = read_correct(correct_file(options.output, options.split))
    for condition in (options.split, *options.conditions):
        untrained = options.output / "eval-untrained" / condition
        text, cascade = load_samples(untrained, "text"), load_samples(untrained, "cascade")
        by_recipe = correct.setdefault(condition, {})
        for run in sorted(options.output.glob(f"seed-*/eval-*/{condition}/{RESULT}")):
            name, seed = run.parts[-3].removeprefix("eval-"), run.parts[-4].removeprefix("seed-")
            by_recipe.setdefault(name, {})[seed] = correct_bits(load_samples(run.parent), text)
            if samples_path(run.parent, "world", "cascade").is_file():
                own = correct_bits(load_samples(run.parent, "cascade"), text)
                by_recipe.setdefault(f"{name}{OWN_CASCADE}", {})[seed] = own
        rows = {"text": {"": text}, "cascade": {"": cascade}, "untrained": {"": load_samples(untrained)}}
        for name in (n for recipe in RECIPES for n in (recipe, f"{recipe}{OWN_CASCADE}") if n in by_recipe):
            rows[name] = {seed: samples_from_bits(bits, text) for seed, bits in sorted(by_recipe[name].items())}
        print(f"\nToy world, {condition}, n = {len(text)} a seed")
        print(HEAD)
        found[condition] = {"n": len(text)}
        for name, by_seed in rows.items():
            found[condition][name] = row(name, by_seed, text, cascade, rows.get("paper-sft"), rows.get("best"))
    write_correct(correct, correct_file(options.output, options.split))
    return found


def correct_file(output: Path, split: Split) -> Path:
    return output / f"right-{split}.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--split", choices=list(TEST_SEED), default="test")
    default = [name for name, recipe in RECIPES.items() if recipe.projector != "new head"]
    parser.add_argument("--only", choices=list(RECIPES), nargs="+", default=default)
    parser.add_argument("--whisper", default="", help="checkpoint whose encoder ctc-only-whisper trains")
    parser.add_argument("--conditions", choices=list(CONDITIONS), nargs="*", default=[])
    parser.add_argument("--kokoro", default="", help="folder of Kokoro's model and voices, for that condition")
    parser.add_argument("--count", type=int, default=4000, help="test questions; 400 of them in other conditions")


def study(options: argparse.Namespace) -> None:
    test_sets = make_test_sets(options)
    for seed in options.seeds:
        run_seed(seed, options.only, options, test_sets)
    write_json(options.output / f"scores-{options.split}.json", table(options))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    study(parser.parse_args())


if __name__ == "__main__":
    main()
