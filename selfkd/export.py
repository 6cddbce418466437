"""Merges LoRA into one plain checkpoint, and publishes models and datasets to the hub with a card.

A native omni model keeps its own layout, which transformers and other servers read. Once merged, LoRA is active for
text queries and in the image prefix too, where training had it off. `datasets.load_dataset(REPO)` and the hub's viewer
read a published dataset without conversion.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import DatasetCard, DatasetCardData, HfApi, ModelCard, ModelCardData
from typing_extensions import TypedDict

from selfkd.data.dataset import shard_errors, split_weight
from selfkd.data.example import MANIFEST, REJECTED, PublishedManifest, language_code, read_manifest, shard_metadata
from selfkd.errors import InputError
from selfkd.evaluation.schemas import Comparison
from selfkd.evaluation.tables import (
    accuracy_cells,
    benchmark_title,
    chance_cell,
    gap_closed_cell,
    question_form_note,
)
from selfkd.files import (
    PATH_SETTINGS,
    check_new,
    path_within,
    strip_folders,
    write_folder_atomically,
    write_text,
)
from selfkd.json_files import read_json
from selfkd.run_dir import CONFIG, MODEL, PROVENANCE, RESULT, TrainingResult

if TYPE_CHECKING:
    from torch import nn

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


@dataclass
class PublishDataConfig:
    """Publishes a dataset with audio questions to the hub, with a card.

    Args:
        data: Output of selfkd synthesize, or a benchmark with audio in the cache of selfkd evaluate.
        repo: Repository, owner/name.
        license: Its licence, by the hub's short names.
        private: Whether the repository is private.
        dry_run: Write the card into the folder and upload nothing.
    """

    data: Path
    repo: str
    license: str
    private: bool = True
    dry_run: bool = False


class _Provenance(TypedDict):
    selfkd: str
    commit: str
    torch: str
    transformers: str


class _Config(TypedDict):
    data: list[str]


_SCHEMAS = {CONFIG: _Config, RESULT: TrainingResult, PROVENANCE: _Provenance}  # of the files of a training run


def publish_data(config: PublishDataConfig) -> Path:
    """Writes the card into the folder, uploads shards, card and manifest, and returns the card's path."""
    name = repo_name(config.repo)
    manifest = _without_paths(read_manifest(config.data, PublishedManifest), config.data)
    path = config.data / "README.md"
    write_text(path, _dataset_card(config, name, manifest))
    DatasetCard.load(path)  # the hub reads it the same way
    if not config.dry_run:
        hub, repo = HfApi(), config.repo
        hub.create_repo(repo, repo_type="dataset", private=config.private, exist_ok=True)
        shards = [f"{_split(manifest)}-*.parquet", f"{REJECTED}/*.parquet"]
        hub.upload_folder(
            repo_id=repo,
            repo_type="dataset",
            folder_path=config.data,
            allow_patterns=["README.md", *shards],
            delete_patterns=shards,  # removes earlier shards with other names
        )
        content = json.dumps(manifest, indent=2, ensure_ascii=False).encode()
        hub.upload_file(repo_id=repo, repo_type="dataset", path_or_fileobj=content, path_in_repo=MANIFEST)
    print(f"{path}{'' if config.dry_run else f' and the data are at {config.repo}'}")
    return path


