"""Verdicts of an LLM judge on samples: requested in parallel, appended to a file as they come, never requested twice.

What is judged is a `Criterion`: its messages, how a response is parsed, and the verdict of a sample without a response.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from selfkd.errors import InputError
from selfkd.evaluation.backends.chat_response import short
from selfkd.evaluation.backends.openai_client import OpenAIClient
from selfkd.evaluation.samples import keep_whole_lines
from selfkd.json_files import read_json_lines
from selfkd.progress import progress

FIELDS = ("question", "target", "prediction")
_MAX_OBJECTS = 100  # in a judge's response

VerdictT = TypeVar("VerdictT")  # a dataclass with the fields `error` and `answered`
Sample = Mapping[str, Any]


@dataclass(frozen=True)
class Criterion(Generic[VerdictT]):
    messages: Callable[[Sample], list[dict[str, Any]]]
    parse: Callable[[str], VerdictT]
    failed: Callable[[str, bool], VerdictT]  # (error, whether the judge responded)
    line: type  # the schema of a line of the file


def judge_each(
    samples: Sequence[Sample], client: OpenAIClient, criterion: Criterion[VerdictT]
) -> Iterator[tuple[int, VerdictT]]:
    """Yields (position in `samples`, verdict) as responses come. A sample with an `error` has no prediction to
    judge."""
    for i, sample in enumerate(samples):
        for name in FIELDS:
            if not isinstance(sample.get(name), str):
                raise InputError(f"samples: item {i}: field {name}: expected a text")
    to_judge = [i for i, sample in enumerate(samples) if not sample.get("error")]
    for i in sorted(set(range(len(samples))) - set(to_judge)):
        yield i, criterion.failed(short(f"there is no prediction to judge: {samples[i]['error']}"), True)
    for at, response in client.query_each([samples[i] for i in to_judge], criterion.messages):
        failed = criterion.failed(response.error, False) if response.error else None
        yield to_judge[at], failed or criterion.parse(response.text)


def judge_file(
    path: Path, samples: Sequence[dict[str, Any]], client: OpenAIClient, title: str, criterion: Criterion[Any]
) -> dict[str, dict[str, Any]]:
    """{id: verdict}. Verdicts are appended to the file as they come; one with an error is requested again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    keep_whole_lines(path)
    # verdicts of another judge, or on another prediction, stay in the file and do not count
    hashes = {s["id"]: _request_hash(client, s, criterion) for s in samples}
    found = [v for v in read_json_lines(path, criterion.line) if not v["error"] and v["id"] in hashes]
    known = {v["id"]: v for v in found if v.get("request_hash") == hashes[v["id"]]}
    left = [s for s in samples if s["id"] not in known]
    shows = progress(title, len(left), "verdicts", shown=bool(left))
    with path.open("a", encoding="utf-8") as file, shows as shown:
        for at, verdict in shown.over(judge_each(left, client, criterion)):
            name = left[at]["id"]
            known[name] = {"id": name, "judge": client.model, "request_hash": hashes[name], **asdict(verdict)}
            file.write(json.dumps(known[name], ensure_ascii=False) + "\n")
            file.flush()
    return known


def check_complete(verdicts: Sequence[Mapping[str, Mapping[str, Any]]]) -> None:
    """Raises InputError where the endpoint has failed on some of the verdicts {id: verdict}."""
    missing = [v for by_id in verdicts for v in by_id.values() if not v.get("answered", True)]
    if missing:
        raise InputError(
            f"{len(missing)} predictions have no verdict, the first because: {missing[0]['error']} (the same "
            "command requests them; the metrics leave them out)"
        )


def json_objects(text: str) -> Iterator[dict[str, Any]]:
    """The last objects of a text: each beginning may be nested a thousand deep, and fail at its end."""
    decoder, beginnings = json.JSONDecoder(strict=False), [m.start() for m in re.finditer("{", text)]
    start = beginnings[-_MAX_OBJECTS:][0] if beginnings else -1
    while start >= 0:
        end = start + 1
        try:
            value, end = decoder.raw_decode(text, start)
            yield value
        except (ValueError, RecursionError):
            pass
        start = text.find("{", end)


def _request_hash(client: OpenAIClient, sample: Sample, criterion: Criterion[Any]) -> str:
    """A hash of judge, request fields and messages: a verdict holds for this prediction and this request."""
    request = client.model, client.settings.extra, criterion.messages(sample)
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:16]
