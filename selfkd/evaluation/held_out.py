"""Scores a model on held-out questions while it trains, as `selfkd evaluate` grades them."""

from collections.abc import Sequence

from selfkd.data.dataset import ExampleFolder
from selfkd.data.example import groups_of
from selfkd.evaluation.backends.local import predict_modalities
from selfkd.evaluation.samples import sample
from selfkd.model.modeling_omni import OmniModel
from selfkd.model.processing_omni import OmniProcessor
from selfkd.training.data import MODALITIES
from selfkd.training.sampler import token_cost

_BATCH = 32


def count_correct(
    model: OmniModel, processor: OmniProcessor, folder: ExampleFolder, positions: Sequence[int]
) -> dict[str, int]:
    """{modality: how many of these rows are answered correctly}, by greedy responses of at most 48 tokens. Raises
    InputError for a row that the model cannot take."""
    sketches = folder.metadata()
    correct: dict[str, int] = dict.fromkeys(MODALITIES, 0)
    for batch in groups_of(sorted(positions, key=lambda i: token_cost(sketches[i], 0)), _BATCH):
        examples = [folder[i] for i in batch]
        for modality, predictions in predict_modalities(model, processor, examples).items():
            graded = (sample(e, modality, p, folder.language) for e, p in zip(examples, predictions, strict=True))
            correct[modality] += sum(map(bool, (s["correct"] for s in graded)))
    return correct
