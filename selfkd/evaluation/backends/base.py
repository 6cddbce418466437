"""The protocol of a backend: what runs the model that is evaluated.

To add a backend: a class with the members of `Backend` in a module of its own, and its entry in `registry.py`.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar, Protocol

from selfkd.data.dataset import ExampleFolder
from selfkd.evaluation.backends.transcriber import Transcriber
from selfkd.evaluation.config import EvalModality, EvaluateConfig
from selfkd.evaluation.response import Prediction
from selfkd.model.checkpoint import CheckpointInfo

Predictions = Iterator[tuple[int, EvalModality, Prediction]]  # (position in the folder, modality, prediction)


class Backend(Protocol):
    scores_likelihoods: ClassVar[bool]  # whether it can score the options of multiple choice by likelihood

    @classmethod
    def accepts(cls, config: EvaluateConfig) -> bool:
        """Whether this backend runs the model of a configuration. Raises InputError where it would, but must not."""
        ...

    @classmethod
    def inspect(cls, config: EvaluateConfig) -> CheckpointInfo | None:
        """The model's checkpoint, whose processor checks rows before the run; None for one that is not in the classes
        of transformers on this machine. Raises InputError, before anything is loaded or written, for an unusable
        one."""
        ...

    @classmethod
    def input_hashes(cls, config: EvaluateConfig, checkpoint: CheckpointInfo | None) -> dict[str, Any]:
        """Hashes that identify the model: a run resumes only where they are the same."""
        ...

    @classmethod
    def open(
        cls, config: EvaluateConfig, checkpoint: CheckpointInfo | None, transcriber: Transcriber | None, run: Path
    ) -> AbstractContextManager["Backend"]:
        """Loads the model. `checkpoint` is that of `inspect`, `transcriber` the cascade's, `run` the run directory."""
        ...

    def predict(self, examples: ExampleFolder, wanted: Mapping[EvalModality, Sequence[int]]) -> Predictions:
        """Yields a prediction for every wanted position in each modality, in any order. An item that cannot be run has
        a prediction with an `error`."""
        ...
