"""Can a CTC projector beat the strongest form of a cascade in babble and in rooms, with pretrained parts?

    python experiments/noise.py --models MODELS --output runs/noise [--questions 150] [--steps 400]

MODELS holds smollm2-135m-instruct, whisper-base and kokoro. The VLM is the first layers of SmolLM2 with the tiny
model's vision tower, trained on easy-VQA only (`real_parts_vlm.py`). Stage 1 trains a CTC projector on whisper-base's
encoder, on the domain's questions in quiet and on the same clips in babble and rooms (`noise_audio.py`). The cascade is
whisper-base with its own decoder: greedy, prompted with the domain's words, and the N-best of that into the LLM, where
the answers' probabilities are averaged by the hypotheses' posteriors. The form of the cascade, and temperatures and
weights, are those with the likeliest right answers on the validation questions. A response is the likeliest of
easy-VQA's 13 answers.

Writes OUTPUT/scores.json, OUTPUT/table.md and OUTPUT/correct.json; what every system made of every item is in
OUTPUT/items. Finished parts are kept: the same command resumes. Nothing is chosen on the test questions.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
from noise_audio import test_audio, training_audio, validation_audio
from numpy.typing import NDArray
from projector_study import bf16_arguments
from projector_table import accuracy, correct_bits, paired, percent, write_correct

from selfkd.data.dataset import ExampleFolder
from selfkd.data.example import Example
from selfkd.files import write_json
from selfkd.json_files import read_json
from selfkd.run_dir import MODEL, once
from selfkd.synthesis.quality_filter import word_error_rate

if TYPE_CHECKING:  # torch: each synthesis worker imports this file
    from noise_answers import ImagePrompts

LAYERS, VLM_STEPS, RESPONSE_STEPS = 8, 200, 180
TEMPERATURES, PRIOR_WEIGHTS = (0.5, 1.0, 2.0, 4.0), (0.25, 0.5, 1.0)
SHARPNESS = (0.5, 1.0)  # temperatures of the posteriors in audio embeddings
Setting = tuple[float, float]  # temperature, weight of the image's prior
PLAIN: tuple[Setting, ...] = ((1.0, 0.0),)
AVERAGED = tuple((t, 0.0) for t in TEMPERATURES)
WITH_PRIOR = tuple(product(TEMPERATURES, PRIOR_WEIGHTS))
Items = dict[str, Any]  # of one condition: ids, targets, questions, and what each part made of them


@dataclass(frozen=True)
class System:
    part: str  # "text", "cascade", or the audio that stage 1 trained on
    kind: str  # how its hypotheses were decoded; "vectors" for audio embeddings
    settings: Sequence[Setting] = PLAIN


CASCADES = {
    "cascade, greedy": System("cascade", "greedy"),
    "cascade, prompted": System("cascade", "prompted"),
    "cascade, prompted, N-best": System("cascade", "N-best", AVERAGED),
}
IMAGE_PRIOR = "cascade, prompted, N-best, image as prior"


def ctc_systems(name: str) -> dict[str, System]:
    title = f"CTC projector, {name}"
    return {
        title: System(name, "vectors"),
        f"{title}, temperature": System(name, "vectors", [(t, 0.0) for t in SHARPNESS]),
        f"{title}, transcript": System(name, "greedy"),
        f"{title}, N-best": System(name, "N-best", AVERAGED),
        f"{title}, N-best, image as prior": System(name, "N-best", WITH_PRIOR),
    }


def stage_1(options: argparse.Namespace, name: str, data: list[str]) -> Path:
    """The model's folder. The CTC loss runs no LLM, so the VLM need not be trained yet."""
    from selfkd.training.align import AlignConfig, align

    config = AlignConfig(
        data, options.output / f"align-{name}", vlm=str(options.output / "vlm" / "warm"),
        speech_encoder=str(options.models / "whisper-base"), steps=options.steps, batch_size=16,
        training=bf16_arguments(),
    )  # fmt: skip
    once(align, config)
    return config.output / MODEL


