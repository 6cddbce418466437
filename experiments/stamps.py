"""Human recordings, three languages, natural images: text, stage 1, SFT, Self-KD, CTC projector and cascade on held-out
subjects of Tux Paint's stamps.

    python experiments/stamps_sources.py runs/stamps/sources
    python experiments/stamps.py --sources runs/stamps/sources --models MODELS --output runs/stamps [--seeds 0 1 2]

MODELS holds whisper-base (multilingual): the speech encoder and, with its own decoder, the cascade's ASR model. The VLM
is that of `stamps_vlm.py`. All audio of questions is recordings of people: the captions, and those of the letters A and
B. Stage 1 trains on the captions of the training split, read by people and by SVOX Pico, stage 2 on its questions; the
test questions are about other subjects. Whisper's encoder stays as it is under the frame-stacking projector; under the
CTC projector it trains.

Writes OUTPUT/scores.json, OUTPUT/table.md and OUTPUT/correct.json. Finished runs are kept: the same command resumes.
Nothing is chosen on the test questions.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from projector_table import Seeds, accuracy, correct_bits, load_samples, over_seeds, paired, percent, write_correct
from stamps_images import STAMPS
from stamps_sources import LANGUAGES
from stamps_vlm import make_vlm

from selfkd.evaluation.chance import chance_accuracy
from selfkd.evaluation.config import EvaluateConfig
from selfkd.evaluation.evaluate import evaluate
from selfkd.files import write_json
from selfkd.model.kept_frames import keep_frames
from selfkd.run_dir import MODEL, once
from selfkd.synthesis.config import SourceName, SynthesizeConfig
from selfkd.synthesis.synthesize import synthesize
from selfkd.training.align import AlignConfig, align
from selfkd.training.distill import DistillConfig, distill

BENCHMARK: SourceName = "stamps-mmalign"
METHODS = {"SFT": 0.0, "Self-KD": 1.0}
KEPT_BYTES = 5 * 2**30  # of Whisper's frames of all training clips


def recorded(options: argparse.Namespace, source: SourceName, split: str, language: str, count: int = 0) -> Path:
    """A split of a source in the recordings of people, or `count` rows of it; its folder."""
    folder = options.output / "data" / f"{source}-{split}-{language}"
    config = SynthesizeConfig(folder, source, str(options.sources / STAMPS), engine="recorded", language=language)
    synthesize(replace(config, split=split, count=0 if language == "en" else count))  # type: ignore[arg-type]  # English has 28 and 88
    return folder


def read_by_pico(options: argparse.Namespace, language: str) -> Path:
    """The training captions in SVOX Pico's voice, for stage 1."""
    folder = options.output / "data" / f"stamps-pico-{language}"
    path, code = str(options.sources / STAMPS), {"en": "en-US", "es": "es-ES", "fr": "fr-FR"}[language]
    synthesize(SynthesizeConfig(folder, "stamps", path, count=0, engine="pico", voices=code, language=language))
    return folder


def evaluated(model: Path, data: list[str], output: Path, modalities: list[Any], asr_model: Path | None = None) -> Path:
    config = EvaluateConfig(str(model), data, output, modalities=modalities, asr_model=str(asr_model or ""))
    once(evaluate, config)
    return output


def stage_1(options: argparse.Namespace, projector: Any, vlm: Path, data: list[str]) -> Path:
    """The model's folder."""
    settings: dict[str, Any] = {"ctc": {"steps": options.ctc_steps}, "stack": {"steps": options.align_steps}}[projector]
    config = AlignConfig(
        data,
        options.output / f"align-{projector}",
        vlm=str(vlm),
        speech_encoder=str(options.models / "whisper-base"),
        projector=projector,
        batch_size=16,
        **settings,
    )
    once(align, config)
    return config.output / MODEL


def run(options: argparse.Namespace) -> dict[str, dict[str, Path]]:
    """{system: {seed: its evaluation}}."""
    output, vlm = options.output, options.output / "vlm"
    make_vlm(options.sources, options.models / "smollm2-135m-instruct", vlm, options.vlm_steps)
    captions = [str(recorded(options, "stamps", "train", language)) for language in LANGUAGES]
    captions += [str(read_by_pico(options, language)) for language in LANGUAGES]
    questions = [str(recorded(options, BENCHMARK, "train", name, options.train_questions)) for name in LANGUAGES]
    test = [f"{name}={recorded(options, BENCHMARK, 'test', name, options.test_questions)}" for name in LANGUAGES]
    stack = stage_1(options, "stack", vlm, captions)
    runs = {"text": {"": evaluated(stack, test, output / "eval-text", ["text", "audio"])}}
    runs["stage 1 only"] = runs["text"]
    whisper = options.models / "whisper-base"
    runs["cascade"] = {"": evaluated(stack, test, output / "eval-cascade", ["cascade"], whisper)}
    for seed in options.seeds:
        for name, alpha in METHODS.items():
            folder = output / f"seed-{seed}" / name.lower().replace("-", "")
            config = DistillConfig(
                questions, folder, model=str(stack), alpha=alpha, steps=options.steps, batch_size=16, seed=seed
            )
            once(distill, config)
            run = evaluated(folder / MODEL, test, folder.with_name(f"eval-{folder.name}"), ["audio"])
            runs.setdefault(name, {})[str(seed)] = run
    if options.ctc_steps:
        ctc = stage_1(options, "ctc", vlm, captions)
        runs["CTC projector"] = {"": evaluated(ctc, test, output / "eval-ctc", ["audio"])}
        runs["CTC projector's own cascade"] = {"": evaluated(ctc, test, output / "eval-own", ["cascade"], ctc)}
    return runs


