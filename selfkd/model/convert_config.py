"""The configuration of `selfkd convert`. Imports no torch: `--help` reads it."""

from dataclasses import dataclass
from pathlib import Path


@dataclass
class ConvertConfig:
    """Converts an original InternVL2 checkpoint to the classes of transformers.

    Args:
        source: The original checkpoint (config.json, safetensors, tokenizer), a hub id (OWNER/NAME,
            OWNER/NAME@COMMIT) or a folder.
        output: Folder to write.
        shard_gigabytes: Size of a written weights file.
    """

    source: Path
    output: Path
    shard_gigabytes: float = 5.0
