"""A vision-language model around a pretrained language model: SmolLM2-135M-Instruct in InternVL's classes.

    python experiments/real_parts_vlm.py MODELS/smollm2-135m-instruct OUTPUT [--steps 420]

There is no pretrained vision-language model of this size without a hub, so this makes one. Its vision encoder is the
tiny model's vision tower, frozen. A new projector is warmed up by `pretrain_vision`: the content of a cell of the image
is predicted by similarity to the LLM's own word embeddings. Then projector and LLM learn to answer about images: those
of the toy world and of easy-VQA's train split, half and half, with short and correct responses. An interrupted call
resumes from its last checkpoint.
"""

import argparse
import random
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import easy_vqa
import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GotOcr2ImageProcessorPil,
    InternVLConfig,
    InternVLForConditionalGeneration,
    TrainerCallback,
    set_seed,
)
from transformers.utils import SAFE_WEIGHTS_NAME

from selfkd.data.media import decode_image
from selfkd.model.image_processor import InternVLImageTextProcessor
from selfkd.model.tiny import vlm_path
from selfkd.toy_world.noisy_labels import noiseless_response
from selfkd.toy_world.scenes import Scene, render, sample_scene
from selfkd.toy_world.tasks import REPEAT_INSTRUCTION, sample_words, weighted_question
from selfkd.training.stage import last_checkpoint
from tools.tiny_model.architecture import CHAT_TEMPLATE, IMAGE_TOKENS
from tools.tiny_model.pretrain_vision import pretrain_vision
from tools.tiny_model.pretrain_vlm import AccuracyLog, GroupTrainer, text_accuracy
from tools.tiny_model.pretraining import check_settings, pretraining_arguments
from tools.tiny_model.world_groups import QUESTIONS_PER_GROUP, Group, GroupCollator, WorldGroups

IMAGE_MARKS = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
GROUPS_PER_STEP, LEARNING_RATE, WARM_UP_STEPS = 6, 4e-4, 300
FINAL_NORM = 0.1  # hidden states of an early layer are not the last one's: without it the first loss is in the tens


class ImageGroups(WorldGroups):
    """Groups of the toy world and of easy-VQA's train split in turn; one in ten world groups repeats words. Without
    `world` all are of easy-VQA."""

    def __init__(self, count: int, seed: int, world: bool = True):
        super().__init__(count, seed)
        self.world = world
        by_image: dict[int, list[tuple[str, str]]] = defaultdict(list)
        for question, answer, image in zip(*easy_vqa.get_train_questions(), strict=True):
            by_image[image].append((question[0].upper() + question[1:], answer))
        self.questions, self.paths = by_image, easy_vqa.get_train_image_paths()

    def __getitem__(self, index: int) -> Group:
        rng = random.Random(f"picture group/{self.seed}/{index}")
        if index % 2 or not self.world:
            return self._of_easy_vqa(rng)
        scene = self._with_few_things(sample_scene(self.split, self.seed, index), index / self.count, rng)
        if rng.random() < 0.1:
            words = [sample_words(scene, rng) for _ in range(QUESTIONS_PER_GROUP)]
            return Group(None, tuple((f"{REPEAT_INSTRUCTION}\n{text}", text) for text in words))
        return Group(render(scene), tuple(_task(scene, rng) for _ in range(QUESTIONS_PER_GROUP)))

    def _of_easy_vqa(self, rng: random.Random) -> Group:
        image = rng.choice(sorted(self.questions))
        tasks = self.questions[image]
        chosen = rng.sample(tasks, min(QUESTIONS_PER_GROUP, len(tasks)))
        return Group(decode_image(Path(self.paths[image]).read_bytes()), tuple(chosen))


class ResponseCollator(GroupCollator):
    """Labels on the responses only."""

    def __call__(self, groups: Sequence[Group]) -> dict[str, Tensor]:
        batch = super().__call__(groups)
        batch["labels"][~batch["in_response"]] = -100
        return batch


def _task(scene: Scene, rng: random.Random) -> tuple[str, str]:
    question = weighted_question(scene, rng)
    return question.text, noiseless_response(question)


