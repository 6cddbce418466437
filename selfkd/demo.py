"""The whole pipeline on the embedded model: synthesize, align, SFT, Self-KD, ears that hear tokens, evaluate, compare,
analyze, report.

Nothing but calls of the stages, joined by files under one folder; stopped and started again it goes on.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from selfkd.analysis.analyze_agreement import AgreementConfig, analyze_agreement
from selfkd.analysis.analyze_attention import AttentionConfig, analyze_attention
from selfkd.errors import InputError
from selfkd.evaluation.compare import CompareConfig, compare
from selfkd.evaluation.evaluate import EvaluateConfig, evaluate
from selfkd.report.build import ReportConfig, report
from selfkd.run_dir import MODEL, is_complete, once
from selfkd.synthesis.sources.registry import SourceName
from selfkd.synthesis.synthesize import SynthesizeConfig, synthesize
from selfkd.toy_world.noisy_labels import MISTAKE_SHARE
from selfkd.training.align import AlignConfig, align
from selfkd.training.distill import DistillConfig, distill

BENCHMARKS: dict[SourceName, int] = {"world": 400, "easy-vqa": 200, "mmalign-world": 200}
TEST_SEED = 100
_MODELS = {"base": "align", "sft": "sft", "selfkd": "selfkd", "tokens": "tokens"}  # by name, the run that made it
_SPOKEN = {"sft": "SFT", "selfkd": "the paper's Self-KD", "tokens": "ears that hear tokens"}
ANALYZED = 40  # items whose attention and agreement are looked at


@dataclass
class DemoConfig:
    """The whole pipeline, on two CPU cores; ends in OUTPUT/report.html and OUTPUT/scores.json.

    Args:
        output: Folder for everything.
        responses: Who wrote the responses to train on: "annotated" (another hand, with mistakes, as in the paper's
            data) or "clean" (the model's own words, all right).
        seed: Seed of data and training.
        words: Spoken sentences for stage 1.
        questions: Spoken questions for stage 2.
        align_steps: Steps of stage 1.
        distill_steps: Steps of stage 2, for SFT and for the paper's Self-KD alike.
        token_steps: Steps of ears that hear tokens, of half as many examples each.
        alpha: Weight of Self-KD in the Self-KD runs.
        test_share: Share of the test questions to ask; below 1 for a quick look.
    """

    output: Path = Path("runs/demo")
    responses: Literal["noisy", "clean"] = "noisy"
    seed: int = 0
    words: int = 3000
    questions: int = 3000
    align_steps: int = 350
    distill_steps: int = 350
    token_steps: int = 600
    alpha: float = 1.0
    test_share: float = 1.0


def demo(config: DemoConfig) -> dict[str, Any]:
    """Returns the scores that it prints and writes."""
    if not 0 <= config.alpha <= 1:
        raise InputError(f"alpha: {config.alpha} is not between 0 and 1")
    console, started = Console(), time.monotonic()
    out = config.output
    console.print(f"Self-KD on the embedded model, into {out}: about ten minutes on two cores.")

    console.print("[bold]synthesize[/bold]: spoken questions with espeak-ng")
    data = {name: out / "data" / name for name in ("words", "train", *BENCHMARKS)}
    for audio in _speech(config, data):
        synthesize(audio)

    def titled(title: str, stage: Callable[[Any], Any], stage_config: Any) -> None:
        console.print(f"[bold]{title}[/bold]{': done before' if is_complete(stage_config.output) else ''}")
        once(stage, stage_config)

    aligned = AlignConfig(
        [str(data["words"])], out / "align", projector="stack", steps=config.align_steps, seed=config.seed
    )
    titled("stage 1, align: the projector learns to hear", align, aligned)

    start, steps = str(out / "align" / MODEL), config.distill_steps
    sft = DistillConfig([str(data["train"])], out / "sft", steps=steps, seed=config.seed, model=start, alpha=0.0)
    titled("stage 2, distill: SFT (alpha = 0)", distill, sft)
    selfkd = replace(sft, output=out / "selfkd", alpha=config.alpha)
    titled(f"stage 2, distill: the paper's Self-KD (alpha = {config.alpha:g})", distill, selfkd)
    mixed = [f"{data['train']}:2", f"{data['words']}:1"]
    tokens = AlignConfig(mixed, out / "tokens", steps=config.token_steps, batch_size=16, seed=config.seed)
    titled("stage 1, align: ears that hear tokens, by CTC alone", align, tokens)

    base = EvaluateConfig(start, [str(data[b]) for b in BENCHMARKS], out / "eval-base", modalities=["text", "cascade"])
    titled("evaluate: written, and the cascade", evaluate, base)
    for name, title in _SPOKEN.items():
        spoken = replace(base, model=str(out / name / MODEL), output=out / f"eval-{name}", modalities=["audio"])
        titled(f"evaluate: spoken, {title}", evaluate, spoken)

    models = [f"{name}={out / folder / MODEL}" for name, folder in _MODELS.items()]
    limit = max(1, round(ANALYZED * config.test_share))
    attention = AttentionConfig(models, [str(data["world"])], out / "attention", limit, seed=config.seed, maps=4)
    titled("analyze attention: where written and spoken questions look", analyze_attention, attention)
    flips = [f"{name}={out / f'eval-{name}'}" for name in _MODELS if name in _SPOKEN]
    agreement = AgreementConfig(models, attention.data, out / "agreement", limit, seed=config.seed)
    agreement = replace(agreement, written_run=str(base.output), spoken_runs=flips)
    titled("analyze agreement: how far spoken answers are from written ones", analyze_agreement, agreement)

    evaluated = [f"eval-{name}" for name in ("base", *_SPOKEN)]
    scores = compare(CompareConfig([str(out / name) for name in evaluated], out, config.seed))
    runs = [
        str(out / n) for n in (*evaluated, "attention", "agreement", "align", "sft", "selfkd", "tokens", "data/world")
    ]
    page = report(ReportConfig(runs, out / "report.html", "Self-KD on the embedded model", _intro(config)))
    console.print(f"{time.monotonic() - started:.0f} s. Scores: {out / 'scores.json'}")
    console.print(f"Report: {page}", soft_wrap=True)
    console.print(
        f"Talk to the trained models: selfkd app {out / 'tokens' / MODEL} {out / 'sft' / MODEL}", soft_wrap=True
    )
    return scores


def _speech(config: DemoConfig, data: dict[str, Path]) -> list[SynthesizeConfig]:
    """What is spoken: drawn voices for training, unseen voices for the tests."""
    responses: SourceName = "world-noisy" if config.responses == "noisy" else "world"
    wanted = [
        SynthesizeConfig(data["words"], "words", count=config.words, voices="random", seed=config.seed + 1),
        SynthesizeConfig(data["train"], responses, count=config.questions, voices="random", seed=config.seed),
    ]
    for name, count in BENCHMARKS.items():
        asked = max(1, round(count * config.test_share))
        wanted.append(SynthesizeConfig(data[name], name, split="test", count=asked, voices="heldout", seed=TEST_SEED))
    # two shards at least, so that both cores speak
    return [replace(w, shard_rows=max(1, min(500, w.count // 2))) for w in wanted]


def _intro(config: DemoConfig) -> list[str]:
    origin = {
        "noisy": "The responses to train on mirror the paper's setting: another annotator's words, "
        f"{MISTAKE_SHARE:.0%} of them mistaken.",
        "clean": "The responses to train on are the model's own short words, all of them right.",
    }[config.responses]
    return [
        f"{origin} SFT and Self-KD are the paper's: they start from the same aligned projector and see the same data "
        "in the same order.",
        "Token ears are of another kind, selfkd align's default: they begin as the bundled recogniser, which the "
        "cascade has too, hand on one vector a heard token in place of a transcript, and learn from what is said "
        "alone, in the same speech, with neither teacher nor responses.",
        "Test scenes, some of their colour-shape combinations, and all test voices were never trained on. easy-VQA is "
        "a third party's set of pictures and questions; nothing was trained on it. Speech is espeak-ng's, not human.",
        f"Training seed {config.seed}; one seed is an anecdote; experiments/toy_effect.py runs several.",
    ]