def items_of(
    options: argparse.Namespace,
    name: str,
    examples: Sequence[Example],
    prompts: "ImagePrompts",
    models: dict[str, Path],
) -> Items:
    """What each part made of the questions in one condition; kept part by part."""
    from noise_hypotheses import ctc_readings, whisper_hypotheses

    found: Items = {
        "ids": [e.id for e in examples],
        "targets": [e.target for e in examples],
        "questions": [e.question for e in examples],
        "text": {"greedy": prompts.readings([[(e.question, 0.0)] for e in examples])},
    }
    folder = options.output / "items"
    file = folder / f"{name}, cascade.json"
    if not file.is_file():
        some = examples[: options.cascade_questions]
        write_json(file, whisper_hypotheses(options.models / "whisper-base", some))
    found["cascade"] = {kind: prompts.readings(hypotheses) for kind, hypotheses in read_json(file).items()}
    for training, model in models.items():
        file = folder / f"{name}, {training}.json"
        if not file.is_file():
            vectors, greedy, n_best = ctc_readings(model, examples, prompts.embed, SHARPNESS)
            answers = {str(t): prompts.of_vectors(some) for t, some in vectors.items()}
            write_json(file, {"vectors": answers, "greedy": greedy, "N-best": n_best})
        kept = read_json(file)
        found[training] = {kind: prompts.readings(kept[kind]) for kind in ("greedy", "N-best")}
        found[training]["vectors"] = kept["vectors"]
    return found


def answers(system: System, items: Items, setting: Setting) -> NDArray[np.float64]:
    """The probability of each answer to each item (n, 13)."""
    from noise_answers import averaged

    made = items[system.part][system.kind]
    if system.kind == "vectors":
        return np.array(made[str(setting[0])])
    return np.array([averaged(readings, *setting) for readings in made])


def right_log_prob(probabilities: NDArray[np.float64], items: Items) -> float:
    from noise_answers import ANSWERS

    at = [ANSWERS.index(target) for target in items["targets"][: len(probabilities)]]
    return float(np.log(np.maximum(probabilities[np.arange(len(at)), at], 1e-6)).mean())


def chosen(systems: Mapping[str, System], validation: Mapping[str, Items]) -> dict[str, tuple[Setting, float]]:
    """{system: its setting with the likeliest right answers on the validation questions, their mean log-probability}"""
    found = {}
    for name, system in systems.items():
        values = {
            setting: fmean(right_log_prob(answers(system, items, setting), items) for items in validation.values())
            for setting in system.settings
        }
        best = max(values, key=lambda setting: values[setting])
        found[name] = best, values[best]
    return found


def samples(probabilities: NDArray[np.float64], items: Items) -> list[dict[str, Any]]:
    from noise_answers import ANSWERS

    found = []
    for row, item, target in zip(probabilities, items["ids"], items["targets"], strict=False):  # a cascade's are fewer
        score = int(ANSWERS[int(row.argmax())] == target)
        found.append({"id": item, "group": item, "score": score, "correct": bool(score)})
    return found


def word_errors(items: Items, system: System) -> list[float]:
    """The word error rate of each item's likeliest hypothesis."""
    texts = [max(readings, key=lambda r: r.score).text for readings in items[system.part][system.kind]]
    return [word_error_rate(q, text) for q, text in zip(items["questions"], texts, strict=False)]


def table(validation: Mapping[str, Items], test: Mapping[str, Items], trainings: Sequence[str]) -> dict[str, Any]:
    """{"chosen": ..., "accuracy": {condition: {system: accuracy, interval, minus the cascade}}, "correct": bits}."""
    systems = {"text": System("text", "greedy"), **CASCADES, IMAGE_PRIOR: System("cascade", "N-best", WITH_PRIOR)}
    for training in trainings:
        systems |= ctc_systems(training)
    settings = chosen(systems, validation)
    fair = max(CASCADES, key=lambda name: settings[name][1])
    found: dict[str, Any] = {"fair cascade": fair, "accuracy": {}, "correct": {}}
    found["chosen"] = {
        name: {"temperature": t, "prior": w, "validation": value} for name, ((t, w), value) in settings.items()
    }
    for condition, items in test.items():
        given = {name: answers(system, items, settings[name][0]) for name, system in systems.items()}
        for training in trainings:
            title = f"CTC projector, {training}"
            given[f"{title}, and the cascade"] = (given[title][: len(given[fair])] + given[fair]) / 2
        rows = {name: {"": samples(probabilities, items)} for name, probabilities in given.items()}
        found["accuracy"][condition] = {}
        for name, by_seed in rows.items():
            row, both = accuracy(by_seed), {"": by_seed[""][: len(given[fair])]}  # the items that the cascade has too
            if name != fair:
                row["minus_cascade"] = paired(both, rows[fair])
            if name in systems and systems[name].kind in ("greedy", "prompted", "N-best"):
                errors = word_errors(items, systems[name])
                row |= {"wer": fmean(errors), "word for word": fmean(error == 0 for error in errors)}
            found["accuracy"][condition][name] = row
        found["correct"][condition] = {
            name: {"": correct_bits(by_seed[""], by_seed[""])} for name, by_seed in rows.items()
        }
    return found


