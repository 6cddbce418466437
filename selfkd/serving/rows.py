"""Follows a batch while it is generated: hands each request its tokens as they come, and ends each row by itself."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import StoppingCriteria

from selfkd.model.processor import OmniProcessor
from selfkd.serving.prompts import Prepared
from selfkd.serving.refused import RefusedError

Finish = Literal["stop", "length"]


@dataclass(frozen=True)
class Piece:
    """What a reply has grown by."""

    text: str


@dataclass(frozen=True)
class Done:
    text: str  # the whole reply
    finish: Finish
    completion_tokens: int  # the one that ends the reply among them


Event = Piece | Done | RefusedError


@dataclass(eq=False)
class Job:
    """A request on its way through the worker. `put` takes what becomes of it, in the worker's thread: pieces where
    they are wanted, then `Done` or `RefusedError`, once. Who does not want it any more sets `is_gone`."""

    prepared: Prepared
    put: Callable[[Event], None]
    wants_pieces: bool = False
    is_gone: bool = False
    is_over: bool = field(default=False, init=False)
    sent: str = field(default="", init=False)  # pieces so far

    @property
    def kind(self) -> tuple[bool, bool]:
        """Jobs of one kind can be a batch: `OmniModel.generate` takes written or spoken questions, and some bases
        take pictures for all rows or for none."""
        return bool(self.prepared.prompt.speech_inputs), bool(self.prepared.prompt.image_inputs)

    def grow(self, text: str) -> None:
        """`text` is the whole reply so far; a batch that is begun anew says again what was said before."""
        if text.startswith(self.sent) and len(text) > len(self.sent):
            piece, self.sent = text[len(self.sent) :], text
            self.put(Piece(piece))

    def end(self, event: Done | RefusedError) -> None:
        if not self.is_over:
            self.is_over = True
            self.put(event)


class Rows(StoppingCriteria):
    """`generate` asks it after every token which rows are finished. A stopping criterion and no streamer, for it sees
    every row of a batch and can end one: at its own limit of tokens, or when nobody waits for it."""

    def __init__(self, jobs: Sequence[Job], processor: OmniProcessor, ends: Sequence[int]):
        self.jobs, self._processor, self._ends = jobs, processor, ends
        self._ids: list[list[int]] = [[] for _ in jobs]

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        for job, ids, token in zip(self.jobs, self._ids, input_ids[:, -1].tolist(), strict=True):
            if not (job.is_over or job.is_gone):
                ids.append(token)
                self._follow(job, ids)
        finished = [job.is_over or job.is_gone for job in self.jobs]
        return torch.tensor(finished, device=input_ids.device)

    def close(self) -> None:
        """Ends what `generate` ended for reasons of its own."""
        for job, ids in zip(self.jobs, self._ids, strict=True):
            if not job.is_gone:
                job.end(Done(self._text(ids), "length", len(ids)))

    def _follow(self, job: Job, ids: list[int]) -> None:
        if ids[-1] in self._ends:
            job.end(Done(self._text(ids), "stop", len(ids)))
        elif len(ids) >= job.prepared.new_tokens:
            job.end(Done(self._text(ids), "length", len(ids)))
        elif job.wants_pieces:
            # bytes of a letter that is not whole yet, and spaces, which at the end of a reply are cut off
            job.grow(self._text(ids).rstrip("\N{REPLACEMENT CHARACTER}").rstrip())

    def _text(self, ids: list[int]) -> str:
        return self._processor.decode(torch.tensor([ids]))[0] if ids else ""
