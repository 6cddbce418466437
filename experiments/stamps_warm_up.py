"""The warm-up of the stamps' VLM: what images and words have to do with each other, without a pass of the LLM.

Two contrastive trainings, each of which tells an image's caption from those of other images, and says which ImageNet
classes' names fit as the vision encoder's own classifier does: first of projector and word embeddings, by the cosine of
an image token and a bag of words; then of these and of attention heads, by the heads' logits.
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from stamps_features import classifier_weights
from stamps_images import LabelledImage
from stamps_questions import Collection
from stamps_sources import LANGUAGES
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import get_cosine_schedule_with_warmup

WORDS_STEPS, HEADS_STEPS = 400, 750
MATCHING = 2  # of the three groups of heads
SLOW = [*range(16, 32), *range(48, 64)]  # of a head's 64 dimensions: RoPE turns them by 0.2 at most in 60 tokens
SHARPER = 2.0  # the logits in the LLM, where a softmax over the prompt's tokens follows


class BagOfWords(nn.Module):
    """The cosine of an image token and the sum of a text's words, both less what all words have in common, times a
    scale for captions and another for the names of classes."""

    def __init__(self, common: Tensor):
        super().__init__()
        self.common, self.scales = common, nn.Parameter(torch.tensor([3.0, 3.0]))

    def forward(self, images: Tensor, words: Tensor, text_of: Tensor, captions: int) -> Tensor:
        """(N, D), (T, D), the text of each word (T,) -> (N, texts)."""
        sums = torch.zeros(int(text_of[-1]) + 1, images.shape[1]).index_add(0, text_of, words - self.common)
        cosines = F.normalize(images, dim=-1) @ F.normalize(sums, dim=-1).T
        scales = self.scales.exp().repeat_interleave(torch.tensor([captions, len(sums) - captions]))
        return cosines * scales


class MatchingHeads(nn.Module):
    """The first layer's last heads: attention logits from words to an image token, without their positions, summed over
    a text's words."""

    def __init__(self, decoder_layer: Any, common: Tensor):
        super().__init__()
        self.common = common
        self.norm, self.attention = decoder_layer.input_layernorm, decoder_layer.self_attn
        self.ratio = self.attention.num_key_value_groups
        width = self.norm.weight.numel()
        same = [torch.linalg.qr(torch.randn(width, len(SLOW)))[0].T / 2 for _ in range(MATCHING)]
        self.key = nn.Parameter(torch.stack(same))
        self.query = nn.Parameter(torch.stack([one for one in same for _ in range(self.ratio)]))

    def forward(self, images: Tensor, words: Tensor, text_of: Tensor, captions: int) -> Tensor:
        """(N, D), (T, D), the text of each word (T,) -> (N, texts), the mean over the heads."""
        queries = torch.einsum("td,hrd->thr", self.norm(words), self.query)
        keys = torch.einsum("nd,grd->ngr", self.norm(images + self.common), self.key).repeat_interleave(self.ratio, 1)
        logits = torch.einsum("thr,nhr->nt", queries, keys) * self.attention.scaling / len(self.query)
        return torch.zeros(len(images), int(text_of[-1]) + 1).index_add(1, text_of, logits)

    @torch.no_grad()
    def write(self) -> None:
        """Into the attention's own weights."""
        size = self.attention.head_dim
        for projection, ours in ((self.attention.q_proj, self.query * SHARPER), (self.attention.k_proj, self.key)):
            heads = projection.weight.view(-1, size, projection.in_features)[-len(ours) :]
            heads.zero_()[:, SLOW] = ours


