"""Hashes of a run's inputs: its data and the checkpoints that it starts from.

The content at a path may change. `Run` keeps the hashes in `inputs.json` and resumes only with the same ones. Names
begin with the field that holds the path, so that a message names field and file.
"""

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from selfkd.data.dataset import ExampleFolder
from selfkd.data.example import MANIFEST
from selfkd.data.lazy_images import footer_hash
from selfkd.files import sha256
from selfkd.hub import hub_commit
from selfkd.progress import progress

Inputs = dict[str, str]
# what `from_pretrained` may read of a checkpoint's folder: weights, configurations, tokenizers, code
_READ = {".bin", ".jinja", ".json", ".model", ".py", ".safetensors", ".tiktoken", ".txt"}
_LARGE = 2 * 2**30  # bytes; takes some seconds to read


def hashes_of_data(folders: Mapping[str, ExampleFolder]) -> Inputs:
    """{"data: NAME": hash} of data folders: of the manifest, which has a hash of each shard, and of the shards'
    footers, because another tool may have written the manifest."""
    found = {}
    for name, folder in folders.items():
        parts = [(folder.folder / MANIFEST).read_bytes(), *(footer_hash(str(p)).encode() for p in folder.paths)]
        found[f"data: {name}"] = f"sha256 {hashlib.sha256(b''.join(parts)).hexdigest()}"
    return found


def hashes_of_checkpoint(field: str, source: str | Path) -> Inputs:
    """{"FIELD: SOURCE: FILE": hash} of all files of a checkpoint's folder, or {"FIELD: SOURCE": commit} of a hub id."""
    folder = Path(source)
    if not folder.is_dir():
        return {f"{field}: {source}": f"commit {hub_commit(source)}"}
    files = sorted(p for p in folder.iterdir() if p.suffix in _READ and p.is_file())
    is_quick = sum(p.stat().st_size for p in files) < _LARGE
    shown = progress(f"hash of {source}", len(files), "files", shown=not is_quick)
    with ThreadPoolExecutor(4) as pool, shown as counted:
        hashes = list(counted.over(pool.map(sha256, files)))
    return {f"{field}: {source}: {p.name}": f"sha256 {h}" for p, h in zip(files, hashes, strict=True)}
