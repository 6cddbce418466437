"""Ears x objective x data on the embedded world: what closes the gap, and does it beat the cascade?

    python experiments/projector_study.py --output runs/ears [--seeds 0 1 2 3 4] [--split test] [--only best ...]
    make study-ears

"best" is what `selfkd distill` does by default with ears that hear tokens, in 600 steps of 16, but for its forward KL
divergence, which was the default when the study began; each other recipe changes what its name says, so that
"best-jensen-shannon" has the default's. Stacked ears, the paper's, are aligned first, on spoken sentences; ears that
hear tokens begin as the bundled recogniser, which was trained on such sentences for an hour and is the cascade's too,
but for "best-whisper", which is `selfkd align` with the encoder of the checkpoint that `--whisper` names. "own cascade"
reads the transcript of the very ears that were trained: what is left to the vectors, once the ears are the same. All
are asked the same questions in unseen voices, and the first of them over again in the speech that `--conditions` names.

Writes OUTPUT/scores-SPLIT.json and prints mean and standard deviation over seeds, the share closed of the gap that the
paper's SFT leaves, the intervals of the paired differences from the cascade and from "best" over items, and the errors
of seeing (the written answer is wrong too) and of hearing apart; the file has a paired t-test over seeds, too.
`--split validation` is for choosing; nothing is chosen on the test split. What is done is kept: with more seeds or
recipes the same folder is continued. OUTPUT/right-SPLIT.json says which questions each run answered right: in an empty
folder, that file alone (`experiments/records/` has one) stands for the runs that it holds.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from projector_recipes import BATCH, CONDITIONS, RECIPES, SAMPLES, STEPS, Recipe
from projector_table import HEAD, keep_right, read_right, right_of, row, samples, samples_of

from selfkd.errors import InputError
from selfkd.evaluation.samples import samples_path
from selfkd.files import write_json
from selfkd.run_dir import MODEL, RESULT, once
from selfkd.synthesis.synthesize import SynthesizeConfig, synthesize
from selfkd.toy_world.scenes import Split

if TYPE_CHECKING:
    from selfkd.evaluation.backends.base import Modality

TEST_SEED: dict[Split, int] = {"test": 100, "validation": 200}
OWN_CASCADE = ", own cascade"


def run_seed(seed: int, only: Sequence[str], options: argparse.Namespace, asked: dict[str, Path]) -> None:
    """Trains and asks the recipes of one seed, but for what is done already."""
    folder, right = options.output / f"seed-{seed}", read_right(right_file(options.output, options.split))
    for name in only:
        recipe = RECIPES[name]
        if all(str(seed) in right.get(condition, {}).get(name, {}) for condition in asked):
            continue
        data = _spoken(recipe, seed, folder)
        _train(recipe, data, seed, folder / name, options)
        for condition, questions in asked.items():
            where, model = folder / f"eval-{name}" / condition, str(folder / name / MODEL)
            modalities: list[Modality] = ["audio", "cascade"] if name in ("best", "best-sft") else ["audio"]
            ask_one(model, questions, where, modalities, asr_model=model)


def _train(recipe: Recipe, data: list[str], seed: int, output: Path, options: argparse.Namespace) -> None:
    # imported here and below: each process that speaks imports this file, and would hold torch
    from selfkd.training.align import AlignConfig, align
    from selfkd.training.distill import DistillConfig, distill

    how: dict[str, Any] = {"steps": STEPS, "batch_size": BATCH, "warmup_steps": 30, "seed": seed, "training": in_bf16()}
    how |= recipe.settings
    if recipe.projector == "new head":
        if not options.whisper:  # or align would take the bundled recogniser
            raise InputError("--whisper: is missing; it names the checkpoint whose encoder these ears hear by")
        once(align, AlignConfig(data, output, speech_encoder=options.whisper, **how))
        return
    start = _aligned(seed, options) if recipe.projector == "stack" else options.output / "ctc"
    once(distill, DistillConfig(data, output, model=str(start), **{"divergence": "forward"} | how))


def in_bf16() -> dict[str, bool]:
    """Where the processor multiplies it natively. It saves time where a large LLM runs, none on the embedded model."""
    import torch

    return {"bf16": torch.cpu._is_avx512_bf16_supported()}


def ask_one(model: str, asked: Path, output: Path, modalities: "list[Modality]", asr_model: str = "") -> None:
    from selfkd.evaluation.evaluate import EvaluateConfig, evaluate

    once(evaluate, EvaluateConfig(model, [str(asked)], output, modalities=modalities, asr_model=asr_model))


def _spoken(recipe: Recipe, seed: int, folder: Path) -> list[str]:
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
    spoken, how = [str(words.output)], in_bf16()
    aligned = AlignConfig(spoken, folder / "align", projector="stack", steps=400, seed=seed, training=how)
    once(align, aligned)
    return aligned.output / MODEL


def ask_all(options: argparse.Namespace) -> dict[str, Path]:
    """Folders of what is asked, by condition; the bundled model, in which nothing was trained for it, is asked too."""
    from selfkd.model.tiny import asr_model_path, vlm_path

    plain = SynthesizeConfig(
        options.output / options.split, "world", split=options.split, count=options.count, voices="heldout",
        seed=TEST_SEED[options.split],
    )  # fmt: skip
    asked: dict[str, SynthesizeConfig] = {options.split: plain}
    for name in options.conditions:
        how = CONDITIONS[name] | ({"engine_path": options.kokoro} if name == "Kokoro" else {})
        asked[name] = replace(plain, output=options.output / f"{options.split}, {name}", **({"count": 400} | how))
    tokens = options.output / "ctc"
    keep_listening(vlm_path(), asr_model_path(), tokens)
    for name, audio in asked.items():
        synthesize(audio)
        ask_one(str(tokens), audio.output, options.output / "eval-untrained" / name, ["text", "audio", "cascade"])
    return {name: audio.output for name, audio in asked.items()}


def keep_listening(vlm: Path, asr_model: Path, output: Path) -> None:
    """A VLM that hears by a recogniser of its tokens, where `output` does not hold it yet."""
    from transformers.utils import SAFE_WEIGHTS_NAME

    from selfkd.model.ctc_asr import load_joined

    if not (output / SAFE_WEIGHTS_NAME).is_file():
        for part in reversed(load_joined(vlm, asr_model)):  # the model, whose file is looked for, last
            part.save_pretrained(output)


def table(options: argparse.Namespace) -> dict[str, Any]:
    """Prints a row for each recipe that the folder holds, and returns what it says."""
    found: dict[str, Any] = {"steps": STEPS, "batch_size": BATCH}
    right = read_right(right_file(options.output, options.split))
    for condition in (options.split, *options.conditions):
        untrained = options.output / "eval-untrained" / condition
        written, cascade = samples(untrained, "text"), samples(untrained, "cascade")
        here = right.setdefault(condition, {})
        for run in sorted(options.output.glob(f"seed-*/eval-*/{condition}/{RESULT}")):
            name, seed = run.parts[-3].removeprefix("eval-"), run.parts[-4].removeprefix("seed-")
            here.setdefault(name, {})[seed] = right_of(samples(run.parent), written)
            if samples_path(run.parent, "world", "cascade").is_file():
                own = right_of(samples(run.parent, "cascade"), written)
                here.setdefault(f"{name}{OWN_CASCADE}", {})[seed] = own
        rows = {"written": {"": written}, "cascade": {"": cascade}, "untrained": {"": samples(untrained)}}
        for name in (n for recipe in RECIPES for n in (recipe, f"{recipe}{OWN_CASCADE}") if n in here):
            rows[name] = {seed: samples_of(bits, written) for seed, bits in sorted(here[name].items())}
        print(f"\nWorld, {condition}, n = {len(written)} a seed")
        print(HEAD)
        found[condition] = {"n": len(written)}
        for name, by_seed in rows.items():
            found[condition][name] = row(name, by_seed, written, cascade, rows.get("paper-sft"), rows.get("best"))
    keep_right(right, right_file(options.output, options.split))
    return found


def right_file(output: Path, split: Split) -> Path:
    return output / f"right-{split}.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--split", choices=list(TEST_SEED), default="test")
    to_be_had = [name for name, recipe in RECIPES.items() if recipe.projector != "new head"]
    parser.add_argument("--only", choices=list(RECIPES), nargs="+", default=to_be_had)
    parser.add_argument("--whisper", default="", help="checkpoint whose encoder best-whisper hears by")
    parser.add_argument("--conditions", choices=list(CONDITIONS), nargs="*", default=[])
    parser.add_argument("--kokoro", default="", help="folder of Kokoro's model and voices, for that condition")
    parser.add_argument("--count", type=int, default=4000, help="questions asked; 400 of them in other conditions")


def study(options: argparse.Namespace) -> None:
    asked = ask_all(options)
    for seed in options.seeds:
        run_seed(seed, options.only, options, asked)
    write_json(options.output / f"scores-{options.split}.json", table(options))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    study(parser.parse_args())


if __name__ == "__main__":
    main()
