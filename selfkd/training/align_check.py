"""What `selfkd align` says at its end: sentences of its data in voices that it was not trained on, by espeak-ng.

A CTC projector writes a transcript, so it has a word error rate. A frame-stacking projector has none: its LLM answers,
and the answers are compared with those of the data, and with the answers that it gives to the audio of another row.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Any

import torch

from selfkd.data.dataset import ExampleFolder, open_folders
from selfkd.data.example import Example, language_code, read_manifest
from selfkd.errors import InputError, reason_of
from selfkd.model.ctc_asr import ctc_transcriber
from selfkd.model.features import log_mel, pad_mels
from selfkd.model.generation import encode_prompts, generate_responses, generate_with_early_exit, stop_token_ids
from selfkd.model.modeling_omni import OmniModel
from selfkd.model.processing_omni import OmniProcessor
from selfkd.synthesis.quality_filter import word_error_rate
from selfkd.synthesis.tts.base import ESPEAK_VOICES, EspeakEngine, Utterance
from selfkd.synthesis.workers import IsolatedEngine
from selfkd.training.align_evidence import verdict
from selfkd.training.config import AlignConfig
from selfkd.training.data import modality_prompts

SENTENCES = 48  # a standard error of about a point where the error rate is 5%
BATCH = 8
EXTRA_TOKENS = 8  # of a response over the longest of the data
_TIME_LIMIT_SECONDS = 30.0  # of one sentence


@dataclass(frozen=True)
class _Sentence:
    """A row of the data in a held-out voice, and its language."""

    example: Example
    language: str


def held_out_check(model: OmniModel, processor: OmniProcessor, config: AlignConfig) -> dict[str, Any]:
    """The field `held_out` of a result: number of sentences, their voices and what was measured, or the reason why
    nothing was. No error here may cost a finished training."""
    try:
        sentences = _in_held_out_voices(open_folders(config.data), config.seed)
        if not sentences:
            return {"reason": "espeak-ng speaks none of the sentences"}
        model.eval()
        measured = _word_error_rate if config.projector == "ctc" else _same_answers
        voices = sorted({one.example.voice for one in sentences})
        return {
            "n": len(sentences),
            "engine": EspeakEngine.name,
            "voices": voices,
            **measured(model, processor, sentences),
        }
    except Exception as error:
        return {"reason": reason_of(error)}


def lines(found: dict[str, Any]) -> list[str]:
    """`held_out_check` for people."""
    if "reason" in found:
        return [f"not measured in a held-out voice: {found['reason']}"]
    where = f"{found['n']} sentences of the data in held-out voices of {found['engine']}"
    if "word_error_rate" in found:
        rate, error = found["word_error_rate"], found["stderr"]
        return [f"word error rate {rate:.1%} (standard error {error:.1%}) on {where}", verdict(rate)]
    same, swapped = found["same_answers"], found["same_answers_of_another_audio"]
    is_clear = same - swapped > 2 * found["stderr"]
    used = "so the audio decides the answers" if is_clear else "no clear difference: the audio does not decide them"
    return [
        f"{same:.0%} of the answers are word for word those of the data on {where}; {swapped:.0%} with the audio of "
        f"another row ({used})",
        "a frame-stacking projector has no transcript, so this is no word error rate; selfkd evaluate compares audio "
        "with text queries",
    ]


def _in_held_out_voices(folders: Sequence[ExampleFolder], seed: int) -> list[_Sentence]:
    """Rows of distinct sentences, spoken again; those that cannot be are left out."""
    rng = random.Random(seed)  # noqa: S311 seeded, for the same sentences in every run; nothing secret
    positions: dict[str, tuple[ExampleFolder, int]] = {}
    for folder in folders:
        for position, row in enumerate(folder.columns("question")):
            positions.setdefault(row["question"], (folder, position))
    chosen = rng.sample(sorted(positions), min(SENTENCES, len(positions)))
    manifests = {folder.folder: read_manifest(folder.folder) for folder in folders}
    known = {voice for manifest in manifests.values() for voice in manifest.get("voice_names", [])}
    engine = IsolatedEngine(EspeakEngine, (), _TIME_LIMIT_SECONDS)
    found = []
    try:
        for number, text in enumerate(chosen):
            folder, position = positions[text]
            language = language_code(manifests[folder.folder].get("language", "en"))
            voices = [voice for voice in _held_out_voices(language) if voice not in known]
            try:
                voice = voices[number % len(voices)]
                samples = engine.synthesize_audio(Utterance(text, voice, seed=number + 1))
                found.append(_Sentence(folder.read(position).with_audio(samples, voice), language))
            except (InputError, ZeroDivisionError):  # no words; an unknown language; all voices are of the training
                continue
    finally:
        engine.close()
    return found


def _held_out_voices(language: str) -> list[str]:
    if language == "en":
        return ESPEAK_VOICES["heldout"]
    return [f"{language}+{variant}" for variant in sorted({v.partition("+")[2] for v in ESPEAK_VOICES["heldout"]})]


def _word_error_rate(model: OmniModel, processor: OmniProcessor, sentences: Sequence[_Sentence]) -> dict[str, Any]:
    """Mean over sentences of the transcripts' word error rates, with its standard error."""
    transcriber, extractor = ctc_transcriber(model, processor)
    rates = []
    for start in range(0, len(sentences), BATCH):
        some = sentences[start : start + BATCH]
        mels = pad_mels([log_mel(extractor, one.example.samples(), f"example {one.example.id}") for one in some])
        transcripts = transcriber.transcribe(*(tensor.to(transcriber.device) for tensor in mels))
        rates += [
            word_error_rate(one.example.question, transcript, one.language)
            for one, transcript in zip(some, transcripts, strict=True)
        ]
    return {"word_error_rate": fmean(rates), "stderr": _standard_error(rates)}


def _same_answers(model: OmniModel, processor: OmniProcessor, sentences: Sequence[_Sentence]) -> dict[str, Any]:
    """Share of greedy responses whose words are those of the data's answer, for the audio of a row and, as a control,
    for that of the row before it."""
    audio = [one.example.audio for one in sentences]
    swapped = [
        replace(one, example=replace(one.example, audio=other))
        for one, other in zip(sentences, [*audio[-1:], *audio[:-1]], strict=True)
    ]
    own, others = (_are_same(model, processor, some) for some in (sentences, swapped))
    differences = [a - b for a, b in zip(own, others, strict=True)]
    return {
        "same_answers": fmean(own),
        "same_answers_of_another_audio": fmean(others),
        "stderr": _standard_error(differences),
    }


@torch.no_grad()
def _are_same(model: OmniModel, processor: OmniProcessor, sentences: Sequence[_Sentence]) -> list[float]:
    found = []
    for start in range(0, len(sentences), BATCH):
        some = sentences[start : start + BATCH]
        examples = [one.example for one in some]
        prompts = [
            modality_prompts(processor, e, ("audio",), processor.encode_image(e.load_image(), f"example {e.id}"))[0]
            for e in examples
        ]
        longest = max(len(processor.text_ids(e.answer)) for e in examples)
        ids = generate_responses(
            model, encode_prompts(model, **processor.collate(prompts)), generate_with_early_exit,
            max_new_tokens=longest + EXTRA_TOKENS, eos_token_id=stop_token_ids(model, processor.end_id),
            pad_token_id=processor.pad_id,
        )  # fmt: skip
        texts = processor.response_texts(ids)
        found += [
            float(word_error_rate(one.example.answer, text, one.language) == 0)
            for one, text in zip(some, texts, strict=True)
        ]
    return found


def _standard_error(values: Sequence[float]) -> float:
    return stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
