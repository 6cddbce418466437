"""Where speech looks: attention to the image while a word is said, against the mouse trace of that word.

An example with a trace (`data/trace.py`; Localized Narratives) has for each word its times and the places in the image
where the speaker pointed meanwhile. The map of a word is the attention of its rows to the image tokens, mean over rows
and heads, by layer: of an audio query the audio embeddings of its time, of a text query its tokens. It is scored
against the cells that the word's trace visits by NSS and AUC (`saliency.py`), and, as baselines of the same map,
against the traces of the other words of the narrative and of words about other images: what is left is neither a place
where all attention goes nor one where all people point.

The grid of image tokens is taken to cover the whole image, as it does where the processor scales an image to one tile
without cropping or padding. An image of several tiles is left out and counted, by name of the reason.

Legend: B items, S rows after the prefix, W words, I image tokens, L layers, U audio embeddings.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from selfkd.analysis.forward import Continuation
from selfkd.analysis.runner import Record, layer_intervals, rounded
from selfkd.analysis.saliency import auc, nss, visited_cells
from selfkd.data.example import Example, image_hash
from selfkd.data.trace import TracedWord, trace_of
from selfkd.evaluation.metrics import groups_in
from selfkd.model.modeling_omni import OmniModel
from selfkd.model.projectors import CTCProjector, StackProjector, run_starts
from selfkd.training.data import MODALITIES, Modality, PairedItem

FRAMES_PER_SECOND = 50  # of the speech encoder
BASELINES = ("other_words", "other_images")
SCORES = {"nss": nss, "auc": auc}
SAMPLED = 10  # words about other images, for each word
TRACE_MEASURES = {
    "nss": "attention of a word's rows at the cells of its trace, in standard deviations over the image; 0 is chance",
    "auc": "probability that a cell of the trace has more attention than another cell; 0.5 is chance",
    "nss_other_words": "the same attention against the traces of the other words of the narrative",
    "auc_other_words": "the same attention against the traces of the other words of the narrative",
    "nss_other_images": f"the same attention against the traces of {SAMPLED} words about other images",
    "auc_other_images": f"the same attention against the traces of {SAMPLED} words about other images",
    "nss_above_other_words": "nss minus nss_other_words",
    "auc_above_other_words": "auc minus auc_other_words",
    "nss_above_other_images": "nss minus nss_other_images",
    "auc_above_other_images": "auc minus auc_other_images",
}
_STRETCHED = ("speed", "pause")  # effects that move words in time
NOT_ONE_GRID = "the image is of several tiles, whose tokens are not one grid"
STRETCHED = "the audio was augmented in its timing"
FEW_WORDS = "fewer than two words with a trace and with rows of their own"
ONE_IMAGE = "there is no other image with a trace"
OTHER_TEXT = "the tokens of the text query do not decode to it"


class Traces:
    """The traces of a benchmark's examples. `others` gives the words about other images that a word is compared with:
    the same ones in each run."""

    def __init__(self, examples: Sequence[Example], seed: int):
        self.seed = seed
        self.words: dict[str, list[TracedWord]] = {}
        self._pool: list[tuple[str, TracedWord]] = []
        self._image: dict[str, str] = {}
        for example in examples:
            if words := trace_of(example):
                self.words[example.id] = words
                self._image[example.id] = image_hash(example.image or b"")
                self._pool += [(self._image[example.id], word) for word in words if word["points"]]

    def others(self, name: str, number: int) -> list[TracedWord]:
        """`SAMPLED` words about other images than that of example `name`, or all where there are fewer."""
        pool = [word for image, word in self._pool if image != self._image[name]]
        rng = np.random.default_rng([self.seed, number, *name.encode()])
        return [pool[at] for at in rng.permutation(len(pool))[:SAMPLED]]


def word_rows(
    model: OmniModel,
    processor: Any,
    modality: Modality,
    continuation: Continuation,
    examples: Sequence[Example],
    items: Sequence[PairedItem],
    questions: Sequence[slice],
    words: Sequence[Sequence[TracedWord]],
) -> Tensor:
    """The rows of each word (B, S, W), as weights with the sum 1; a word without rows has none, an item without words
    has no word."""
    query_BS = continuation.positions.query_BS
    weights_BSW = torch.zeros(*query_BS.shape, max(map(len, words)))
    for b, (example, item, question) in enumerate(zip(examples, items, questions, strict=True)):
        if not words[b]:
            continue
        rows = query_BS[b].nonzero().flatten().tolist()
        if modality == "audio":
            spans = audio_spans(model, continuation, b, len(rows), example.duration_seconds)
            wanted = [(word["start"], word["stop"]) for word in words[b]]
        else:
            spans = token_spans(processor.tokenizer, item.text_ids[question], example.question)
            wanted = character_spans(words[b])
        overlaps = [[max(0.0, min(s[1], w[1]) - max(s[0], w[0])) for w in wanted] for s in spans]
        if overlaps:
            share_UW = torch.tensor(overlaps)
            weights_BSW[b, rows, : len(wanted)] = share_UW / share_UW.sum(0, keepdim=True).clamp(min=1e-9)
    return weights_BSW


def audio_spans(
    model: OmniModel, continuation: Continuation, at: int, count: int, seconds: float
) -> list[tuple[float, float]]:
    """(start, stop) in seconds of the part of the audio that each of `count` audio embeddings of item `at` stands for.
    A stack has its frames; a CTC token the time from its first frame to that of the next token; the tokens of a native
    model share the time evenly."""
    if isinstance(model.projector, CTCProjector):
        assert continuation.audio is not None and continuation.audio.ctc is not None, "has CTC outputs"  # noqa: S101 an invariant of this code, no check of input
        _, _, starts_BS = run_starts(continuation.audio.ctc.tokens)
        begins = (starts_BS[at].nonzero().flatten() / FRAMES_PER_SECOND).tolist()
    elif isinstance(model.projector, StackProjector):
        begins = [u * model.projector.stack_factor / FRAMES_PER_SECOND for u in range(count)]
    else:
        begins = [u * seconds / count for u in range(count)]
    return list(pairwise([*begins, max(seconds, begins[-1])])) if begins else []


def token_spans(tokenizer: Any, ids: Sequence[int], question: str) -> list[tuple[float, float]]:
    """(start, stop) in characters of the question that each token decodes to; none where the tokens do not decode to
    it."""
    ends = [len(tokenizer.decode(ids[:n])) for n in range(len(ids) + 1)]
    before = tokenizer.decode(ids).find(question)
    return [] if before < 0 else [(float(a - before), float(b - before)) for a, b in pairwise(ends)]


def character_spans(words: Sequence[TracedWord]) -> list[tuple[float, float]]:
    """(start, stop) in characters of each word in the question, which has the words with a space between them."""
    spans, at = [], 0
    for word in words:
        spans.append((float(at), float(at + len(word["utterance"]))))
        at += len(word["utterance"]) + 1
    return spans


def why_not_scored(example: Example) -> str:
    """Why the trace of an example cannot be scored by any model; "" where it can."""
    return STRETCHED if any(effect in example.augmentation for effect in _STRETCHED) else ""


def score_trace(
    traces: Traces, name: str, grid: tuple[int, int], maps: Mapping[Modality, NDArray], has_rows: NDArray[np.bool_]
) -> dict[str, Any]:
    """{"words", "modalities": {modality: {measure: by layer}}} of an example: means over the words that have rows in
    both modalities and a trace of some cells but not of all; or {"left_out": reason}. `maps` has the attention of each
    word to each image token (L, W, I) in both modalities, `has_rows` (W,) the words with rows in both."""
    if not has_rows.any():
        return {"left_out": OTHER_TEXT if maps["audio"].any() else FEW_WORDS}
    cells = [visited_cells(word["points"], *grid) for word in traces.words[name]]
    used = [w for w, mask in enumerate(cells) if has_rows[w] and _is_proper(mask)]
    if len(used) < 2:
        return {"left_out": FEW_WORDS}
    of_others = {
        w: [m for o in traces.others(name, w) if _is_proper(m := visited_cells(o["points"], *grid))] for w in used
    }
    if not all(of_others.values()):
        return {"left_out": ONE_IMAGE}
    by_modality: dict[str, dict[str, list[float]]] = {}
    for modality in MODALITIES:
        found: dict[str, list[NDArray]] = {}
        for w in used:
            map_LI = maps[modality][:, w]
            masks = {"": [cells[w]], "_other_words": [cells[v] for v in used if v != w], "_other_images": of_others[w]}
            for suffix, some in masks.items():
                for score, function in SCORES.items():
                    found.setdefault(f"{score}{suffix}", []).append(function(map_LI, np.stack(some)).mean(1))
        by_modality[modality] = {measure: rounded(np.mean(rows, axis=0)) for measure, rows in found.items()}
    return {"words": len(used), "modalities": by_modality}


def summarize_traces(records: Sequence[Record], seed: int) -> dict[str, Any] | None:
    """{"items", "words", "left_out": {reason: items}, "modalities", "audio_minus_text"} of the items with a trace, as
    `layer_intervals` gives them; None where no item has one. With each score its baselines and how far it is above
    them (`auc_above_other_words`), on the same words."""
    traced = [record for record in records if "trace" in record]
    if not traced:
        return None
    scored = [record for record in traced if "modalities" in record["trace"]]
    left_out = Counter(record["trace"]["left_out"] for record in traced if "left_out" in record["trace"])
    result: dict[str, Any] = {
        "items": len(scored),
        "words": sum(record["trace"]["words"] for record in scored),
        "left_out": dict(left_out),
    }
    if not scored:
        return result
    groups = groups_in(scored)
    values = {
        modality: _above_baselines([r["trace"]["modalities"][modality] for r in scored]) for modality in MODALITIES
    }
    differences = {m: values["audio"][m] - values["text"][m] for m in values["text"]}
    return result | {
        "modalities": {modality: layer_intervals(of, seed, groups) for modality, of in values.items()},
        "audio_minus_text": layer_intervals(differences, seed, groups),
    }


def _above_baselines(rows: Sequence[Mapping[str, Sequence[float]]]) -> dict[str, NDArray[np.float64]]:
    values = {measure: np.array([row[measure] for row in rows]) for measure in rows[0]}
    above = {f"{s}_above_{b}": values[s] - values[f"{s}_{b}"] for s in SCORES for b in BASELINES}
    return values | above


def _is_proper(mask: NDArray[np.bool_]) -> bool:
    return bool(mask.any() and not mask.all())
