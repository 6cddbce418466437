"""The paper's table with pretrained LLM, speech encoder and voices: how much of the gap do SFT, Self-KD and this
project's recipe leave, and is the cascade better?

    python experiments/real_parts.py --models MODELS --output runs/real [--seeds 0 1 2] [--only paper-sft best]

MODELS is a folder of checkpoints: smollm2-135m-instruct and whisper-tiny.en (transformers), kokoro (ONNX model and
voices). SmolLM2-135M-Instruct has the tiny model's vision tower (`real_parts_vlm.py` makes that model first) and
Whisper's encoder, trained on voices of Flite and on espeak-ng's random ones; it is evaluated on easy-VQA's test
questions in another voice of Flite, and by Kokoro-82M, an engine that is not in the training data, in quiet and in
noise. The cascade is the same Whisper with its own decoder, then the text query; in "own cascade" the transcript of
the trained encoder itself is the text query. Stage 1 is run once for each projector, stage 2 for every seed.

Writes OUTPUT/WHISPER/scores.json and prints a table for each condition. Finished runs are kept: the same command
resumes. Nothing is chosen on the test questions.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from projector_recipes import CONDITIONS, KOKORO_VOICES, ProjectorName, Recipe
from projector_study import bf16_arguments, evaluate_once
from projector_table import HEAD, load_samples, row

from selfkd.files import write_json
from selfkd.run_dir import MODEL, RESULT, once
from selfkd.synthesis.config import SourceName
from selfkd.synthesis.synthesize import SynthesizeConfig, synthesize

if TYPE_CHECKING:
    from selfkd.evaluation.config import EvalModality
    from selfkd.synthesis.tts.registry import EngineName

FLITE = "kal,kal16,rms"
TEST_QUESTIONS = 300  # the same in each condition
TEST_SPEECH: dict[str, dict[str, Any]] = {
    "kokoro": {"engine": "kokoro", "voices": KOKORO_VOICES},
    "flite": {"engine": "flite", "voices": "slt"},
    "kokoro, noise, 0 dB": {"engine": "kokoro", "voices": KOKORO_VOICES, **CONDITIONS["noise, 0 dB"]},
}
BENCHMARK: SourceName = "easy-vqa"
RECIPES = {
    "paper-sft": Recipe("stack", settings={"alpha": 0.0, "learning_rate": 1e-3}),
    "paper-selfkd": Recipe("stack", settings={"learning_rate": 1e-3}),
    # a pretrained encoder forgets at the rate of ours, as it does in stage 1
    "best-sft": Recipe(settings={"alpha": 0.0, "learning_rate": 1e-4}),
    "best": Recipe(settings={"learning_rate": 1e-4}),
    "best-sft-4e-4": Recipe(settings={"alpha": 0.0}),
    "best-4e-4": Recipe(),
}
ROWS = (  # of the table: name, folders, modality
    ("stage 1's own cascade", "eval-own-cascade", "cascade"),
    ("best's own cascade", "seed-*/eval-own-cascade", "cascade"),
    ("frame-stacking projector, stage 1 only", "eval-aligned-stack", "audio"),
    ("CTC projector, stage 1 only", "eval-aligned-ctc", "audio"),
    *((name, f"seed-*/eval-{name}", "audio") for name in RECIPES),
)


def encoder_folder(options: argparse.Namespace) -> Path:
    """Folder of all that depends on the speech encoder."""
    return options.output / options.whisper


def synthesized(
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
        synthesized(options, "words-random", "words", 2000, "espeak", "random", seed=1),
        synthesized(options, "words-flite", "words", 1000, "flite", FLITE, seed=2),
    ]
    questions = [
        synthesized(options, "questions-flite", BENCHMARK, 1800, "flite", FLITE, seed=3),
        synthesized(options, "questions-random", BENCHMARK, 1800, "espeak", "random", seed=4),
    ]
    return [str(folder) for folder in words], [str(folder) for folder in questions]


def test_speech(options: argparse.Namespace) -> dict[str, Path]:
    """Folders of the same test questions, by condition: engine and noise."""
    return {
        name: synthesized(options, f"test-{name}", BENCHMARK, TEST_QUESTIONS, split="test", seed=100, **speech)
        for name, speech in TEST_SPEECH.items()
    }


def align_stack(options: argparse.Namespace, vlm: Path, words: list[str]) -> Path:
    """Stage 1 of the frame-stacking projector; the model's folder."""
    from selfkd.training.align import AlignConfig, align

    config = AlignConfig(
        words, encoder_folder(options) / "align-stack", vlm=str(vlm),
        speech_encoder=str(options.models / options.whisper), projector="stack", steps=options.align_steps,
        batch_size=16, learning_rate=1e-3, training=bf16_arguments(),
    )  # fmt: skip
    once(align, config)
    return config.output / MODEL


def align_ctc(options: argparse.Namespace, vlm: Path, words: list[str]) -> Path:
    """Stage 1 of the CTC projector: Whisper's encoder under a new head over the LLM's tokens; the model's folder."""
    from selfkd.training.align import AlignConfig, align

    config = AlignConfig(
        words, encoder_folder(options) / "align-ctc", vlm=str(vlm),
        speech_encoder=str(options.models / options.whisper), steps=options.ctc_steps, training=bf16_arguments(),
    )  # fmt: skip
    once(align, config)
    return config.output / MODEL


