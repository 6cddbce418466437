"""Stage 2: the vision-audio path learns from responses (SFT) and from the model's own vision-text path (Self-KD)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfkd.errors import InputError
from selfkd.losses import Divergence, Objective
from selfkd.model.checkpoint import is_ours, load_omni, omni_config
from selfkd.model.omni import OmniModel
from selfkd.runs import Run
from selfkd.training.plan import plan, read_skeleton
from selfkd.training.stage import TrainConfig, check_settings, examples_of, train


@dataclass
class DistillConfig(TrainConfig):
    """Stage 2: SFT and Self-KD, one switch: alpha.

    L = alpha * KL(teacher || student) + (1 - alpha) * SFT

    Args:
        data: Folders of spoken questions with images (selfkd synthesize); FOLDER:WEIGHT mixes them by weight.
        output: Run directory.
        model: Model to start from: the output of selfkd align (with /model), or a native omni model (hub id or path).
        alpha: Weight of Self-KD; 0 is plain SFT, 1 is Self-KD alone.
        temperature: Temperature of the distillation term.
        divergence: forward is KL(teacher || student), the paper's; reverse; or jensen_shannon.
        hidden_weight: Weight of the distance of last hidden states to the teacher's.
        transcript_weight: Weight of CTC on the question, where the ears hear tokens.
        alignment_weight: Weight of soft-DTW between what is heard and the question's embeddings.
        augment_speech: How much each clip is made another speaker's, by warped and masked log-mel frames; 1 is what the
            bundled recogniser was trained with, 0 is off.
        on_policy: Share of the steps that learn on the student's own replies, scored by the teacher, not on the data's.
        trainable: Parts that train, among projector, speech_encoder, llm_adapters and llm.
        steps: Optimizer steps.
        batch_size: Examples a step and device.
        learning_rate: Peak learning rate.
        warmup_steps: Steps of linear warm-up.
        save_steps: Steps between checkpoints.
        seed: Seed of the order of the data.
        lora: Fields of peft.LoraConfig for llm_adapters: LoRA on the LLM, on for the spoken question and the response.
        training: Further fields of transformers.TrainingArguments.
        dry_run: Print what the run would take (parameters, data, memory, time) and end; reads no weights.
        skeleton: Configuration (JSON) to plan with where the model is not there yet.
    """

    model: str = ""
    alpha: float = 1.0
    temperature: float = 1.0
    divergence: Divergence = "forward"
    hidden_weight: float = 0.0
    transcript_weight: float = 0.5
    alignment_weight: float = 0.0
    augment_speech: float = 0.0
    on_policy: float = 0.0


def distill(config: DistillConfig) -> dict[str, Any]:
    """Writes `output/model`; with `dry_run` it writes nothing and returns the plan."""
    if not 0 <= config.alpha <= 1:
        raise InputError(f"alpha: {config.alpha} is not between 0 and 1")
    if config.temperature <= 0:
        raise InputError(f"temperature: {config.temperature} is not above 0")
    check_settings(config)
    if config.dry_run:
        there = (Path(config.model) / "config.json").is_file()
        stand_in = config.skeleton and not there
        return plan(config, read_skeleton(config.skeleton) if stand_in else omni_config(config.model), config.alpha)
    is_ours(config.model)  # before anything is made
    examples = examples_of(config)
    with Run.open(config.output, "distill", config) as run:
        model, processor = load_omni(config.model)
        return train(
            run,
            model,
            processor,
            examples,
            config,
            objective_of(config, model),
            config.augment_speech,
            config.on_policy,
        )


def objective_of(config: DistillConfig, model: OmniModel) -> Objective:
    """The objective that a configuration asks for; a transcript is learnt by ears that hear tokens alone."""
    return Objective(
        config.alpha,
        config.temperature,
        config.divergence,
        config.hidden_weight,
        config.transcript_weight if model.config.speech_tokens else 0.0,
        config.alignment_weight,
    )
