"""The warm-up of the stamps' VLM: what images and words have to do with each other, without a pass of the LLM.

A contrastive training of projector and word embeddings, which tells an image's caption from those of other images, and
says which ImageNet classes' names fit as the vision encoder's own classifier does, by the cosine of an image token and
a bag of words. Heads of the first layer are then set so that their logits are near that cosine.
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

STEPS, IMAGES = 600, 288
MATCHING = 2  # of the three groups of heads
SLOW = [*range(16, 32), *range(48, 64)]  # of a head's 64 dimensions: RoPE turns them by 0.2 at most in 60 tokens
LOGIT_SCALE = 0.6  # of the matching heads, whose softmax over the prompt's tokens should be neither flat nor one-hot


class BagOfWords(nn.Module):
    """The cosine of an image token and the sum of a text's words, each of length 1 as the LLM's first norm leaves it,
    less what all words have in common, times a scale for captions and another for the names of classes."""

    def __init__(self, words: Tensor):
        super().__init__()
        self.common = F.normalize(words.detach(), dim=-1).mean(0)
        self.scales = nn.Parameter(torch.tensor([3.0, 3.0]))

    def forward(self, images: Tensor, words: Tensor, text_of: Tensor, captions: int) -> Tensor:
        """(N, D), (T, D), the text of each word (T,) -> (N, texts)."""
        sums = torch.zeros(int(text_of[-1]) + 1, images.shape[1]).index_add(
            0, text_of, F.normalize(words, dim=-1) - self.common
        )
        cosines = F.normalize(images, dim=-1) @ F.normalize(sums, dim=-1).T
        scales = self.scales.exp().repeat_interleave(torch.tensor([captions, len(sums) - captions]))
        return cosines * scales


@torch.no_grad()
def set_matching_heads(decoder_layer: Any, images: Tensor, words: Tensor) -> None:
    """Queries and keys of the layer's last heads become principal components of the image tokens (N, D), without what
    all words (V, D) or all images have in common, so that a word attends to images whose tokens are like itself.

    The weight of the layer's norm, in which 304 of SmolLM2's 576 dimensions are below .003, becomes part of the
    projections after it: otherwise the heads would see less than half of what the warm-up has taught."""
    norm, attention = decoder_layer.input_layernorm, decoder_layer.self_attn
    for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
        projection.weight *= norm.weight
    norm.weight.fill_(1.0)
    images = F.normalize(images, dim=-1)
    mean = images.mean(0)
    shared, _ = torch.linalg.qr(torch.stack([F.normalize(words, dim=-1).mean(0), mean], dim=1))
    others = images - mean
    _, _, components = torch.linalg.svd(others - others @ shared @ shared.T, full_matrices=False)
    size, rank = attention.head_dim, len(SLOW)
    groups = components[: MATCHING * rank].view(rank, MATCHING, -1).transpose(0, 1)  # each gets large and small ones
    of_queries = LOGIT_SCALE * groups.repeat_interleave(attention.num_key_value_groups, 0)
    for projection, ours in ((attention.q_proj, of_queries), (attention.k_proj, groups)):
        heads = projection.weight.view(-1, size, projection.in_features)[-len(ours) :]
        heads.zero_()[:, SLOW] = ours


def warm_up(model: Any, tokenizer: Any, collection: Collection, classifier: "Classifier", seed: int) -> None:
    """Trains projector and word embeddings, and sets the first layer's matching heads."""
    rng = random.Random(f"warm up/{seed}")
    projector, words = model.model.multi_modal_projector, model.get_input_embeddings().weight
    scores = BagOfWords(words)
    mean, spread = collection.mean_and_spread
    generator = torch.Generator().manual_seed(seed)
    dense = [{"params": projector.parameters(), "lr": 2e-3}, {"params": scores.parameters(), "lr": 1e-2}]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(dense, weight_decay=0.05, betas=(0.9, 0.98)),
        torch.optim.SparseAdam([words], lr=1e-3, betas=(0.9, 0.98)),  # of a step's words only
    ]
    schedules = [get_cosine_schedule_with_warmup(one, STEPS // 20, STEPS) for one in optimizers]
    for step in range(STEPS):
        chosen = collection.captioned(IMAGES, 2, rng)  # similar ones side by side
        pooled = collection.features_of(list(chosen), rng)
        tokens = projector((collection.perturbed(pooled, generator) - mean) / spread)
        names = classifier.names(rng)
        ids = tokenizer([*chosen.values(), *names], add_special_tokens=False)["input_ids"]
        vectors = F.embedding(torch.tensor([token for one in ids for token in one]), words, sparse=True)
        text_of = torch.repeat_interleave(torch.arange(len(ids)), torch.tensor([len(one) for one in ids]))
        matches, of_classes = scores(tokens, vectors, text_of, len(chosen)).split([len(chosen), len(names)], 1)
        matches = matches.masked_fill(collection.also_true(list(chosen)), -1e4)
        loss = info_nce(matches) + F.cross_entropy(of_classes, classifier(pooled))
        loss.backward()
        for part in (*optimizers, *schedules):
            part.step()
        for parameter in (*projector.parameters(), *scores.parameters(), words):
            parameter.grad = None
        if step % 100 == 99:
            print(f"warm-up {step + 1}: {loss:.3f}", flush=True)
    words = words.detach()
    with torch.no_grad():
        # the normalisation of the features becomes part of the projector, and image tokens as long as words
        first, second = projector.linear_1, projector.linear_2
        first.weight /= spread
        first.bias -= first.weight @ mean
        longer = words.norm(dim=1).mean() / projector(collection.features).norm(dim=-1).mean()
        second.weight *= longer
        second.bias.copy_(second.bias * longer + words.mean(0))
        images = projector(collection.features)
    set_matching_heads(model.model.language_model.layers[0], images, words)


def info_nce(logits: Tensor) -> Tensor:
    """(N, N) -> the cross-entropy over the rows plus that over the columns; the diagonal is right."""
    target = torch.arange(len(logits))
    return F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)


class Classifier:
    """EfficientNet-Lite2's own head: (N, 1280) pooled features -> (N, 1000) probabilities; and the classes' names."""

    def __init__(self, sources: Path, images: Sequence[LabelledImage]):
        self.weight, self.bias = classifier_weights(sources)
        self.classes = [image for image in images if image.source == "ImageNet"]  # in the order of the head's rows
        assert len(self.classes) == len(self.bias)

    def __call__(self, pooled: Tensor) -> Tensor:
        return F.linear(pooled, self.weight, self.bias).softmax(-1)

    def names(self, rng: random.Random) -> list[str]:
        """A name of each class, in one language where it has one there."""
        language = rng.choice(LANGUAGES)
        return [rng.choice(image.nouns.get(language) or image.nouns["en"]) for image in self.classes]
