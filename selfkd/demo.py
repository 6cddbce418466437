"""The whole pipeline on the bundled tiny model, after stage 1: synthesize, SFT, Self-KD, evaluate in the voices of
several engines, next to the bundled CTC projector and a cascade, analyze, compare, report.

It only calls the stages, which pass files to each other under one folder. An interrupted demo resumes.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from selfkd.analysis.config import AgreementConfig, AttentionConfig
from selfkd.data.example import MANIFEST, Example
from selfkd.data.rewrite import rewrite
from selfkd.errors import InputError
from selfkd.evaluation.compare import compare
from selfkd.evaluation.config import CompareConfig, EvaluateConfig
from selfkd.files import asset_path
from selfkd.report.build import ReportConfig, report
from selfkd.run_dir import MODEL, is_complete, once
from selfkd.synthesis.config import SourceName, SynthesizeConfig
from selfkd.synthesis.synthesize import synthesize
from selfkd.terminal import table_console
from selfkd.toy_world.noisy_labels import MISTAKE_SHARE
from selfkd.training.config import DistillConfig

QUESTIONS_A_VOICE, TEST_SEED = 400, 100
SYNTHESIZED_VOICE = "espeak-ng"  # its held-out voices: the engine comes as a dependency
# clips of the same questions that the package holds: Kokoro's held-out voices, and engines that no model trained on
BUNDLED_VOICES = ("kokoro", "pico", "festival")
BUNDLED_TRAINING_VOICES = ("flite", "kokoro")  # clips of training questions that the package holds
BENCHMARKS: dict[SourceName, int] = {"world": QUESTIONS_A_VOICE, "easy-vqa": 200, "mmalign-world": 200}
PROBE_SENTENCES = 100
DISTILL_BATCH_SIZE = 16
_TRAINED = ("sft", "selfkd")  # run directories
_EVALUATED = {"sft": "SFT", "selfkd": "Self-KD", "ctc": "CTC projector"}  # on audio queries
EVALUATIONS = [f"eval-{name}" for name in ("base", *_EVALUATED)]  # the runs that `compare` takes
NUM_STAGES = 11
NUM_ANALYZED = 40  # items of the attention and agreement analyses

RunStage = Callable[[str, Callable[[Any], Any], Any], dict[str, Any]]  # (title, stage, its configuration) -> result


@dataclass
class DemoConfig:
    """The whole pipeline, on two CPU cores; writes OUTPUT/report.html and OUTPUT/scores.json.

    Args:
        output: Folder of all runs.
        responses: Training responses: "noisy" (phrased differently from the model's own, with mistakes, as in the
            paper's data) or "clean" (in the model's own phrasing, all correct).
        seed: Seed of data and training.
        questions: Number of training questions to synthesize with espeak-ng, next to those of the package by Flite
            and Kokoro.
        distill_steps: Steps of stage 2, the same for SFT and Self-KD.
        alpha: Weight of the KL term in the Self-KD run; SFT has 0.
        test_share: Share of the test questions to evaluate; below 1 for a quick look.
        real: Take SmolVLM-256M-Instruct and whisper-base from the hub (0.8 GB, once) in place of the bundled model:
            they see photographs. Stage 1 only, by CTC, then text, audio and cascade; distill_steps are its steps.
        path: With real, questions of your own: JSON lines with image, question, answer and question_type.
        images: With real, the folder of their images.
    """

    output: Path = Path("runs/demo")
    responses: Literal["noisy", "clean"] = "noisy"
    seed: int = 0
    questions: int = 800
    distill_steps: int = 250
    alpha: float = 1.0
    test_share: float = 1.0
    real: bool = False
    path: str = ""
    images: str = ""


def demo(config: DemoConfig) -> dict[str, Any]:
    """Returns the scores, which it prints and writes to scores.json."""
    from selfkd.analysis.analyze_agreement import analyze_agreement
    from selfkd.analysis.analyze_attention import analyze_attention
    from selfkd.model.kept_frames import keep_frames

    if not 0 <= config.alpha <= 1:
        raise InputError(f"alpha: {config.alpha} is not between 0 and 1")
    if (config.path or config.images) and not config.real:
        raise InputError("path: the bundled model knows coloured shapes only; --real answers about your own images")
    if config.real:
        return _real(config)
    console, started = table_console(), time.monotonic()
    out = config.output
    console.print("Self-KD on the bundled tiny model: about a quarter of an hour on two cores.")
    console.print(f"Output: {out}", soft_wrap=True)

    stages = iter(range(1, NUM_STAGES + 1))

    def begin(title: str) -> None:
        console.print(f"stage {next(stages)} of {NUM_STAGES}: {title}")

    def run_stage(title: str, stage: Callable[[Any], Any], stage_config: Any) -> dict[str, Any]:
        begin(f"{title}{': complete' if is_complete(stage_config.output) else ''}")
        return once(stage, stage_config)

    begin("synthesize: audio questions with espeak-ng")

    with keep_frames():  # all models have the same speech encoder: each clip is encoded once
        train_models(config, run_stage)
        evaluate_models(config, run_stage)

    world = [synthesized_world(out)]
    models = [f"{name}={checkpoint}" for name, checkpoint in checkpoints(out).items()]
    limit = _shared(NUM_ANALYZED, config)
    attention = AttentionConfig(models, world, out / "attention", limit, seed=config.seed, maps=4)
    run_stage("analyze attention of text and audio queries", analyze_attention, attention)
    audio_runs = [f"{name}={out / f'eval-{name}'}" for name in _EVALUATED]
    agreement = AgreementConfig(models, world, out / "agreement", limit, seed=config.seed)
    agreement = replace(agreement, text_run=str(out / "eval-base"), audio_runs=audio_runs)
    run_stage("analyze agreement of audio with text responses", analyze_agreement, agreement)

    begin("compare and report")
    scores = compare(CompareConfig([str(out / name) for name in EVALUATIONS], out, config.seed))
    page = write_report(config)
    console.print(f"{time.monotonic() - started:.0f} s. Scores: {out / 'scores.json'}")
    console.print(f"Report: {page}", soft_wrap=True)
    console.print("Try the models:")
    console.print(f"  selfkd app {checkpoints(out)['ctc']} {checkpoints(out)['selfkd']}", soft_wrap=True)
    return scores


def write_report(config: DemoConfig) -> Path:
    """The report of the demo's runs, which are complete; returns its path."""
    others = ("eval-probe", "attention", "agreement", *_TRAINED, "data/world")
    runs = [str(config.output / name) for name in (*EVALUATIONS, *others)]
    page = config.output / "report.html"
    return report(ReportConfig(runs, page, "Self-KD on the bundled tiny model", _intro(config)))


