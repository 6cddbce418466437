"""A vision-language model of natural images in English, Spanish and French: EfficientNet-Lite2 and the first layers of
SmolLM2-135M-Instruct in FastVLM's classes.

    python experiments/stamps_vlm.py SOURCES MODELS/smollm2-135m-instruct OUTPUT [--steps N] [--seed N]

SOURCES is what `stamps_sources.py` wrote. EfficientNet-Lite2 knows ImageNet and stays as it is; its mean features
are one image token. Two stages:

1. Warm-up (`stamps_warm_up.py`): projector and word embeddings learn which caption is an image's, and six of the first
   layer's nine attention heads are set so that a caption's words attend to an image token that fits. Without such
   heads the LLM does not learn to compare.
2. All of the LLM, on the benchmark's questions: N images x N captions at once, "yes" against "no" as the score of an
   InfoNCE; which of two captions is true; and captions to repeat without an image.

The stamps of the test split, by subject, are in none of it. An interrupted call resumes from its last checkpoint.
"""

import argparse
import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from stamps_features import SIDE, image_processor, lite2, vision_config
from stamps_questions import Collection, collections, shuffled, which
from stamps_sources import LANGUAGES
from stamps_warm_up import Classifier, info_nce, warm_up
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    FastVlmConfig,
    FastVlmForConditionalGeneration,
    get_cosine_schedule_with_warmup,
    set_seed,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import SAFE_WEIGHTS_NAME

from selfkd.files import write_atomically
from selfkd.model.chat_template import chat_frame
from selfkd.model.image_processor import image_processor_class
from selfkd.model.prefix_cache import continue_prefix, encode_prefix
from selfkd.synthesis.sources.stamps import IS_TRUE, WHICH_IS_TRUE
from selfkd.toy_world.tasks import REPEAT_INSTRUCTION
from tools.tiny_model.architecture import CHAT_TEMPLATE
from tools.tiny_model.pretrain_vision import fast_bf16
from tools.tiny_model.pretraining import check_settings

IMAGE = "<image>"
TEMPLATE = CHAT_TEMPLATE.replace("<IMG_CONTEXT>", IMAGE)
LAYERS = 6  # of SmolLM2's 30: enough for answers of a word
FINAL_NORM = 0.1  # a sixth layer's hidden states are not a thirtieth's: without it the first loss is 34
REPEAT = f"{REPEAT_INSTRUCTION}\n"


def assemble(llm_path: Path) -> tuple[FastVlmForConditionalGeneration, Any]:
    """(model without a vision encoder's weights, processor): SmolLM2's first layers under a new projector."""
    tokenizer = AutoTokenizer.from_pretrained(llm_path, extra_special_tokens={"image_token": IMAGE})
    tokenizer.pad_token, tokenizer.chat_template = "<|endoftext|>", TEMPLATE
    processor = image_processor_class("fast_vlm")(
        image_processor=image_processor(),
        tokenizer=tokenizer,
        patch_size=SIDE,
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
        image_seq_length=1,
        projector_hidden_act="linear",
        tie_word_embeddings=True,
    )
    model = FastVlmForConditionalGeneration(config)
    model.model.language_model.load_state_dict(llm.model.state_dict())
    model.model.language_model.norm.weight.data *= FINAL_NORM
    model.tie_weights()
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model, processor


class GivenFeatures(nn.Module):
    """In the place of the vision encoder in training: its features come with the batch."""

    def forward(self, pixel_values: Tensor, **_) -> BaseModelOutputWithPooling:
        return BaseModelOutputWithPooling(last_hidden_state=pixel_values)


Task = tuple[int, str, str]  # (row of the image, query, response)


