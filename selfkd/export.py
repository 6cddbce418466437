"""Merges LoRA into one plain checkpoint, and publishes models and datasets to the hub with a card (`selfkd.cards`).

A native omni model keeps its own layout, which transformers and other servers read. Once merged, LoRA is active for
text queries and in the image prefix too, where training had it off. `datasets.load_dataset(REPO)` and the hub's viewer
read a published dataset without conversion.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import DatasetCard, HfApi, ModelCard

from selfkd.cards import dataset_card, model_card, split_of
from selfkd.data.dataset import shard_errors
from selfkd.data.example import MANIFEST, REJECTED, PublishedManifest, read_manifest, shard_metadata
from selfkd.errors import InputError
from selfkd.files import (
    PATH_SETTINGS,
    check_new,
    path_within,
    strip_folders,
    write_folder_atomically,
    write_text,
)
from selfkd.run_dir import MODEL, RESULT

if TYPE_CHECKING:
    from torch import nn


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


def publish_data(config: PublishDataConfig) -> Path:
    """Writes the card into the folder, uploads shards, card and manifest, and returns the card's path."""
    name = repo_name(config.repo)
    manifest = _without_paths(read_manifest(config.data, PublishedManifest), config.data)
    path = config.data / "README.md"
    write_text(path, dataset_card(name, config.license, manifest))
    DatasetCard.load(path)  # the hub reads it the same way
    if not config.dry_run:
        hub, repo = HfApi(), config.repo
        hub.create_repo(repo, repo_type="dataset", private=config.private, exist_ok=True)
        shards = [f"{split_of(manifest)}-*.parquet", f"{REJECTED}/*.parquet"]
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


def repo_name(repo: str) -> str:
    """The name part of owner/name; raises InputError for any other form."""
    owner, slash, name = repo.partition("/")
    if not (owner and slash and name) or "/" in name:
        raise InputError(f"repo: {repo!r} is not owner/name")
    return name


@dataclass
class PublishConfig:
    """Publishes a trained model to the hub, with a card: its parts with their licences, data, voices, scores.

    Args:
        run: Run directory of selfkd distill or selfkd align.
        repo: Repository, owner/name.
        license: Licence of the model, by the hub's short names; the licence of the VLM backbone must allow it.
        base_model: Hub id of the VLM backbone; by default the one that the run started from.
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
    name = repo_name(config.repo)
    path = folder / "README.md"
    write_text(path, model_card(config.run, name, config.license, config.base_model, config.comparison))
    ModelCard.load(path)  # the hub reads it the same way
    if not config.dry_run:
        hub = HfApi()
        hub.create_repo(config.repo, private=config.private, exist_ok=True)
        hub.upload_folder(repo_id=config.repo, folder_path=folder, commit_message="Upload a model trained with selfkd")
    print(f"{path}{'' if config.dry_run else f' and its folder are at {config.repo}'}")
    return path


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
        for part in (model.vlm, processor.vlm_processor) if model.is_native else (model, processor):
            part.save_pretrained(folder)
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
