"""Per-sample logs of an evaluation: a JSON-lines file for each benchmark and modality.

During a run the samples stand in a partial file, in the order in which responses came, so that an interrupted run
resumes with the missing items. The finished file has the order of the data; `pandas.read_json(path, lines=True)` reads
it.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from selfkd.data.example import Example, image_hash
from selfkd.errors import InputError
from selfkd.evaluation.grading import Scoring, details_of, grade, group_of_example
from selfkd.evaluation.response import Prediction
from selfkd.files import path_within, write_text
from selfkd.synthesis.quality_filter import word_error_rate

QUESTIONS = "questions.json"  # of an evaluation run: {benchmark: folder of its spoken questions, seen from the run}


def samples_path(folder: Path, benchmark: str, modality: str) -> Path:
    return path_within(folder / "samples", f"{benchmark}.{modality}.jsonl")


def whole_lines(path: Path) -> list[bytes]:
    """The lines of a file that records are appended to; what stands after the last newline was cut short."""
    return path.read_bytes().split(b"\n")[:-1]


def keep_whole_lines(path: Path) -> None:
    """So that the next record does not go on in the middle of one that was cut short."""
    path.write_bytes(b"".join(line + b"\n" for line in whole_lines(path)))


def read_samples(path: Path) -> list[dict[str, Any]]:
    """Raises InputError where there are none, or those of a run that did not yet tell answers from what is none."""
    if not path.is_file():
        raise InputError(f"{path}: not found (selfkd evaluate writes it)")
    samples = []
    with path.open("rb") as file:  # of bytes: a text has other ends of lines too, and a model may have said one
        for number, line in enumerate(file, 1):
            try:
                samples.append(dict(json.loads(line)))
            except (ValueError, TypeError) as error:
                raise InputError(f"{path}: line {number} is cut short or damaged ({error})") from error
    return [checked(sample, path) for sample in samples]


def checked(record: dict[str, Any], path: Path) -> dict[str, Any]:
    if "outcome" not in record:
        raise InputError(f"{path}: field outcome: missing; an older selfkd wrote this run, evaluate again")
    return record


def sample(
    example: Example, modality: str, prediction: Prediction, language: str = "en", scoring: Scoring = "lenient"
) -> dict[str, Any]:
    """The record of a reply to a question in `language`. One with an `error` has no score: it is no wrong answer."""
    known = {
        "id": example.id,
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
        "word_error_rate": _transcript_wer(example, modality, prediction, language),
        "prompt": prompt_hash(example, modality),
        "prediction": prediction.text,
        "outcome": prediction.outcome,
        "finish_reason": prediction.finish_reason,
        "reasoning": prediction.reasoning,
        "transcript": prediction.transcript,
        "log_likelihoods": list(prediction.log_likelihoods),
        "seconds": round(prediction.seconds, 4),
        "error": prediction.error,
    }
    known["group"] = group_of_example(example)
    if prediction.error:
        return known | {"parsed": None, "score": None, "correct": None}
    found = grade(known, prediction, scoring)
    return known | {"parsed": found.parsed, "score": found.score, "correct": found.score >= 0.5}


def _transcript_wer(example: Example, modality: str, prediction: Prediction, language: str) -> float | None:
    """Of what the cascade's recogniser heard; in the speech view, where nobody writes down what the model hears, of
    what the data stage's did. None where there is no transcript."""
    if modality == "cascade" and not prediction.error:
        return word_error_rate(example.spoken_text or example.question, prediction.transcript, language)
    return example.word_error_rate if modality == "audio" and example.word_error_rate >= 0 else None


def prompt_hash(example: Example, modality: str) -> str:
    """Of all that is shown and said: two runs with equal hashes asked the very same."""
    asked = example.question.encode() if modality == "text" else example.audio or b""
    parts = (example.image or b"", example.instruction.encode(), asked, example.answer_format.encode())
    return hashlib.blake2b(b"".join(hashlib.blake2b(p).digest() for p in parts), digest_size=8).hexdigest()


class SampleFile:
    """The records of a benchmark and view as they come. `ids` are all its items, in their order.

    Each process of a launch adds to a partial file of its own; a record with an error is one to be asked again.
    """

    def __init__(self, path: Path, ids: Sequence[str], rank: int = 0):
        self.path, self.ids = path, list(ids)
        self._own = path.with_name(f"{path.name}.partial-{rank}")
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            if self._own.is_file():
                keep_whole_lines(self._own)

    def known(self) -> dict[str, dict[str, Any]]:
        """{id: record}; of an item that was asked twice the one without an error."""
        if self.path.is_file():
            return {s["id"]: s for s in read_samples(self.path)}
        found: dict[str, dict[str, Any]] = {}
        for partial in sorted(self.path.parent.glob(f"{self.path.name}.partial-*")):
            for record in (checked(json.loads(line), partial) for line in whole_lines(partial)):
                if record["id"] not in found or found[record["id"]]["error"]:
                    found[record["id"]] = record
        return found

    def take_over(self, others: Sequence[Path], prompt: Callable[[int], str]) -> None:
        """Adds what other whole files have of the missing items, where the very same was asked: `prompt` gives the hash
        for a position here."""
        known = {s["id"]: s for path in others for s in read_samples(path) if not s["error"]}
        for at in self.missing():
            record = known.get(self.ids[at])
            if record is not None and record["prompt"] == prompt(at):
                self.add(record)

    def reopen(self) -> None:
        """Makes a whole file with errors a partial one again, so that its items are asked again; on one process."""
        if any(record["error"] for record in self.known().values()) and self.path.is_file():
            self.path.rename(self._own)

    def missing(self) -> list[int]:
        """Positions of the items without a reply."""
        if self.path.is_file():
            return []
        known = self.known()
        return [i for i, name in enumerate(self.ids) if name not in known or known[name]["error"]]

    def add(self, record: dict[str, Any]) -> None:
        with self._own.open("a", encoding="utf-8") as file:  # closed, so that it is there when the process is not
            file.write(json.dumps(record, ensure_ascii=False) + "\n")

    def finish(self) -> None:
        """Writes the whole file once every item has a record, be it an error; call it on one process."""
        if self.path.is_file():
            return
        known = self.known()
        write_text(self.path, "".join(json.dumps(known[n], ensure_ascii=False) + "\n" for n in self.ids))
        for partial in self.path.parent.glob(f"{self.path.name}.partial-*"):
            partial.unlink()
