"""The probabilities of easy-VQA's answers, given an image and a query: a text, several hypotheses of it, or audio
embeddings.

Legend: B queries, D width.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import easy_vqa
import numpy as np
import torch
from noise_hypotheses import Hypotheses
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from selfkd.data.example import Example
from selfkd.model.backbones import load_vlm, load_vlm_processor
from selfkd.model.chat_template import chat_frame
from selfkd.model.prefix_cache import continue_prefix, encode_prefix
from tools.tiny_model.pretrain_vision import fast_bf16

ANSWERS = sorted(easy_vqa.get_answers())


class Reading(NamedTuple):
    """A hypothesis of what was asked."""

    text: str
    score: float  # log-probability by the speech model
    prior: float  # log-probability of its tokens but the first, given the image, by the VLM
    answers: list[float]  # the probability of each of `ANSWERS`


class ImagePrompts:
    """A VLM and the images of `examples`, encoded once. Queries name an image by its position."""

    def __init__(self, path: Path, examples: Sequence[Example]):
        self.vlm, processor = load_vlm(str(path)).eval(), load_vlm_processor(str(path))
        self.tokenizer, frame = processor.tokenizer, chat_frame(processor, True)
        self.after = self._ids(frame.after)
        firsts = [self._ids(answer)[0] for answer in ANSWERS]
        if len(set(firsts)) != len(ANSWERS):
            raise ValueError("two answers begin with the same token")
        self.firsts, self.known = torch.tensor(firsts), dict[tuple[int, str], Reading]()
        images = [example.load_image() for example in examples]
        inputs = processor(
            images=images, text=[frame.before] * len(images), add_special_tokens=False, return_tensors="pt"
        )
        with torch.no_grad():
            self.prefix = encode_prefix(
                self.vlm, inputs["input_ids"], inputs["attention_mask"], pixel_values=inputs["pixel_values"]
            )

    @property
    def embed(self) -> torch.nn.Module:
        return self.vlm.get_input_embeddings()

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def readings(self, hypotheses: Sequence[Hypotheses], batch: int = 64) -> list[list[Reading]]:
        """The hypotheses of each image's query, with what the VLM makes of them; equal queries run once."""
        new = sorted({(at, text) for at, some in enumerate(hypotheses) for text, _ in some} - self.known.keys())
        rows = sorted(((at, text, self._ids(text)) for at, text in new), key=lambda row: len(row[2]))
        for start in range(0, len(rows), batch):
            some = rows[start : start + batch]
            vectors = [self.embed(torch.tensor([*ids, *self.after])) for _, _, ids in some]
            hidden = self._hidden([at for at, _, _ in some], vectors)
            targets = [torch.tensor([*ids, self.after[0]])[1:] for _, _, ids in some]
            predicting = [states[: len(one)] for states, one in zip(hidden, targets, strict=True)]
            log_probs = self._logits(torch.cat(predicting)).log_softmax(-1).gather(1, torch.cat(targets)[:, None])[:, 0]
            parts = log_probs.split([len(one) for one in targets])  # one product with the LLM's head for all
            for (at, text, ids), states, part in zip(some, hidden, parts, strict=True):
                prior = float(part.sum()) if ids else -math.inf
                self.known[at, text] = Reading(text, 0.0, prior, self._answers(states[-1]))
        return [[self.known[at, text]._replace(score=s) for text, s in some] for at, some in enumerate(hypotheses)]

    def of_vectors(self, vectors: Sequence[Tensor], batch: int = 64) -> list[list[float]]:
        """The answers' probabilities for audio embeddings (U, D), one clip for each image."""
        after, found = self.embed(torch.tensor(self.after)), []
        for start in range(0, len(vectors), batch):
            some = [torch.cat([one, after]) for one in vectors[start : start + batch]]
            found += [self._answers(states[-1]) for states in self._hidden(range(start, start + len(some)), some)]
        return found

    @torch.no_grad()
    def _hidden(self, images: Sequence[int], vectors: Sequence[Tensor]) -> list[Tensor]:
        lengths = torch.tensor([len(one) for one in vectors])
        mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
        inputs = {"inputs_embeds": pad_sequence(list(vectors), True)}
        with torch.no_grad(), fast_bf16():
            hidden = continue_prefix(self.vlm, self.prefix.rows(torch.tensor(list(images))), inputs, mask)
        return [states[:length] for states, length in zip(hidden, lengths.tolist(), strict=True)]

    @torch.no_grad()
    def _logits(self, states: Tensor) -> Tensor:
        with fast_bf16():
            return F.linear(states, self.vlm.get_output_embeddings().weight).float()

    @torch.no_grad()
    def _answers(self, state: Tensor) -> list[float]:
        logits = F.linear(state.float(), self.vlm.get_output_embeddings().weight[self.firsts])
        return logits.softmax(-1).tolist()


def averaged(readings: Sequence[Reading], temperature: float = 1.0, prior_weight: float = 0.0) -> NDArray[np.float64]:
    """The answers' probabilities, averaged over the hypotheses by their posteriors: score / temperature + prior_weight
    x prior, normalised over them."""
    logs = np.array([r.score / temperature + (prior_weight * r.prior if prior_weight else 0.0) for r in readings])
    weights = np.exp(logs - logs.max()) if np.isfinite(logs.max()) else np.ones(len(logs))
    return weights @ np.array([r.answers for r in readings]) / weights.sum()
