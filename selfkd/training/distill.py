"""Stage 2: the vision-audio path learns from responses (SFT) and from the model's own vision-text path (Self-KD)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfkd.data.dataset import folders_of
from selfkd.errors import InputError
from selfkd.losses import Divergence, LossConfig, needs_responses
from selfkd.model.checkpoint import CheckpointInfo, inspect_checkpoint
from selfkd.model.configuration_omni import OmniConfig
from selfkd.model.tiny import TINY_MODEL
from selfkd.run_dir import Run
from selfkd.stage_function import stage_function
from selfkd.training.data import check_vocabulary_coverage
from selfkd.training.estimate import plan, read_model_config
from selfkd.training.stage import (
    TrainConfig,
    check_ctc_only,
    check_data,
    inputs_of,
    resolve_config,
    rows_of_plan,
    train,
    under_fsdp,
    usable_examples,
)
from selfkd.training.trainable import AUDIO_PARTS

NEW_AUDIO_PARTS = "selfkd align with the speech_encoder of a Whisper makes ears for the tokens of its data"
# what suits the ears: `docs/method.md` says what each part is worth
STACKED: dict[str, Any] = {
    "divergence": "forward",
    "trainable": ["projector"],
    "learning_rate": 2e-3,
    "spec_augment": 0.0,
    "weight_averaging": 0.0,
}
NATIVE = STACKED | {"learning_rate": 1e-4}  # its projector is trained already
TOKENS: dict[str, Any] = {
    "divergence": "jensen_shannon",
    "trainable": list(AUDIO_PARTS),
    "learning_rate": 4e-4,
    "spec_augment": 1.0,
    "weight_averaging": 1 / 3,
}


@dataclass
class DistillConfig(TrainConfig):
    """Stage 2: SFT and Self-KD, one switch: alpha.

    L = alpha * KL(teacher || student) + (1 - alpha) * SFT

    Args:
        data: Folders of spoken questions with images (selfkd synthesize); FOLDER:WEIGHT mixes them by weight.
        output: Run directory.
        model: Model to start from: the output of selfkd align (with /model), or a native omni model (hub id or path);
            the bundled model by default.
        alpha: Weight of Self-KD; 0 is plain SFT, 1 is Self-KD alone.
        temperature: Temperature of the distillation term.
        divergence: forward is KL(teacher || student), the paper's; reverse; or jensen_shannon, which is the default of
            ears that hear tokens, where others have forward.
        response_weight: Weight of what is learnt from responses, by Self-KD and SFT; at 0 ears that hear tokens learn
            from what is said alone, by CTC: the LLM is not run and no picture read.
        hidden_mse_weight: Weight of the distance of last hidden states to the teacher's.
        ctc_weight: Weight of CTC on the question, where the ears hear tokens.
        soft_dtw_weight: Weight of soft-DTW between what is heard and the question's embeddings.
        spec_augment: How much each clip is made another speaker's, by warped and masked log-mel frames; 1 is what the
            bundled recogniser was trained with, 0 is off; by default 1 of ears that hear tokens, else 0.
        on_policy_fraction: Share of the steps that learn on the student's own replies, scored by the teacher, not on the data's.
        weight_averaging: Share of the steps, the last ones, whose weights the trained model has the mean of; the rate is
            then constant after the warm-up. By default a third with ears that hear tokens, else 0: the weights of the
            last step, to which the rate falls by a cosine.
        trainable: Parts that train, among projector, speech_encoder, llm_adapters and llm; by default the projector,
            and of ears that hear tokens the speech encoder too.
        steps: Optimizer steps.
        batch_size: Examples a step and device.
        learning_rate: Peak learning rate; by default 2e-3, of ears that hear tokens 4e-4, of a native omni model 1e-4.
        warmup_steps: Steps of linear warm-up.
        save_steps: Steps between checkpoints.
        seed: Seed of the order of the data.
        lora: Fields of peft.LoraConfig for llm_adapters: LoRA on the LLM, on for the spoken question and the response.
        training: Further fields of transformers.TrainingArguments; one that has no effect here is refused.
        skip_unusable: Leave out rows that the model cannot take (a picture or text too large, sound too short, neither
            readable), and count them; by default they are listed and nothing is trained.
        dry_run: Print what the run would take (parameters, data, memory, time) and end; reads no weights.
        model_config: Configuration (JSON) to plan with where the model is not there yet.
    """

    model: str = ""
    alpha: float = 1.0
    temperature: float = 1.0
    divergence: Divergence | None = None
    response_weight: float = 1.0
    hidden_mse_weight: float = 0.0
    ctc_weight: float = 0.5
    soft_dtw_weight: float = 0.0
    on_policy_fraction: float = 0.0


@stage_function(DistillConfig)
def distill(config: DistillConfig) -> dict[str, Any]:
    """Writes `output/model`; with `dry_run` it writes nothing and returns the plan."""
    if not 0 <= config.alpha <= 1:
        raise InputError(f"alpha: {config.alpha} is not between 0 and 1")
    if config.temperature <= 0:
        raise InputError(f"temperature: {config.temperature} is not above 0")
    for name in ("response_weight", "hidden_mse_weight", "ctc_weight", "soft_dtw_weight"):
        if getattr(config, name) < 0:
            raise InputError(f"{name}: {getattr(config, name)}: must not be negative")
    if not 0 <= config.on_policy_fraction <= 1:
        raise InputError(f"on_policy: {config.on_policy_fraction} is not between 0 and 1")
    if config.on_policy_fraction and config.alpha == 0:
        raise InputError("on_policy: the student's own replies are scored by the teacher; alpha 0 leaves that out")
    if config.on_policy_fraction and under_fsdp():  # it shares out what a model does within its forward pass alone
        raise InputError("on_policy: not with FSDP; recipes/accelerate/ddp.yaml or deepspeed_zero2.yaml")
    checkpoint = _checkpoint(config)
    model_config = read_model_config(config.model_config) if checkpoint is None else checkpoint.config
    _check_ears(config, model_config)
    config = resolve_config(config, _recipe(model_config))
    objective = objective_of(config, model_config)
    if not needs_responses(objective):
        _check_without_responses(config, objective)
    if config.dry_run:
        processor = None if checkpoint is None else checkpoint.processor
        rows = rows_of_plan(config, processor, model_config, objective)
        return plan(config, model_config, processor, objective, rows)
    assert checkpoint is not None, "only a dry run can do without a checkpoint"
    check_data(config)
    processor = checkpoint.processor
    start = [("model", path) for path in checkpoint.paths]
    with Run.open(config.output, "distill", config, inputs=lambda: inputs_of(config, *start)) as run:
        if objective.transcript:
            check_vocabulary_coverage(
                folders_of(config.data), model_config.ctc_token_ids or (), processor, NEW_AUDIO_PARTS
            )
        examples, skipped = usable_examples(config, run, processor, model_config, objective)
        return train(run, *checkpoint.load(), examples, config, objective, config.on_policy_fraction, skipped=skipped)


def _recipe(model_config: OmniConfig) -> dict[str, Any]:
    return {"native": NATIVE, "stack": STACKED, "ctc": TOKENS}[model_config.projector_type]


def _check_ears(config: DistillConfig, model_config: OmniConfig) -> None:
    """Raises InputError, before anything is loaded, for what a native omni model's ears do not do."""
    if model_config.projector_type == "native":
        for name in ("spec_augment", "soft_dtw_weight"):
            if getattr(config, name):
                raise InputError(f"{name}: is for a Whisper encoder's ears; a native omni model hears by its own")


