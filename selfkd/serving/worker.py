"""The one thread that runs the model: takes what waits, a batch at a time, oldest first."""

import logging
import threading
import time
from collections.abc import Sequence

from transformers import StoppingCriteriaList

from selfkd.model.asked import ends_of
from selfkd.model.omni import OmniModel
from selfkd.model.processor import OmniProcessor
from selfkd.serving.refused import RefusedError, overloaded
from selfkd.serving.rows import Job, Rows

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
        ends = ends_of(self._model, self._processor.end_id)
        rows = Rows(batch, self._processor, ends)
        self.batches += 1
        try:
            self._model.generate(
                **self._processor([job.prepared.prompt for job in batch]),
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
