"""What leaves this machine: a model as one plain checkpoint, models and datasets on the hub, each with its card.

A native omni model is merged into its own layout, as transformers and the servers that read it expect. LoRA is merged
into the LLM's weights: it is then active for text queries and in the image prefix too, where training had it off.
`datasets.load_dataset(REPO)` and the hub's viewer read a published dataset as it is.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, DatasetCardData, HfApi, ModelCard, ModelCardData
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from selfkd.data.dataset import readable, split_weight
from selfkd.data.example import MANIFEST, REJECTED, language_code, read_manifest, shard_metadata
from selfkd.errors import InputError
from selfkd.evaluation.compare import accuracy_cells, closed_cell, titled_benchmark
from selfkd.evaluation.gap_table import chance_cell
from selfkd.files import LOCAL, follow_umask, path_within, read_json, without_folders, write_text
from selfkd.model.checkpoint import inspect_checkpoint
from selfkd.run_dir import CONFIG, MODEL, PROVENANCE, RESULT

_DATASET_CARD = """---
{metadata}
---

# {name}

Questions about pictures, written and spoken, made by `selfkd synthesize`. `question` and `answer` are the source's,
`audio` is FLAC (mono, 16 kHz), `said` what was given to the voice; `answer_format` and `instruction` stay written in
both views. `target` and `details` are what replies are scored by.

| | |
|---|---|
{rows}

Pictures and questions stay under the terms of their source. Every shard's SHA-256 is in `manifest.json`.
"""


@dataclass
class PublishDataConfig:
    """Spoken questions to the hub, as a dataset repository with a card.

    Args:
        data: Folder that selfkd synthesize wrote, or a spoken benchmark out of the cache of selfkd evaluate.
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


def publish_data(config: PublishDataConfig) -> Path:
    """Writes the card into the folder, uploads shards, card and manifest, and returns the card's path."""
    name = checked_name(config.repo)
    manifest = _without_paths(read_manifest(config.data), config.data)
    path = config.data / "README.md"
    write_text(path, _card(config, name, manifest))
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
            delete_patterns=shards,  # those of before, whose names are others: but for the ones that are uploaded
        )
        content = json.dumps(manifest, indent=2, ensure_ascii=False).encode()
        hub.upload_file(repo_id=repo, repo_type="dataset", path_or_fileobj=content, path_in_repo=MANIFEST)
    print(f"{path}{'' if config.dry_run else f' and the data are at {config.repo}'}")
    return path