def evaluate_all(
    options: argparse.Namespace,
    model: Path,
    test_sets: dict[str, Path],
    output: Path,
    modalities: "list[EvalModality]",
    asr_model: Path | None = None,
) -> None:
    """Evaluates a model on every test set. The cascade's ASR model is Whisper itself, unless another is named."""
    asr_model = asr_model or options.models / options.whisper
    for name, folder in test_sets.items():
        evaluate_once(str(model), folder, output / name, modalities, asr_model=str(asr_model))


def run_stage_1(
    options: argparse.Namespace, projector: ProjectorName, vlm: Path, words: list[str], test_sets: dict[str, Path]
) -> Path:
    """Stage 1 and its evaluation; the model's folder."""
    model = {"stack": align_stack, "ctc": align_ctc}[projector](options, vlm, words)
    evaluate_all(options, model, test_sets, encoder_folder(options) / f"eval-aligned-{projector}", ["audio"])
    if projector == "ctc":
        evaluate_all(options, model, test_sets, encoder_folder(options) / "eval-own-cascade", ["cascade"], model)
    return model


def run_stage_2(
    options: argparse.Namespace, name: str, seed: int, model: Path, questions: list[str], test_sets: dict[str, Path]
) -> None:
    """Stage 2 from the model of stage 1, and its evaluation."""
    from selfkd.training.distill import DistillConfig, distill

    recipe, folder = RECIPES[name], encoder_folder(options) / f"seed-{seed}"
    settings: dict[str, Any] = {"steps": options.steps, "batch_size": 16, "warmup_steps": 15, "seed": seed}
    settings |= {"training": bf16_arguments(), **recipe.settings}
    once(distill, DistillConfig(questions, folder / name, model=str(model), **settings))
    model = folder / name / MODEL
    evaluate_all(options, model, test_sets, folder / f"eval-{name}", ["audio"])
    if name == "best":
        evaluate_all(options, model, test_sets, folder / "eval-own-cascade", ["cascade"], model)
        evaluate_all(options, model, test_sets, folder / "eval-text-after", ["text"])


def run(options: argparse.Namespace) -> None:
    from real_parts_vlm import make_vlm

    vlm = options.output / "vlm"
    make_vlm(options.models / "smollm2-135m-instruct", vlm, options.vlm_steps)
    words, questions = training_speech(options)
    test_sets = test_speech(options)
    projectors: set[ProjectorName] = {RECIPES[name].projector for name in options.only}
    aligned = {projector: run_stage_1(options, projector, vlm, words, test_sets) for projector in sorted(projectors)}
    # text and cascade are the same with either projector
    any_model, output = next(iter(aligned.values())), encoder_folder(options) / "eval-text"
    evaluate_all(options, any_model, test_sets, output, ["text", "cascade"])
    for seed in options.seeds:
        for name in options.only:
            run_stage_2(options, name, seed, aligned[RECIPES[name].projector], questions, test_sets)


def table(options: argparse.Namespace) -> dict[str, Any]:
    """Prints a row for each run that the folder holds, and returns the values."""
    found: dict[str, Any] = {}
    for condition in TEST_SPEECH:
        run = encoder_folder(options) / "eval-text" / condition
        text, cascade = load_samples(run, "text", BENCHMARK), load_samples(run, "cascade", BENCHMARK)
        rows = {"text": {"": text}, "cascade": {"": cascade}}
        for name, folders, modality in ROWS:
            runs = sorted(encoder_folder(options).glob(f"{folders}/{condition}/{RESULT}"))
            if runs:
                rows[name] = {_seed(file): load_samples(file.parent, modality, BENCHMARK) for file in runs}
        before = {sample["id"]: sample["prediction"] for sample in text}
        for file in sorted(encoder_folder(options).glob(f"seed-*/eval-text-after/{condition}/{RESULT}")):
            after = load_samples(file.parent, "text", BENCHMARK)
            same = sum(before[sample["id"]] == sample["prediction"] for sample in after)
            print(f"{file.parent}: {same} of {len(text)} responses to text are those from before stage 2")
        print(f"\n{BENCHMARK}, held-out voices ({condition}), n = {len(text)} a seed")
        print(HEAD)
        found[condition] = {
            name: row(name, by_seed, text, cascade, rows.get("paper-sft"), rows.get("best"))
            for name, by_seed in rows.items()
        }
    return found


def _seed(file: Path) -> str:
    return next((part for part in file.parts if part.startswith("seed-")), "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--whisper", default="whisper-tiny.en", help="folder of MODELS with the speech encoder")
    parser.add_argument(
        "--seeds", type=int, nargs="*", default=[0, 1, 2], help="of stage 2; without values stage 1 only"
    )
    parser.add_argument("--only", choices=list(RECIPES), nargs="+", default=list(RECIPES))
    parser.add_argument("--vlm_steps", type=int, default=420)
    parser.add_argument("--align_steps", type=int, default=300, help="of the frame-stacking projector's stage 1")
    parser.add_argument("--ctc_steps", type=int, default=600, help="of the CTC projector's stage 1")
    parser.add_argument("--steps", type=int, default=100)
    options = parser.parse_args()
    run(options)
    write_json(encoder_folder(options) / "scores.json", table(options))


if __name__ == "__main__":
    main()
