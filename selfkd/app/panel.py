"""The models that are asked, and who writes down what was heard."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from selfkd.analysis.measured import named
from selfkd.app.answer import Answer, answer
from selfkd.app.asked import Said, read_question, ready_chance, ready_one, say
from selfkd.app.overlay import thumbnail
from selfkd.app.settings import AppConfig
from selfkd.data.example import Example
from selfkd.data.speakers import EspeakSpeaker
from selfkd.data.views import VIEWS, View
from selfkd.evaluation.scorers import is_right, parse
from selfkd.evaluation.transcriber import Transcriber, check_recognizer
from selfkd.evaluation.verdicts import AT_CHANCE, too_few, why_silent
from selfkd.model.bundled import load_bundled
from selfkd.model.checkpoint import is_ours, load_omni, ready
from selfkd.model.checkpoint_files import check_checkpoint
from selfkd.model.embedded import WHISPER_SIZE
from selfkd.model.omni import OmniModel
from selfkd.model.processor import OmniProcessor

Loaded = tuple[OmniModel, OmniProcessor]


@dataclass(frozen=True)
class Answered:
    """What is kept of a question for the page: no more than it shows."""

    picture: Image.Image  # small
    question: str
    heard: str | None  # None where nobody writes down what was heard
    ready: Example | None  # whose right answer is known
    answers: dict[str, dict[View, Answer]]  # by the model's name
    seconds: dict[str, float]

    @property
    def layers(self) -> int:
        """Of the deepest model of which it is known where it looked; 0 where that is known of none."""
        looks = [a.looks for views in self.answers.values() for a in views.values()]
        return max((found.layers for found in looks if not isinstance(found, str)), default=0)

    def is_right(self, answer: Answer) -> bool | None:
        """None where the right answer is not known."""
        if self.ready is None:
            return None
        kind, truth = self.ready.kind, self.ready.truth
        return is_right(kind, truth, parse(kind, self.question, answer.text))

    def why_no_gap(self, name: str) -> str:
        """Why the two views of a model say nothing of its gap: one question is too few, and of a ready example that it
        does not answer in writing there is none."""
        written = self.is_right(self.answers[name]["text"])
        silent = why_silent(1, None if written is None else float(written), None, ready_chance())
        return AT_CHANCE if silent == "at chance" else f"one question says nothing of the gap: {too_few(1)}"


class Panel:
    """Not for two threads at once."""

    def __init__(self, config: AppConfig, models: dict[str, Loaded], transcriber: Transcriber | None):
        self.config, self.models, self.transcriber = config, models, transcriber
        self.speaker = EspeakSpeaker()

    @classmethod
    def load(cls, config: AppConfig) -> "Panel":
        """On the GPU where there is one; raises InputError, before anything is loaded, for what is no model that
        hears."""
        paths = named("models", config.models) if config.models else {}
        for path in paths.values():
            is_ours(path)
            check_checkpoint(path, "models")
        if config.recognizer:
            check_recognizer(config.recognizer)
        models = {name: load_omni(path) for name, path in paths.items()} or {"bundled": load_bundled()}
        has_bundled_ears = any(hears_as_bundled(model) for model, _ in models.values())
        transcriber = None
        if config.recognizer or has_bundled_ears:
            transcriber = Transcriber.from_pretrained(config.recognizer)
        for model, _ in models.values():
            ready(model)
        return cls(config, models, transcriber)

    def ask(
        self, picture: bytes | None, text: str, speech: bytes | None, said: Said | None, voice: str
    ) -> tuple[Answered, Said | None]:
        """Asks all models in every view that there is, and gives the clip that stands for the question now: `said` is
        the last one that was made here. A question without speech is spoken in `voice`, and so is one whose words or
        voice are others than those of `said`; somebody's own recording is left alone."""
        loaded = list(self.models.values())
        is_ours_to_say = speech is None or (said is not None and said.wav == speech)
        if is_ours_to_say:
            read_question(picture, text, None, self.config, loaded)  # before it is spoken
            if said is None or (said.text, said.voice) != (text.strip(), voice):
                said = say(self.speaker, text, voice)
            speech = said.wav
        example = read_question(picture, text, speech, self.config, loaded)
        views: Sequence[View] = VIEWS if example.question else ("speech",)
        answers, seconds = {}, {}
        for name, (model, processor) in self.models.items():
            start = time.perf_counter()
            answers[name] = answer(model, processor, example, views, self.config.max_new_tokens)
            seconds[name] = time.perf_counter() - start
        heard = None if self.transcriber is None else self.transcriber.transcribe([example])[0].strip()
        small = thumbnail(example.picture())
        answered = Answered(small, example.question, heard, ready_one(example), answers, seconds)
        return answered, said if is_ours_to_say else None


def hears_as_bundled(model: OmniModel) -> bool:
    ears = model.config.speech_config
    return ears is not None and all(getattr(ears, name) == value for name, value in WHISPER_SIZE.items())