def _without_paths(manifest: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A manifest that says nothing of this machine; raises InputError where a shard does, which goes up as it is."""

    def without(reject: dict[str, Any]) -> dict[str, Any]:
        return reject | {"reason": without_folders(reject["reason"], manifest)}

    for shard in manifest["shards"]:
        with readable(path_within(folder, shard["file"])):
            rejected = shard_metadata(folder / shard["file"])["rejected"]
        for reject in rejected:
            if without(reject) != reject:
                raise InputError(
                    f"{folder / shard['file']}: row {reject['id']}: its reason says where files are on this "
                    f"machine ({reject['reason']}), as an earlier selfkd wrote it; synthesize the folder anew"
                )
    # what a report needs to know of it
    kept = {"rejected": [*map(without, manifest["rejected"])], "asr_filter": Path(manifest.get("asr_filter", "")).name}
    return {name: value for name, value in manifest.items() if name not in LOCAL} | kept


def _split(manifest: dict[str, Any]) -> str:
    return manifest["shards"][0]["file"].partition("-")[0]


def checked_name(repo: str) -> str:
    """The name of a repository owner/name; raises InputError for what is none."""
    owner, slash, name = repo.partition("/")
    if not (owner and slash and name) or "/" in name:
        raise InputError(f"repo: {repo!r} is not owner/name")
    return name


def _card(config: PublishDataConfig, name: str, manifest: dict[str, Any]) -> str:
    split = _split(manifest)
    metadata = DatasetCardData(
        license=config.license,
        language=language_code(manifest.get("language", "en")),
        task_categories=["visual-question-answering"],
        tags=["audio", "spoken questions", "selfkd"],
        configs=[{"config_name": "default", "data_files": [{"split": split, "path": f"{split}-*.parquet"}]}],
    )
    voices = manifest["voice_names"]
    rows = {
        "source": manifest["source"],
        "licence of the source": manifest["source_license"],
        "questions": manifest["rows"],
        "refused": len(manifest["rejected"]),
        "speech engine": manifest["engine_name"],
        "licence of the engine": manifest["engine_license"],
        "voices": f"{len(voices)}: {', '.join(voices[:8])}{', ...' if len(voices) > 8 else ''}",
        "seed": manifest["seed"],
    }
    lines = "\n".join(f"| {what} | {value} |" for what, value in rows.items())
    return _DATASET_CARD.format(metadata=metadata.to_yaml(), name=name, rows=lines)


_MODEL_CARD = """\
---
{metadata}
---
# {name}

A vision-language model with ears: it takes an image and a question, written or spoken. Trained with selfkd, an
independent implementation of Self-KD ([arXiv 2503.00059](https://arxiv.org/abs/2503.00059)); load it with
`selfkd.model.modeling_omni.OmniModel.from_pretrained`.

## Training

{training}

## Data and voices

{data}

## Scores

{scores}
"""


@dataclass
class PublishConfig:
    """A trained model to the hub, with a card: data, voices, licences, scores.

    Args:
        run: Run directory of selfkd distill or selfkd align.
        repo: Repository on the hub, as owner/name.
        license: Licence of the model, as the hub names it; the base's licence must allow it.
        base_model: Hub id of the vision-language model underneath.
        comparison: Folder of selfkd compare; its scores go into the card.
        private: Whether the repository is private.
        dry_run: Write the card beside the model and upload nothing.
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
    checked_name(config.repo)
    path = folder / "README.md"
    write_text(path, card(config))
    ModelCard.load(path)  # the hub reads it the same way
    if not config.dry_run:
        hub = HfApi()
        hub.create_repo(config.repo, private=config.private, exist_ok=True)
        hub.upload_folder(repo_id=config.repo, folder_path=folder, commit_message="Model of selfkd")
    print(f"{path}{'' if config.dry_run else f' and its folder are at {config.repo}'}")
    return path


def card(config: PublishConfig) -> str:
    """The model card's text, from the files of the run and of the comparison."""
    asked, result, provenance = (read_json(config.run / name) for name in (CONFIG, RESULT, PROVENANCE))
    metadata = ModelCardData(
        license=config.license,
        base_model=config.base_model or None,
        library_name="selfkd",
        pipeline_tag="image-text-to-text",
        tags=["audio", "self-distillation", "arxiv:2503.00059"],
    )
    how = ("stage", "alpha", "divergence", "temperature", "response_weight", "ctc_weight", "trainable")
    fields = (*how, "steps", "batch_size", "learning_rate", "seed")
    settings = {name: asked[name] for name in fields if name in asked}
    settings |= {"examples": result["examples"], "trained parameters": result["trained_parameters"]}
    settings |= {name: provenance[name] for name in ("selfkd", "commit", "torch", "transformers")}
    return _MODEL_CARD.format(
        metadata=metadata.to_yaml(),
        name=config.repo.partition("/")[2],
        training=_rows(("", ""), settings.items()),
        data="\n\n".join(map(_data, asked["data"])),
        scores=_scores(Path(config.comparison)) if config.comparison else "Not stated.",
    )


def _rows(head: tuple[str, ...], rows: Any) -> str:
    lines = [head, ("---",) * len(head), *(map(str, row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _data(entry: str) -> str:
    folder, weight = split_weight(entry)
    if not (folder / MANIFEST).is_file():
        return f"{folder.name}; its manifest is no longer there."
    manifest = read_manifest(folder)
    voices = manifest.get("voice_names", [])
    said = {
        **({} if weight is None else {"weight in the mixture": weight}),
        "source": manifest["source"],
        "licence of the source": manifest.get("source_license", "not stated"),
        "spoken questions": manifest.get("rows", "not stated"),
        "audio": manifest.get("engine_name", "not stated"),
        "licence of the speech engine": manifest.get("engine_license", "not stated"),
        "voices": f"{len(voices)}: {', '.join(voices[:8])}{', ...' if len(voices) > 8 else ''}",
    }
    return _rows(("", ""), said.items())


def _scores(comparison: Path) -> str:
    path = comparison / "scores.json"
    if not path.is_file():
        raise InputError(f"comparison: {comparison}: no scores.json there (selfkd compare writes it)")
    rows, systems = [], []
    for benchmark, scores in read_json(path).items():
        systems = list(scores["systems"])
        title, cells = titled_benchmark(benchmark, scores), accuracy_cells(scores).values()
        chance, closed = chance_cell(scores["systems"].values()), scores["gap_closed"].items()
        shares = "; ".join(f"{s} {closed_cell(c)}" for s, c in closed) or "–"
        rows.append((title, scores["systems"]["text"]["n"], chance, *cells, shares))
    head = ("benchmark", "n", "chance", *systems, "share of the gap closed")
    return f"Accuracy in % (standard error); text is the written question.\n\n{_rows(head, rows)}"


@dataclass
class MergeConfig:
    """A trained model as one plain checkpoint, its adapters merged.

    Args:
        model: Folder of the model (the output of selfkd distill, with /model).
        output: Folder to write to; it must be new or empty.
    """

    model: str
    output: Path


def merge(config: MergeConfig) -> None:
    """Writes `output`: a native omni model in its own layout, any other as an `OmniModel` without adapters."""
    if config.output.exists() and any(config.output.iterdir()):
        raise InputError(f"output: {config.output}: not empty; give another")
    checkpoint = inspect_checkpoint(config.model)
    config.output.mkdir(
        parents=True, exist_ok=True
    )  # below a file, on a disk without room: said before weights are read
    model, processor = checkpoint.load()
    merged = merge_adapters(model.vlm)
    model.config.llm_lora = None
    (model.vlm if model.is_native else model).save_pretrained(config.output)
    processor.save_pretrained(config.output)
    follow_umask(config.output)
    if merged:
        print(f"{merged} adapted layers merged: written answers are no longer those of the base model")
    print(config.output)


def merge_adapters(vlm: nn.Module) -> int:
    """Puts the weights of adapters into those of the layers that they adapt; returns how many layers that were."""
    adapted = [(name, m) for name, m in vlm.named_modules() if isinstance(m, BaseTunerLayer)]
    for name, layer in adapted:
        layer._disable_adapters = False
        layer.merge(safe_merge=True)
        parent, _, own = name.rpartition(".")
        setattr(vlm.get_submodule(parent), own, layer.get_base_layer())
    return len(adapted)
