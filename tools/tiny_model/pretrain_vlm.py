"""Trains the tiny VLM on text tasks of the toy world; its weights are bundled in `selfkd/assets/vlm`.

    python -m tools.tiny_model.pretrain_vlm OUTPUT [--steps N] [--seed N] [--learning_rate R]
    python -m tools.tiny_model.pretrain_vlm OUTPUT --start CHECKPOINT --seed ANOTHER [--tower_rate SHARE] ...

Reads nothing, or the checkpoint to start from; writes a transformers checkpoint with its processor. One to two seconds
a step on two cores.
"""

import argparse
import random
from pathlib import Path

import torch
from accelerate.utils import send_to_device
from torch import Tensor
from torch.nn import functional as F
from transformers import InternVLForConditionalGeneration, Trainer, TrainerCallback, set_seed
from transformers.utils import SAFE_WEIGHTS_NAME

from selfkd.files import follow_umask
from selfkd.losses import cross_entropy
from selfkd.model.image_processor import InternVLImageTextProcessor
from selfkd.model.prefix_cache import continue_prefix, encode_prefix
from selfkd.toy_world.noisy_labels import noiseless_response
from selfkd.toy_world.questions import QUESTION_TYPES, make_question
from selfkd.toy_world.scenes import render, sample_scene
from selfkd.toy_world.tasks import corpus
from tools.tiny_model.architecture import build_processor, build_vlm
from tools.tiny_model.pretrain_vision import fast_bf16, pretrain_vision
from tools.tiny_model.pretraining import pretraining_arguments
from tools.tiny_model.world_groups import Group, GroupCollator, WorldGroups

LENGTH_BUCKETS = 5
QUESTION_WEIGHT, LATER_QUESTION_WEIGHT = 0.3, 0.1
GROUPS_PER_STEP = 32
VISION_STEPS = 700


def token_logits(model, inputs: dict[str, Tensor], buckets: int = LENGTH_BUCKETS):
    """Yields (logits, labels, whether in the response, row of the batch) of all tokens after the prefix.

    Continuations of similar length go together: else the "choice" questions, four times as long as the others, would
    make most of the batch padding.
    """
    image_inputs = {"pixel_values": inputs["pixel_values"]} if "pixel_values" in inputs else {}
    prefix = encode_prefix(model, inputs["prefix_ids"], inputs["prefix_mask"], **image_inputs)
    lengths = inputs["mask"].sum(-1)
    for rows in lengths.argsort().chunk(buckets):
        width = int(lengths[rows].max())
        labels, mask = inputs["labels"][rows, :width], inputs["mask"][rows, :width]
        ids = {"input_ids": inputs["input_ids"][rows, :width]}
        hidden = continue_prefix(model, prefix.rows(inputs["group"][rows]), ids, mask)
        chosen = labels != -100
        logits = F.linear(hidden[chosen], model.get_output_embeddings().weight)
        row_of = rows[:, None].expand_as(labels)[chosen]
        yield logits, labels[chosen], inputs["in_response"][rows, :width][chosen], row_of


class GroupTrainer(Trainer):
    """Cross-entropy over groups that share an image: the image is encoded once for all its questions.

    The question's own tokens count too, with less weight. Questions are mostly about objects of the image, so a model
    that predicts "circle" after "Is the red" has found the red object: the same binding that the answers need, trained
    at every word. With only the responses in the loss, two-way questions were still at chance after 1,000 steps. Once
    objects are found, which of them the question is about is noise, and the weight is lowered.
    """

    question_weight = QUESTION_WEIGHT
    slow_parts: tuple[str, ...] = ("model.vision_tower.",)
    slow_rate = 0.0  # share of the learning rate that they get
    length_buckets = LENGTH_BUCKETS

    def create_optimizer(self, model=None):
        assert self.model is not None
        trained = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        slow = [p for name, p in trained.items() if name.startswith(self.slow_parts)]
        rest = [p for name, p in trained.items() if not name.startswith(self.slow_parts)]
        rate, betas = self.args.learning_rate, (self.args.adam_beta1, self.args.adam_beta2)
        groups = [{"params": rest, "lr": rate}, {"params": slow, "lr": self.slow_rate * rate}]
        self.optimizer = torch.optim.AdamW(groups, betas=betas, weight_decay=self.args.weight_decay)
        return self.optimizer

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        total, count = torch.zeros(()), inputs["in_response"].sum()
        with fast_bf16():
            for logits, labels, in_response, _ in token_logits(model, inputs, self.length_buckets):
                total = total + cross_entropy(logits[in_response], labels[in_response])
                total = total + self.question_weight * cross_entropy(logits[~in_response], labels[~in_response])
        return (total / count, {}) if return_outputs else total / count


