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
from selfkd.evaluation.backends.endpoint import EndpointAnswerer
from selfkd.evaluation.backends.local import answer_views, choice_log_likelihoods
from selfkd.evaluation.backends.openai_client import EndpointSettings, Usage
from selfkd.evaluation.backends.transcriber import Transcriber
from selfkd.evaluation.response import Reply
from selfkd.model.checkpoint import load_omni, ready
from selfkd.training.data import View as OneView
from selfkd.training.data import token_cost

View = Literal["text", "speech", "cascade"]
HEARD_AT_ONCE = 64  # items of a cascade before an endpoint
Answers = Iterator[tuple[int, View, Reply]]


class System(Protocol):
    def answer(self, examples: ExampleFolder, wanted: Mapping[View, Sequence[int]]) -> Answers:
        """Yields (position, view, reply) for every wanted position, in whatever order replies come."""
        ...


class LocalSystem:
    """A model in the classes of transformers. Items of like length are asked together, an item's views with them, so
    that its picture is looked at once."""

    def __init__(
        self, model: str, transcriber: Transcriber | None, batch_size: int, max_new_tokens: int, likelihood: bool
    ):
        transformers_logging.disable_progress_bar()
        self.model, self.processor = load_omni(model)
        ready(self.model)
        self.transcriber, self.batch_size, self.max_new_tokens = transcriber, batch_size, max_new_tokens
        self.likelihood = likelihood

    def answer(self, examples: ExampleFolder, wanted: Mapping[View, Sequence[int]]) -> Answers:
        known = examples.sketches()
        views_of: dict[int, tuple[View, ...]] = {}
        for view, positions in wanted.items():
            for i in positions:
                views_of[i] = (*views_of.get(i, ()), view)
        alike: dict[tuple[View, ...], list[int]] = {}
        for i in sorted(views_of, key=lambda i: token_cost(known[i], 0)):
            alike.setdefault(views_of[i], []).append(i)
        for views, positions in alike.items():
            for some in groups_of(positions, self.batch_size):
                for view, replies in self._together([examples[i] for i in some], views, examples.language).items():
                    yield from ((i, view, reply) for i, reply in zip(some, replies, strict=True))

    def _together(self, examples: Sequence[Example], views: Sequence[View], language: str) -> dict[View, list[Reply]]:
        try:
            return self._replies(examples, views, language)
        except InputError as error:
            # a picture that cannot be read, a question beyond the context of the model or the window of the recogniser
            if len(examples) > 1:
                alone = [self._together([example], views, language) for example in examples]
                return {view: [one[view][0] for one in alone] for view in views}
            if len(views) > 1:  # what cannot be asked in one view may be in another
                return {view: self._together(examples, [view], language)[view] for view in views}
            return {view: [Reply("", error=str(error))] for view in views}

    def _replies(self, examples: Sequence[Example], views: Sequence[View], language: str) -> dict[View, list[Reply]]:
        start = time.perf_counter()
        asked: list[OneView] = [v for v in views if v != "cascade"]
        replies: dict[View, list[Reply]] = {}
        if asked:
            replies.update(answer_views(self.model, self.processor, examples, asked, self.max_new_tokens).items())
            if self.likelihood:
                self._add_likelihoods(examples, asked, replies)
        if "cascade" in views:
            heard = heard_by(self.transcriber, examples, language)
            told = [replace(e, question=h) for e, h in zip(examples, heard, strict=True)]
            texts = answer_views(self.model, self.processor, told, ["text"], self.max_new_tokens)["text"]
            replies["cascade"] = [replace(r, heard=h) for r, h in zip(texts, heard, strict=True)]
        seconds = (time.perf_counter() - start) / (len(examples) * len(views))
        return {view: [replace(r, seconds=seconds) for r in some] for view, some in replies.items()}

    def _add_likelihoods(
        self, examples: Sequence[Example], views: Sequence[OneView], replies: dict[View, list[Reply]]
    ) -> None:
        at = [i for i, example in enumerate(examples) if option_letters(example)]
        if not at:
            return
        letters = [option_letters(examples[i]) for i in at]
        found = choice_log_likelihoods(self.model, self.processor, [examples[i] for i in at], letters, views)
        for view in views:
            for i, nats in zip(at, found[view], strict=True):
                replies[view][i] = replace(replies[view][i], log_likelihoods=tuple(nats))


@dataclass
class EndpointSystem:
    """A model behind an OpenAI-compatible endpoint; all views share one budget."""

    url: str
    model: str
    settings: EndpointSettings
    transcriber: Transcriber | None = None
    usage: Usage = field(default_factory=Usage)

    def answer(self, examples: ExampleFolder, wanted: Mapping[View, Sequence[int]]) -> Answers:
        for view, positions in wanted.items():
            if view == "cascade":
                yield from self._cascade(examples, positions)
            else:
                asked = (examples[i] for i in positions)
                for at, reply in self._answerer(view).answer_each(asked):
                    yield positions[at], view, reply

    def _cascade(self, examples: ExampleFolder, positions: Sequence[int]) -> Answers:
        """Some are heard, then asked: heard while others wait for their reply they would hold those up."""
        answerer = self._answerer("text")
        for some in groups_of(positions, HEARD_AT_ONCE):
            told: list[tuple[int, str]] = []
            for i in some:
                try:
                    told += [(i, heard) for heard in heard_by(self.transcriber, [examples[i]], examples.language)]
                except InputError as error:  # longer than the recogniser's window, unreadable
                    yield i, "cascade", Reply("", error=str(error))
            asked = (replace(examples[i], question=heard) for i, heard in told)
            for at, reply in answerer.answer_each(asked):
                i, heard = told[at]
                yield i, "cascade", replace(reply, heard=heard)

    def _answerer(self, view: OneView) -> EndpointAnswerer:
        return EndpointAnswerer(self.url, self.model, view, self.settings, self.usage)


def option_letters(example: Example) -> list[str]:
    """The letters that a multiple-choice question offers, those of a benchmark as its rule of grading knows them; none
    for any other question."""
    if example.kind == "choice":
        return ["A", "B"]
    return list(json.loads(example.details)["options"]) if example.kind == "multiple_choice" else []


def heard_by(transcriber: Transcriber | None, examples: Sequence[Example], language: str) -> list[str]:
    """What the recogniser of a cascade makes of the examples' speech."""
    assert transcriber is not None, "the view cascade is asked with a transcriber"
    return transcriber.transcribe(examples, language)


def with_progress(answers: Answers, total: int, title: str) -> Answers:
    return iter(tqdm(answers, title, total, unit="reply", disable=not total))


def endpoint_settings(fields: Mapping[str, Any]) -> EndpointSettings:
    """Raises InputError for a field that there is not, or a value that cannot be."""
    try:
        return EndpointSettings(**fields)
    except TypeError as error:
        raise InputError(f"endpoint: {str(error).rpartition('__init__() ')[2]}") from error
