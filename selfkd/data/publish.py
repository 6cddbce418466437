"""A folder of spoken questions -> a dataset repository on the hub: the shards as they are, and a card that says what
they are made of. `datasets.load_dataset(REPO)` and the hub's viewer read it."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, DatasetCardData, HfApi

from selfkd.data.example import MANIFEST, read_manifest
from selfkd.errors import InputError
from selfkd.files import write_text

_LOCAL = ("path", "images", "engine_path", "noise_folder", "verify")  # may be paths of this machine
_ABSOLUTE = re.compile(r"(?<![\w.:/])(?:/|[A-Za-z]:\\)\S*[/\\]")  # the folders of an absolute path; not those of a URL
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
        language: Language of the questions.
        private: Whether the repository is private.
        dry_run: Write the card into the folder and upload nothing.
    """

    data: Path
    repo: str
    license: str
    language: str = "en"
    private: bool = True
    dry_run: bool = False


def publish_data(config: PublishDataConfig) -> Path:
    """Writes the card into the folder, uploads shards, card and manifest, and returns the card's path."""
    name = checked_name(config.repo)
    manifest = _without_paths(read_manifest(config.data))
    path = config.data / "README.md"
    write_text(path, _card(config, name, manifest))
    DatasetCard.load(path)  # the hub reads it the same way
    if not config.dry_run:
        hub, repo = HfApi(), config.repo
        hub.create_repo(repo, repo_type="dataset", private=config.private, exist_ok=True)
        wanted = ["README.md", "*.parquet"]
        hub.upload_folder(repo_id=repo, repo_type="dataset", folder_path=config.data, allow_patterns=wanted)
        content = json.dumps(manifest, indent=2, ensure_ascii=False).encode()
        hub.upload_file(repo_id=repo, repo_type="dataset", path_or_fileobj=content, path_in_repo=MANIFEST)
    print(f"{path}{'' if config.dry_run else f' and the data are at {config.repo}'}")
    return path


def _without_paths(manifest: dict[str, Any]) -> dict[str, Any]:
    """A manifest that says nothing of this machine: neither in settings nor in reasons, where file names are left."""
    named = {Path(manifest[k]) for k in _LOCAL if manifest.get(k)}
    folders = sorted((str(p) for p in named | {p.parent for p in named}), key=len, reverse=True)

    def without(reason: str) -> str:
        for folder in folders:
            reason = reason.replace(f" {folder}/", " ")
        return _ABSOLUTE.sub("", reason)

    rejected = [reject | {"reason": without(reject["reason"])} for reject in manifest["rejected"]]
    return {k: v for k, v in manifest.items() if k not in _LOCAL} | {"rejected": rejected}


def checked_name(repo: str) -> str:
    """The name of a repository owner/name; raises InputError for what is none."""
    owner, slash, name = repo.partition("/")
    if not (owner and slash and name) or "/" in name:
        raise InputError(f"repo: {repo!r} is not owner/name")
    return name


def _card(config: PublishDataConfig, name: str, manifest: dict[str, Any]) -> str:
    split = manifest["shards"][0]["file"].partition("-")[0]
    metadata = DatasetCardData(
        license=config.license,
        language=config.language,
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