def _real(config: DemoConfig) -> dict[str, Any]:
    from selfkd import real_demo

    real_demo.check_parts()
    console = table_console()
    console.print("SmolVLM-256M with whisper-base: under an hour on a CPU.")
    stages = iter(range(1, real_demo.NUM_STAGES + 1))

    def run_stage(title: str, stage: Callable[[Any], Any], stage_config: Any) -> dict[str, Any]:
        if title:
            console.print(f"stage {next(stages)} of {real_demo.NUM_STAGES}: {title}")
        return stage(stage_config) if isinstance(stage_config, SynthesizeConfig) else once(stage, stage_config)

    sizes = config.questions, config.distill_steps, config.test_share, config.seed
    return real_demo.real_demo(config.output, config.path, config.images, *sizes, run_stage)


def checkpoints(output: Path) -> dict[str, str]:
    """{name: checkpoint} of the bundled model after stage 1 ("base"), those of stage 2, and the bundled CTC
    projector."""
    from selfkd.model.tiny import TINY_MODEL, TINY_STACK_MODEL

    trained = {name: str(output / name / MODEL) for name in _TRAINED}
    return {"base": TINY_STACK_MODEL} | trained | {"ctc": TINY_MODEL}


def train_models(config: DemoConfig, run_stage: RunStage) -> None:
    """Stage 2 of the frame-stacking projector, SFT and Self-KD, with the frozen encoder of the CTC projector, in voices
    of the engines that this was trained on."""
    from selfkd.training.distill import distill

    out = config.output
    data = training_data(config)
    sft = DistillConfig(data, out / "sft", model=checkpoints(out)["base"], alpha=0.0, seed=config.seed)
    sft = replace(sft, steps=config.distill_steps, batch_size=DISTILL_BATCH_SIZE)
    run_stage("distill: SFT (alpha = 0)", distill, sft)
    selfkd = replace(sft, output=out / "selfkd", alpha=config.alpha)
    run_stage(f"distill: Self-KD (alpha = {config.alpha:g})", distill, selfkd)


