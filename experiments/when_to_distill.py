"""What is Self-KD worth? SFT, the mix and Self-KD of the bundled frame-stacking projector on training responses of five
kinds, over seeds, next to on-policy Self-KD, the CTC projector and the cascade.

    python experiments/when_to_distill.py --output runs/when [--seeds 0 1 2] [--steps 250] [--split test]

Responses: in the model's own style, short or in whole sentences; in another style, of which 0, 15 or 30% are wrong. The
questions, their audio (espeak-ng, Flite, Kokoro), images and order are the same in all. Every trained model answers 400
questions in held-out voices of espeak-ng and 400 by SVOX Pico, an engine that was not trained on, and repeats 100
sentences: what the projector passes on.

`--split validation --steps 250 500 --methods SFT Self-KD` tells how many steps are enough; nothing is chosen on the
test split. Writes OUTPUT/scores-SPLIT.json (with the correctness of each item, as bits) and OUTPUT/table-SPLIT.md.
Finished runs are kept: processes with different seeds may share the folder, and a last call with all of them writes the
table.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from projector_table import Seeds, correct_bits, load_samples, over_seeds, paired, percent
from voices import BUNDLED

from selfkd.data.example import MANIFEST, Example
from selfkd.data.rewrite import rewrite
from selfkd.demo import DISTILL_BATCH_SIZE, PROBE_SENTENCES, QUESTIONS_A_VOICE, TEST_SEED, DemoConfig, bundled_voice
from selfkd.demo import training_data as demo_data
from selfkd.evaluation.config import EvalModality, EvaluateConfig
from selfkd.evaluation.evaluate import evaluate
from selfkd.evaluation.uncertainty import mean_interval
from selfkd.files import write_json
from selfkd.model.kept_frames import keep_frames
from selfkd.model.tiny import TINY_MODEL, TINY_STACK_MODEL
from selfkd.run_dir import MODEL, once
from selfkd.synthesis.config import SourceName
from selfkd.synthesis.sources.toy import ToyWorld
from selfkd.synthesis.synthesize import SynthesizeConfig, synthesize
from selfkd.toy_world.noisy_labels import SENTENCE_INSTRUCTION, sentence_response
from selfkd.toy_world.scenes import Split
from selfkd.training.config import DistillConfig
from selfkd.training.distill import distill

VALIDATION_SEED = 200
OTHER_ENGINE = "pico"
ALPHAS = {"SFT": 0.0, "alpha 0.5": 0.5, "Self-KD": 1.0}
ON_POLICY = "Self-KD, on-policy"


def own_short(example: Example) -> Example:
    return replace(example, answer=example.target)


def own_sentences(example: Example) -> Example:
    world, index = world_and_index(example)
    sentence = sentence_response(world.scene_and_question(index)[1])
    return replace(example, answer=sentence, answer_format=f" {SENTENCE_INSTRUCTION}")


def other_style(example: Example, mistake_share: float) -> Example:
    world, index = world_and_index(example)
    return replace(example, answer=world.noisy_response(index, mistake_share))


def world_and_index(example: Example) -> tuple[ToyWorld, int]:
    """Where the question comes from, as its id says."""
    _, split, seed, index = example.id.split("-")
    world = ToyWorld("train", int(seed))
    if split != "train" or world.scene_and_question(int(index))[1].text != example.question:
        raise ValueError(f"{example.id}: not a training question of the toy world")
    return world, int(index)


RESPONSES: dict[str, tuple[str, Callable[[Example], Example]]] = {  # {folder: (title, change)}
    "own-short": ("own style, short", own_short),
    "own-sentences": ("own style, sentences", own_sentences),
    **{
        f"other-{share:.0%}".rstrip("%"): (f"other style, {share:.0%} wrong", partial(other_style, mistake_share=share))
        for share in (0.0, 0.15, 0.3)
    },
}


def training_data(seed: int, responses: str, output: Path) -> list[str]:
    """The demo's training questions with these responses."""
    found = []
    for folder in map(Path, demo_data(DemoConfig(output / f"seed-{seed}", seed=seed))):
        changed = output / f"seed-{seed}" / "data" / responses / folder.name
        if not (changed / MANIFEST).is_file():
            rewrite(folder, changed, RESPONSES[responses][1])
        found.append(str(changed))
    return found


def test_data(split: Split, output: Path) -> list[str]:
    """Questions in held-out voices, those of the test split also by an engine that was not trained on, and sentences to
    repeat."""
    seed = TEST_SEED if split == "test" else VALIDATION_SEED
    found = []
    sources: dict[SourceName, int] = {"world": QUESTIONS_A_VOICE, "words": PROBE_SENTENCES}
    for source, count in sources.items():
        folder = output / "data" / f"{split}-{source}"
        synthesize(SynthesizeConfig(folder, source, split=split, count=count, voices="heldout", seed=seed))
        found.append(str(folder) if source == "words" else f"espeak-ng={folder}")
    return [*found, f"{OTHER_ENGINE}={bundled_voice(OTHER_ENGINE)}"] if split == "test" else found


def benchmarks_of(data: Sequence[str]) -> list[str]:
    """The names under which `test_data` is scored."""
    return [f"world@{name.partition('=')[0]}" for name in data if "=" in name] + ["words"]