def markdown(found: Mapping[str, Any]) -> str:
    conditions, fair = found["accuracy"], found["fair cascade"]
    first = next(iter(conditions.values()))
    lines = [f"| | n | {' | '.join(conditions)} |", f"|---|---{'|---' * len(conditions)}|"]
    for name in first:
        title = f"**{name}**" if name == fair else name
        cells = [percent(rows[name]) for rows in conditions.values()]
        lines.append(f"| {title} | {first[name]['n']} | {' | '.join(cells)} |")
    lines += [
        "",
        f"| minus {fair} (95%), n = {first[fair]['n']} | {' | '.join(conditions)} |",
        f"|---{'|---' * len(conditions)}|",
    ]
    for name in first:
        if name == fair or name == "text":
            continue
        over = [rows[name]["minus_cascade"] for rows in conditions.values()]
        shown = [f"{100 * c['difference']:+.1f} ({_points(c['interval'])})" for c in over]
        lines.append(f"| {name} | {' | '.join(shown)} |")
    lines += ["", f"| words: WER, share without error | {' | '.join(conditions)} |", f"|---{'|---' * len(conditions)}|"]
    for name in (*CASCADES, *(name for name in first if name.endswith((", transcript", "N-best")) and "CTC" in name)):
        lines.append(f"| {name} | {' | '.join(_words(rows[name]) for rows in conditions.values())} |")
    return "\n".join(lines) + "\n"


def _words(row: Mapping[str, Any]) -> str:
    return f"{100 * row['wer']:.0f}, {100 * row['word for word']:.0f}"


def _points(interval: Sequence[float]) -> str:
    return " to ".join(f"{100 * side:+.1f}" for side in interval)


def run(options: argparse.Namespace) -> dict[str, Any]:
    from noise_answers import ImagePrompts
    from real_parts_vlm import make_vlm

    vlm = options.output / "vlm"
    llm, more = options.models / "smollm2-135m-instruct", {"layers": LAYERS, "response_steps": RESPONSE_STEPS}
    make_vlm(llm, vlm, options.vlm_steps, world=False, **more)
    training, folders = training_audio(options), {"test": test_audio(options), "validation": validation_audio(options)}
    models = {name: stage_1(options, name, training[name]) for name in options.only}
    images: set[bytes | None] = set()
    items: dict[str, dict[str, Items]] = {}
    for split, by_condition in folders.items():  # the test first: none of its images is in validation
        examples = {name: list(ExampleFolder(folder)) for name, folder in by_condition.items()}
        some = next(iter(examples.values()))
        used = [i for i, e in enumerate(some) if e.image not in images][: options.limit]
        images |= {e.image for e in some}
        prompts = ImagePrompts(vlm, [some[i] for i in used])
        items[split] = {
            name: items_of(options, f"{split}, {name}", [rows[i] for i in used], prompts, models)
            for name, rows in examples.items()
        }
    return table(items["validation"], items["test"], options.only)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--questions", type=int, default=150, help="of the test; half as many for validation")
    parser.add_argument("--limit", type=int, help="answer the first questions of each condition only")
    parser.add_argument("--cascade_questions", type=int, help="fewer, for Whisper's decoder")
    parser.add_argument("--vlm_steps", type=int, default=VLM_STEPS)
    parser.add_argument("--steps", type=int, default=400, help="of stage 1, of 16 clips")
    parser.add_argument("--only", choices=["quiet", "noise"], nargs="+", default=["quiet", "noise"], help="of stage 1")
    options = parser.parse_args()
    found = run(options)
    write_correct(found.pop("correct"), options.output / "correct.json")
    write_json(options.output / "scores.json", found)
    (options.output / "table.md").write_text(markdown(found))
    print(markdown(found))


if __name__ == "__main__":
    main()