def training_data(config: DemoConfig) -> list[str]:
    """Folders of training questions: synthesized by espeak-ng in random voices, and those of the package."""
    folder = config.output / "data"
    source: SourceName = "world-noisy" if config.responses == "noisy" else "world"
    espeak = SynthesizeConfig(folder / "train", source, count=config.questions, voices="random", seed=config.seed)
    synthesize(replace(espeak, shard_rows=_shard_rows(config.questions)))
    found = [espeak.output]
    for voice in BUNDLED_TRAINING_VOICES:
        bundled = asset_path("speech") / "training" / voice
        if config.responses == "noisy":
            found.append(bundled)
            continue
        found.append(folder / f"train-{voice}")
        if not (found[-1] / MANIFEST).is_file():
            rewrite(bundled, found[-1], _with_clean_response)
    return list(map(str, found))


def _with_clean_response(example: Example) -> Example:
    return replace(example, answer=example.target, source="world")


def evaluate_models(config: DemoConfig, run_stage: RunStage) -> None:
    from selfkd.evaluation.evaluate import evaluate

    out = config.output
    for benchmark, count in BENCHMARKS.items():
        synthesize_test(out / "data" / benchmark, benchmark, _shared(count, config))
    probe = out / "data" / "probe"
    synthesize_test(probe, "words", _shared(PROBE_SENTENCES, config))
    world = [synthesized_world(out), *(f"{voice}={bundled_voice(voice)}" for voice in BUNDLED_VOICES)]
    others = [str(out / "data" / name) for name in BENCHMARKS if name != "world"]
    base = EvaluateConfig(
        checkpoints(out)["base"], [*world, *others], out / "eval-base", modalities=["text", "cascade"]
    )
    base = replace(base, limit=_shared(QUESTIONS_A_VOICE, config))
    run_stage("evaluate: text queries, and the cascade", evaluate, base)
    for name, title in _EVALUATED.items():
        audio = replace(base, model=checkpoints(out)[name], output=out / f"eval-{name}", modalities=["audio"])
        run_stage(f"evaluate: audio queries, {title}", evaluate, audio)
    probed = replace(base, data=[str(probe)], output=out / "eval-probe", modalities=["audio"])
    run_stage("evaluate: the projector after stage 1, words to repeat", evaluate, probed)


def bundled_voice(name: str) -> Path:
    """The folder of the test questions in one of `BUNDLED_VOICES`."""
    return asset_path("speech") / "test" / name


def synthesized_world(output: Path) -> str:
    """The folder of the test questions in `SYNTHESIZED_VOICE`, as VOICE=FOLDER."""
    return f"{SYNTHESIZED_VOICE}={output / 'data' / 'world'}"


def synthesize_test(output: Path, source: SourceName, count: int) -> None:
    """Test questions in espeak-ng's held-out voices."""
    config = SynthesizeConfig(output, source, split="test", count=count, voices="heldout", seed=TEST_SEED)
    synthesize(replace(config, shard_rows=_shard_rows(count)))


def _shared(count: int, config: DemoConfig) -> int:
    """The configuration's share of `count` test items."""
    return max(1, round(count * config.test_share))


def _shard_rows(count: int) -> int:
    """At least two shards, one for each core."""
    return max(1, min(500, count // 2))


def _intro(config: DemoConfig) -> list[str]:
    responses = {
        "noisy": "The training responses mirror the paper's setting: they are phrased differently from the model's "
        f"own, and {MISTAKE_SHARE:.0%} are wrong.",
        "clean": "The training responses are short, in the model's own phrasing, and all correct.",
    }[config.responses]
    return [
        f"{responses} SFT and Self-KD follow the paper: both start from the same frame-stacking projector, which comes "
        "with the package after stage 1, and train on the same data in the same order.",
        "The CTC projector comes with the package: it passes one soft token embedding for each CTC token to the LLM, "
        "and its only loss was CTC, with neither teacher nor training responses. The frozen speech encoder of all "
        "three is the same: whisper-tiny.en's, fine-tuned. Encoder, both projectors, SFT and Self-KD were trained in "
        "voices of the same engines: espeak-ng, Flite and Kokoro. The cascade's transcripts are those of the CTC "
        "projector.",
        "Test scenes, some of their colour-shape combinations, and all test voices are held out from training. SVOX "
        "Pico and Festival are engines that no part was trained on. easy-VQA is a third-party set of images and "
        "questions; no model was trained on it. All audio is synthesized, not human speech.",
        f"Training seed {config.seed}, one seed only; experiments/voices.py runs several.",
    ]