class Prompts:
    """Queries and responses in the model's chat template, run with a shared prefix."""

    def __init__(self, model: Any, processor: Any):
        self.model, self.tokenizer = model, processor.tokenizer
        self.frames = {with_image: chat_frame(processor, with_image) for with_image in (False, True)}
        self.yes, self.no, self.a, self.b = (self._ids(one)[0] for one in ("yes", "no", "A", "B"))

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def __call__(
        self, features: Tensor | None, instruction: str, tasks: Sequence[Task]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(logits (R, V) of the responses' tokens and of their ends, their labels (R,), the row of each task's first);
        `features` (G, 1280) are the images', or None without an image."""
        frame, end = self.frames[features is not None], self.tokenizer.eos_token_id
        count = 1 if features is None else len(features)
        prefix_ids = torch.tensor([self._ids(frame.before + instruction)]).expand(count, -1)
        images = {} if features is None else {"pixel_values": features[:, :, None, None]}
        queries = [self._ids(query + frame.after) for _, query, _ in tasks]
        responses = [[*self._ids(response), end] for _, _, response in tasks]
        width = max(len(q) + len(r) for q, r in zip(queries, responses, strict=True)) - 1
        ids = torch.full((len(tasks), width), self.tokenizer.pad_token_id)
        mask, predicts = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
        for i, (q, r) in enumerate(zip(queries, responses, strict=True)):
            ids[i, : len(q) + len(r) - 1] = torch.tensor([*q, *r[:-1]])
            mask[i, : len(q) + len(r) - 1] = 1
            predicts[i, len(q) - 1 : len(q) + len(r) - 1] = True
        with fast_bf16():
            prefix = encode_prefix(self.model, prefix_ids, torch.ones_like(prefix_ids), **images)
            rows = prefix.rows(torch.tensor([row for row, _, _ in tasks]))
            hidden = continue_prefix(self.model, rows, {"input_ids": ids}, mask)[predicts]
            logits = F.linear(hidden, self.model.get_output_embeddings().weight).float()
        lengths = torch.tensor([len(r) for r in responses])
        return logits, torch.tensor([token for r in responses for token in r]), lengths.cumsum(0) - lengths


IMAGES_PER_STEP, TEXTS_PER_STEP, LEARNING_RATE, SLOW_RATE = 10, 6, 1e-3, 0.03
PLAIN_AFTER = 100  # steps until the cross-entropy over the whole vocabulary has its full weight
SAVE_STEPS, VALIDATION_STEPS = 100, 100


def loss_of_step(prompts: Prompts, collection: Collection, step: int, seed: int) -> dict[str, Tensor]:
    """The parts of the loss. Matching comes first: a loss of 10 on the form of the answers would drown it."""
    rng = random.Random(f"stamps step/{seed}/{step}")
    plain_weight = min(1.0, 0.03 + step / PLAIN_AFTER)
    chosen = collection.captioned(IMAGES_PER_STEP, int(rng.random() < 0.3), rng)
    also, captions, count = collection.also_true(list(chosen)), list(chosen.values()), len(chosen)
    generator = torch.Generator().manual_seed(rng.getrandbits(32))
    features = collection.perturbed(collection.features_of(list(chosen), rng), generator)
    right = torch.ones(count, dtype=torch.bool).diag()
    tasks = [(i, captions[j], "yes" if i == j else "no") for i in range(count) for j in range(count)]
    logits, labels, first = prompts(features, IS_TRUE, tasks)
    matrix = (logits[first, prompts.yes] - logits[first, prompts.no]).view(count, count)
    false = ~right & ~also
    whether = F.softplus(-matrix[right]).mean() + F.softplus(matrix[false]).mean()
    plain = F.cross_entropy(logits, labels, reduction="none").view(count, count, 2).sum(-1)  # "yes" and its end
    found = {
        "match": info_nce(matrix.masked_fill(also, -1e4)) / 2,
        "whether": whether / 2,
        "plain": plain_weight * (plain[right].mean() + plain[false].mean()) / 2,
    }
    letters = collection.letters[rng.choice(LANGUAGES)]
    choices = []
    for i in range(count):
        others = false[i].nonzero().flatten().tolist()
        if others:
            choices.append((i, *which(letters, captions[i], captions[rng.choice(others)], rng.random() < 0.5)))
    logits, labels, first = prompts(features, WHICH_IS_TRUE, choices)
    found["which"] = F.cross_entropy(logits[first][:, [prompts.a, prompts.b]], (labels[first] == prompts.b).long())
    found["plain"] = found["plain"] + plain_weight * F.cross_entropy(logits, labels)
    texts = [shuffled(rng.choice(collection.texts), rng) for _ in range(TEXTS_PER_STEP)]
    logits, labels, _ = prompts(None, REPEAT, [(0, text, text) for text in texts])
    found["repeat"] = plain_weight * F.cross_entropy(logits, labels)
    return found


@torch.no_grad()
def validation_accuracy(prompts: Prompts, validation: Collection) -> dict[str, float]:
    """The benchmark's three questions about every stamp of the validation split, in each language, and how often the
    response is right in every token; the share of captions repeated word by word."""
    right: dict[str, list[bool]] = defaultdict(list)
    tasks: dict[str, list[Task]] = {IS_TRUE: [], WHICH_IS_TRUE: []}
    for index, image in enumerate(validation.images):
        rng = random.Random(image.name)
        for language in LANGUAGES:
            true, false = image.caption(language, rng), validation.false_caption(index, language, rng)
            if true and false:
                tasks[IS_TRUE] += [(index, true, "yes"), (index, false, "no")]
                tasks[WHICH_IS_TRUE].append(
                    (index, *which(validation.letters[language], true, false, rng.random() < 0.5))
                )
    features = validation.features[[rows[0] for rows in validation.rows]]
    captions = sorted({query for _, query, _ in tasks[IS_TRUE]})
    for kind, some in (*tasks.items(), (REPEAT, [(0, text, text) for text in captions])):
        for start in range(0, len(some), 50):
            part = some[start : start + 50]
            logits, labels, first = prompts(None if kind == REPEAT else features, kind, part)
            wrong = (logits.argmax(-1) != labels).cumsum(0)
            ends = [*first[1:].tolist(), len(labels)]
            before = [0, *wrong[first[1:] - 1].tolist()]
            right[kind] += [int(wrong[end - 1]) == was for end, was in zip(ends, before, strict=True)]
    names = {IS_TRUE: "is true", WHICH_IS_TRUE: "which", REPEAT: "repeat"}
    found = {names[kind]: sum(values) / len(values) for kind, values in right.items()}
    return {name: round(value, 3) for name, value in found.items()} | {
        f"n, {names[kind]}": len(values) for kind, values in right.items()
    }


def train(
    prompts: Prompts, collection: Collection, validation: Collection, output: Path, steps: int, seed: int
) -> None:
    """Warmed-up parts, which are the knowledge of the model, learn slowly; the others learn to use them."""
    model, checkpoint = prompts.model, output / "checkpoints" / "last.pt"
    attention = model.model.language_model.layers[0].self_attn
    slow = [*model.model.multi_modal_projector.parameters(), model.get_input_embeddings().weight]
    slow += [attention.q_proj.weight, attention.k_proj.weight]
    ids = {id(p) for p in slow}
    fast = [p for p in model.parameters() if id(p) not in ids]
    groups = [{"params": fast, "lr": LEARNING_RATE}, {"params": slow, "lr": SLOW_RATE * LEARNING_RATE}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = get_cosine_schedule_with_warmup(optimizer, 10, steps)
    done, parts, recent = 0, (model, optimizer, schedule), defaultdict[str, float](float)
    if checkpoint.is_file():
        done, *states = torch.load(checkpoint, weights_only=True)
        for part, state in zip(parts, states, strict=True):
            part.load_state_dict(state)
    for step in range(done, steps):
        found = loss_of_step(prompts, collection, step, seed)
        torch.stack(list(found.values())).sum().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        for name, value in found.items():
            recent[name] += value.item() / 25
        if step % 25 == 24:
            print(step + 1, {name: round(value, 3) for name, value in recent.items()}, flush=True)
            recent.clear()
        if step % VALIDATION_STEPS == VALIDATION_STEPS - 1:
            print(step + 1, validation_accuracy(prompts, validation), flush=True)
        if step % SAVE_STEPS == SAVE_STEPS - 1:
            with write_atomically(checkpoint) as path:
                torch.save((step + 1, *(part.state_dict() for part in parts)), path)


def make_vlm(sources: Path, llm_path: Path, output: Path, steps: int, seed: int = 0) -> None:
    """Writes a transformers checkpoint with its processor to `output`, unless it is there already."""
    if (output / SAFE_WEIGHTS_NAME).is_file():
        return
    check_settings(output, {"llm": str(llm_path), "steps": steps, "seed": seed})
    set_seed(seed)
    collection, validation = collections(sources, output / "features")
    model, processor = assemble(llm_path)
    model.model.vision_tower = GivenFeatures()
    warm = output / "warm.safetensors"
    if warm.is_file():
        model.load_state_dict(load_file(warm), strict=False)
    else:
        warm_up(model, processor.tokenizer, collection, Classifier(sources, collection.images), seed)
        save_file({n: p.detach() for n, p in model.named_parameters()}, warm)
    model.tie_weights()
    model.set_attn_implementation("eager")
    train(Prompts(model, processor), collection, validation, output, steps, seed)
    model.set_attn_implementation("sdpa")
    model.model.vision_tower = lite2(sources)  # which has no attention, and would refuse the setting
    model.save_pretrained(output)
    processor.save_pretrained(output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", type=Path)
    parser.add_argument("llm", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    make_vlm(options.sources, options.llm, options.output, options.steps, options.seed)


if __name__ == "__main__":
    main()
