"""A vision-language model of natural images in English, Spanish and French: EfficientNet-Lite0 and a small own LLM in
FastVLM's classes.

    python experiments/stamps_vlm.py SOURCES OUTPUT [--steps N] [--seed N]

SOURCES is what `stamps_sources.py` wrote. EfficientNet-Lite0 knows ImageNet and stays as it is. A linear projector and
the LLM's word embeddings are warmed up together: an image is told from others by its caption's words (InfoNCE, as CLIP
is trained, on the mean of the image tokens). Then projector and LLM learn the benchmark's questions, to name what is
shown, and to repeat captions. The stamps of the test split, by subject, are in none of it. An interrupted call resumes
from its last checkpoint.
"""

import argparse
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from stamps_features import PATCHES, image_processor, lite0, vision_config
from stamps_questions import NAME, REPEAT, Collection, FeatureCollator, FeatureGroup, StampsGroups, collections, which
from stamps_sources import LANGUAGES
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    FastVlmConfig,
    FastVlmForConditionalGeneration,
    TrainerCallback,
    set_seed,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import SAFE_WEIGHTS_NAME

from selfkd.model.image_processor import image_processor_class
from selfkd.synthesis.sources.stamps import IS_TRUE, WHICH_IS_TRUE
from selfkd.training.stage import last_checkpoint
from tools.tiny_model.architecture import CHAT_TEMPLATE, build_tokenizer
from tools.tiny_model.pretrain_vlm import GroupTrainer, token_logits
from tools.tiny_model.pretraining import check_settings, pretraining_arguments

IMAGE = "<image>"
TEMPLATE = CHAT_TEMPLATE.replace("<IMG_CONTEXT>", IMAGE)
VOCABULARY = 2048
HIDDEN, LAYERS = 256, 4


def build_processor(texts: Iterable[str]):
    tokenizer = build_tokenizer(texts, VOCABULARY, {"image_token": IMAGE}, TEMPLATE)
    return image_processor_class("fast_vlm")(
        image_processor=image_processor(),
        tokenizer=tokenizer,
        patch_size=32,
        vision_feature_select_strategy="full",
        chat_template=TEMPLATE,
        num_additional_image_tokens=0,
    )


def build_vlm(tokenizer) -> FastVlmForConditionalGeneration:
    text = {
        "model_type": "llama",
        "vocab_size": len(tokenizer),
        "hidden_size": HIDDEN,
        "intermediate_size": 704,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HIDDEN // 64,
        "num_key_value_heads": HIDDEN // 64,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = FastVlmConfig(
        text_config=text,
        vision_config=vision_config().to_dict(),
        image_token_id=tokenizer.image_token_id,  # type: ignore[call-arg]
        image_seq_length=PATCHES,
        projector_hidden_act="linear",  # of pooled features as of their mean: what the warm-up needs
        tie_word_embeddings=True,
    )
    return FastVlmForConditionalGeneration(config)


class GivenFeatures(nn.Module):
    """In the place of the vision encoder in training: its features come with the batch, a share of them dropped."""

    dropout = 0.1

    def forward(self, pixel_values: Tensor, **_) -> BaseModelOutputWithPooling:
        if self.training:
            keep = torch.rand(len(pixel_values), pixel_values.shape[1], 1, 1) >= self.dropout
            pixel_values = pixel_values * keep / (1 - self.dropout)
        return BaseModelOutputWithPooling(last_hidden_state=pixel_values)


WARM_UP_STEPS, WARM_UP_BATCH, NEIGHBOURS = 2500, 96, 2
GROUPS_PER_STEP, LEARNING_RATE, WARM_RATE = 16, 1.5e-3, 0.2


def warm_up(model: Any, tokenizer: Any, collection: Collection, steps: int, seed: int) -> None:
    """Projector and word embeddings by InfoNCE over a batch: images x captions, similar images side by side."""
    rng = random.Random(f"warm up/{seed}")
    projector, words = model.model.multi_modal_projector, model.get_input_embeddings()
    pooled = torch.cat([part.float().mean((2, 3)) for part in collection.features.split(512)])
    mean, spread = pooled.mean(0), pooled.std(0) + 1e-3
    scale = nn.Parameter(torch.tensor(2.3))
    nn.init.normal_(words.weight, std=0.1)
    trained = [*projector.parameters(), words.weight, scale]
    optimizer = torch.optim.AdamW(trained, lr=2e-3, weight_decay=0.05, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.05)
    for step in range(steps):
        chosen, captions = _contrasted(collection, rng)
        rows = torch.tensor([rng.choice(collection.rows[index]) for index in chosen])
        x = (pooled[rows] - mean) / spread
        x = F.dropout(x + 0.3 * torch.randn_like(x), 0.3)
        images = F.normalize(projector(x), dim=-1)
        texts = F.normalize(bags_of_words(words, tokenizer, captions, rng), dim=-1)
        logits = images @ texts.T * scale.exp()
        logits = logits.masked_fill(_also_true(collection, chosen), -1e4)
        target = torch.arange(len(chosen))
        loss = F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 250 == 249:
            print(f"warm-up {step + 1}: {loss:.3f}", flush=True)
    with torch.no_grad():  # the normalisation of the features becomes part of the projector
        first = projector.linear_1
        first.weight /= spread
        first.bias -= first.weight @ mean


