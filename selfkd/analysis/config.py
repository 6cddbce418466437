"""The configurations of `selfkd analyze attention` and `analyze agreement`. Imports no torch: `--help` reads them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

InterventionKind = Literal["image_cut", "image_doubled", "text_attention", "text_states"]


@dataclass
class AttentionConfig:
    """Attention of query and response to the image, in text and in audio, by layer.

    Args:
        models: Models to compare, NAME=PATH or PATH (the name is then that of the run): a model of selfkd, or a native
            omni model.
        data: Dataset folders, one per benchmark, or VOICE=FOLDER as in selfkd evaluate.
        output: Run directory.
        limit: At most so many items of each benchmark; 0 takes all.
        batch_size: Items per batch.
        seed: Seed of the bootstrap.
        maps: Write attention maps over the image for so many items of each benchmark, where the image is one tile.
        map_layers: Layers of those maps; empty takes the middle and the last layer.
        interventions: Interventions in each third of the layers, and what they do to the response: image_cut and
            image_doubled change the attention of query or response rows to the image, text_attention gives rows of the
            audio query the attention of the text query, text_states gives response rows its hidden states. Each is some
            ten further passes.
    """

    models: list[str]
    data: list[str]
    output: Path
    limit: int = 0
    batch_size: int = 16
    seed: int = 0
    maps: int = 8
    map_layers: list[int] = field(default_factory=list)
    interventions: list[InterventionKind] = field(default_factory=list)


@dataclass
class AgreementConfig:
    """Agreement between text and audio, by token and by layer.

    Args:
        models: Models to compare, NAME=PATH or PATH (the name is then that of the run): a model of selfkd, or a native
            omni model.
        data: Dataset folders, one per benchmark, or VOICE=FOLDER as in selfkd evaluate.
        output: Run directory.
        limit: At most so many items of each benchmark; 0 takes all.
        batch_size: Items per batch.
        seed: Seed of the bootstrap.
        text_run: Evaluation run with modality text, to find items that flip; none by default.
        audio_runs: Evaluation runs with modality audio, NAME=PATH for each of the models.
    """

    models: list[str]
    data: list[str]
    output: Path
    limit: int = 0
    batch_size: int = 16
    seed: int = 0
    text_run: str = ""
    audio_runs: list[str] = field(default_factory=list)
