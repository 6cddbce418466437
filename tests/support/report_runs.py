"""Small run directories with known scores, written with the code of the stages."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
from examples import tone

from selfkd.analysis.analyze_agreement import AgreementConfig, summarize_agreement
from selfkd.analysis.analyze_attention import AttentionConfig, summarize_attention
from selfkd.analysis.attention import BY_HEAD, MEASURES
from selfkd.analysis.runner import intervals, item_fields, items_path
from selfkd.data.dataset import ExampleFolder
from selfkd.data.example import MANIFEST, Example, write_shard
from selfkd.evaluation.evaluate import EvaluateConfig, score
from selfkd.evaluation.response import Prediction
from selfkd.evaluation.samples import QUESTIONS, read_samples, sample, samples_path
from selfkd.files import write_json, write_text
from selfkd.report.build import ReportConfig, report
from selfkd.run_dir import Run, append_log
from selfkd.synthesis.sources.registry import ToyWorld
from selfkd.training.distill import DistillConfig

LAYERS, HEADS = 6, 5


def audio_data(
    folder: Path,
    count: int = 12,
    transcribed: bool = True,
    pitch_hz: float = 220,
    benchmark: str = "world",
    per_image: int = 2,
) -> Path:
    """A dataset folder with audio. If `transcribed`, every third transcript has errors. Public benchmarks have
    `per_image` questions on each image, with targets yes and no in turn: a constant answer would be at chance."""
    source = ToyWorld("test", 7)
    examples = [source.example(i).with_audio(tone(0.6, pitch_hz), ("anna", "ben")[i % 2]) for i in range(count)]
    if benchmark != "world":
        fields = {"source": benchmark, "question_type": "yes_no", "category": "random"}
        names = ("image", "image_source", "set_id", "figure_id", "question_id")
        images = [json.dumps(dict.fromkeys(names, str(i // per_image))) for i in range(count)]
        targets = ["yes", "no"] * count
        examples = [
            replace(e, details=d, target=t, **fields) for e, d, t in zip(examples, images, targets[:count], strict=True)
        ]
    if transcribed:
        examples = [replace(e, word_error_rate=(0.25, 0.0, 0.0)[i % 3]) for i, e in enumerate(examples)]
    write_shard(folder / "test.parquet", examples, {"rows": count})
    manifest = {
        "source": benchmark, "split": "test", "rows": count, "seed": 7, "engine_name": "some engine",
        "asr_filter": "openai/whisper-base.en" if transcribed else "", "shards": [{"file": "test.parquet"}],
        "rejected_shards": [], "rejected": [],
    }  # fmt: skip
    write_json(folder / MANIFEST, manifest)
    return folder


def evaluation(folder: Path, data: Path, model: str = "some/model", suffix: str = "", **marks: str) -> Path:
    """`marks` has a character per item for each modality: "1" correct, "0" wrong, "-" no response."""
    return evaluation_on(folder, {data: marks}, model, suffix)


def evaluation_on(
    folder: Path, marks_by_data: dict[Path, dict[str, str]], model: str = "some/model", suffix: str = ""
) -> Path:
    """An evaluation on several dataset folders; each response ends in `suffix`."""
    modalities = list(dict.fromkeys(modality for marks in marks_by_data.values() for modality in marks))
    config = EvaluateConfig(model, list(map(str, marks_by_data)), folder, modalities=modalities)
    with Run.open(folder, "evaluate", config) as run:
        result = {}
        for data, by_modality in marks_by_data.items():
            examples = ExampleFolder(data)
            for modality, marks in by_modality.items():
                records = [
                    sample(e, modality, _prediction(e, mark, suffix)) for e, mark in zip(examples, marks, strict=True)
                ]
                write_lines(samples_path(folder, examples.source, modality), records)
            samples = {m: read_samples(samples_path(folder, examples.source, m)) for m in by_modality}
            result[examples.source] = score(samples, 0)
        sources = {ExampleFolder(data).source: os.path.relpath(data, folder) for data in marks_by_data}
        write_json(folder / QUESTIONS, sources)
        run.finish(**result)
    return folder


def _prediction(example: Example, mark: str, suffix: str) -> Prediction:
    if mark == "-":
        return Prediction("", error="connection lost")
    response = example.target if mark == "1" else "who knows"
    return Prediction(response + suffix, f"transcript of {example.id}")


def write_lines(path: Path, records: list) -> None:
    write_text(path, "".join(json.dumps(record) + "\n" for record in records))


def attention(folder: Path, data: Path, levels: dict[str, tuple[float, float]]) -> Path:
    """`levels` is {model: attention of text and of audio in the middle and late layers}; early layers are equal."""
    examples, rng = ExampleFolder(data), np.random.default_rng(0)
    models = [f"{name}=somewhere/{name}" for name in levels]
    with Run.open(folder, "attention", AttentionConfig(models, [str(data)], folder)) as run:
        records = {}
        for name, by_modality in levels.items():
            records[name] = [
                item_fields(e)
                | {
                    "tokens": {v: {"query": q, "image": 4, "response_rows": 2, "uniform": 0.5}
                               for v, q in (("text", 7), ("audio", 22))},
                    "modalities": {v: {m: (np.r_[0.4, 0.4, [level] * 4] + rng.normal(0, 0.01, LAYERS)).tolist()
                                  for m in MEASURES} for v, level in zip(("text", "audio"), by_modality, strict=True)},
                    "trace": {"words": 3, "modalities": {
                        v: {f"{score}{of}": [0.5 + shift - 0.001 * i] * LAYERS for score in ("nss", "auc")
                            for of, shift in (("", 0.25), ("_other_words", 0.05), ("_other_images", 0.0))}
                        for v in ("text", "audio")}},
                    "outcomes": {"text": (-0.1, True), "audio": (-1.0 - 0.1 * i, i % 2 == 0)},
                    "interventions": {v: {"image_cut.query.middle": (-3.0 - 0.2 * i, i % 4 == 0)}
                                      for v in ("text", "audio")},
                }
                for i, e in enumerate(examples)
            ]  # fmt: skip
            maps = [
                {
                    "id": examples[0].id,
                    "modality": modality,
                    "layer": layer,
                    "grid": [[level / 4] * 2, [level / 8, level / 2]],
                }
                for modality, level in zip(("text", "audio"), by_modality, strict=True)
                for layer in (3, 5)
            ]
            write_lines(items_path(folder, examples.source, name), records[name])
            by_head = np.arange(1, HEADS + 1) / HEADS * np.ones((len(examples), LAYERS, HEADS))
            heads = {
                modality: {m: intervals(level * by_head, 0) for m in BY_HEAD}
                for modality, level in zip(("text", "audio"), by_modality, strict=True)
            }  # fmt: skip
            write_json(folder / "heads" / f"{examples.source}.{name}.json", heads)
            write_lines(folder / "maps" / f"{examples.source}.{name}.jsonl", maps)
        result = {examples.source: summarize_attention(records, 0)}
        run.finish(benchmarks=result, about={"measures": MEASURES, "level": 0.95, "resamples": 10_000, "seed": 0})
    return folder


def agreement(folder: Path, data: Path, distances: dict[str, float]) -> Path:
    """`distances` is {model: KL of the first response row}."""
    examples = ExampleFolder(data)
    models = [f"{name}=somewhere/{name}" for name in distances]
    with Run.open(folder, "agreement", AgreementConfig(models, [str(data)], folder)) as run:
        records = {
            name: [
                item_fields(e)
                | {"kl": [kl + i / 100, 0.0], "same_top": [kl < 1, True], "rank": [1 if kl < 1 else 3, 1],
                   "cosine": [0.9] * LAYERS, "distance": [kl / 10] * LAYERS}
                for i, e in enumerate(examples)
            ]
            for name, kl in distances.items()
        }  # fmt: skip
        for name, items in records.items():
            write_lines(items_path(folder, examples.source, name), items)
        outcomes = {name: {e.id: "both correct" for e in examples} for name in distances}
        result = {examples.source: summarize_agreement(records, outcomes, 0)}
        run.finish(benchmarks=result, about={"metrics": {"kl": "KL(p_text || p_audio)"}, "seed": 0})
    return folder


def training(folder: Path, alpha: float) -> Path:
    with Run.open(folder, "distill", DistillConfig(["data"], folder, model="start", alpha=alpha)) as run:
        for step in range(0, 40, 8):
            name = "kd_per_token" if alpha else "sft_per_token"
            append_log(folder, {"step": step, "kd_per_token": 0.0, "sft_per_token": 0.0, name: 2 / (step + 1)})
        run.finish(examples=12, steps=40, trained_parameters=1000, final_loss=0.5, seconds=3.0)
    return folder


def one_run_of_each_stage(folder: Path) -> list[str]:
    """Of 12 items, 11 are correct in text; in audio SFT has 3 correct, Self-KD 9."""
    data = audio_data(folder / "world")
    runs = [
        evaluation(folder / "eval-base", data, text="111111111110", cascade="111111111100"),
        evaluation(folder / "eval-sft", data, audio="111000000000"),
        evaluation(folder / "eval-selfkd", data, audio="111111111000"),
        attention(folder / "attention", data, {"base": (0.44, 0.3), "sft": (0.44, 0.36), "selfkd": (0.44, 0.42)}),
        agreement(folder / "agreement", data, {"sft": 6.5, "selfkd": 0.4}),
        training(folder / "sft", 0.0),
        training(folder / "selfkd", 1.0),
        data,
    ]
    return list(map(str, runs))


def rendered(runs, tmp_path, **settings):
    """The HTML of a report on these runs."""
    return report(ReportConfig(list(map(str, runs)), tmp_path / "page" / "r.html", **settings)).read_text()
