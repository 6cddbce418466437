"""A model of selfkd in vLLM as a backend, without a server: continuous batching, tensor parallelism.

The prompts are the token ids of selfkd's own processor, so the samples are those of the backend `local`: names of
control tokens in a question are text here too.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from selfkd.data.dataset import ExampleFolder
from selfkd.data.example import Example, groups_of
from selfkd.errors import InputError
from selfkd.evaluation.backends.base import Predictions
from selfkd.evaluation.backends.local import LocalBackend
from selfkd.evaluation.backends.transcriber import Transcriber, transcribe, with_transcripts_of_history
from selfkd.evaluation.cascade import predict_both_forms
from selfkd.evaluation.config import EvalModality, EvaluateConfig
from selfkd.evaluation.response import Prediction
from selfkd.model.checkpoint import CheckpointInfo, inspect_checkpoint
from selfkd.model.features import check_duration
from selfkd.model.prompts import Turn
from selfkd.training.data import Modality
from selfkd.vllm.configuration import check_served
from selfkd.vllm.engine import check_installed, open_engine

AT_ONCE = 256  # items that vLLM gets at a time; it batches them itself


class VLLMBackend:
    """Items are given to vLLM in groups, of which an interrupted run loses one."""

    scores_likelihoods: ClassVar[bool] = False

    def __init__(self, llm: Any, processor: Any, context: int, transcriber: Transcriber | None, max_new_tokens: int):
        self.llm, self.processor, self.context = llm, processor, context
        self.transcriber, self.max_new_tokens = transcriber, max_new_tokens

    @classmethod
    def accepts(cls, config: EvaluateConfig) -> bool:
        if config.engine == "transformers":
            if config.vllm:
                raise InputError("vllm: has no effect without engine vllm")
            return False
        if config.url or config.trust_remote_code:
            raise InputError("engine: vllm runs a model of selfkd; leave out url and trust_remote_code")
        check_installed("engine")
        return True

    @classmethod
    def inspect(cls, config: EvaluateConfig) -> CheckpointInfo:
        checkpoint = inspect_checkpoint(config.model)
        check_served(checkpoint.config)
        return checkpoint

    @classmethod
    def input_hashes(cls, config: EvaluateConfig, checkpoint: CheckpointInfo | None) -> dict[str, Any]:
        return LocalBackend.input_hashes(config, checkpoint)

    @classmethod
    @contextmanager
    def open(
        cls, config: EvaluateConfig, checkpoint: CheckpointInfo | None, transcriber: Transcriber | None, run: Path
    ) -> Iterator["VLLMBackend"]:
        assert checkpoint is not None  # noqa: S101 an invariant of this code, no check of input
        with open_engine(checkpoint, config.seed, config.vllm) as llm:
            yield cls(llm, checkpoint.processor, checkpoint.config.context, transcriber, config.max_new_tokens)

    def predict(self, examples: ExampleFolder, wanted: Mapping[EvalModality, Sequence[int]]) -> Predictions:
        for modality, positions in wanted.items():
            for group in groups_of(positions, AT_ONCE):
                some = [examples[i] for i in group]
                if modality == "cascade":
                    found = self._cascade(some, examples.language)
                else:
                    found = self._responses(some, modality)
                yield from ((group[at], modality, prediction) for at, prediction in found)

    def _responses(self, examples: Iterable[Example], modality: Modality) -> Iterator[tuple[int, Prediction]]:
        """(position, prediction) of each example; one that cannot be run has an `error`."""
        from vllm import SamplingParams

        prompts: list[dict[str, Any]] = []
        rows: list[tuple[int, str]] = []  # (position, id) of the examples that run
        for at, example in enumerate(examples):
            try:
                prompts.append(self._prompt(example, modality))
                rows.append((at, example.id))
            except InputError as error:
                yield at, Prediction("", error=str(error))
        settings = SamplingParams(
            temperature=0.0, max_tokens=self.max_new_tokens, stop_token_ids=[self.processor.end_id]
        )
        start = time.perf_counter()
        room = self.context - self.max_new_tokens
        for (row, name), output in zip(rows, self._generate(prompts, settings), strict=True):
            if isinstance(output, str):
                yield row, Prediction("", error=f"example {name}: {output}")
                continue
            if (length := len(output.prompt_token_ids)) > room:
                reason = f"example {name}: {length} tokens do not fit the model's context of {room}"
                yield row, Prediction("", error=reason)
                continue
            seconds = (time.perf_counter() - start) / len(rows)
            [text] = self.processor.response_texts([list(output.outputs[0].token_ids)])
            yield row, Prediction(text, finish_reason=output.outputs[0].finish_reason, seconds=seconds)

    def _generate(self, prompts: Sequence[dict[str, Any]], settings: Any) -> list[Any]:
        """vLLM's outputs, or for a prompt that it refuses the reason in one line. A group with one runs again one by
        one."""
        try:
            return self.llm.generate(list(prompts), settings, use_tqdm=False) if prompts else []
        except ValueError as error:
            if len(prompts) == 1:
                return [str(error).strip().partition("\n")[0]]
            return [output for prompt in prompts for output in self._generate([prompt], settings)]

    def _prompt(self, example: Example, modality: Modality) -> dict[str, Any]:
        image = example.load_image()
        is_text = modality == "text"
        turns = [
            Turn(turn.question if is_text else None, turn.answer, turn.instruction, turn.answer_format)
            for turn in example.turns()
        ]
        try:
            ids = self.processor.unexpanded_ids(turns, image is not None)
        except InputError as error:
            raise InputError(f"example {example.id}: field question or instruction: {error}") from error
        media: dict[str, Any] = {} if image is None else {"image": image}
        if modality == "audio":
            clips = [turn.samples() for turn in example.turns()]
            for turn, clip in zip(example.turns(), clips, strict=True):
                check_duration(clip, f"example {turn.id}")
            media["audio"] = clips if example.history else clips[0]
        return {"prompt_token_ids": ids, "multi_modal_data": media}

    def _cascade(self, examples: Sequence[Example], language: str) -> Iterator[tuple[int, Prediction]]:
        start = time.perf_counter()
        transcripts = transcribe(self.transcriber, examples, language)
        examples = with_transcripts_of_history(self.transcriber, examples, language)
        each = (time.perf_counter() - start) / len(examples)
        for at, prediction in predict_both_forms(
            examples, transcripts, language, lambda some: self._responses(some, "text")
        ):
            yield at, replace(prediction, seconds=each + prediction.seconds)