def _without_paths(manifest: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The manifest without paths of this machine; raises InputError for a shard with such a path, because shards are
    uploaded unchanged."""

    def cleaned(reject: dict[str, Any]) -> dict[str, Any]:
        return reject | {"reason": strip_folders(reject["reason"], manifest)}

    for shard in manifest["shards"]:
        with shard_errors(path_within(folder, shard["file"])):
            rejected = shard_metadata(folder / shard["file"]).get("rejected", [])
        for reject in rejected:
            if cleaned(reject) != reject:
                raise InputError(
                    f"{folder / shard['file']}: row {reject['id']}: its reason has a path of this machine "
                    f"({reject['reason']}), written by an earlier selfkd; synthesize the folder again"
                )
    # fields that selfkd data report needs
    kept = {"rejected": [*map(cleaned, manifest["rejected"])], "asr_filter": Path(manifest.get("asr_filter", "")).name}
    return {name: value for name, value in manifest.items() if name not in PATH_SETTINGS} | kept


def _split(manifest: dict[str, Any]) -> str:
    return next((shard["file"].partition("-")[0] for shard in manifest["shards"]), "train")


def repo_name(repo: str) -> str:
    """The name part of owner/name; raises InputError for any other form."""
    owner, slash, name = repo.partition("/")
    if not (owner and slash and name) or "/" in name:
        raise InputError(f"repo: {repo!r} is not owner/name")
    return name


def _dataset_card(config: PublishDataConfig, name: str, manifest: dict[str, Any]) -> str:
    split = _split(manifest)
    metadata = DatasetCardData(
        license=config.license,
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
        "voices": f"{len(voices)}: {', '.join(voices[:8])}{', ...' if len(voices) > 8 else ''}",
        "seed": manifest["seed"],
    }
    lines = "\n".join(f"| {field} | {value} |" for field, value in rows.items())
    return _DATASET_CARD.format(metadata=metadata.to_yaml(), name=name, rows=lines)


_MODEL_CARD = """\
---
{metadata}
---
# {name}

A vision-language model with a speech encoder and a projector: it takes an image and a question, as text or as audio.
Trained with selfkd, an independent implementation of Self-KD ([arXiv 2503.00059](https://arxiv.org/abs/2503.00059)).
Load it with `selfkd.load_model`.

## Training

{training}

## Data and voices

{data}

## Scores

{scores}
"""


@dataclass
class PublishConfig:
    """Publishes a trained model to the hub, with a card: data, voices, licences, scores.

    Args:
        run: Run directory of selfkd distill or selfkd align.
        repo: Repository, owner/name.
        license: Licence of the model, by the hub's short names; the licence of the VLM backbone must allow it.
        base_model: Hub id of the VLM backbone.
        comparison: Output of selfkd compare; its scores go into the card.
        private: Whether the repository is private.
        dry_run: Write the card into the model's folder and upload nothing.
    """

    run: Path
    repo: str
    license: str
    base_model: str = ""
    comparison: str = ""
    private: bool = False
    dry_run: bool = False


def publish(config: PublishConfig) -> Path:
    """Writes the card into the run's model folder, uploads the folder, and returns the card's path."""
    folder = config.run / MODEL
    if not (config.run / RESULT).is_file() or not (folder / "config.json").is_file():
        raise InputError(f"run: {config.run}: not a complete training run")
    repo_name(config.repo)
    path = folder / "README.md"
    write_text(path, model_card(config))
    ModelCard.load(path)  # the hub reads it the same way
    if not config.dry_run:
        hub = HfApi()
        hub.create_repo(config.repo, private=config.private, exist_ok=True)
        hub.upload_folder(repo_id=config.repo, folder_path=folder, commit_message="Upload a model trained with selfkd")
    print(f"{path}{'' if config.dry_run else f' and its folder are at {config.repo}'}")
    return path


def model_card(config: PublishConfig) -> str:
    """The model card's text, from the files of the run and of the comparison."""
    run_config, result, provenance = (read_json(config.run / name, schema) for name, schema in _SCHEMAS.items())
    metadata = ModelCardData(
        license=config.license,
        base_model=config.base_model or None,
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
        name=config.repo.partition("/")[2],
        training=_table(("", ""), settings.items()),
        data="\n\n".join(map(_data_table, run_config["data"])),
        scores=_scores(Path(config.comparison)) if config.comparison else "Not stated.",
    )


def _table(head: tuple[str, ...], rows: Any) -> str:
    lines = [head, ("---",) * len(head), *(map(str, row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _data_table(entry: str) -> str:
    folder, weight = split_weight(entry)
    if not (folder / MANIFEST).is_file():
        return f"{folder.name}; its manifest no longer exists."
    manifest = read_manifest(folder)
    voices = manifest.get("voice_names", [])
    rows = {
        **({} if weight is None else {"weight in the mixture": weight}),
        "source": manifest.get("source", "not stated"),
        "licence of the source": manifest.get("source_license", "not stated"),
        "audio questions": manifest.get("rows", "not stated"),
        "TTS engine": manifest.get("engine_name", "not stated"),
        "licence of the TTS engine": manifest.get("engine_license", "not stated"),
        "voices": f"{len(voices)}: {', '.join(voices[:8])}{', ...' if len(voices) > 8 else ''}",
    }
    return _table(("", ""), rows.items())


def _scores(comparison: Path) -> str:
    path = comparison / "scores.json"
    if not path.is_file():
        raise InputError(f"comparison: {comparison}: no scores.json there (selfkd compare writes it)")
    rows, systems, comparison_scores = [], [], read_json(path, Comparison)
    for benchmark, scores in comparison_scores.items():
        systems = list(scores["systems"])
        title, cells = benchmark_title(benchmark, scores), accuracy_cells(scores).values()
        chance, closed = chance_cell(scores["systems"].values()), scores["gap_closed"].items()
        shares = "; ".join(f"{s} {gap_closed_cell(c)}" for s, c in closed) or "–"
        rows.append((title, scores["systems"].get("text", {"n": "–"})["n"], chance, *cells, shares))
    head = ("benchmark", "n", "chance", *systems, "share of the gap closed")
    forms = question_form_note({b: scores["systems"].get("cascade") for b, scores in comparison_scores.items()})
    note = "; ".join(filter(None, ("Accuracy in % (standard error); text: text queries", forms)))
    return f"{note}.\n\n{_table(head, rows)}"


@dataclass
class MergeConfig:
    """Writes a trained model as one plain checkpoint, with its adapters merged.

    Args:
        model: Folder of the model (output of selfkd distill, with /model).
        output: Folder to write to; must be new or empty.
    """

    model: str
    output: Path


def merge(config: MergeConfig) -> None:
    """Writes a native omni model in its own layout, any other as an `OmniModel` without adapters."""
    from selfkd.model.checkpoint import inspect_checkpoint  # with torch, which cards do not need

    check_new(config.output)
    checkpoint = inspect_checkpoint(config.model)
    with write_folder_atomically(config.output) as folder:
        model, processor = checkpoint.load()
        merged = merge_adapters(model.vlm)
        model.config.llm_lora = None
        (model.vlm if model.is_native else model).save_pretrained(folder)
        processor.save_pretrained(folder)
    if merged:
        print(f"{merged} adapted layers merged: responses to text queries now differ from the VLM backbone")
    print(config.output)


def merge_adapters(vlm: "nn.Module") -> int:
    """Merges adapters into the weights of their layers; returns the number of merged layers."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    adapted = [(name, m) for name, m in vlm.named_modules() if isinstance(m, BaseTunerLayer)]
    for name, layer in adapted:
        layer._disable_adapters = False
        layer.merge(safe_merge=True)
        parent, _, attribute = name.rpartition(".")
        setattr(vlm.get_submodule(parent), attribute, layer.get_base_layer())
    return len(adapted)
