"""Ears x objective x data on the embedded world: what closes the gap, and does it beat the cascade?

    python benchmarks/ears_study.py --output runs/ears [--seeds 0 1 2 3 4] [--split test] [--only best best-sft ...]
    make study-ears

"best" is what `selfkd distill` does by default with ears that hear tokens, but for its forward KL divergence, which was
the default when the study began; each other recipe changes what its name says, so that "best-jensen-shannon" is the
default. Stacked ears, the paper's, are aligned first, on spoken sentences; ears that hear tokens begin as the bundled
recogniser, which was trained on such sentences for an hour and is the cascade's too. "own cascade" reads the transcript
of the very ears that were trained: what is left to the vectors, once the ears are the same. All are asked the same
questions in unseen voices, and the first of them over again in the speech that `--conditions` names.

Writes OUTPUT/scores-SPLIT.json and prints mean and standard deviation over seeds, the share closed of the gap that the
paper's SFT leaves, the intervals of the paired differences from the cascade and from "best" over items, and the errors
of seeing (the written answer is wrong too) and of hearing apart; the file has a paired t-test over seeds, too.
`--split validation` is for choosing; nothing is chosen on the test split. What is done is kept: with more seeds or
recipes the same folder is continued. OUTPUT/right-SPLIT.json says which questions each run answered right: in an empty
folder, that file alone (`records/` has one) stands for the runs that it holds.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ears_table import HEAD, keep_right, read_right, right_of, row, samples, samples_of

from selfkd.data.shapes import Split
from selfkd.data.sources import SourceName
from selfkd.data.synthesize import SynthesizeConfig, synthesize
from selfkd.evaluation.samples import samples_path
from selfkd.files import write_json
from selfkd.runs import MODEL, RESULT, once

if TYPE_CHECKING:
    from selfkd.evaluation.systems import View

Ears = Literal["stacked", "tokens"]
TEST_SEED: dict[Split, int] = {"test": 100, "validation": 200}
STEPS, BATCH = 600, 16
SAMPLES = 4800  # questions, and a third as many sentences; an eighth as many steps see each one and a half times
OWN_CASCADE = ", own cascade"
KOKORO_VOICES = "af_heart,am_michael,bf_emma,bm_george"
CONDITIONS: dict[str, dict[str, Any]] = {
    "noise, 20 dB": {"augment": {"noise": 1.0}, "noise_snr_db": (20.0, 20.0)},
    "noise, 10 dB": {"augment": {"noise": 1.0}, "noise_snr_db": (10.0, 10.0)},
    "noise, 0 dB": {"augment": {"noise": 1.0}, "noise_snr_db": (0.0, 0.0)},
    # English as espeak-ng's German and French would read it
    "German": {"voices": "de+m4,de+f3,de+ian,de+steph", "language": "de"},
    "French": {"voices": "fr+m4,fr+f3,fr+ian,fr+steph", "language": "fr"},
    "Flite": {"engine": "flite", "voices": "training"},
    "Kokoro": {"engine": "kokoro", "voices": KOKORO_VOICES},
}


@dataclass(frozen=True)
class Recipe:
    """How it differs from what `selfkd distill` does by default with ears that hear tokens and forward KL."""

    ears: Ears = "tokens"
    voices: str = "drawn"
    sentences: bool = True
    responses: SourceName = "world-annotated"
    samples: int = SAMPLES
    settings: dict[str, Any] = field(default_factory=dict)


def _of_thousands(questions: int, **settings: Any) -> Recipe:
    """That many thousand questions, with as many more steps as there are more of them than best has."""
    more = {"steps": questions * 125} if questions * 125 > STEPS else {}
    return Recipe(samples=questions * 1000, settings=settings | more)


PAPER: dict[str, Any] = {"steps": 400, "batch_size": 32, "warmup_steps": 30}
RECIPES = {
    "paper-sft": Recipe("stacked", "training", sentences=False, settings=PAPER | {"alpha": 0.0}),
    "paper-selfkd": Recipe("stacked", "training", sentences=False, settings=PAPER),
    "stacked": Recipe("stacked", settings={"trainable": ["projector", "speech_encoder"], "learning_rate": 4e-4,
                                           "augment_speech": 1.0, "average_weights": 1 / 3}),
    "best": Recipe(),
    "best-sft": Recipe(settings={"alpha": 0.0}),
    "best-known-voices": Recipe(voices="training"),
    "best-no-sentences": Recipe(sentences=False),
    "best-adapters": Recipe(settings={"trainable": ["projector", "speech_encoder", "llm_adapters"]}),
    "best-last-weights": Recipe(settings={"average_weights": 0.0}),
    "best-300-steps": Recipe(settings={"steps": 300}),
    "best-no-transcript": Recipe(settings={"transcript_weight": 0.0}),
    **{f"best-transcript-{w}": Recipe(settings={"transcript_weight": float(w)}) for w in (2, 8, 100)},
    "best-ears-alone": Recipe(settings={"response_weight": 0.0}),  # CTC, and nothing else
    "best-ears-alone-known-voices": Recipe(voices="training", settings={"response_weight": 0.0}),
    "best-ears-alone-no-sentences": Recipe(sentences=False, settings={"response_weight": 0.0}),
    **{f"best-ears-alone-{k}k": _of_thousands(k, response_weight=0.0) for k in (1, 3, 10, 30)},
    "best-reverse": Recipe(settings={"divergence": "reverse"}),
    "best-jensen-shannon": Recipe(settings={"divergence": "jensen_shannon"}),
    "best-hidden": Recipe(settings={"hidden_weight": 1.0}),
    "best-alignment": Recipe(settings={"alignment_weight": 0.5}),
    "best-on-policy": Recipe(settings={"on_policy": 0.5, "divergence": "reverse"}),
    **{f"best-alpha-{alpha}": Recipe(settings={"alpha": alpha}) for alpha in (0.25, 0.5, 0.75)},
    "best-exact": Recipe(responses="world"),
    "best-sft-exact": Recipe(responses="world", settings={"alpha": 0.0}),
    **{f"best-{k}k": _of_thousands(k) for k in (1, 3, 10, 30)},
}  # fmt: skip


def run_seed(seed: int, only: Sequence[str], options: argparse.Namespace, asked: dict[str, Path]) -> None:
    """Trains and asks the recipes of one seed, but for what is done already."""
    # imported here and below: each process that speaks imports this file, and would hold torch
    from selfkd.training.distill import DistillConfig, distill

    folder, right = options.output / f"seed-{seed}", read_right(right_file(options.output, options.split))
    for name in only:
        recipe = RECIPES[name]
        if all(str(seed) in right.get(condition, {}).get(name, {}) for condition in asked):
            continue
        data = _spoken(recipe, seed, folder)
        start = _aligned(seed, options) if recipe.ears == "stacked" else options.output / "tokens"
        how: dict[str, Any] = {"steps": STEPS, "batch_size": BATCH, "warmup_steps": 30, "seed": seed}
        how |= {"divergence": "forward", "training": in_bf16(), **recipe.settings}
        trained = DistillConfig(data, folder / name, model=str(start), **how)
        once(distill, trained)
        for condition, questions in asked.items():
            where, model = folder / f"eval-{name}" / condition, str(folder / name / MODEL)
            views: list[View] = ["speech", "cascade"] if name in ("best", "best-sft") else ["speech"]
            ask_one(model, questions, where, views, recognizer=model)


def in_bf16() -> dict[str, bool]:
    """Where the processor multiplies it natively. It saves time where a large LLM runs, none on the embedded model."""
    import torch

    return {"bf16": torch.cpu._is_avx512_bf16_supported()}


def ask_one(model: str, asked: Path, output: Path, views: "list[View]", recognizer: str = "") -> None:
    from selfkd.evaluation.evaluate import EvaluateConfig, evaluate

    once(evaluate, EvaluateConfig(model, [str(asked)], output, views=views, recognizer=recognizer))


def _spoken(recipe: Recipe, seed: int, folder: Path) -> list[str]:
    name = recipe.voices + ("" if recipe.samples == SAMPLES else f"-{recipe.samples}")
    exact = "" if recipe.responses == "world-annotated" else "-exact"
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
    aligned = AlignConfig(spoken, folder / "align", ears="stacked", steps=400, seed=seed, training=how)
    once(align, aligned)
    return aligned.output / MODEL


def ask_all(options: argparse.Namespace) -> dict[str, Path]:
    """Folders of what is asked, by condition; the bundled model, in which nothing was trained for it, is asked too."""
    from selfkd.model.embedded import recognizer_path, vlm_path

    plain = SynthesizeConfig(
        options.output / options.split, "world", split=options.split, count=options.count, voices="unseen",
        seed=TEST_SEED[options.split],
    )  # fmt: skip
    asked: dict[str, SynthesizeConfig] = {options.split: plain}
    for name in options.conditions:
        how = CONDITIONS[name] | ({"engine_path": options.kokoro} if name == "Kokoro" else {})
        asked[name] = replace(plain, output=options.output / f"{options.split}, {name}", **({"count": 400} | how))
    tokens = options.output / "tokens"
    keep_listening(vlm_path(), recognizer_path(), tokens)
    for name, speech in asked.items():
        synthesize(speech)
        ask_one(str(tokens), speech.output, options.output / "eval-untrained" / name, ["text", "speech", "cascade"])
    return {name: speech.output for name, speech in asked.items()}


def keep_listening(vlm: Path, recognizer: Path, output: Path) -> None:
    """A VLM that hears by a recogniser of its tokens, where `output` does not hold it yet."""
    from selfkd.model.bundled import load_listening

    if not (output / "config.json").is_file():
        for part in reversed(load_listening(vlm, recognizer)):  # the model, whose file is looked for, last
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
    parser.add_argument("--only", choices=list(RECIPES), nargs="+", default=list(RECIPES))
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