def assemble(
    llm_path: Path, layers: int | None = None
) -> tuple[InternVLForConditionalGeneration, InternVLImageTextProcessor]:
    """The LLM, or its first `layers`, with the tiny model's vision tower and a new projector between them."""
    tokenizer = AutoTokenizer.from_pretrained(llm_path, extra_special_tokens=IMAGE_MARKS)
    tokenizer.pad_token, tokenizer.chat_template = "<|endoftext|>", CHAT_TEMPLATE
    vision_encoder = InternVLForConditionalGeneration.from_pretrained(vlm_path())
    first = {} if layers is None else {"num_hidden_layers": layers}
    llm = AutoModelForCausalLM.from_pretrained(llm_path, dtype=torch.float32, **first)
    llm.resize_token_embeddings(len(tokenizer))
    # float32, or the class would take the dtype of the LLM's checkpoint: bfloat16, too coarse for small steps
    own = {"vocab_size": len(tokenizer), "dtype": "float32"}
    text_config = AutoConfig.from_pretrained(llm_path, **first).to_dict() | own
    config = InternVLConfig(
        text_config=text_config,
        vision_config=vision_encoder.config.to_dict()["vision_config"],
        image_token_id=tokenizer.context_image_token_id,
        image_seq_length=IMAGE_TOKENS,
        tie_word_embeddings=True,
    )
    model = InternVLForConditionalGeneration(config)
    model.model.language_model.load_state_dict(llm.model.state_dict())
    if layers is not None:
        model.model.language_model.norm.weight.data *= FINAL_NORM
    model.model.vision_tower.load_state_dict(vision_encoder.model.vision_tower.state_dict())
    model.tie_weights()
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    image_processor = GotOcr2ImageProcessorPil.from_pretrained(vlm_path())
    processor = InternVLImageTextProcessor(
        image_processor=image_processor, tokenizer=tokenizer, image_seq_length=IMAGE_TOKENS, chat_template=CHAT_TEMPLATE
    )
    return model, processor


def make_vlm(
    llm_path: Path,
    output: Path,
    steps: int,
    seed: int = 0,
    layers: int | None = None,
    world: bool = True,
    response_steps: int = 0,
) -> None:
    """Writes a transformers checkpoint with its processor to `output`, unless it is there already: of the whole LLM or
    of its first `layers`, for the toy world and easy-VQA or, without `world`, for easy-VQA only; after `steps` on
    questions and responses there are `response_steps` on the responses."""
    if (output / SAFE_WEIGHTS_NAME).is_file():
        return
    check_settings(
        output,
        {
            "llm": str(llm_path),
            "steps": steps,
            "seed": seed,
            "layers": layers,
            "world": world,
            "response_steps": response_steps,
        },
    )
    set_seed(seed)
    model, processor = assemble(llm_path, layers)
    warm = output / "warm"
    is_warm = (warm / SAFE_WEIGHTS_NAME).is_file()
    if is_warm:
        model = InternVLForConditionalGeneration.from_pretrained(warm)
    model.model.vision_tower.requires_grad_(False)
    if not is_warm:
        words = model.get_input_embeddings()
        words.requires_grad_(False)  # the word embeddings stay the LLM's; the image features move to them
        pretrain_vision(model, processor, WARM_UP_STEPS, seed)
        words.requires_grad_(True)
        model.save_pretrained(warm)
        processor.save_pretrained(warm)
    model.set_attn_implementation("eager")
    checkpoints = output / "checkpoints"
    arguments = pretraining_arguments(
        checkpoints,
        steps,
        GROUPS_PER_STEP,
        LEARNING_RATE,
        seed,
        warmup_steps=steps // 20,
        adam_beta2=0.98,
        save_steps=140,
        save_total_limit=1,
        logging_steps=15,
    )
    data = ImageGroups(steps * GROUPS_PER_STEP, seed, world)
    accuracy: list[TrainerCallback] = [AccuracyLog(processor, 140, per_type=30)] if world else []
    trainer = GroupTrainer(model, arguments, GroupCollator(processor), data, callbacks=accuracy)
    trainer.length_buckets = 1  # each backward pass writes the gradients of 135M parameters: more than padding costs
    trainer.train(resume_from_checkpoint=last_checkpoint(checkpoints))
    if response_steps:
        train_on_responses(model, processor, output / "responses", response_steps, seed, world)
    model.set_attn_implementation("sdpa")
    processor.save_pretrained(output)
    model.save_pretrained(output)
    if world:
        right = text_accuracy(model, processor, "validation", 200, seed)
        print({question_type: round(share, 3) for question_type, share in right.items()})


def train_on_responses(model: Any, processor: Any, output: Path, steps: int, seed: int, world: bool) -> None:
    """Further steps, half as dear: the loss is that of the responses, and the word embeddings stay as they are."""
    model.get_input_embeddings().requires_grad_(False)
    arguments = pretraining_arguments(
        output, steps, GROUPS_PER_STEP, LEARNING_RATE, seed, warmup_steps=5, adam_beta2=0.98,
        save_steps=100, save_total_limit=1, logging_steps=10,
    )  # fmt: skip
    data = ImageGroups(steps * GROUPS_PER_STEP, seed + 1, world)
    trainer = GroupTrainer(model, arguments, ResponseCollator(processor), data)
    trainer.length_buckets = 1
    trainer.train(resume_from_checkpoint=last_checkpoint(output))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("llm", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--steps", type=int, default=420)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    make_vlm(options.llm, options.output, options.steps, options.seed)


if __name__ == "__main__":
    main()
