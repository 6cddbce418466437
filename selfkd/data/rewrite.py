"""A folder of examples -> the same folder with every example changed: in noise, or with its audio in another codec."""

from collections.abc import Callable
from pathlib import Path

from selfkd.data.dataset import ExampleFolder
from selfkd.data.example import MANIFEST, Example, write_shard
from selfkd.files import sha256, write_json
from selfkd.json_files import read_json


def rewrite(folder: Path, output: Path, change: Callable[[Example], Example]) -> None:
    """Writes `output`, in one shard, with the manifest of `folder` last; raises InputError where that is no complete
    folder."""
    manifest, examples = read_json(folder / MANIFEST), ExampleFolder(folder)
    shard = output / f"{manifest.get('split', 'train')}.parquet"
    output.mkdir(parents=True, exist_ok=True)
    write_shard(shard, map(change, examples), {})
    entry = {"file": shard.name, "rows": len(examples), "sha256": sha256(shard)}
    write_json(output / MANIFEST, manifest | {"shards": [entry], "rejected_shards": [], "engine_path": ""})
