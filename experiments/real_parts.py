"""The paper's table where language model, ears and voices are pretrained by others: what do SFT, Self-KD and this
project's recipe leave of the gap, and is the cascade better?

    python ../shared/models/build.py MODELS smollm2-135m-instruct whisper-tiny.en kokoro
    python experiments/real_parts.py --models MODELS --output runs/real [--seeds 0 1 2] [--only paper-sft best]

SmolLM2-135M-Instruct sees by the embedded model's vision tower (`real_parts_vlm.py` makes that model first) and hears
by Whisper's encoder, trained on voices of Flite and on espeak-ng's drawn ones; it is asked easy-VQA's test questions in
another voice of Flite, and by Kokoro-82M, an engine that it never heard, in quiet and in noise. The cascade is the same
Whisper with its own decoder, then the written path; "own cascade" has the transcript of the trained ears read. Stage 1
is run once for each kind of ears, stage 2 for every seed.

Writes OUTPUT/WHISPER/scores.json and prints a table for each way in which is asked. What is done is kept: the same
command goes on. Nothing is chosen on what is asked.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from projector_recipes import CONDITIONS, KOKORO_VOICES, Ears, Recipe
from projector_study import ask_one, in_bf16
from projector_table import HEAD, row, samples

from selfkd.files import write_json
from selfkd.run_dir import MODEL, RESULT, once
from selfkd.synthesis.sources.registry import SourceName
from selfkd.synthesis.synthesize import SynthesizeConfig, synthesize

if TYPE_CHECKING:
    from selfkd.evaluation.backends.base import Modality
    from selfkd.synthesis.tts.registry import EngineName

FLITE = "kal,kal16,rms"
ASKED = 300  # questions, the same in each way
ASKED_BY: dict[str, dict[str, Any]] = {
    "kokoro": {"engine": "kokoro", "voices": KOKORO_VOICES},
    "flite": {"engine": "flite", "voices": "slt"},
    "kokoro, noise, 0 dB": {"engine": "kokoro", "voices": KOKORO_VOICES, **CONDITIONS["noise, 0 dB"]},
}
BENCHMARK: SourceName = "easy-vqa"
RECIPES = {
    "paper-sft": Recipe("stack", settings={"alpha": 0.0, "learning_rate": 1e-3}),
    "paper-selfkd": Recipe("stack", settings={"learning_rate": 1e-3}),
    # an encoder that others pretrained forgets at the rate of ours, as it does in stage 1
    "best-sft": Recipe(settings={"alpha": 0.0, "learning_rate": 1e-4}),
    "best": Recipe(settings={"learning_rate": 1e-4}),
    "best-sft-4e-4": Recipe(settings={"alpha": 0.0}),
    "best-4e-4": Recipe(),
}
HELD = (  # rows of the table: name, folders, view
    ("stage 1's own cascade", "eval-own-cascade", "cascade"),
    ("best's own cascade", "seed-*/eval-own-cascade", "cascade"),
    ("stacked, stage 1 alone", "eval-aligned-stacked", "audio"),
    ("tokens, stage 1 alone", "eval-aligned-tokens", "audio"),
    *((name, f"seed-*/eval-{name}", "audio") for name in RECIPES),
)


def transcribed_by(options: argparse.Namespace) -> Path:
    """Folder of what depends on the ears."""
    return options.output / options.whisper


def spoken(
    options: argparse.Namespace,
    name: str,
    source: SourceName,
    count: int,
    engine: "EngineName",
    voices: str,
    **more: Any,
) -> Path:
    folder = options.output / "audio" / name
    path = str(options.models / "kokoro") if engine == "kokoro" else ""
    config = SynthesizeConfig(folder, source, count=count, engine=engine, engine_path=path, voices=voices, **more)
    synthesize(config)
    return folder


def training_speech(options: argparse.Namespace) -> tuple[list[str], list[str]]:
    """(folders of stage 1, of stage 2)."""
    words = [
        spoken(options, "words-drawn", "words", 2000, "espeak", "random", seed=1),
        spoken(options, "words-flite", "words", 1000, "flite", FLITE, seed=2),
    ]
    questions = [
        spoken(options, "questions-flite", BENCHMARK, 1800, "flite", FLITE, seed=3),
        spoken(options, "questions-drawn", BENCHMARK, 1800, "espeak", "random", seed=4),
    ]
    return [str(folder) for folder in words], [str(folder) for folder in questions]


def asked_speech(options: argparse.Namespace) -> dict[str, Path]:
    """Folders of the same questions, by what says them and in what noise."""
    return {
        way: spoken(options, f"asked-{way}", BENCHMARK, ASKED, split="test", seed=100, **told)
        for way, told in ASKED_BY.items()
    }


def aligned(options: argparse.Namespace, vlm: Path, words: list[str]) -> Path:
    """Stage 1 of stacked ears."""
    from selfkd.training.align import AlignConfig, align

    config = AlignConfig(
        words, transcribed_by(options) / "align-stacked", vlm=str(vlm), speech_encoder=str(options.models / options.whisper),
        projector="stack", steps=options.align_steps, batch_size=16, learning_rate=1e-3, training=in_bf16(),
    )  # fmt: skip
    once(align, config)
    return config.output / MODEL


def listening(options: argparse.Namespace, vlm: Path, words: list[str]) -> Path:
    """Stage 1 of ears that hear tokens: Whisper's encoder under a new head over the LLM's."""
    from selfkd.training.align import AlignConfig, align

    config = AlignConfig(
        words, transcribed_by(options) / "align-tokens", vlm=str(vlm), speech_encoder=str(options.models / options.whisper),
        steps=options.token_steps, training=in_bf16(),
    )  # fmt: skip
    once(align, config)
    return config.output / MODEL


def ask(
    options: argparse.Namespace,
    model: Path,
    asked: dict[str, Path],
    output: Path,
    modalities: "list[Modality]",
    asr_model: Path | None = None,
) -> None:
    """The cascade's recogniser is Whisper itself, unless another is named."""
    asr_model = asr_model or options.models / options.whisper
    for way, folder in asked.items():
        ask_one(str(model), folder, output / way, modalities, asr_model=str(asr_model))


