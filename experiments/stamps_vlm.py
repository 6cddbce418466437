"""A vision-language model of natural images in English, Spanish and French: EfficientNet-Lite0 and the first layers of
SmolLM2-135M-Instruct in FastVLM's classes.

    python experiments/stamps_vlm.py SOURCES MODELS/smollm2-135m-instruct OUTPUT [--steps N] [--seed N]

SOURCES is what `stamps_sources.py` wrote. EfficientNet-Lite0 knows ImageNet and stays as it is. A linear projector and
the LLM's word embeddings are warmed up together: an image is told from others by its caption's words (InfoNCE, as CLIP
is trained, on the mean of the image tokens), and the encoder's classifier says which classes' names fit. Then projector
and LLM learn the benchmark's questions, to name what is shown, and to repeat captions. The stamps of the test split, by
subject, are in none of it. An interrupted call resumes from its last checkpoint.
"""

import argparse
import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from stamps_features import PATCHES, classifier_weights, image_processor, lite0, vision_config
from stamps_images import LabelledImage
from stamps_questions import Collection, FeatureCollator, FeatureGroup, StampsGroups, collections, which
from stamps_sources import LANGUAGES
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    FastVlmConfig,
    FastVlmForConditionalGeneration,
    TrainerCallback,
    get_cosine_schedule_with_warmup,
    set_seed,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import SAFE_WEIGHTS_NAME

from selfkd.model.image_processor import image_processor_class
from selfkd.synthesis.sources.stamps import IS_TRUE, WHICH_IS_TRUE
from selfkd.training.stage import last_checkpoint
from tools.tiny_model.architecture import CHAT_TEMPLATE
from tools.tiny_model.pretrain_vlm import GroupTrainer, token_logits
from tools.tiny_model.pretraining import check_settings, pretraining_arguments

IMAGE = "<image>"
TEMPLATE = CHAT_TEMPLATE.replace("<IMG_CONTEXT>", IMAGE)
LAYERS = 12  # of SmolLM2's 30: enough for answers of a word, at less than half of a step's cost


def assemble(llm_path: Path) -> tuple[FastVlmForConditionalGeneration, Any]:
    """(model without a vision encoder's weights, processor): SmolLM2's first layers under a new projector."""
    tokenizer = AutoTokenizer.from_pretrained(llm_path, extra_special_tokens={"image_token": IMAGE})
    tokenizer.pad_token, tokenizer.chat_template = "<|endoftext|>", TEMPLATE
    processor = image_processor_class("fast_vlm")(
        image_processor=image_processor(),
        tokenizer=tokenizer,
        patch_size=32,
        vision_feature_select_strategy="full",
        chat_template=TEMPLATE,
        num_additional_image_tokens=0,
    )
    llm = AutoModelForCausalLM.from_pretrained(llm_path, dtype=torch.float32, num_hidden_layers=LAYERS)
    llm.resize_token_embeddings(len(tokenizer))
    config = FastVlmConfig(
        # float32, or the class would take the dtype of the LLM's checkpoint: bfloat16, too coarse for small steps
        text_config=llm.config.to_dict() | {"dtype": "float32"},
        vision_config=vision_config().to_dict(),
        image_token_id=tokenizer.image_token_id,  # type: ignore[call-arg]
        image_seq_length=PATCHES,
        projector_hidden_act="linear",  # of pooled features as of their mean: what the warm-up needs
        tie_word_embeddings=True,
    )
    model = FastVlmForConditionalGeneration(config)
    model.model.language_model.load_state_dict(llm.model.state_dict())
    model.tie_weights()
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model, processor


class GivenFeatures(nn.Module):
    """In the place of the vision encoder in training: its features come with the batch, a share of them dropped."""

    dropout = 0.1

    def forward(self, pixel_values: Tensor, **_) -> BaseModelOutputWithPooling:
        if self.training:
            keep = torch.rand(len(pixel_values), pixel_values.shape[1], 1, 1) >= self.dropout
            pixel_values = pixel_values * keep / (1 - self.dropout)
        return BaseModelOutputWithPooling(last_hidden_state=pixel_values)


WARM_UP_STEPS, WARM_UP_BATCH, NEIGHBOURS = 3000, 96, 2
WORDS_RATE = 1e-3
GROUPS_PER_STEP, LEARNING_RATE, WARM_RATE = 8, 4e-4, 0.2


