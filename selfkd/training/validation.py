"""Validation during training: the accuracy of text and audio queries on held-out questions every few steps, and the
weights of the best step by audio accuracy.

`validation.json` of a run has the scores. How an answer is graded comes from above as a `Scorer`: training knows no
grader.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import TrainerCallback

from selfkd.data.dataset import ExampleFolder
from selfkd.files import follow_umask, write_atomically, write_json
from selfkd.json_files import read_json
from selfkd.model.modeling_omni import OmniModel
from selfkd.model.processing_omni import OmniProcessor
from selfkd.run_dir import VALIDATION, StepScores

# (model, processor, folder, positions of its rows) -> {modality: number of correct answers}
Scorer = Callable[[OmniModel, OmniProcessor, ExampleFolder, Sequence[int]], Mapping[str, int]]


class Validation(TrainerCallback):
    """Scores the model every `every` steps and, last, the model that training ends with; sets the model to the weights
    of the best step by audio accuracy, of equal ones the first.

    A resumed run forgets what came after its checkpoint and scores those steps again, so it ends in the same bytes.
    Scoring draws no random numbers, so training is the same with and without it.
    """

    def __init__(
        self, trainer: Any, run: Path, weights: Path, folders: Sequence[ExampleFolder], every: int, score: Scorer
    ):
        """`trainer`: a `SelfKDTrainer`. `weights`: the folder that keeps the best weights until training ends."""
        self.trainer, self.run, self.weights, self.folders = trainer, run, weights, folders
        self.every, self.score = every, score
        self.scores: list[StepScores] = []

    @property
    def best(self) -> StepScores:
        return max(self.scores, key=lambda entry: (entry["audio"], -entry["step"]))

    def result(self) -> dict[str, Any]:
        """For `result.json`: which step the model is from, and why."""
        return {"chosen_by": "audio accuracy", **{f"chosen_{k}": v for k, v in self.best.items()}}

    def on_train_begin(self, args, state, control, **kwargs: Any) -> None:
        path = self.run / VALIDATION
        found = read_json(path, list[StepScores]) if path.is_file() else []
        # not the last one, which a run has whose model was not saved yet: training ends again, and so does its scoring
        self.scores = [e for e in found if e["step"] <= state.global_step and e["step"] < args.max_steps]

    def on_step_end(self, args, state, control, **kwargs: Any) -> None:
        if state.global_step % self.every == 0 and state.global_step < args.max_steps:
            self._measure(state.global_step)

    def on_save(self, args, state, control, **kwargs: Any) -> None:
        """No resumed run can need the weights of earlier steps."""
        if self.scores and self.trainer.is_world_process_zero():
            for path in self.weights.glob("best-*.safetensors"):
                if path != self._file(self.best["step"]):
                    path.unlink()

    def on_train_end(self, args, state, control, **kwargs: Any) -> None:
        self._measure(state.global_step)
        if self.best["step"] != state.global_step and self.trainer.is_world_process_zero():  # which saves the model
            self._model.load_state_dict(load_file(self._file(self.best["step"])), strict=False)

    def _measure(self, step: int) -> None:
        """Appends the scores of a step; keeps its weights where it is the best so far."""
        accelerator, model = self.trainer.accelerator, self._model
        rank, ranks = accelerator.process_index, accelerator.num_processes
        correct, is_training = {"text": 0, "audio": 0}, model.training
        model.eval()
        with torch.no_grad(), accelerator.autocast():
            for folder in self.folders:
                found = self.score(model, self._processor, folder, range(rank, len(folder), ranks))
                correct = {modality: n + found[modality] for modality, n in correct.items()}
        model.train(is_training)
        counts = accelerator.reduce(torch.tensor(list(correct.values()), device=accelerator.device), "sum").tolist()
        items = sum(map(len, self.folders))
        accuracies = {modality: n / items for modality, n in zip(correct, counts, strict=True)}
        self.scores.append({"step": step, "items": items, "text": accuracies["text"], "audio": accuracies["audio"]})
        should_log = self.trainer.control.should_log  # `log` would reset it, and the loss of this step be left out
        self.trainer.log({f"eval_{modality}_accuracy": accuracy for modality, accuracy in accuracies.items()})
        self.trainer.control.should_log = should_log
        if not self.trainer.is_world_process_zero():
            return
        if self.best["step"] == step:
            with write_atomically(self._file(step)) as temporary:
                save_file(self._trained_weights(), temporary)
            follow_umask(self._file(step))
        write_json(self.run / VALIDATION, self.scores)
        shown = ", ".join(f"{modality} {accuracy:.1%}" for modality, accuracy in accuracies.items())
        print(f"step {step:,}: accuracy {shown} of {items:,} held-out questions")

    @property
    def _model(self) -> OmniModel:
        return self.trainer.accelerator.unwrap_model(self.trainer.model)

    @property
    def _processor(self) -> OmniProcessor:
        return self.trainer.processor

    def _trained_weights(self) -> dict[str, Tensor]:
        return {n: p.detach().contiguous() for n, p in self._model.named_parameters() if p.requires_grad}

    def _file(self, step: int) -> Path:
        return self.weights / f"best-{step}.safetensors"