def start(options: argparse.Namespace, encoder: Ears, vlm: Path, words: list[str], asked: dict[str, Path]) -> Path:
    """Stage 1, and what it gives asked; the model's folder."""
    model = {"stack": aligned, "ctc": listening}[encoder](options, vlm, words)
    ask(options, model, asked, transcribed_by(options) / f"eval-aligned-{encoder}", ["audio"])
    if encoder == "ctc":
        ask(options, model, asked, transcribed_by(options) / "eval-own-cascade", ["cascade"], model)
    return model


def go_on(
    options: argparse.Namespace, name: str, seed: int, model: Path, questions: list[str], asked: dict[str, Path]
) -> None:
    """Stage 2 from what stage 1 gave, and what it gives asked."""
    from selfkd.training.distill import DistillConfig, distill

    recipe, folder = RECIPES[name], transcribed_by(options) / f"seed-{seed}"
    how: dict[str, Any] = {"steps": options.steps, "batch_size": 16, "warmup_steps": 15, "seed": seed}
    how |= {"training": in_bf16(), **recipe.settings}
    once(distill, DistillConfig(questions, folder / name, model=str(model), **how))
    model = folder / name / MODEL
    ask(options, model, asked, folder / f"eval-{name}", ["audio"])
    if name == "best":
        ask(options, model, asked, folder / "eval-own-cascade", ["cascade"], model)
        ask(options, model, asked, folder / "eval-written-after", ["text"])


def run(options: argparse.Namespace) -> None:
    from real_parts_vlm import make_vlm

    vlm = options.output / "vlm"
    make_vlm(options.models / "smollm2-135m-instruct", vlm, options.vlm_steps)
    words, questions = training_speech(options)
    asked = asked_speech(options)
    kinds: set[Ears] = {RECIPES[name].projector for name in options.only}
    started = {encoder: start(options, encoder, vlm, words, asked) for encoder in sorted(kinds)}
    # what is written, and the cascade, are the same with any ears
    ask(options, next(iter(started.values())), asked, transcribed_by(options) / "eval-written", ["text", "cascade"])
    for seed in options.seeds:
        for name in options.only:
            go_on(options, name, seed, started[RECIPES[name].projector], questions, asked)


def table(options: argparse.Namespace) -> dict[str, Any]:
    """Prints what the folder holds, and returns it."""
    found: dict[str, Any] = {}
    for way in ASKED_BY:
        base = transcribed_by(options) / "eval-written" / way
        written, cascade = samples(base, "text", BENCHMARK), samples(base, "cascade", BENCHMARK)
        rows = {"written": {"": written}, "cascade": {"": cascade}}
        for name, where, modality in HELD:
            runs = sorted(transcribed_by(options).glob(f"{where}/{way}/{RESULT}"))
            if runs:
                rows[name] = {_seed(file): samples(file.parent, modality, BENCHMARK) for file in runs}
        before = {sample["id"]: sample["prediction"] for sample in written}
        for file in sorted(transcribed_by(options).glob(f"seed-*/eval-written-after/{way}/{RESULT}")):
            after = samples(file.parent, "text", BENCHMARK)
            same = sum(before[sample["id"]] == sample["prediction"] for sample in after)
            print(f"{file.parent}: {same} of {len(written)} written replies are those of before")
        print(f"\n{BENCHMARK}, unseen voices ({way}), n = {len(written)} a seed")
        print(HEAD)
        found[way] = {
            name: row(name, by_seed, written, cascade, rows.get("paper-sft"), rows.get("best"))
            for name, by_seed in rows.items()
        }
    return found


def _seed(file: Path) -> str:
    return next((part for part in file.parts if part.startswith("seed-")), "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--whisper", default="whisper-tiny.en", help="folder of MODELS that hears")
    parser.add_argument(
        "--seeds", type=int, nargs="*", default=[0, 1, 2], help="of stage 2; none of them: stage 1 alone"
    )
    parser.add_argument("--only", choices=list(RECIPES), nargs="+", default=list(RECIPES))
    parser.add_argument("--vlm_steps", type=int, default=420)
    parser.add_argument("--align_steps", type=int, default=300, help="of stacked ears")
    parser.add_argument("--token_steps", type=int, default=600, help="of ears that hear tokens")
    parser.add_argument("--steps", type=int, default=100)
    options = parser.parse_args()
    run(options)
    write_json(transcribed_by(options) / "scores.json", table(options))


if __name__ == "__main__":
    main()