def _check_without_responses(config: DistillConfig, objective: LossConfig) -> None:
    """Raises InputError where nothing is learnt from responses, and from what is said nothing can be."""
    if not objective.transcript and not objective.alignment:
        raise InputError(
            "response_weight: 0 leaves nothing to learn from: transcript_weight is for ears that hear tokens, "
            "alignment_weight for any but a native omni model's"
        )
    if config.on_policy_fraction:
        raise InputError("on_policy: the student's own replies are learnt from; response_weight 0 leaves them out")
    check_ctc_only(config.trainable)


def _checkpoint(config: DistillConfig) -> CheckpointInfo | None:
    """The model to start from; None where a dry run has a model configuration for one that does not exist yet."""
    if config.dry_run and config.model_config and not (Path(config.model) / "config.json").is_file():
        return None
    source = config.model or ("" if config.model_config else TINY_MODEL)
    return inspect_checkpoint(source, weights=not config.dry_run)


def objective_of(config: DistillConfig, model_config: OmniConfig) -> LossConfig:
    """The objective that a configuration (`resolve_config`) asks for; a transcript is learnt by ears that hear tokens alone."""
    assert config.divergence is not None, "suited() fills it in"
    return LossConfig(
        config.alpha,
        config.temperature,
        config.divergence,
        config.hidden_mse_weight,
        config.ctc_weight if model_config.ctc_token_ids else 0.0,
        config.soft_dtw_weight,
        config.response_weight,
    )
