"""Per-sample logs of an evaluation: a JSON-lines file for each benchmark and modality; a run resumes from them.

During a run the samples stand in a partial file, in the order in which responses came, so that an interrupted run
resumes with the missing items. The finished file has the order of the data; `pandas.read_json(path, lines=True)` reads
it.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from selfkd.data.example import Example, image_hash
from selfkd.errors import InputError
from selfkd.evaluation.cascade import FORM_FIELDS, error_of, in_better_form
from selfkd.evaluation.config import Scoring
from selfkd.evaluation.grading import details_of, grade, group_of_example
from selfkd.evaluation.response import Prediction
from selfkd.evaluation.schemas import CascadeSample, Sample
from selfkd.files import path_within, write_text
from selfkd.json_files import read_json_lines
from selfkd.synthesis.quality_filter import word_error_rate

QUESTIONS = "questions.json"  # of an evaluation run: {benchmark: folder of its questions, relative to the run}
FIELDS = (
    *(
        "id",
        "turn",
        "source",
        "question_type",
        "category",
        "instruction",
        "question",
        "answer_format",
        "image",
        "target",
    ),
    *("details", "voice", "word_error_rate", "prompt_hash", "prediction", "outcome", "finish_reason", "reasoning"),
    *("transcript", "log_likelihoods", "seconds", "error", "group", "parsed", "score", "correct"),
)  # of a sample
CASCADE_FIELDS = ("form", "other_form")  # of a sample of a cascade too; see `cascade.in_form`


def samples_path(folder: Path, benchmark: str, modality: str) -> Path:
    """Raises InputError for a name that leads out of the run, or a link that does."""
    return path_within(path_within(folder, "samples"), f"{benchmark}.{modality}.jsonl")


def whole_lines(path: Path) -> list[bytes]:
    """The lines of a file that is appended to, without a last line that was cut short."""
    return path.read_bytes().split(b"\n")[:-1]


def keep_whole_lines(path: Path) -> None:
    """Removes a last line that was cut short, so that the next one does not continue it."""
    os.truncate(path, sum(len(line) + 1 for line in whole_lines(path)))  # in place: a kill here loses no line


def read_samples(path: Path) -> list[dict[str, Any]]:
    """Raises InputError where there is no file, a line is damaged, or an older selfkd wrote it."""
    if not path.is_file():
        raise InputError(f"{path}: not found (selfkd evaluate writes it)")
    return list(read_json_lines(path, _schema_of(path)))


def _schema_of(path: Path) -> Any:
    modality = path.name.rpartition(".jsonl")[0].rpartition(".")[2]
    return CascadeSample if modality == "cascade" else Sample


def sample(
    example: Example, modality: str, prediction: Prediction, language: str = "en", scoring: Scoring = "lenient"
) -> dict[str, Any]:
    """The log of a prediction, with its grade. One with an `error` has no score: it does not count as wrong."""
    one = _sample_in_one_form(example, modality, prediction, language, scoring)
    if modality != "cascade":
        return one
    question = prediction.question_form
    other = {} if question is None else _sample_in_one_form(example, modality, question, language, scoring)
    return one | {"form": "verbatim", "other_form": {name: other[name] for name in FORM_FIELDS if other}}


def _sample_in_one_form(
    example: Example, modality: str, prediction: Prediction, language: str, scoring: Scoring
) -> dict[str, Any]:
    fields = {
        "id": example.id,
        "turn": len(example.history) + 1,
        "source": example.source,
        "question_type": example.question_type,
        "category": example.category,
        "instruction": example.instruction,
        "question": example.question,
        "answer_format": example.answer_format,
        "image": image_hash(example.image) if example.image else "",
        "target": example.target,
        "details": details_of(vars(example)),
        "voice": "" if modality == "text" else example.voice,
        "word_error_rate": _word_error_rate(example, modality, prediction, language),
        "prompt_hash": prompt_hash(example, modality),
        "prediction": prediction.text,
        "outcome": prediction.outcome,
        "finish_reason": prediction.finish_reason,
        "reasoning": prediction.reasoning,
        "transcript": prediction.transcript,
        "log_likelihoods": list(prediction.log_likelihoods),
        "seconds": round(prediction.seconds, 4),
        "error": prediction.error,
        "group": group_of_example(example),
    }
    if prediction.error:
        return fields | {"parsed": None, "score": None, "correct": None}
    graded = grade(fields, prediction, scoring)
    return fields | {"parsed": graded.parsed, "score": graded.score, "correct": graded.score >= 0.5}


def _word_error_rate(example: Example, modality: str, prediction: Prediction, language: str) -> float | None:
    """Of the cascade's transcript in the cascade; in the audio modality, where the model gives no transcript, of the
    quality filter's. None where there is no transcript."""
    if modality == "cascade" and not prediction.error:
        return word_error_rate(example.spoken_text or example.question, prediction.transcript, language)
    return example.word_error_rate if modality == "audio" and example.word_error_rate >= 0 else None


