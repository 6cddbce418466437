"""A folder of spoken questions -> a dataset repository on the hub: the shards as they are, and a card that says what
they are made of. `datasets.load_dataset(REPO)` and the hub's viewer read it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, DatasetCardData, HfApi

from selfkd.data.example import MANIFEST, REJECTED, read_manifest, shard_metadata
from selfkd.data.folder import readable
from selfkd.data.local_paths import LOCAL, without_folders
from selfkd.data.verify import base_language
from selfkd.errors import InputError
from selfkd.files import path_within, write_text

_TEMPLATE = """---
{metadata}
---

# {name}

Questions about pictures, written and spoken, made by `selfkd synthesize`. `question` and `answer` are the source's,
`speech` is FLAC (mono, 16 kHz), `said` what was given to the voice; `answer_format` and `instruction` stay written in
both views. `truth` and `details` are what replies are scored by.

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
    kept = {"rejected": [*map(without, manifest["rejected"])], "verify": Path(manifest.get("verify", "")).name}
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
        language=base_language(manifest.get("language", "en")),
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
    return _TEMPLATE.format(metadata=metadata.to_yaml(), name=name, rows=lines)
