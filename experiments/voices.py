"""The toy world's questions in the voices of several engines, some never trained on, clean and in noise: how well do
SFT, Self-KD and a CTC projector answer, against the best form of a cascade?

    python experiments/voices.py --output runs/voices [--seeds 0 1 2] [--steps N] [--whisper WHISPER] \
      [--recordings FOLDER]

Trains what the demo trains, for every seed, and evaluates it on the same 400 questions in each condition: espeak-ng's
held-out voices, and the bundled clips of Kokoro (voices that were not trained on), SVOX Pico and Festival (engines that
were not trained on); Pico's also in pink noise of 10 and 0 dB. WHISPER, a folder of whisper-tiny.en or another, is the
ASR model of a second cascade. FOLDER holds recordings of people, NAME.wav with its words in NAME.txt: the word error
rate of the bundled ASR model on them.

Writes OUTPUT/scores.json, OUTPUT/table.md and OUTPUT/correct.json (correctness of each item, as bits); responses are in
OUTPUT/*/eval-*/samples. Finished runs are kept: the same command resumes. Nothing is chosen on the test questions.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from projector_table import Seeds, accuracy, correct_bits, load_samples, over_seeds, paired, percent, write_correct

from selfkd.data.example import MANIFEST, Example
from selfkd.data.media import decode_audio
from selfkd.data.resample import resampled
from selfkd.data.rewrite import rewrite
from selfkd.demo import (
    BUNDLED_VOICES,
    QUESTIONS_A_VOICE,
    SYNTHESIZED_VOICE,
    DemoConfig,
    bundled_voice,
    checkpoints,
    synthesize_test,
    train_models,
)
from selfkd.evaluation.backends.transcriber import Transcriber
from selfkd.evaluation.chance import chance_accuracy
from selfkd.evaluation.config import EvaluateConfig
from selfkd.evaluation.evaluate import evaluate
from selfkd.evaluation.uncertainty import mean_interval
from selfkd.files import write_json
from selfkd.model.kept_frames import keep_frames
from selfkd.model.tiny import TINY_MODEL, TINY_STACK_MODEL
from selfkd.run_dir import once
from selfkd.synthesis.augment import augment_example
from selfkd.synthesis.quality_filter import word_error_rate

NOISE_DB = (10, 0)
NOISY_VOICE = "pico"
TRAINED = {"SFT": "sft", "Self-KD": "selfkd"}  # in every seed
BUNDLED = {"stage 1 only": ("stage-1", TINY_STACK_MODEL), "CTC projector": ("ctc", TINY_MODEL)}  # one training each


def test_folders(output: Path) -> dict[str, Path]:
    """{condition: folder of the questions}."""
    espeak = output / "data" / SYNTHESIZED_VOICE
    synthesize_test(espeak, "world", QUESTIONS_A_VOICE)
    folders = {SYNTHESIZED_VOICE: espeak} | {voice: bundled_voice(voice) for voice in BUNDLED_VOICES}
    for snr_db in NOISE_DB:
        name = f"{NOISY_VOICE}-{snr_db}dB"
        folders[name] = output / "data" / name
        if not (folders[name] / MANIFEST).is_file():
            rewrite(folders[NOISY_VOICE], folders[name], partial(in_noise, snr_db=snr_db))
    return folders


def in_noise(example: Example, snr_db: float) -> Example:
    return augment_example(example, {"noise": 1.0}, (snr_db, snr_db), "", example.id)


def run_seed(seed: int, steps: int, output: Path, data: Sequence[str]) -> None:
    folder = output / f"seed-{seed}"
    train_models(DemoConfig(folder, seed=seed, distill_steps=steps), lambda _, stage, config: once(stage, config))
    for name in TRAINED.values():
        audio = EvaluateConfig(checkpoints(folder)[name], list(data), folder / f"eval-{name}", modalities=["audio"])
        once(evaluate, audio)


def run_without_training(output: Path, data: Sequence[str], whisper: str) -> dict[str, Path]:
    """Text queries, cascades, and the bundled models: {name of a cascade: its run}; the first has the text queries
    too."""
    for name, model in BUNDLED.values():
        once(evaluate, EvaluateConfig(model, list(data), output / f"eval-{name}", modalities=["audio"]))
    base = EvaluateConfig(TINY_MODEL, list(data), output / "eval-base", modalities=["text", "cascade"])
    runs = {"cascade, bundled ASR model": base}
    if whisper:
        another = replace(base, output=output / "eval-whisper", modalities=["cascade"], asr_model=whisper)
        runs[f"cascade, {Path(whisper).name}"] = another
    for config in runs.values():
        once(evaluate, config)
    return {name: config.output for name, config in runs.items()}


def table(output: Path, conditions: Sequence[str], seeds: Sequence[int], cascades: Mapping[str, Path]) -> dict:
    """{condition: {system: accuracy, sd over seeds, interval over items, minus the best cascade}}; writes the
    correctness of each item."""
    found: dict[str, Any] = {}
    correct: dict[str, Any] = {}
    for condition in conditions:
        benchmark = f"world@{condition}"
        text = load_samples(next(iter(cascades.values())), "text", benchmark)
        rows: dict[str, Seeds] = {"text": {"": text}}
        for title, name in TRAINED.items():
            rows[title] = {
                str(s): load_samples(output / f"seed-{s}" / f"eval-{name}", "audio", benchmark) for s in seeds
            }
        for title, (name, _) in BUNDLED.items():
            rows[title] = {"": load_samples(output / f"eval-{name}", "audio", benchmark)}
        rows |= {name: {"": load_samples(run, "cascade", benchmark)} for name, run in cascades.items()}
        correct[condition] = {
            name: {seed: correct_bits(samples, text) for seed, samples in by_seed.items()}
            for name, by_seed in rows.items()
        }
        best = max(cascades, key=lambda name: fmean(over_seeds(rows[name])))
        found[condition] = {"chance": chance_accuracy(text), "best cascade": best}
        for title, by_seed in rows.items():
            found[condition][title] = _row(title, by_seed, rows[best], title in (*TRAINED, *BUNDLED))
    write_correct(correct, output / "correct.json")
    return found


def _row(title: str, by_seed: Seeds, cascade: Seeds, is_trained: bool) -> dict[str, Any]:
    row, one = accuracy(by_seed), next(iter(by_seed.values()))
    wers = [s["word_error_rate"] for s in one if s["word_error_rate"] is not None]
    if title.startswith("cascade"):
        row |= {"wer": fmean(wers), "form": one[0].get("form", "verbatim")}
    if is_trained:
        row["minus_best_cascade"] = paired(by_seed, cascade)
    return row


def markdown(found: Mapping[str, Any]) -> str:
    first = next(iter(found.values()))
    systems = [name for name in first if isinstance(first[name], dict)]
    lines = [
        f"| | chance | {' | '.join(systems)} | WER, bundled |",
        f"|---{'|---' * (len(systems) + 2)}|",
    ]
    for condition, rows in found.items():
        cells = [percent(rows[name]) for name in systems]
        wer = next(row["wer"] for row in rows.values() if isinstance(row, dict) and "wer" in row)
        lines.append(f"| {condition} | {100 * rows['chance']:.1f} | {' | '.join(cells)} | {100 * wer:.1f} |")
    for condition, rows in found.items():
        for name in (*TRAINED, *BUNDLED):
            over = rows[name]["minus_best_cascade"]
            low, high = (100 * side for side in over["interval"])
            lines.append(
                f"- {condition}, {name} minus {rows['best cascade']}: {100 * over['difference']:+.1f} "
                f"({low:+.1f} to {high:+.1f}; standard error {100 * over['stderr']:.1f})"
            )
    return "\n".join(lines) + "\n"


def recordings(folder: Path) -> dict[str, Any]:
    """The word error rate of the bundled ASR model on recordings of people."""
    examples = []
    for path in sorted(folder.glob("*.wav")):
        samples, rate_hz, _ = decode_audio(path)
        text = path.with_suffix(".txt").read_text().strip()
        example = Example(path.stem, text, text, "recordings", "repeat", text)
        examples.append(example.with_audio(resampled(np.asarray(samples), rate_hz), folder.name))
    transcripts = Transcriber.from_pretrained().transcribe(examples)
    rates = [word_error_rate(e.question, t) for e, t in zip(examples, transcripts, strict=True)]
    items = [
        {"id": e.id, "text": e.question, "transcript": t, "wer": rate}
        for e, t, rate in zip(examples, transcripts, rates, strict=True)
    ]
    interval = mean_interval(rates, bounds=(0.0, max(1.0, *rates)))
    return {"n": len(rates), "wer": fmean(rates), "interval": interval, "items": items}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=DemoConfig.distill_steps, help="steps of SFT and of Self-KD")
    parser.add_argument("--whisper", default="", help="Whisper checkpoint of a second cascade")
    parser.add_argument("--recordings", type=Path, help="recordings of people: NAME.wav and NAME.txt")
    options = parser.parse_args()
    folders = test_folders(options.output)
    data = [f"{condition}={folder}" for condition, folder in folders.items()]
    with keep_frames():
        cascades = run_without_training(options.output, data, options.whisper)
        for seed in options.seeds:
            run_seed(seed, options.steps, options.output, data)
    found = table(options.output, list(folders), options.seeds, cascades)
    (options.output / "table.md").write_text(markdown(found))
    if options.recordings:
        found["recordings"] = recordings(options.recordings)
        print(f"recordings: WER {found['recordings']['wer']:.3f}, n = {found['recordings']['n']}")
    write_json(options.output / "scores.json", found)
    print(markdown({name: rows for name, rows in found.items() if name != "recordings"}))


if __name__ == "__main__":
    main()