def _contrasted(collection: Collection, rng: random.Random) -> tuple[list[int], list[str]]:
    """Images, each with some of its neighbours, and a caption of each, mostly in one language."""
    main = rng.choice(LANGUAGES)
    chosen: dict[int, str] = {}
    while len(chosen) < WARM_UP_BATCH * (1 + NEIGHBOURS):
        index = collection.sample(rng)
        near = collection.by_neighbours[collection.images[index].neighbours]
        for one in (index, *rng.sample(near, min(len(near), NEIGHBOURS))):
            language = main if rng.random() < 0.8 else rng.choice(LANGUAGES)
            caption = collection.images[one].caption(language, rng)
            if caption:
                chosen[one] = caption
    return list(chosen), list(chosen.values())


def bags_of_words(words: nn.Embedding, tokenizer, captions: Sequence[str], rng: random.Random) -> Tensor:
    """(N, hidden): the sum of a caption's word embeddings, a tenth of the tokens left out."""
    ids = tokenizer(list(captions), add_special_tokens=False)["input_ids"]
    ids = [[token for token in one if rng.random() > 0.1] or one for one in ids]
    starts = torch.tensor([0] + [len(one) for one in ids[:-1]]).cumsum(0)
    return F.embedding_bag(torch.tensor([token for one in ids for token in one]), words.weight, starts, mode="sum")


def _also_true(collection: Collection, chosen: Sequence[int]) -> Tensor:
    """(N, N): where a caption of another image may be true of the image too; False on the diagonal."""
    rows = torch.tensor(chosen)
    return collection.may_be_true[rows][:, rows].fill_diagonal_(False)


class StampsTrainer(GroupTrainer):
    """Warmed-up parts, which are the knowledge of the model, learn slowly; the others learn to use them."""

    question_weight = 0.05
    slow_parts = ("model.multi_modal_projector.", "model.language_model.embed_tokens.")
    slow_rate = WARM_RATE
    length_buckets = 3


@torch.no_grad()
def validation_accuracy(model, collator: FeatureCollator, validation: Collection) -> dict[str, float]:
    """The benchmark's three questions about every stamp of the validation split and one of its folder."""
    model.eval()
    right: dict[str, list[bool]] = defaultdict(list)
    groups, kinds = [], []
    for index, image in enumerate(validation.images):
        rng = random.Random(image.name)
        for language in LANGUAGES:
            true, false = image.caption(language, rng), validation.false_caption(index, language, rng)
            if true is None or false is None:
                continue
            found = validation.features[validation.rows[index][0]]
            groups.append(FeatureGroup(found, ((true, "yes"), (false, "no")), IS_TRUE))
            chosen = which(validation.letters[language], true, false, rng.random() < 0.5)
            groups.append(FeatureGroup(found, (chosen,), WHICH_IS_TRUE))
            kinds += ["is true", "is true", "which"]
    answered = 0
    for start in range(0, len(groups), 32):
        batch = collator(groups[start : start + 32])
        wrong: set[int] = set()
        for logits, labels, in_response, rows in token_logits(model, batch):
            wrong |= set(rows[in_response & (logits.argmax(-1) != labels)].tolist())
        for row in range(len(batch["group"])):
            right[kinds[answered + row]].append(row not in wrong)
        answered += len(batch["group"])
    model.train()
    return {kind: sum(values) / len(values) for kind, values in right.items()} | {"n": len(kinds)}


class AccuracyLog(TrainerCallback):
    def __init__(self, collator: FeatureCollator, validation: Collection, every: int):
        self.collator, self.validation, self.every = collator, validation, every

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step % self.every == 0:
            accuracy = validation_accuracy(model, self.collator, self.validation)
            print(state.global_step, {name: round(value, 3) for name, value in accuracy.items()}, flush=True)


def make_vlm(sources: Path, output: Path, steps: int, seed: int = 0) -> None:
    """Writes a transformers checkpoint with its processor to `output`, unless it is there already."""
    if (output / SAFE_WEIGHTS_NAME).is_file():
        return
    check_settings(output, {"steps": steps, "seed": seed})
    set_seed(seed)
    train, validation = collections(sources, output / "features")
    rng = random.Random(seed)
    captions = [text for p in train.images for name in LANGUAGES if (text := p.caption(name, rng))]
    frame = [IS_TRUE, WHICH_IS_TRUE, REPEAT, *NAME.values(), "user\nassistant\n", "yes", "no", "A", "B"]
    frame += [text for pair in train.letters.values() for text in pair]
    processor = build_processor([*captions, *train.texts, *(100 * frame)])
    model = build_vlm(processor.tokenizer)
    model.model.vision_tower = GivenFeatures()
    warm = output / "warm.safetensors"
    if warm.is_file():
        model.load_state_dict(load_file(warm), strict=False)
    else:
        warm_up(model, processor.tokenizer, train, WARM_UP_STEPS, seed)
        save_file({n: p.detach() for n, p in model.named_parameters()}, warm)
    model.tie_weights()
    model.set_attn_implementation("eager")
    collator, checkpoints = FeatureCollator(processor), output / "checkpoints"
    arguments = pretraining_arguments(
        checkpoints,
        steps,
        GROUPS_PER_STEP,
        LEARNING_RATE,
        seed,
        warmup_steps=steps // 20,
        adam_beta2=0.98,
        save_steps=100,
        save_total_limit=1,
        logging_steps=25,
    )
    data = StampsGroups(train, steps * GROUPS_PER_STEP, seed)
    trainer = StampsTrainer(model, arguments, collator, data, callbacks=[AccuracyLog(collator, validation, 100)])
    trainer.train(resume_from_checkpoint=last_checkpoint(checkpoints))
    print("validation", validation_accuracy(model, collator, validation))
    model.set_attn_implementation("sdpa")
    model.model.vision_tower = lite0(sources)  # which has no attention, and would refuse the setting
    model.save_pretrained(output)
    processor.save_pretrained(output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    make_vlm(options.sources, options.output, options.steps, options.seed)


if __name__ == "__main__":
    main()
