"""`selfkd demo --real`: SmolVLM-256M-Instruct and whisper-base from the hub, on the user's own images and questions, or
on the toy world's.

Stage 1 by CTC gives the VLM an audio path; text queries, audio queries and the cascade are then compared. It only calls
the stages, on a CPU too, and an interrupted demo resumes.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from huggingface_hub import model_info, try_to_load_from_cache

from selfkd.data.example import read_manifest
from selfkd.errors import InputError
from selfkd.evaluation.config import EvaluateConfig
from selfkd.report.build import ReportConfig, report
from selfkd.run_dir import MODEL
from selfkd.synthesis.config import SynthesizeConfig
from selfkd.synthesis.synthesize import synthesize
from selfkd.terminal import table_console
from selfkd.training.config import AlignConfig

VLM, WHISPER = "HuggingFaceTB/SmolVLM-256M-Instruct", "openai/whisper-base"
DOWNLOADED = "0.8 GB"
TEST_QUESTIONS = 40  # SmolVLM cuts each image into up to 17 tiles: seconds of a CPU
BATCH_SIZE = 32
NUM_STAGES = 4

RunStage = Callable[[str, Callable[[Any], Any], Any], dict[str, Any]]  # (title, stage, its configuration) -> result


def check_parts() -> None:
    """Raises InputError, before anything is written, where the models are neither here nor within reach."""
    for name in (VLM, WHISPER):
        if not (Path(name).is_dir() or _is_cached(name) or _is_on_hub(name)):
            raise InputError(
                f"real: {name} is not on this machine, and the hub is out of reach; online it is fetched once "
                f"({DOWNLOADED} for both models). Without a network: selfkd demo"
            )


def _is_cached(name: str) -> bool:
    return isinstance(try_to_load_from_cache(name, "config.json"), str)


def _is_on_hub(name: str) -> bool:
    """By one request: a download would be tried six times, half a minute with a line each."""
    try:
        model_info(name, timeout=10)
    except Exception:  # each version of the hub's client has errors of its own
        return False
    return True


def real_demo(
    output: Path, path: str, images: str, questions: int, steps: int, test_share: float, seed: int, run_stage: RunStage
) -> dict[str, Any]:
    """Returns {benchmark: {modality: scores}}. `path` and `images` are own questions (JSON lines) and the folder of
    their images, "" for the toy world; `questions` and `steps` are those of the training."""
    from selfkd.evaluation.evaluate import evaluate
    from selfkd.training.align import align

    data = output / "data"
    trained = SynthesizeConfig(data / "train-0", "world", count=questions, voices="random", seed=seed)
    if path:
        trained = replace(trained, source="jsonl", path=path, images=images, count=0)
    run_stage("synthesize: training questions, in random voices", synthesize, trained)
    folders = [trained.output]
    rows = read_manifest(trained.output)["rows"]
    for again in range(1, -(-questions // rows)):  # few questions are synthesized in many voices
        folders.append(data / f"train-{again}")
        run_stage("", synthesize, replace(trained, output=folders[-1], seed=seed + again))
    test = replace(trained, output=data / "test", split="test", voices="heldout", seed=seed + 100)
    if not path:
        test = replace(test, count=max(1, round(test_share * TEST_QUESTIONS)))
    run_stage("synthesize: test questions, in held-out voices", synthesize, test)

    aligned = AlignConfig(list(map(str, folders)), output / "align", vlm=VLM, speech_encoder=WHISPER, steps=steps)
    run_stage("align: a CTC projector on whisper-base", align, replace(aligned, batch_size=BATCH_SIZE, seed=seed))
    scored = EvaluateConfig(str(output / "align" / MODEL), [str(test.output)], output / "eval-align", seed=seed)
    scored = replace(scored, modalities=["text", "audio", "cascade"], asr_model=WHISPER, batch_size=4)
    scores = run_stage("evaluate: text, audio and cascade", evaluate, scored)
    runs = [str(folder) for folder in (scored.output, aligned.output, test.output)]
    page = report(ReportConfig(runs, output / "report.html", "SmolVLM-256M with whisper-base", [_intro(path)]))
    console = table_console()
    console.print(f"Report: {page}", soft_wrap=True)
    console.print("Ask by voice, in the browser:")
    console.print(f"  selfkd app {output / 'align' / MODEL} --asr_model {WHISPER}", soft_wrap=True)
    return scores


def _intro(path: str) -> str:
    whose = "Images and questions are the user's own" if path else "Images and questions are the toy world's"
    return (
        f"{whose}; the queries are synthesized by espeak-ng. Training had the transcripts of "
        f"{'the same questions' if path else 'other questions'} in other voices, and no answer: its only loss was CTC. "
        "The cascade is whisper-base's own transcript as a text query."
    )
