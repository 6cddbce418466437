"""Hypotheses of what was asked, with their log-probabilities: Whisper's own decoder, and a CTC head's prefix search.

Legend: B clips, S encoder frames, V classes.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import GenerationMixin
from transformers.modeling_outputs import BaseModelOutput

from selfkd.data.example import Example
from selfkd.evaluation.cascade import question_form
from selfkd.model.backbones import WhisperASRModel, load_asr_model, whisper_prompt_ids
from selfkd.model.checkpoint import inspect_checkpoint
from selfkd.model.features import log_mel, pad_mels
from selfkd.model.projectors import CTCProjector, greedy_transcripts
from selfkd.model.speech_encoder import encode_mel, pad_to_window
from tools.tiny_model.pretrain_vision import fast_bf16

Hypotheses = list[tuple[str, float]]  # texts of one clip and their log-probabilities, likeliest first
DECODINGS = ("greedy", "prompted", "N-best")  # of Whisper
BEAMS, MAX_TOKENS = 5, 16  # the longest question has 11 tokens
# encoder frames after the longest clip that the decoder attends to: the rest is padding, and most of the cost
MARGIN = 50
CTC_BEAMS, CTC_CLASSES = 8, 6  # prefixes that are kept; the likeliest classes of a frame
NO_CHANCE = -math.inf


# questions of the domain with all its words, as a person would write them down for Whisper
PROMPT = (
    "Is there a teal triangle? What color is the rectangle? Does the image not contain a gray shape? "
    "Is no brown circle present? Is there a black, blue, green, red or yellow shape in the image?"
)


@torch.no_grad()
def whisper_hypotheses(path: Path, examples: Sequence[Example], batch: int = 10) -> dict[str, list[Hypotheses]]:
    """{decoding: the hypotheses of each clip}, in the form of a question; the encoder runs once for all decodings."""
    asr_model, extractor = load_asr_model(str(path))
    assert isinstance(asr_model, WhisperASRModel)
    model, tokenizer = asr_model.model, asr_model.tokenizer
    marks = ["<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>"]
    start = torch.tensor(tokenizer.convert_tokens_to_ids(marks))
    prompted = torch.cat([whisper_prompt_ids(str(path), PROMPT), start])
    found: dict[str, list[Hypotheses]] = {name: [] for name in DECODINGS}
    for some in _batches(examples, batch):
        mel, mask = pad_mels([log_mel(extractor, e.samples(), e.id) for e in some])
        with fast_bf16():
            window = pad_to_window(mel, mask, model.config.max_source_positions)
            frames = model.model.encoder(window).last_hidden_state[:, : mel.shape[2] // 2 + MARGIN]
        for name in DECODINGS:
            beams = BEAMS if name == "N-best" else 1
            ids = start if name == "greedy" else prompted
            # the plain search: Whisper's own `generate` is for long recordings, and gives one hypothesis
            output: Any = GenerationMixin.generate(
                model,
                encoder_outputs=BaseModelOutput(last_hidden_state=frames.float()),
                decoder_input_ids=ids.expand(len(some), -1),
                max_new_tokens=MAX_TOKENS,
                num_beams=beams,
                num_return_sequences=beams,
                do_sample=False,
                length_penalty=0.0,  # sums of log-probabilities
                output_scores=True,
                return_dict_in_generate=True,
            )
            texts = tokenizer.batch_decode(output.sequences[:, len(ids) :], skip_special_tokens=True)
            scores = output.sequences_scores.tolist() if beams > 1 else [0.0] * len(texts)
            rows = list(zip([question_form(text.strip()) for text in texts], scores, strict=True))
            found[name] += [merged(rows[i : i + beams]) for i in range(0, len(rows), beams)]
    return found


def merged(hypotheses: Hypotheses) -> Hypotheses:
    """Equal texts as one, with the sum of their probabilities."""
    by_text: dict[str, float] = defaultdict(lambda: NO_CHANCE)
    for text, score in hypotheses:
        by_text[text] = float(np.logaddexp(by_text[text], score))
    return sorted(by_text.items(), key=lambda item: -item[1])


def prefix_search(log_probs_SV: NDArray[np.float32], beams: int = CTC_BEAMS) -> list[tuple[tuple[int, ...], float]]:
    """CTC prefix beam search (Hannun et al. 2014): label sequences, each with the log of the sum over its alignments;
    the blank is the last class."""
    blank = log_probs_SV.shape[1] - 1
    kept: dict[tuple[int, ...], tuple[float, float]] = {(): (0.0, NO_CHANCE)}  # ends in a blank, in its last label
    for frame in log_probs_SV:
        classes = [int(c) for c in np.argsort(-frame)[:CTC_CLASSES] if c != blank]
        new: dict[tuple[int, ...], list[float]] = defaultdict(lambda: [NO_CHANCE, NO_CHANCE])
        for prefix, (in_blank, in_label) in kept.items():
            total, same = np.logaddexp(in_blank, in_label), new[prefix]
            same[0] = np.logaddexp(same[0], total + frame[blank])
            if prefix:
                same[1] = np.logaddexp(same[1], in_label + frame[prefix[-1]])
            for c in classes:
                longer = new[(*prefix, c)]
                before = in_blank if prefix and prefix[-1] == c else total
                longer[1] = np.logaddexp(longer[1], before + frame[c])
        best = sorted(new.items(), key=lambda item: -np.logaddexp(item[1][0], item[1][1]))[:beams]
        kept = {prefix: (ends[0], ends[1]) for prefix, ends in best}
    return [(prefix, float(np.logaddexp(ends[0], ends[1]))) for prefix, ends in kept.items()]


@torch.no_grad()
def ctc_readings(
    path: Path, examples: Sequence[Example], embed: nn.Module, temperatures: Sequence[float], batch: int = 16
) -> tuple[dict[float, list[Tensor]], list[Hypotheses], list[Hypotheses]]:
    """Of a model with a CTC projector: ({temperature of the posteriors: the audio embeddings (U, D) of each clip}, the
    greedy transcript, the N-best)."""
    model, processor = inspect_checkpoint(str(path), "model", "omni").load()
    model.eval()
    projector = model.projector
    assert isinstance(projector, CTCProjector) and processor.feature_extractor is not None
    head, plain = projector.ctc_head, [p.data.clone() for p in projector.ctc_head.parameters()]
    vectors: dict[float, list[Tensor]] = {temperature: [] for temperature in temperatures}
    greedy: list[Hypotheses] = []
    n_best: list[Hypotheses] = []

    def text(classes: Sequence[int]) -> str:
        return processor.tokenizer.decode([projector.token_ids[c] for c in classes]).strip()

    for some in _batches(examples, batch):
        mel, mel_mask = pad_mels([log_mel(processor.feature_extractor, e.samples(), e.id) for e in some])
        frames, mask = encode_mel(model.speech_encoder, mel, mel_mask)
        for temperature in temperatures:
            for parameter, value in zip(head.parameters(), plain, strict=True):  # logits / temperature
                parameter.data = value / temperature
            audio = projector(frames, mask, embed)
            vectors[temperature] += [v[m] for v, m in zip(audio.vectors, audio.mask, strict=True)]
        for parameter, value in zip(head.parameters(), plain, strict=True):
            parameter.data = value
        output = projector.ctc_outputs(frames, mask).tokens
        greedy += [[(text(classes), 0.0)] for classes in greedy_transcripts(output)]
        for log_probs, used in zip(output.log_probs, output.mask.bool(), strict=True):
            found = prefix_search(log_probs[used].numpy())
            n_best.append(merged([(text(labels), score) for labels, score in found])[:BEAMS])
    return vectors, greedy, n_best


def _batches(examples: Sequence[Example], size: int) -> Iterator[list[Example]]:
    for start in range(0, len(examples), size):
        yield [examples[i] for i in range(start, min(start + size, len(examples)))]
