"""The worker thread that owns the model: it takes waiting requests in batches, oldest first, and generates responses.

While a batch is generated, every streaming request receives its text as it grows, and every row ends on its own.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from selfkd.model.generation import stop_token_ids
from selfkd.model.modeling_omni import OmniModel
from selfkd.model.processing_omni import OmniProcessor
from selfkd.serving.prompts import PreparedPrompt
from selfkd.serving.sampling import RowSampler, cut_at_stop, without_partial_stop
from selfkd.serving.schema import RefusedError, overloaded

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Delta:
    """Text by which a response has grown."""

    text: str


@dataclass(frozen=True)
class Done:
    text: str  # the whole response
    finish_reason: FinishReason
    completion_tokens: int  # includes the end-of-turn token


Event = Delta | Done | RefusedError


@dataclass(eq=False)
class Job:
    """A request in the worker's queue.

    The worker's thread calls `emit` with `Delta` events where the request streams, then once with `Done` or
    `RefusedError`. A caller that no longer needs the response sets `is_cancelled`.
    """

    prepared: PreparedPrompt
    emit: Callable[[Event], None]
    streams: bool = False
    is_cancelled: bool = False
    is_finished: bool = field(default=False, init=False)
    sent_text: str = field(default="", init=False)

    @property
    def batch_key(self) -> tuple[bool, bool]:
        """(has audio, has image). Jobs with the same key can share a batch: `OmniModel.generate_responses` takes text
        queries or audio queries, and some VLM backbones take images for all rows or for none."""
        return bool(self.prepared.prompt.clips), bool(self.prepared.prompt.image_inputs)

    @property
    def num_clips(self) -> int:
        return len(self.prepared.prompt.clips)

    def emit_delta(self, text: str) -> None:
        """`text` is the whole response so far. Text that a failed batch has already sent is not sent again."""
        if text.startswith(self.sent_text) and len(text) > len(self.sent_text):
            delta, self.sent_text = text[len(self.sent_text) :], text
            self.emit(Delta(delta))

    def finish(self, event: Done | RefusedError) -> None:
        if not self.is_finished:
            self.is_finished = True
            self.emit(event)


class RowStoppingCriteria(StoppingCriteria):
    """Tells `generate` after every token which rows are finished.

    A stopping criterion and not a streamer, because it sees every row of a batch and can end one of them: at its own
    token limit, or when its client has disconnected.
    """

    def __init__(self, jobs: Sequence[Job], processor: OmniProcessor, end_ids: Sequence[int]):
        self.jobs, self._processor, self._end_ids = jobs, processor, end_ids
        self._ids: list[list[int]] = [[] for _ in jobs]

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        for job, ids, token_id in zip(self.jobs, self._ids, input_ids[:, -1].tolist(), strict=True):
            if not (job.is_finished or job.is_cancelled):
                ids.append(token_id)
                self._update(job, ids)
        finished = [job.is_finished or job.is_cancelled for job in self.jobs]
        return torch.tensor(finished, device=input_ids.device)

    def close(self) -> None:
        """Finishes the rows that `generate` ended for its own reasons."""
        for job, ids in zip(self.jobs, self._ids, strict=True):
            if not job.is_cancelled:
                job.finish(Done(self._decode(ids).strip(), "length", len(ids)))

    def _update(self, job: Job, ids: list[int]) -> None:
        stop = job.prepared.stop
        end: FinishReason | None = "length" if len(ids) >= job.prepared.max_new_tokens else None
        end = "stop" if ids[-1] in self._end_ids else end
        if not (end or stop or job.streams):
            return
        text, is_stopped = cut_at_stop(self._decode(ids), stop)
        end = "stop" if is_stopped else end
        if end:
            job.finish(Done(text.strip(), end, len(ids)))
        elif job.streams:
            # hold back incomplete UTF-8 sequences, the beginning of a text that would end the response, and trailing
            # spaces, which the whole response does not have
            job.emit_delta(without_partial_stop(text.rstrip("\N{REPLACEMENT CHARACTER}"), stop).strip())

    def _decode(self, ids: list[int]) -> str:
        """As `OmniProcessor.response_texts`, with the spaces around it: a text that ends the response may be one."""
        return self._processor.tokenizer.decode(ids, skip_special_tokens=True)


def _first_batch(waiting: Sequence[Job], max_batch: int) -> list[Job]:
    """The oldest job and those that share a batch with it: as many as `max_batch`, and of audio as many clips, because
    a conversation can have dozens and the speech encoder takes all at once."""
    key, num_clips = waiting[0].batch_key, 0
    batch: list[Job] = []
    for job in waiting:
        if job.batch_key != key:
            continue
        num_clips += job.num_clips
        if batch and (num_clips > max_batch or len(batch) == max_batch):
            break
        batch.append(job)
    return batch


log = logging.getLogger("selfkd.serving")


class Worker:
    """Holds a model in evaluation mode, and a processor that no other thread uses (tokenizers are not thread-safe)."""

    def __init__(self, model: OmniModel, processor: OmniProcessor, max_batch: int, wait_seconds: float):
        self._model, self._processor = model, processor
        # with sliding-window attention, generate_after splits a batch by length: rows no longer match jobs
        has_window = getattr(model.config.get_text_config(), "sliding_window", None) is not None
        self._max_batch, self._wait_seconds = 1 if has_window else max_batch, wait_seconds
        self._waiting: list[Job] = []
        self._changed = threading.Condition()
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self.num_batches = 0  # generated so far

    def start(self) -> None:
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    def submit(self, job: Job) -> None:
        with self._changed:
            if not self._is_closing:
                self._waiting.append(job)
                self._changed.notify()
                return
        job.finish(overloaded("the server is stopping"))

    def close(self) -> None:
        """Finishes the current batch, refuses waiting jobs, and returns when the thread has ended."""
        with self._changed:
            self._is_closing = True
            waiting, self._waiting = self._waiting, []
            self._changed.notify()
        for job in waiting:
            job.finish(overloaded("the server is stopping"))
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while batch := self._next_batch():
            self._run_batch(batch)
            del batch  # its prompts hold images, which an idle server should not keep

    def _next_batch(self) -> list[Job]:
        """Waits for jobs and drops cancelled ones. Empty when the worker closes."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._waiting or self._is_closing)
                deadline = time.monotonic() + self._wait_seconds
                while len(self._waiting) < self._max_batch and not self._is_closing:
                    if not self._changed.wait(max(0.0, deadline - time.monotonic())):
                        break
                self._waiting = [job for job in self._waiting if not job.is_cancelled]
                if self._is_closing:
                    return []
                if self._waiting:
                    batch = _first_batch(self._waiting, self._max_batch)
                    self._waiting = [job for job in self._waiting if job not in batch]
                    return batch

    def _run_batch(self, batch: Sequence[Job]) -> None:
        """Jobs of a batch that fails are run again one by one, so that only the job at fault fails."""
        error = self._generate(batch)
        if error is None:
            return
        if len(batch) == 1:
            log.error("a request failed", exc_info=error)
            batch[0].finish(RefusedError(500, "the model failed on this request", code="model_failed"))
            return
        log.warning("a batch of %d failed (%s: %s); running one by one", len(batch), type(error).__name__, error)
        del error  # its traceback holds the batch's tensors
        for job in batch:
            if not (job.is_finished or job.is_cancelled):
                self._run_batch([job])

    def _generate(self, batch: Sequence[Job]) -> Exception | None:
        end_ids = stop_token_ids(self._model, self._processor.end_id)
        rows = RowStoppingCriteria(batch, self._processor, end_ids)
        sampler = RowSampler([job.prepared.sampling for job in batch])
        self.num_batches += 1
        try:
            self._model.generate_responses(
                **self._processor.collate([job.prepared.prompt for job in batch]),
                max_new_tokens=max(job.prepared.max_new_tokens for job in batch),
                # as in evaluation, a checkpoint's own sampling and penalties are off; the sampler of a request leaves
                # one token to choose from
                eos_token_id=end_ids,
                pad_token_id=self._processor.pad_id,
                do_sample=False,
                num_beams=1,
                repetition_penalty=1.0,
                logits_processor=LogitsProcessorList([sampler]),
                stopping_criteria=StoppingCriteriaList([rows]),
            )
        except Exception as error:
            return error
        rows.close()
        return None
