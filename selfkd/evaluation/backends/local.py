"""A local model as a backend: responses in one modality or both, and multiple choice by likelihood.

The likelihood of each candidate needs no generation and no parsing. The image is encoded once for both modalities, the
query once for all its candidates, and candidates that differ only in their last token (A, B) are scored at once.

Legend: C continuations, S their tokens, N tokens of candidates, R rows with logits, D width, V vocabulary.
"""

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from selfkd.data.dataset import ExampleFolder
from selfkd.data.example import Example, groups_of
from selfkd.errors import InputError
from selfkd.evaluation.backends.base import Predictions
from selfkd.evaluation.backends.transcriber import Transcriber, transcribe, with_transcripts_of_history
from selfkd.evaluation.cascade import predict_both_forms
from selfkd.evaluation.config import EvalModality, EvaluateConfig
from selfkd.evaluation.response import Prediction
from selfkd.input_hashes import hashes_of_checkpoint
from selfkd.losses import CHUNK_ROWS, head_logits
from selfkd.model.checkpoint import CheckpointInfo, inspect_checkpoint, ready
from selfkd.model.generation import (
    EncodedPrompts,
    encode_prompts,
    generate_responses,
    generate_with_early_exit,
    stop_token_ids,
)
from selfkd.model.modeling_omni import OmniModel
from selfkd.model.prefix_cache import continue_prefix
from selfkd.model.processing_omni import OmniProcessor
from selfkd.model.prompts import EncodedImage, Prompt
from selfkd.training.data import MODALITIES, Modality, encode_example_image, modality_prompts
from selfkd.training.sampler import token_cost

MAX_NEW_TOKENS = 48


class LocalBackend:
    """A model in the classes of transformers. A batch holds items of similar length, each in all its modalities, so
    that its image is encoded once."""

    scores_likelihoods: ClassVar[bool] = True

    def __init__(
        self,
        checkpoint: CheckpointInfo,
        transcriber: Transcriber | None,
        batch_size: int,
        max_new_tokens: int,
        likelihood: bool,
    ):
        self.model, self.processor = checkpoint.load()
        ready(self.model)
        self.transcriber, self.batch_size, self.max_new_tokens = transcriber, batch_size, max_new_tokens
        self.likelihood = likelihood

    @classmethod
    def accepts(cls, config: EvaluateConfig) -> bool:
        return True

    @classmethod
    def inspect(cls, config: EvaluateConfig) -> CheckpointInfo:
        return inspect_checkpoint(config.model)

    @classmethod
    def input_hashes(cls, config: EvaluateConfig, checkpoint: CheckpointInfo | None) -> dict[str, Any]:
        assert checkpoint is not None  # noqa: S101 an invariant of this code, no check of input
        return {k: v for path in checkpoint.paths for k, v in hashes_of_checkpoint("model", path).items()}

    @classmethod
    @contextmanager
    def open(
        cls, config: EvaluateConfig, checkpoint: CheckpointInfo | None, transcriber: Transcriber | None, run: Path
    ) -> Iterator["LocalBackend"]:
        assert checkpoint is not None  # noqa: S101 an invariant of this code, no check of input
        yield cls(checkpoint, transcriber, config.batch_size, config.max_new_tokens, config.likelihood)

    def predict(self, examples: ExampleFolder, wanted: Mapping[EvalModality, Sequence[int]]) -> Predictions:
        sketches = examples.metadata()
        modalities_of: dict[int, tuple[EvalModality, ...]] = {}
        for modality, positions in wanted.items():
            for i in positions:
                modalities_of[i] = (*modalities_of.get(i, ()), modality)
        alike: dict[tuple[EvalModality, ...], list[int]] = {}
        for i in sorted(modalities_of, key=lambda i: token_cost(sketches[i], 0)):
            alike.setdefault(modalities_of[i], []).append(i)
        for modalities, positions in alike.items():
            for batch in groups_of(positions, self.batch_size):
                found = self._predict_or_fail([examples[i] for i in batch], modalities, examples.language)
                for modality, predictions in found.items():
                    yield from ((i, modality, prediction) for i, prediction in zip(batch, predictions, strict=True))

    def _predict_or_fail(
        self, examples: Sequence[Example], modalities: Sequence[EvalModality], language: str
    ) -> dict[EvalModality, list[Prediction]]:
        """A batch that fails runs again item by item, an item that fails modality by modality."""
        try:
            return self._predict_batch(examples, modalities, language)
        except InputError as error:
            # an image that cannot be decoded, a question beyond the model's context or the ASR model's window
            if len(examples) > 1:
                single = [self._predict_or_fail([example], modalities, language) for example in examples]
                return {modality: [one[modality][0] for one in single] for modality in modalities}
            if len(modalities) > 1:  # an item that fails in one modality may run in another
                return {m: self._predict_or_fail(examples, [m], language)[m] for m in modalities}
            return {modality: [Prediction("", error=str(error))] for modality in modalities}

    def _predict_batch(
        self, examples: Sequence[Example], modalities: Sequence[EvalModality], language: str
    ) -> dict[EvalModality, list[Prediction]]:
        start = time.perf_counter()
        direct: list[Modality] = [m for m in modalities if m != "cascade"]
        predictions: dict[EvalModality, list[Prediction]] = {}
        if direct:
            found = predict_modalities(self.model, self.processor, examples, direct, self.max_new_tokens)
            predictions.update(found.items())
            if self.likelihood:
                self._add_likelihoods(examples, direct, predictions)
            seconds = (time.perf_counter() - start) / (len(examples) * len(direct))
            predictions = {m: [replace(p, seconds=seconds) for p in some] for m, some in predictions.items()}
        if "cascade" in modalities:
            predictions["cascade"] = self._predict_cascade(examples, language)
        return predictions

    def _predict_cascade(self, examples: Sequence[Example], language: str) -> list[Prediction]:
        """The seconds of each form are those of the transcription and of its own response."""
        start = time.perf_counter()
        transcripts = transcribe(self.transcriber, examples, language)
        examples = with_transcripts_of_history(self.transcriber, examples, language)
        seconds = (time.perf_counter() - start) / len(examples)

        def predict(queries: Iterable[Example]) -> Iterator[tuple[int, Prediction]]:
            for batch in groups_of(enumerate(queries), self.batch_size):
                start = time.perf_counter()
                some = [query for _, query in batch]
                texts = predict_modalities(self.model, self.processor, some, ["text"], self.max_new_tokens)["text"]
                each = seconds + (time.perf_counter() - start) / len(batch)
                yield from ((at, replace(p, seconds=each)) for (at, _), p in zip(batch, texts, strict=True))

        found = dict(predict_both_forms(examples, transcripts, language, predict))
        return [found[at] for at in range(len(examples))]

    def _add_likelihoods(
        self,
        examples: Sequence[Example],
        modalities: Sequence[Modality],
        predictions: dict[EvalModality, list[Prediction]],
    ) -> None:
        at = [i for i, example in enumerate(examples) if option_letters(example)]
        if not at:
            return
        letters = [option_letters(examples[i]) for i in at]
        found = choice_log_likelihoods(self.model, self.processor, [examples[i] for i in at], letters, modalities)
        for modality in modalities:
            for i, nats in zip(at, found[modality], strict=True):
                predictions[modality][i] = replace(predictions[modality][i], log_likelihoods=tuple(nats))


