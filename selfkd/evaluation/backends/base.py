"""Who is evaluated: a model on this machine, or one behind an endpoint; `remote_code.py` has those that bring their
own code. Each answers items of a folder in some views, one after another as replies come, and gives an error for an
item that it cannot answer."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from tqdm import tqdm
from transformers.utils import logging as transformers_logging

from selfkd.data.dataset import ExampleFolder
from selfkd.data.example import Example, groups_of
from selfkd.errors import InputError
from selfkd.evaluation.backends.endpoint import EndpointClient
from selfkd.evaluation.backends.local import choice_log_likelihoods, predict_modalities
from selfkd.evaluation.backends.openai_client import EndpointSettings, Usage
from selfkd.evaluation.backends.transcriber import Transcriber
from selfkd.evaluation.response import Prediction
from selfkd.model.checkpoint import CheckpointInfo, ready
from selfkd.training.data import Modality as OneModality
from selfkd.training.data import token_cost

Modality = Literal["text", "audio", "cascade"]
TRANSCRIBED_AT_ONCE = 64  # items of a cascade before an endpoint
Answers = Iterator[tuple[int, Modality, Prediction]]


class Backend(Protocol):
    def answer(self, examples: ExampleFolder, wanted: Mapping[Modality, Sequence[int]]) -> Answers:
        """Yields (position, view, reply) for every wanted position, in whatever order replies come."""
        ...


class LocalBackend:
    """A model in the classes of transformers. Items of like length are asked together, an item's views with them, so
    that its picture is looked at once."""

    def __init__(
        self,
        checkpoint: CheckpointInfo,
        transcriber: Transcriber | None,
        batch_size: int,
        max_new_tokens: int,
        likelihood: bool,
    ):
        transformers_logging.disable_progress_bar()
        self.model, self.processor = checkpoint.load()
        ready(self.model)
        self.transcriber, self.batch_size, self.max_new_tokens = transcriber, batch_size, max_new_tokens
        self.likelihood = likelihood

    def answer(self, examples: ExampleFolder, wanted: Mapping[Modality, Sequence[int]]) -> Answers:
        known = examples.sketches()
        modalities_of: dict[int, tuple[Modality, ...]] = {}
        for modality, positions in wanted.items():
            for i in positions:
                modalities_of[i] = (*modalities_of.get(i, ()), modality)
        alike: dict[tuple[Modality, ...], list[int]] = {}
        for i in sorted(modalities_of, key=lambda i: token_cost(known[i], 0)):
            alike.setdefault(modalities_of[i], []).append(i)
        for modalities, positions in alike.items():
            for some in groups_of(positions, self.batch_size):
                for modality, predictions in self._together(
                    [examples[i] for i in some], modalities, examples.language
                ).items():
                    yield from ((i, modality, prediction) for i, prediction in zip(some, predictions, strict=True))

    def _together(
        self, examples: Sequence[Example], modalities: Sequence[Modality], language: str
    ) -> dict[Modality, list[Prediction]]:
        try:
            return self._replies(examples, modalities, language)
        except InputError as error:
            # a picture that cannot be read, a question beyond the context of the model or the window of the recogniser
            if len(examples) > 1:
                alone = [self._together([example], modalities, language) for example in examples]
                return {modality: [one[modality][0] for one in alone] for modality in modalities}
            if len(modalities) > 1:  # what cannot be asked in one view may be in another
                return {modality: self._together(examples, [modality], language)[modality] for modality in modalities}
            return {modality: [Prediction("", error=str(error))] for modality in modalities}

    def _replies(
        self, examples: Sequence[Example], modalities: Sequence[Modality], language: str
    ) -> dict[Modality, list[Prediction]]:
        start = time.perf_counter()
        asked: list[OneModality] = [v for v in modalities if v != "cascade"]
        predictions: dict[Modality, list[Prediction]] = {}
        if asked:
            predictions.update(
                predict_modalities(self.model, self.processor, examples, asked, self.max_new_tokens).items()
            )
            if self.likelihood:
                self._add_likelihoods(examples, asked, predictions)
        if "cascade" in modalities:
            heard = transcribed_by(self.transcriber, examples, language)
            told = [replace(e, question=h) for e, h in zip(examples, heard, strict=True)]
            texts = predict_modalities(self.model, self.processor, told, ["text"], self.max_new_tokens)["text"]
            predictions["cascade"] = [replace(r, transcript=h) for r, h in zip(texts, heard, strict=True)]
        seconds = (time.perf_counter() - start) / (len(examples) * len(modalities))
        return {modality: [replace(r, seconds=seconds) for r in some] for modality, some in predictions.items()}

    def _add_likelihoods(
        self,
        examples: Sequence[Example],
        modalities: Sequence[OneModality],
        predictions: dict[Modality, list[Prediction]],
    ) -> None:
        at = [i for i, example in enumerate(examples) if option_letters(example)]
        if not at:
            return
        letters = [option_letters(examples[i]) for i in at]
        found = choice_log_likelihoods(self.model, self.processor, [examples[i] for i in at], letters, modalities)
        for modality in modalities:
            for i, nats in zip(at, found[modality], strict=True):
                predictions[modality][i] = replace(predictions[modality][i], log_likelihoods=tuple(nats))


@dataclass
class EndpointBackend:
    """A model behind an OpenAI-compatible endpoint; all views share one budget."""

    url: str
    model: str
    settings: EndpointSettings
    transcriber: Transcriber | None = None
    usage: Usage = field(default_factory=Usage)

    def answer(self, examples: ExampleFolder, wanted: Mapping[Modality, Sequence[int]]) -> Answers:
        for modality, positions in wanted.items():
            if modality == "cascade":
                yield from self._cascade(examples, positions)
            else:
                asked = (examples[i] for i in positions)
                for at, prediction in self._answerer(modality).answer_each(asked):
                    yield positions[at], modality, prediction

    def _cascade(self, examples: ExampleFolder, positions: Sequence[int]) -> Answers:
        """Some are heard, then asked: heard while others wait for their reply they would hold those up."""
        answerer = self._answerer("text")
        for some in groups_of(positions, TRANSCRIBED_AT_ONCE):
            told: list[tuple[int, str]] = []
            for i in some:
                try:
                    told += [(i, heard) for heard in transcribed_by(self.transcriber, [examples[i]], examples.language)]
                except InputError as error:  # longer than the recogniser's window, unreadable
                    yield i, "cascade", Prediction("", error=str(error))
            asked = (replace(examples[i], question=heard) for i, heard in told)
            for at, prediction in answerer.answer_each(asked):
                i, heard = told[at]
                yield i, "cascade", replace(prediction, transcript=heard)

    def _answerer(self, modality: OneModality) -> EndpointClient:
        return EndpointClient(self.url, self.model, modality, self.settings, self.usage)


def option_letters(example: Example) -> list[str]:
    """The letters that a multiple-choice question offers, those of a benchmark as its rule of grading knows them; none
    for any other question."""
    if example.question_type == "choice":
        return ["A", "B"]
    return list(json.loads(example.details)["options"]) if example.question_type == "multiple_choice" else []


def transcribed_by(transcriber: Transcriber | None, examples: Sequence[Example], language: str) -> list[str]:
    """What the recogniser of a cascade makes of the examples' speech."""
    assert transcriber is not None, "the view cascade is asked with a transcriber"
    return transcriber.transcribe(examples, language)


def with_progress(answers: Answers, total: int, title: str) -> Answers:
    return iter(tqdm(answers, title, total, unit="prediction", disable=not total))


def endpoint_settings(fields: Mapping[str, Any]) -> EndpointSettings:
    """Raises InputError for a field that there is not, or a value that cannot be."""
    try:
        return EndpointSettings(**fields)
    except TypeError as error:
        raise InputError(f"endpoint: {str(error).rpartition('__init__() ')[2]}") from error