def warm_up(
    model: Any, tokenizer: Any, collection: Collection, classifier: "Classifier", steps: int, seed: int
) -> None:
    """Projector and word embeddings, by InfoNCE over a batch: images x captions, similar images side by side; and by
    the vision encoder's own classifier, which says of each image how much it looks like each ImageNet class."""
    rng = random.Random(f"warm up/{seed}")
    projector, words = model.model.multi_modal_projector, model.get_input_embeddings()
    pooled = torch.cat([part.float().mean((2, 3)) for part in collection.features.split(512)])
    mean, spread = pooled.mean(0), pooled.std(0) + 1e-3
    common, norm = words.weight.detach().mean(0), words.weight.detach().norm(dim=1).mean()
    scales = nn.Parameter(torch.tensor([3.0, 3.0]))
    parts = [{"params": projector.parameters()}, {"params": [scales], "lr": 1e-2}]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(parts, lr=2e-3, weight_decay=0.05, betas=(0.9, 0.98)),
        torch.optim.SparseAdam([words.weight], lr=WORDS_RATE, betas=(0.9, 0.98)),  # of a step's words alone
    ]
    schedules = [get_cosine_schedule_with_warmup(one, steps // 20, steps) for one in optimizers]
    for step in range(steps):
        chosen, captions = _contrasted(collection, rng)
        rows = torch.tensor([rng.choice(collection.rows[index]) for index in chosen])
        x = (pooled[rows] - mean) / spread
        images = F.normalize(projector(F.dropout(x + 0.3 * torch.randn_like(x), 0.3)), dim=-1)
        every = bags_of_words(words.weight, common, tokenizer, [*captions, *classifier.names(rng)], rng)
        texts, names = F.normalize(every, dim=-1).split([len(captions), len(every) - len(captions)])
        logits = images @ texts.T * scales[0].exp()
        logits = logits.masked_fill(_also_true(collection, chosen), -1e4)
        target = torch.arange(len(chosen))
        loss = F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)
        loss = loss + F.cross_entropy(images @ names.T * scales[1].exp(), classifier(pooled[rows]))
        loss.backward()
        for part in (*optimizers, *schedules):
            part.step()
        model.zero_grad()
        scales.grad = None
        if step % 250 == 249:
            print(f"warm-up {step + 1}: {loss:.3f}", flush=True)
    with torch.no_grad():
        first, second = projector.linear_1, projector.linear_2
        first.weight /= spread  # the normalisation of the features becomes part of the projector
        first.bias -= first.weight @ mean
        size = projector(_some_patches(collection)).norm(dim=-1).mean()
        second.weight *= norm / size  # image tokens are as long as words, and have what all words have in common
        second.bias.copy_(second.bias * norm / size + common)


def _some_patches(collection: Collection) -> Tensor:
    """(N, 1280): the patches of every hundredth image."""
    return collection.features[::100].float().flatten(2).transpose(1, 2).flatten(0, 1)


class Classifier:
    """EfficientNet-Lite0's own head: (N, 1280) pooled features -> (N, 1000) probabilities; and the classes' names."""

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


def bags_of_words(weight: Tensor, common: Tensor, tokenizer, captions: Sequence[str], rng: random.Random) -> Tensor:
    """(N, hidden): the sum of a caption's word embeddings less what all have in common, a tenth of the tokens left
    out."""
    ids = tokenizer(list(captions), add_special_tokens=False)["input_ids"]
    ids = [[token for token in one if rng.random() > 0.1] or one for one in ids]
    lengths = torch.tensor([len(one) for one in ids])
    tokens = torch.tensor([token for one in ids for token in one])
    return (
        F.embedding_bag(tokens, weight, lengths.cumsum(0) - lengths, mode="sum", sparse=True)
        - lengths[:, None] * common
    )


def _also_true(collection: Collection, chosen: Sequence[int]) -> Tensor:
    """(N, N): where a caption of another image may be true of the image too; False on the diagonal."""
    rows = torch.tensor(chosen)
    return collection.may_be_true[rows][:, rows].fill_diagonal_(False)


class StampsTrainer(GroupTrainer):
    """Warmed-up parts, which are the knowledge of the model, learn slowly; the others learn to use them."""

    question_weight = 0.05
    slow_parts = ("model.multi_modal_projector.", "model.language_model.embed_tokens.")
    slow_rate = WARM_RATE
    length_buckets = 1  # each backward pass writes the gradients of all parameters: more than padding costs


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


def make_vlm(sources: Path, llm_path: Path, output: Path, steps: int, seed: int = 0) -> None:
    """Writes a transformers checkpoint with its processor to `output`, unless it is there already."""
    if (output / SAFE_WEIGHTS_NAME).is_file():
        return
    check_settings(output, {"llm": str(llm_path), "steps": steps, "seed": seed})
    set_seed(seed)
    train, validation = collections(sources, output / "features")
    model, processor = assemble(llm_path)
    model.model.vision_tower = GivenFeatures()
    warm = output / "warm.safetensors"
    if warm.is_file():
        model.load_state_dict(load_file(warm), strict=False)
    else:
        warm_up(model, processor.tokenizer, train, Classifier(sources, train.images), WARM_UP_STEPS, seed)
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
    parser.add_argument("llm", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    make_vlm(options.sources, options.llm, options.output, options.steps, options.seed)


if __name__ == "__main__":
    main()