def modality(system: str) -> str:
    return "text" if system == "text" else "cascade" if "cascade" in system else "audio"


def table(runs: dict[str, dict[str, Path]], output: Path) -> dict[str, Any]:
    """{language, or all: {system: accuracy, sd over seeds, interval over items, minus the cascade}}."""
    found: dict[str, Any] = {}
    samples = {
        language: {
            name: {seed: load_samples(run, modality(name), f"{BENCHMARK}@{language}") for seed, run in by_seed.items()}
            for name, by_seed in runs.items()
        }
        for language in LANGUAGES
    }
    samples["all"] = {
        name: {seed: [s for language in LANGUAGES for s in samples[language][name][seed]] for seed in by_seed}
        for name, by_seed in runs.items()
    }
    for language, systems in samples.items():
        text = systems["text"][""]
        found[language] = {"chance": chance_accuracy(text)}
        found[language] |= {name: cell(by_seed, systems["cascade"]) for name, by_seed in systems.items()}
    bits = {
        language: {
            name: {seed: correct_bits(one, systems["text"][""]) for seed, one in by_seed.items()}
            for name, by_seed in systems.items()
        }
        for language, systems in samples.items()
        if language != "all"
    }
    write_correct(bits, output / "correct.json")
    return found


def cell(by_seed: Seeds, cascade: Seeds) -> dict[str, Any]:
    found, items = accuracy(by_seed), over_seeds(by_seed)
    first = sorted(next(iter(by_seed.values())), key=lambda sample: sample["id"])  # as the items are
    by_kind = {kind: [x for x, s in zip(items, first, strict=True) if s["question_type"] == kind] for kind in KINDS}
    found["by_kind"] = {kind: fmean(scores) for kind, scores in by_kind.items() if scores}
    rates = [s["word_error_rate"] for s in first if s["word_error_rate"] is not None]
    if rates:
        found["wer"] = fmean(rates)
    if by_seed is not cascade:
        found["minus_cascade"] = paired(by_seed, cascade)
    return found


KINDS = ("exists", "choice")


def markdown(found: dict[str, Any]) -> str:
    systems = [name for name, value in found["all"].items() if isinstance(value, dict)]
    lines = [f"| language | n | chance | {' | '.join(systems)} | WER |", f"|---{'|---' * (len(systems) + 3)}|"]
    for language, rows in found.items():
        cells = [percent(rows[name]) for name in systems]
        head = f"| {language} | {rows['text']['n']} | {100 * rows['chance']:.1f}"
        lines.append(f"{head} | {' | '.join(cells)} | {100 * rows['cascade'].get('wer', 0):.1f} |")
    for name in systems:
        over = found["all"][name].get("minus_cascade")
        if over:
            low, high = (100 * side for side in over["interval"])
            lines.append(f"- {name} minus cascade: {100 * over['difference']:+.1f} ({low:+.1f} to {high:+.1f})")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sources", type=Path, required=True)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--vlm_steps", type=int, default=400)
    parser.add_argument("--train_questions", type=int, default=0, help="in Spanish, and in French; 0 takes all")
    parser.add_argument("--test_questions", type=int, default=0, help="in Spanish, and in French; 0 takes all")
    parser.add_argument("--align_steps", type=int, default=400, help="of the frame-stacking projector's stage 1")
    parser.add_argument("--ctc_steps", type=int, default=600, help="of the CTC projector's stage 1; 0 leaves it out")
    parser.add_argument("--steps", type=int, default=300, help="of SFT and of Self-KD")
    options = parser.parse_args()
    with keep_frames(KEPT_BYTES):
        runs = run(options)
    found = table(runs, options.output)
    write_json(options.output / "scores.json", found)
    (options.output / "table.md").write_text(markdown(found))
    print(markdown(found))


if __name__ == "__main__":
    main()
