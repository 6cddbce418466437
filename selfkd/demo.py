"""The whole pipeline on the bundled tiny model: synthesize, align, SFT, Self-KD, CTC projector, evaluate, analyze,
compare, report.

It only calls the stages, which pass files to each other under one folder. An interrupted demo resumes.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from selfkd.analysis.config import AgreementConfig, AttentionConfig
from selfkd.errors import InputError
from selfkd.evaluation.compare import compare
from selfkd.evaluation.config import CompareConfig, EvaluateConfig
from selfkd.report.build import ReportConfig, report
from selfkd.run_dir import MODEL, is_complete, once
from selfkd.synthesis.config import SourceName, SynthesizeConfig
from selfkd.synthesis.synthesize import synthesize
from selfkd.toy_world.noisy_labels import MISTAKE_SHARE
from selfkd.training.config import AlignConfig, DistillConfig

BENCHMARKS: dict[SourceName, int] = {"world": 400, "easy-vqa": 200, "mmalign-world": 200}
TEST_SEED = 100
_MODELS = {"base": "align", "sft": "sft", "selfkd": "selfkd", "ctc": "ctc"}  # name -> run directory
_TRAINED = {"sft": "SFT", "selfkd": "Self-KD", "ctc": "CTC projector"}  # evaluated on audio queries
NUM_ANALYZED = 40  # items of the attention and agreement analyses


@dataclass
class DemoConfig:
    """The whole pipeline, on two CPU cores; writes OUTPUT/report.html and OUTPUT/scores.json.

    Args:
        output: Folder of all runs.
        responses: Training responses: "noisy" (phrased differently from the model's own, with mistakes, as in the
            paper's data) or "clean" (in the model's own phrasing, all correct).
        seed: Seed of data and training.
        words: Number of audio sentences for stage 1.
        questions: Number of audio questions for stage 2.
        align_steps: Steps of stage 1.
        distill_steps: Steps of stage 2, the same for SFT and Self-KD.
        ctc_steps: Steps of the CTC projector, with half the batch size.
        alpha: Weight of the KL term in the Self-KD run; SFT has 0.
        test_share: Share of the test questions to evaluate; below 1 for a quick look.
    """

    output: Path = Path("runs/demo")
    responses: Literal["noisy", "clean"] = "noisy"
    seed: int = 0
    words: int = 3000
    questions: int = 3000
    align_steps: int = 350
    distill_steps: int = 350
    ctc_steps: int = 600
    alpha: float = 1.0
    test_share: float = 1.0


def demo(config: DemoConfig) -> dict[str, Any]:
    """Returns the scores, which it prints and writes to scores.json."""
    from selfkd.analysis.analyze_agreement import analyze_agreement
    from selfkd.analysis.analyze_attention import analyze_attention
    from selfkd.evaluation.evaluate import evaluate
    from selfkd.training.align import align
    from selfkd.training.distill import distill

    if not 0 <= config.alpha <= 1:
        raise InputError(f"alpha: {config.alpha} is not between 0 and 1")
    console, started = Console(), time.monotonic()
    out = config.output
    console.print(f"Self-KD demo on the bundled tiny model, output {out}: about ten minutes on two cores.")

    console.print("[bold]synthesize[/bold]: audio questions with espeak-ng")
    data = {name: out / "data" / name for name in ("words", "train", *BENCHMARKS)}
    for synthesis in _synthesis_configs(config, data):
        synthesize(synthesis)

    def run_stage(title: str, stage: Callable[[Any], Any], stage_config: Any) -> None:
        console.print(f"[bold]{title}[/bold]{': already complete' if is_complete(stage_config.output) else ''}")
        once(stage, stage_config)

    stack = AlignConfig(
        [str(data["words"])], out / "align", projector="stack", steps=config.align_steps, seed=config.seed
    )
    run_stage("stage 1, align: frame-stacking projector (paper baseline)", align, stack)

    start, steps = str(out / "align" / MODEL), config.distill_steps
    sft = DistillConfig([str(data["train"])], out / "sft", steps=steps, seed=config.seed, model=start, alpha=0.0)
    run_stage("stage 2, distill: SFT (alpha = 0)", distill, sft)
    selfkd = replace(sft, output=out / "selfkd", alpha=config.alpha)
    run_stage(f"stage 2, distill: Self-KD (alpha = {config.alpha:g})", distill, selfkd)
    mixed = [f"{data['train']}:2", f"{data['words']}:1"]
    ctc = AlignConfig(mixed, out / "ctc", steps=config.ctc_steps, batch_size=16, seed=config.seed)
    run_stage("stage 1, align: CTC projector, CTC-only training", align, ctc)

    base = EvaluateConfig(start, [str(data[b]) for b in BENCHMARKS], out / "eval-base", modalities=["text", "cascade"])
    run_stage("evaluate: text queries, and the cascade", evaluate, base)
    for name, title in _TRAINED.items():
        audio = replace(base, model=str(out / name / MODEL), output=out / f"eval-{name}", modalities=["audio"])
        run_stage(f"evaluate: audio queries, {title}", evaluate, audio)

    models = [f"{name}={out / folder / MODEL}" for name, folder in _MODELS.items()]
    limit = max(1, round(NUM_ANALYZED * config.test_share))
    attention = AttentionConfig(models, [str(data["world"])], out / "attention", limit, seed=config.seed, maps=4)
    run_stage("analyze attention: attention of text and audio queries to the image", analyze_attention, attention)
    audio_runs = [f"{name}={out / f'eval-{name}'}" for name in _TRAINED]
    agreement = AgreementConfig(models, attention.data, out / "agreement", limit, seed=config.seed)
    agreement = replace(agreement, text_run=str(base.output), audio_runs=audio_runs)
    run_stage("analyze agreement: agreement of audio responses with text responses", analyze_agreement, agreement)

    evaluated = [f"eval-{name}" for name in ("base", *_TRAINED)]
    scores = compare(CompareConfig([str(out / name) for name in evaluated], out, config.seed))
    runs = [str(out / n) for n in (*evaluated, "attention", "agreement", "align", "sft", "selfkd", "ctc", "data/world")]
    page = report(ReportConfig(runs, out / "report.html", "Self-KD on the bundled tiny model", _intro(config)))
    console.print(f"{time.monotonic() - started:.0f} s. Scores: {out / 'scores.json'}")
    console.print(f"Report: {page}", soft_wrap=True)
    console.print(f"Try the trained models: selfkd app {out / 'ctc' / MODEL} {out / 'sft' / MODEL}", soft_wrap=True)
    return scores


def _synthesis_configs(config: DemoConfig, data: dict[str, Path]) -> list[SynthesizeConfig]:
    """Training data in random voices, test data in held-out voices."""
    responses: SourceName = "world-noisy" if config.responses == "noisy" else "world"
    configs = [
        SynthesizeConfig(data["words"], "words", count=config.words, voices="random", seed=config.seed + 1),
        SynthesizeConfig(data["train"], responses, count=config.questions, voices="random", seed=config.seed),
    ]
    for name, count in BENCHMARKS.items():
        test_count = max(1, round(count * config.test_share))
        test = SynthesizeConfig(data[name], name, split="test", count=test_count, voices="heldout", seed=TEST_SEED)
        configs.append(test)
    # at least two shards, one for each core
    return [replace(c, shard_rows=max(1, min(500, c.count // 2))) for c in configs]


def _intro(config: DemoConfig) -> list[str]:
    responses = {
        "noisy": "The training responses mirror the paper's setting: they are phrased differently from the model's "
        f"own, and {MISTAKE_SHARE:.0%} are wrong.",
        "clean": "The training responses are short, in the model's own phrasing, and all correct.",
    }[config.responses]
    return [
        f"{responses} SFT and Self-KD follow the paper: both start from the same aligned frame-stacking projector and "
        "train on the same data in the same order.",
        "The CTC projector is the default of selfkd align. It starts from the bundled ASR model, which the cascade "
        "uses too, and passes one soft token embedding for each CTC token to the LLM instead of a transcript. Its only "
        "loss is CTC on the same audio, with neither teacher nor training responses.",
        "Test scenes, some of their colour-shape combinations, and all test voices are held out from training. "
        "easy-VQA is a third-party set of images and questions; no model was trained on it. Audio is synthesized with "
        "espeak-ng, not human speech.",
        f"Training seed {config.seed}, one seed only; experiments/toy_effect.py runs several.",
    ]
