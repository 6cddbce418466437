"""The cards of models and datasets on the hub: what went into them, with licences, and what they scored."""

from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCardData, ModelCardData
from typing_extensions import TypedDict

from selfkd.data.dataset import ExampleFolder, split_weight
from selfkd.data.example import MANIFEST, language_code, read_manifest
from selfkd.errors import InputError
from selfkd.evaluation.schemas import Comparison
from selfkd.evaluation.tables import (
    accuracy_cells,
    benchmark_title,
    chance_cell,
    gap_closed_cell,
    question_form_note,
)
from selfkd.hub import is_hub_id, split_revision
from selfkd.json_files import read_json
from selfkd.model.parts import Part, parts_of_run
from selfkd.run_dir import CONFIG, PROVENANCE, RESULT, TrainingResult

_NAMED_VOICES = 8  # of a folder's voices; the card names no more

_DATASET_CARD = """---
{metadata}
---

# {name}

Questions about images, as text and as audio, made by `selfkd synthesize`. `question` and `answer` are the source's,
`audio` is FLAC (mono, 16 kHz), `spoken_text` is the input of the TTS engine. `instruction` and `answer_format` are text
in both modalities. Predictions are graded with `target` and `details`.

| | |
|---|---|
{rows}

Images and questions stay under the terms of their source. `manifest.json` has the SHA-256 of every shard.
"""


_MODEL_CARD = """\
---
{metadata}
---
# {name}

A vision-language model with a speech encoder and a projector: it takes an image and a question, as text or as audio.
Trained with selfkd, an independent implementation of Self-KD ([arXiv 2503.00059](https://arxiv.org/abs/2503.00059)).
Load it with `selfkd.load_model`.

## Parts

{parts}

## Training

{training}

## Data and voices

{data}

## Scores

{scores}
"""


class _Provenance(TypedDict):
    selfkd: str
    commit: str
    torch: str
    transformers: str


class _Config(TypedDict):
    data: list[str]


_SCHEMAS = {CONFIG: _Config, RESULT: TrainingResult, PROVENANCE: _Provenance}  # of the files of a training run


def split_of(manifest: dict[str, Any]) -> str:
    """The split that the shards of a dataset are of."""
    return next((shard["file"].partition("-")[0] for shard in manifest["shards"]), "train")


def dataset_card(name: str, license: str, manifest: dict[str, Any]) -> str:
    """The card of a dataset that `selfkd synthesize` made, from its manifest; `license` by the hub's short names."""
    split = split_of(manifest)
    metadata = DatasetCardData(
        license=license,
        language=language_code(manifest.get("language", "en")),
        task_categories=["visual-question-answering"],
        tags=["audio", "audio questions", "selfkd"],
        configs=[{"config_name": "default", "data_files": [{"split": split, "path": f"{split}-*.parquet"}]}],
    )
    voices = manifest["voice_names"]
    rows = {
        "source": manifest["source"],
        "licence of the source": manifest["source_license"],
        "questions": manifest["rows"],
        "rejected": len(manifest["rejected"]),
        "TTS engine": manifest["engine_name"],
        "licence of the TTS engine": manifest["engine_license"],
        "voices": _named(voices),
        "seed": manifest["seed"],
    }
    lines = "\n".join(f"| {field} | {value} |" for field, value in rows.items())
    return _DATASET_CARD.format(metadata=metadata.to_yaml(), name=name, rows=lines)


def model_card(run: Path, name: str, license: str, base_model: str = "", comparison: str = "") -> str:
    """The card of a run's model, from the files of the run and of a comparison.

    Args:
        run: Run directory of selfkd distill or selfkd align, complete.
        license: Of the model, by the hub's short names.
        base_model: Hub id of the VLM; by default the one that the run started from.
        comparison: Output of selfkd compare, for the scores.
    """
    run_config, result, provenance = (read_json(run / name, schema) for name, schema in _SCHEMAS.items())
    parts = parts_of_run(run)
    on_hub = [split_revision(part.name)[0] for part in parts if is_hub_id(part.name)]
    metadata = ModelCardData(
        license=license,
        base_model=base_model or on_hub or None,
        library_name="selfkd",
        pipeline_tag="image-text-to-text",
        tags=["audio", "self-distillation", "arxiv:2503.00059"],
    )
    method = ("stage", "alpha", "divergence", "temperature", "response_weight", "ctc_weight", "trainable")
    fields = (*method, "steps", "batch_size", "learning_rate", "seed")
    settings = {name: run_config[name] for name in fields if name in run_config}
    settings |= {"examples": result["examples"], "trained parameters": result["trained_parameters"]}
    settings |= {name: provenance[name] for name in ("selfkd", "commit", "torch", "transformers")}
    return _MODEL_CARD.format(
        metadata=metadata.to_yaml(),
        name=name,
        parts=_table(("part", "checkpoint", "licence"), map(_part_row, parts)) if parts else "Not known.",
        training=_table(("", ""), settings.items()),
        data="\n\n".join(map(_data_table, run_config["data"])),
        scores=_scores(Path(comparison)) if comparison else "Not stated.",
    )


def _part_row(part: Part) -> tuple[str, str, str]:
    where = f"{part.name}, commit {part.commit}" if part.commit else part.name
    return part.role, where, part.license or "not stated"


def _named(voices: list[str]) -> str:
    return f"{len(voices)}: {', '.join(voices[:_NAMED_VOICES])}{', ...' if len(voices) > _NAMED_VOICES else ''}"


def _table(head: tuple[str, ...], rows: Any) -> str:
    lines = [head, ("---",) * len(head), *(map(str, row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _data_table(entry: str) -> str:
    folder, weight = split_weight(entry)
    if not (folder / MANIFEST).is_file():
        return f"{folder.name}; its manifest no longer exists."
    manifest = read_manifest(folder)
    voices = sorted({row["voice"] for row in ExampleFolder(folder).columns("voice")})  # as selfkd data check counts
    rows = {
        **({} if weight is None else {"weight in the mixture": weight}),
        "source": manifest.get("source", "not stated"),
        "licence of the source": manifest.get("source_license", "not stated"),
        "audio questions": manifest.get("rows", "not stated"),
        "TTS engine": manifest.get("engine_name", "not stated"),
        "licence of the TTS engine": manifest.get("engine_license", "not stated"),
        "voices": _named(voices),
    }
    return _table(("", ""), rows.items())


def _scores(comparison: Path) -> str:
    path = comparison / "scores.json"
    if not path.is_file():
        raise InputError(f"comparison: {comparison}: no scores.json there (selfkd compare writes it)")
    rows, systems, comparison_scores = [], [], read_json(path, Comparison)
    for benchmark, scores in comparison_scores.items():
        if not scores["systems"]:  # the spread over voices
            continue
        systems = list(scores["systems"])
        title, cells = benchmark_title(benchmark, scores), accuracy_cells(scores).values()
        chance, closed = chance_cell(scores["systems"].values()), scores["gap_closed"].items()
        shares = "; ".join(f"{s} {gap_closed_cell(c)}" for s, c in closed) or "–"
        rows.append((title, scores["systems"].get("text", {"n": "–"})["n"], chance, *cells, shares))
    head = ("benchmark", "n", "chance", *systems, "share of the gap closed")
    forms = question_form_note({b: scores["systems"].get("cascade") for b, scores in comparison_scores.items()})
    note = "; ".join(filter(None, ("Accuracy in % (standard error); text: text queries", forms)))
    return f"{note}.\n\n{_table(head, rows)}"