def trainings(
    seed: int, steps: int, responses: Sequence[str], methods: Sequence[str], output: Path
) -> Iterator[tuple[str, str, DistillConfig]]:
    """(responses, method, configuration) of every training."""
    for name in responses:
        data = training_data(seed, name, output)
        config = DistillConfig(data, Path(), model=TINY_STACK_MODEL, seed=seed, steps=steps)
        config = replace(config, batch_size=DISTILL_BATCH_SIZE)
        folder = output / f"seed-{seed}" / f"{steps}-steps"
        for method, alpha in ALPHAS.items():
            if method in methods:
                yield name, method, replace(config, output=folder / f"{name}-alpha-{alpha:g}", alpha=alpha)
        if name == "own-short" and ON_POLICY in methods:
            # its responses are the student's own: those of the data do not matter
            yield name, ON_POLICY, replace(config, output=folder / "on-policy", alpha=1.0, on_policy_fraction=1.0)


def evaluated(model: str, data: list[str], output: Path, modalities: Sequence[EvalModality] = ("audio",)) -> Path:
    once(evaluate, EvaluateConfig(model, data, output, modalities=list(modalities)))
    return output


def row(
    by_seed: Mapping[str, Path],
    benchmarks: Sequence[str],
    baseline: Mapping[str, Path],
    text: Path,
    difference: str = "minus_sft",
) -> dict[str, Any]:
    """{benchmark: accuracy over seeds, its spread, its difference to the baseline; correctness of each item}."""
    found: dict[str, Any] = {}
    for benchmark in benchmarks:
        samples: Seeds = {seed: load_samples(run, "audio", benchmark) for seed, run in by_seed.items()}
        means, items = [fmean(s["score"] for s in one) for one in samples.values()], over_seeds(samples)
        cell = {"n": len(items), "accuracy": fmean(means), "by_seed": means, "interval": mean_interval(items)}
        if len(means) > 1:
            cell["sd"] = stdev(means)
        if baseline and baseline != by_seed:
            before = {seed: load_samples(run, "audio", benchmark) for seed, run in baseline.items()}
            cell[difference] = paired(samples, before)
        order = load_samples(text, "text", benchmark)
        cell["correct"] = {seed: correct_bits(one, order) for seed, one in samples.items()}
        found[benchmark] = cell
    return found


def markdown(rows: Sequence[Mapping[str, Any]], benchmarks: Sequence[str]) -> str:
    lines = [
        f"| responses | method | steps | {' | '.join(benchmarks)} | minus SFT, {benchmarks[0]} (95%) |",
        f"|---|---|---|{'---|' * len(benchmarks)}---|",
    ]
    for one in rows:
        cells = [one["scores"][benchmark] for benchmark in benchmarks]
        shown = [percent(cell) for cell in cells]
        over = cells[0].get("minus_sft")
        shown.append(
            "{:+.1f} ({:+.1f} to {:+.1f})".format(*(100 * x for x in (over["difference"], *over["interval"])))
            if over
            else ""
        )
        lines.append(f"| {one['responses']} | {one['method']} | {one['steps'] or ''} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, nargs="+", default=[DemoConfig.distill_steps], help="of each training")
    parser.add_argument("--responses", nargs="+", choices=list(RESPONSES), default=list(RESPONSES))
    parser.add_argument("--methods", nargs="+", choices=[*ALPHAS, ON_POLICY], default=[*ALPHAS, ON_POLICY])
    parser.add_argument("--split", choices=["test", "validation"], default="test")
    options = parser.parse_args()
    out, split = options.output, options.split
    data = test_data(split, out)
    benchmarks = benchmarks_of(data)
    trained: dict[tuple[int, str, str], dict[str, Path]] = {}  # (steps, responses, method) -> {seed: evaluation}
    with keep_frames():
        text = evaluated(TINY_MODEL, data, out / f"eval-{split}-base", ["text", "cascade"])
        for method, (_, model) in BUNDLED.items():
            trained[0, "", method] = {"": evaluated(model, data, out / f"eval-{split}-{model}")}
        for steps, seed in product(options.steps, options.seeds):
            for responses, method, config in trainings(seed, steps, options.responses, options.methods, out):
                once(distill, config)
                run = config.output.with_name(f"eval-{split}-{config.output.name}")
                evaluated(str(config.output / MODEL), data, run)
                trained.setdefault((steps, responses, method), {})[str(seed)] = run
    rows = []
    for (steps, responses, method), by_seed in trained.items():
        scores = row(by_seed, benchmarks, trained.get((steps, responses, "SFT"), {}), text)
        title = RESPONSES[responses][0] if responses in RESPONSES else ""
        rows.append({"responses": title, "method": method, "steps": steps, "scores": scores})
    for modality in ("text", "cascade"):
        found = {b: fmean(s["score"] for s in load_samples(text, modality, b)) for b in benchmarks}
        print(modality, ", ".join(f"{benchmark} {100 * accuracy:.1f}" for benchmark, accuracy in found.items()))
    write_json(out / f"scores-{split}.json", {"rows": rows})
    table = markdown(rows, benchmarks)
    (out / f"table-{split}.md").write_text(table)
    print(table)


if __name__ == "__main__":
    main()