@torch.no_grad()
def text_accuracy(model, processor, split: str, per_type: int, seed: int) -> dict[str, float]:
    """Share of questions whose whole response is the argmax at every position, by question type."""
    collate, right = GroupCollator(processor), {}
    model.eval()
    for question_type in QUESTION_TYPES:
        rng, index = random.Random(f"accuracy/{question_type}/{seed}"), 0
        groups: list[Group] = []
        while len(groups) < per_type:
            scene = sample_scene(split, seed + 1, index)  # type: ignore[arg-type]
            question, index = make_question(scene, question_type, rng), index + 1
            if question is not None:
                groups.append(Group(render(scene), ((question.text, noiseless_response(question)),)))
        wrong: set[int] = set()
        batch = send_to_device(collate(groups), model.device)
        for logits, labels, in_response, rows in token_logits(model, batch):
            wrong |= set(rows[in_response & (logits.argmax(-1) != labels)].tolist())
        right[question_type] = 1 - len(wrong) / per_type
    model.train()
    return right


class AccuracyLog(TrainerCallback):
    def __init__(self, processor, every: int, per_type: int = 100):
        self.processor, self.every, self.per_type = processor, every, per_type

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step % self.every == 0:
            accuracy = text_accuracy(model, self.processor, "validation", self.per_type, args.seed)
            print(state.global_step, {k: round(v, 2) for k, v in accuracy.items()}, flush=True)


def warmed_up_vlm(output: Path, seed: int):
    """(VLM with a warmed-up vision tower, its processor); the VLM is kept in `output`, for a resume."""
    processor = build_processor(corpus(2000, seed))
    warm = output / "vision"
    if (warm / SAFE_WEIGHTS_NAME).is_file():
        return InternVLForConditionalGeneration.from_pretrained(warm), processor
    model = build_vlm(processor.tokenizer)
    model.set_attn_implementation("eager")
    pretrain_vision(model, processor, VISION_STEPS, seed)
    model.save_pretrained(warm)
    follow_umask(warm)
    return model, processor


def pretrain_vlm(
    output: Path,
    steps: int = 1800,
    seed: int = 0,
    start: Path | None = None,
    learning_rate: float = 2e-3,
    tower_rate: float = 0.0,
) -> None:
    """Trains from random weights, with a curriculum, or from the checkpoint `start`, without one.

    The vision tower's learning rate is `tower_rate` times the others'; at 0 it stays as it was warmed up: while the LLM
    learns to attend to the image, the image features must not change.
    """
    set_seed(seed)
    if start is None:
        model, processor = warmed_up_vlm(output, seed)
    else:
        model = InternVLForConditionalGeneration.from_pretrained(start)
        processor = InternVLImageTextProcessor.from_pretrained(start)
    model.set_attn_implementation("eager")  # on a CPU faster than fused attention at these lengths
    model.model.vision_tower.requires_grad_(tower_rate > 0)
    arguments = pretraining_arguments(
        output,
        steps,
        GROUPS_PER_STEP,
        learning_rate,
        seed,
        warmup_steps=steps // 20,
        dataloader_num_workers=0,  # making a batch takes 5% of a step; a worker would compete for the same two cores
        adam_beta2=0.98,
        save_steps=400,
        save_only_model=True,
        logging_steps=50,
    )
    data = WorldGroups(steps * GROUPS_PER_STEP, seed, curriculum=start is None)
    trainer = GroupTrainer(model, arguments, GroupCollator(processor), data, callbacks=[AccuracyLog(processor, 200)])
    trainer.slow_rate = tower_rate
    if start is not None:
        trainer.question_weight = LATER_QUESTION_WEIGHT
    trainer.train()
    model.set_attn_implementation("sdpa")
    processor.save_pretrained(output)
    model.save_pretrained(output)
    follow_umask(output)
    accuracy = text_accuracy(model, processor, "test", 300, seed)
    print("test", {k: round(v, 3) for k, v in accuracy.items()})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--steps", type=int, default=1800)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=Path, help="checkpoint to start from, with another seed than its own")
    parser.add_argument("--learning_rate", type=float, default=2e-3)
    parser.add_argument("--tower_rate", type=float, default=0.0, help="share of it that the vision tower gets")
    pretrain_vlm(**vars(parser.parse_args()))
