"""The one thread that runs the model: takes waiting requests, a batch at a time, oldest first.

While a batch is generated each request receives its tokens as they come, and each row ends by itself.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

from selfkd.model.generation import stop_token_ids
from selfkd.model.modeling_omni import OmniModel
from selfkd.model.processing_omni import OmniProcessor
from selfkd.serving.prompts import Prepared
from selfkd.serving.schema import RefusedError, overloaded

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
        return bool(self.prepared.prompt.audio_inputs), bool(self.prepared.prompt.image_inputs)

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


log = logging.getLogger("selfkd.serving")


class Worker:
    """Holds a model in evaluation mode, and a processor for its thread alone (tokenizers are not for two at once)."""

    def __init__(self, model: OmniModel, processor: OmniProcessor, max_batch: int, wait_seconds: float):
        self._model, self._processor = model, processor
        # where a window slides, generate_after splits a batch by lengths, and rows are no longer ours to follow
        slides = getattr(model.config.get_text_config(), "sliding_window", None) is not None
        self._max_batch, self._wait_seconds = 1 if slides else max_batch, wait_seconds
        self._waiting: list[Job] = []
        self._changed = threading.Condition()
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self.batches = 0  # generated so far

    def start(self) -> None:
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def submit(self, job: Job) -> None:
        with self._changed:
            if not self._is_closing:
                self._waiting.append(job)
                self._changed.notify()
                return
        job.end(overloaded("the server is stopping"))

    def close(self) -> None:
        """Ends the batch that runs, refuses what waits, and comes back when the thread has ended."""
        with self._changed:
            self._is_closing = True
            waiting, self._waiting = self._waiting, []
            self._changed.notify()
        for job in waiting:
            job.end(overloaded("the server is stopping"))
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while batch := self._next_batch():
            self._answer(batch)
            del batch  # prompts hold pictures: they are not kept while nothing is asked

    def _next_batch(self) -> list[Job]:
        """Waits for jobs; those that nobody wants any more are dropped. Empty when the worker closes."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._waiting or self._is_closing)
                until = time.monotonic() + self._wait_seconds
                while len(self._waiting) < self._max_batch and not self._is_closing:
                    if not self._changed.wait(max(0.0, until - time.monotonic())):
                        break
                self._waiting = [job for job in self._waiting if not job.is_gone]
                if self._is_closing:
                    return []
                if self._waiting:
                    kind = self._waiting[0].kind
                    batch = [job for job in self._waiting if job.kind == kind][: self._max_batch]
                    self._waiting = [job for job in self._waiting if job not in batch]
                    return batch

    def _answer(self, batch: Sequence[Job]) -> None:
        """Whatever goes wrong with a batch is tried again one by one, so that it stays with the job at fault."""
        failed = self._generated(batch)
        if failed is None:
            return
        if len(batch) == 1:
            log.error("a request failed", exc_info=failed)
            batch[0].end(RefusedError(500, "the model failed on this request", code="model_failed"))
            return
        log.warning("a batch of %d failed (%s: %s); one by one", len(batch), type(failed).__name__, failed)
        del failed  # it holds the batch's tensors
        for job in batch:
            if not (job.is_over or job.is_gone):
                self._answer([job])

    def _generated(self, batch: Sequence[Job]) -> Exception | None:
        ends = stop_token_ids(self._model, self._processor.end_id)
        rows = Rows(batch, self._processor, ends)
        self.batches += 1
        try:
            self._model.generate(
                **self._processor.collate([job.prepared.prompt for job in batch]),
                max_new_tokens=max(job.prepared.new_tokens for job in batch),
                # as evaluation asks: a checkpoint's own sampling and penalties are off
                eos_token_id=ends,
                pad_token_id=self._processor.pad_id,
                do_sample=False,
                num_beams=1,
                repetition_penalty=1.0,
                stopping_criteria=StoppingCriteriaList([rows]),
            )
        except Exception as error:
            return error
        rows.close()
        return None