class WarmUp:
    """What both trainings share: `projector` takes features less their `mean`, over their `spread`."""

    def __init__(
        self, model: Any, tokenizer: Any, collection: Collection, classifier: "Classifier", rng: random.Random
    ):
        self.projector, self.words = model.model.multi_modal_projector, model.get_input_embeddings().weight
        self.tokenizer, self.collection, self.classifier, self.rng = tokenizer, collection, classifier, rng
        self.mean, self.spread = collection.features.mean(0), collection.features.std(0) + 1e-3

    def loss(self, scores: nn.Module, images: int, names: int) -> Tensor:
        """Of a batch of so many images, similar ones side by side, and the names of so many classes."""
        chosen = self.collection.captioned(images, 2, self.rng)
        pooled = self.collection.features_of(list(chosen), self.rng)
        x = (pooled - self.mean) / self.spread
        tokens = self.projector(F.dropout(x + 0.3 * torch.randn_like(x), 0.3))
        texts, classes = self.classifier.names(names, self.rng)
        ids = self.tokenizer([*chosen.values(), *texts], add_special_tokens=False)["input_ids"]
        words = F.embedding(torch.tensor([token for one in ids for token in one]), self.words, sparse=True)
        text_of = torch.repeat_interleave(torch.arange(len(ids)), torch.tensor([len(one) for one in ids]))
        matches, of_classes = scores(tokens, words, text_of, len(chosen)).split([len(chosen), names], 1)
        matches = matches.masked_fill(self.collection.also_true(list(chosen)), -1e4)
        probabilities = F.normalize(self.classifier(pooled)[:, classes], p=1, dim=1)
        return info_nce(matches) + F.cross_entropy(of_classes, probabilities)

    def fit(self, scores: nn.Module, steps: int, rates: tuple[float, float], images: int, names: int) -> None:
        """`rates` are those of the projector and of `scores`."""
        own = [p for p in scores.parameters() if p.requires_grad]
        parts = [{"params": self.projector.parameters(), "lr": rates[0]}, {"params": own, "lr": rates[1]}]
        optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(parts, weight_decay=0.05, betas=(0.9, 0.98)),
            torch.optim.SparseAdam([self.words], lr=1e-3, betas=(0.9, 0.98)),  # of a step's words only
        ]
        schedules = [get_cosine_schedule_with_warmup(one, steps // 20, steps) for one in optimizers]
        for step in range(steps):
            loss = self.loss(scores, images, names)
            loss.backward()
            for part in (*optimizers, *schedules):
                part.step()
            for parameter in (*self.projector.parameters(), *own, self.words):
                parameter.grad = None
            if step % 50 == 49:
                print(f"warm-up {type(scores).__name__} {step + 1}: {loss:.3f}", flush=True)


def warm_up(model: Any, tokenizer: Any, collection: Collection, classifier: "Classifier", seed: int) -> None:
    """Trains projector, word embeddings and the first layer's matching heads."""
    shared = WarmUp(model, tokenizer, collection, classifier, random.Random(f"warm up/{seed}"))
    projector, words = shared.projector, shared.words.detach()
    first, second = projector.linear_1, projector.linear_2
    shared.fit(BagOfWords(words.mean(0)), WORDS_STEPS, (2e-3, 1e-2), images=288, names=len(classifier.classes))
    common, norm = words.mean(0), words.norm(dim=1).mean()
    with torch.no_grad():  # image tokens become as long as words
        size = projector((collection.features[::10] - shared.mean) / shared.spread).norm(dim=-1).mean()
        second.weight *= norm / size
        second.bias *= norm / size
    decoder_layer = model.model.language_model.layers[0].requires_grad_(False)
    heads = MatchingHeads(decoder_layer, common)
    shared.fit(heads, HEADS_STEPS, (1e-3, 5e-3), images=144, names=250)
    heads.write()
    decoder_layer.requires_grad_(True)
    with torch.no_grad():
        first.weight /= shared.spread  # the normalisation of the features becomes part of the projector
        first.bias -= first.weight @ shared.mean
        second.bias += common


def info_nce(logits: Tensor) -> Tensor:
    """(N, N) -> the cross-entropy over the rows plus that over the columns; the diagonal is right."""
    target = torch.arange(len(logits))
    return F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)


class Classifier:
    """EfficientNet-Lite0's own head: (N, 1280) pooled features -> (N, 1000) probabilities; and the classes' names."""

    def __init__(self, sources: Path, images: Sequence[LabelledImage]):
        self.weight, self.bias = classifier_weights(sources)
        self.classes = [image for image in images if image.source == "ImageNet"]  # in the order of the head's rows
        assert len(self.classes) == len(self.bias)

    def __call__(self, pooled: Tensor) -> Tensor:
        return F.linear(pooled, self.weight, self.bias).softmax(-1)

    def names(self, count: int, rng: random.Random) -> tuple[list[str], list[int]]:
        """(a name, its class) of some of the classes, in one language where they have one there."""
        language, classes = rng.choice(LANGUAGES), rng.sample(range(len(self.classes)), count)
        nouns = [self.classes[index].nouns for index in classes]
        return [rng.choice(one.get(language) or one["en"]) for one in nouns], classes