def prompt_hash(example: Example, modality: str) -> str:
    """A hash of image, instruction, query and form of the answer, and of the turns before: prompts with equal hashes
    are equal."""
    *earlier, last = [
        (turn.instruction, turn.question if modality == "text" else turn.audio or b"", turn.answer_format, turn.answer)
        for turn in example.turns()
    ]
    texts = [part for turn in earlier for part in turn] + list(last[:-1])
    parts = [example.image or b"", *(part.encode() if isinstance(part, str) else part for part in texts)]
    return hashlib.blake2b(b"".join(hashlib.blake2b(p).digest() for p in parts), digest_size=8).hexdigest()


class SampleFile:
    """The samples of a benchmark and modality as they come, and what is missing. `ids` are all items in their order.

    Each process of a launch appends to a partial file of its own. An item whose sample has an error runs again.
    """

    def __init__(self, path: Path, ids: Sequence[str], rank: int = 0):
        self.path, self.ids = path, list(ids)
        self._own = path_within(path.parent, f"{path.name}.partial-{rank}")
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            if self._own.is_file():
                keep_whole_lines(self._own)

    def known(self) -> dict[str, dict[str, Any]]:
        """{id: sample}; of an item that ran twice the sample without an error (see `cascade.error_of`)."""
        if self.path.is_file():
            return {s["id"]: s for s in read_samples(self.path)}
        found: dict[str, dict[str, Any]] = {}
        for partial in self._partials():
            for one in read_json_lines(partial, _schema_of(partial), partial=True):
                if one["id"] not in found or error_of(found[one["id"]]):
                    found[one["id"]] = one
        return found

    def _partials(self) -> list[Path]:
        """The partial files of all processes; not another benchmark's, whose name may begin like theirs."""
        is_partial = re.compile(re.escape(self.path.name) + r"\.partial-\d+").fullmatch
        names = [path.name for path in self.path.parent.glob("*.partial-*") if is_partial(path.name)]
        return [path_within(self.path.parent, name) for name in sorted(names)]

    def take_over(self, others: Sequence[Path], hash_at: Callable[[int], str]) -> None:
        """Adds samples of missing items from other finished files, where the prompt is the same: `hash_at` gives the
        prompt's hash for a position in `ids`."""
        known = {s["id"]: s for path in others for s in read_samples(path) if not s["error"]}
        for at in self.missing():
            one = known.get(self.ids[at])
            if one is not None and one["prompt_hash"] == hash_at(at):
                self.add(one)

    def reopen(self) -> None:
        """Makes a finished file with errors a partial one again, so that its items run again; on one process."""
        if any(map(error_of, self.known().values())) and self.path.is_file():
            self.path.rename(self._own)

    def missing(self) -> list[int]:
        """Positions of the items without a response."""
        if self.path.is_file():
            return []
        known = self.known()
        return [i for i, name in enumerate(self.ids) if name not in known or error_of(known[name])]

    def add(self, one: dict[str, Any]) -> None:
        with self._own.open("a", encoding="utf-8") as file:  # closed, so that a killed process loses nothing
            file.write(json.dumps(one, ensure_ascii=False) + "\n")

    def finish(self) -> None:
        """Writes the finished file once every item has a sample, with or without an error, those of a cascade in its
        better form, and removes partial ones; call it on one process."""
        if not self.path.is_file():
            known = self.known()
            samples = in_better_form([known[name] for name in self.ids])
            write_text(self.path, "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in samples))
        for partial in self._partials():
            partial.unlink()