def option_letters(example: Example) -> list[str]:
    """The letters that a multiple-choice question offers, those of a benchmark as its grader has them; [] for any other
    question."""
    if example.question_type == "choice":
        return ["A", "B"]
    return list(json.loads(example.details)["options"]) if example.question_type == "multiple_choice" else []


@torch.no_grad()
def predict_modalities(
    model: OmniModel,
    processor: OmniProcessor,
    examples: Sequence[Example],
    modalities: Sequence[Modality] = MODALITIES,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> dict[Modality, list[Prediction]]:
    """Greedy responses to the examples in each of `modalities`, in the order of `examples`, from one generation.

    Each image is encoded and prefilled once, whatever the number of modalities and of questions about it; a response is
    the same as that of its modality in a generation of its own. A response ends where the model ends it or after
    `max_new_tokens`; when all have ended, so does the call.
    """
    prompts = prompts_of(processor, examples, modalities)
    for example, of_modalities in zip(examples, prompts, strict=True):
        check_room(model, processor, example, of_modalities, max_new_tokens)
    ends = stop_token_ids(model, processor.end_id)
    parts = encode_prompts(model, **processor.collate([p for of_modalities in prompts for p in of_modalities]))
    pad = processor.pad_id
    ids = generate_responses(
        model, parts, generate_with_early_exit, max_new_tokens=max_new_tokens, eos_token_id=ends, pad_token_id=pad
    )
    ended = torch.isin(ids, ids.new_tensor(ends)).any(1).tolist()
    finish = ("stop" if is_ended else "length" for is_ended in ended)
    predictions = iter(
        [
            Prediction(text, finish_reason=reason)
            for text, reason in zip(processor.response_texts(ids), finish, strict=True)
        ]
    )
    by_example = [[next(predictions) for _ in modalities] for _ in examples]
    return {modality: [of_modalities[at] for of_modalities in by_example] for at, modality in enumerate(modalities)}


def predict_modality(
    model: OmniModel,
    processor: OmniProcessor,
    examples: Sequence[Example],
    modality: Modality,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> list[Prediction]:
    """`predict_modalities` for one modality."""
    return predict_modalities(model, processor, examples, [modality], max_new_tokens)[modality]


def prompts_of(
    processor: OmniProcessor, examples: Sequence[Example], modalities: Sequence[Modality]
) -> list[list[Prompt]]:
    """The prompts of each example, one a modality; examples with the same image, and as many turns before, share one
    object of image inputs."""
    encoded: dict[tuple[bytes | None, int], EncodedImage] = {}
    keys = [(example.image, len(example.history)) for example in examples]
    for key, example in zip(keys, examples, strict=True):
        if key not in encoded:
            encoded[key] = encode_example_image(processor, example)
    return [modality_prompts(processor, e, modalities, encoded[key]) for key, e in zip(keys, examples, strict=True)]


def check_room(
    model: OmniModel, processor: OmniProcessor, example: Example, prompts: Sequence[Prompt], new_tokens: int
) -> None:
    """Raises InputError where the prompts of an example leave no room for `new_tokens` in the model's context."""
    for prompt in prompts:
        ids = prompt.prefix_ids + prompt.suffix_ids
        processor.check_context(f"example {example.id}", ids, prompt.audio_inputs, model.context - new_tokens)


@torch.no_grad()
def choice_log_likelihoods(
    model: OmniModel,
    processor: OmniProcessor,
    examples: Sequence[Example],
    candidates: Sequence[Sequence[str]],
    modalities: Sequence[Modality] = MODALITIES,
) -> dict[Modality, list[list[float]]]:
    """log p(candidate | prompt) in nats, of each candidate of each example in each of `modalities`.

    A candidate is tokenized as a response is for training, right after the assistant's prompt of the chat template; its
    tokens' log-probabilities are summed. The end of the turn is left out, so that "A" includes responses such as "A red
    star".
    """
    if len(candidates) != len(examples):
        raise InputError(f"candidates: {len(candidates)} lists for {len(examples)} examples")
    answers = [
        [processor.response_ids(c, e.image is not None)[:-1] for c in of_example]
        for e, of_example in zip(examples, candidates, strict=True)
    ]
    prompts = prompts_of(processor, examples, modalities)
    for example, of_example, of_modalities in zip(examples, answers, prompts, strict=True):
        if not of_example or not all(of_example):
            raise InputError(f"example {example.id}: field candidates: each must have a token, and one must be there")
        check_room(model, processor, example, of_modalities, max(map(len, of_example)))
    found: list[list[float]] = [[]] * (len(examples) * len(modalities))
    for part in encode_prompts(model, **processor.collate([p for of_modalities in prompts for p in of_modalities])):
        of_part = [answers[row // len(modalities)] for row in part.rows_N.tolist()]
        for row, sums in zip(part.rows_N.tolist(), _part_log_likelihoods(model, processor, part, of_part), strict=True):
            found[row] = sums
    return {modality: found[at :: len(modalities)] for at, modality in enumerate(modalities)}


def _part_log_likelihoods(
    model: OmniModel, processor: OmniProcessor, part: EncodedPrompts, answers: Sequence[Sequence[list[int]]]
) -> list[list[float]]:
    """Sums of log p for each prompt of a part and each of its answers (token ids)."""
    # the last token of an answer is predicted and never an input: answers that differ only in it share a continuation
    continuations: dict[tuple[int, tuple[int, ...]], int] = {}
    for prompt, of_prompt in enumerate(answers):
        for ids in of_prompt:
            continuations.setdefault((prompt, tuple(ids[:-1])), len(continuations))
    last = part.last_ids_N.tolist()
    ids_CS, mask_CS = processor.pad_right([[last[prompt], *before] for prompt, before in continuations])
    prefix = part.prefix.rows(torch.tensor([prompt for prompt, _ in continuations], device=model.device))
    ids_CS, mask_CS = ids_CS.to(model.device), mask_CS.to(model.device)
    with part.decoding(model.vlm):
        hidden_CSD = continue_prefix(model.vlm, prefix, {"input_ids": ids_CS}, mask_CS)

    starts = (mask_CS.sum(-1).cumsum(0) - mask_CS.sum(-1)).tolist()
    flat = [
        (starts[continuations[p, tuple(ids[:-1])]], ids) for p, of_prompt in enumerate(answers) for ids in of_prompt
    ]
    rows_N = torch.tensor([start + offset for start, ids in flat for offset in range(len(ids))])
    tokens_N = torch.tensor([token for _, ids in flat for token in ids])
    picked = _log_probabilities(model, hidden_CSD[mask_CS.bool()], rows_N, tokens_N)
    sums = iter([float(piece.sum()) for piece in picked.split([len(ids) for _, ids in flat])])
    return [[next(sums) for _ in of_prompt] for of_prompt in answers]


def _log_probabilities(model: OmniModel, hidden_RD: Tensor, rows_N: Tensor, tokens_N: Tensor) -> Tensor:
    """log p (N,) in fp32 of `tokens_N`, each as row `rows_N` predicts it; logits exist for CHUNK_ROWS rows at a
    time."""
    picked_N, head_VD = torch.empty(len(rows_N)), model.get_output_embeddings().weight
    for start in range(0, len(hidden_RD), CHUNK_ROWS):
        logits = head_logits(hidden_RD[start : start + CHUNK_ROWS], head_VD, model.logit_softcap)
        log_p_RV = logits.float().log_softmax(-1)
        here = (rows_N >= start) & (rows_N < start + CHUNK_ROWS)
        rows, tokens = ((t[here]).to(log_p_RV.device) for t in (rows_N - start, tokens_N))
        picked_N[here] = log_p_RV[rows, tokens].cpu()
    return picked_N
