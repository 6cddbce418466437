"""Stage 2: the student (audio query) trains on responses (SFT) and on its own teacher (text query): Self-KD."""

import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from selfkd.data.dataset import open_folders
from selfkd.errors import InputError
from selfkd.losses import LossConfig, needs_responses
from selfkd.model.checkpoint import CheckpointInfo, inspect_checkpoint
from selfkd.model.configuration_omni import OmniConfig
from selfkd.model.tiny import TINY_MODEL
from selfkd.run_dir import Run
from selfkd.stage_function import stage_function
from selfkd.training.config import CTC, DISTILL_RECIPES, NATIVE, STACK, DistillConfig
from selfkd.training.data import check_vocabulary_coverage
from selfkd.training.estimate import estimate, read_model_config
from selfkd.training.rollout_engine import RolloutEngine, check_engine, open_rollouts
from selfkd.training.stage import (
    FREE,
    check_ctc_only,
    check_data,
    inputs_of,
    resolve_config,
    rows_to_skip,
    train,
    usable_examples,
    weights_are_sharded,
)
from selfkd.training.validation import Scorer

COVERAGE_REMEDY = "selfkd align with a Whisper as speech_encoder trains a CTC head over the tokens of its data"


@stage_function(DistillConfig)
def distill(config: DistillConfig, score: Scorer | None = None) -> dict[str, Any]:
    """Writes `output/model` and returns the result; with `dry_run` writes nothing and returns the estimate. `score`
    grades what `eval_every` asks for."""
    _check_loss_weights(config)
    checkpoint = _checkpoint(config)
    model_config = read_model_config(config.model_config) if checkpoint is None else checkpoint.config
    _check_native(config, model_config)
    config = resolve_config(config, DISTILL_RECIPES[_recipe_name(model_config)])
    loss_config = loss_config_of(config, model_config)
    _check_layers(config.hidden_mse_layers, model_config)
    if not needs_responses(loss_config):
        _check_without_responses(config, loss_config)
    if config.rollout_engine == "vllm":
        check_engine(model_config, config.trainable, int(os.environ.get("WORLD_SIZE", 1)))
    if config.dry_run:
        processor = None if checkpoint is None else checkpoint.processor
        rows = rows_to_skip(config, processor, model_config, loss_config)
        return estimate(config, model_config, processor, loss_config, rows)
    assert checkpoint is not None, "only a dry run can do without a checkpoint"  # noqa: S101 an invariant of this code, no check of input
    check_data(config)
    processor = checkpoint.processor
    start = [("model", path) for path in checkpoint.paths]
    with Run.open(config.output, "distill", config, FREE, inputs=lambda: inputs_of(config, *start)) as run:
        if loss_config.ctc_weight:
            check_vocabulary_coverage(
                open_folders(config.data), model_config.ctc_token_ids or (), processor, COVERAGE_REMEDY
            )
        examples, skipped = usable_examples(config, run, processor, model_config, loss_config)
        if config.on_policy_fraction and any(row.turns > 1 for row in examples.metadata()):
            raise InputError("on_policy_fraction: not with conversations, whose later turns follow given responses")
        with _rollout_engine(config, checkpoint) as engine:
            return train(
                run, *checkpoint.load(), examples, config, loss_config, skipped=skipped, score=score,
                rollout_engine=engine, on_policy_fraction=config.on_policy_fraction,
                rollout_temperature=config.rollout_temperature,
            )  # fmt: skip


ALIGNMENT_WEIGHTS = ("soft_dtw_weight", "contrastive_weight")  # of losses on audio embeddings


def _check_loss_weights(config: DistillConfig) -> None:
    if not 0 <= config.alpha <= 1:
        raise InputError(f"alpha: {config.alpha} is not between 0 and 1")
    if config.temperature <= 0:
        raise InputError(f"temperature: {config.temperature} is not above 0")
    for name in ("response_weight", "hidden_mse_weight", "ctc_weight", *ALIGNMENT_WEIGHTS):
        if getattr(config, name) < 0:
            raise InputError(f"{name}: {getattr(config, name)}: must not be negative")
    if config.hidden_mse_layers != DistillConfig.hidden_mse_layers and not config.hidden_mse_weight:
        raise InputError("hidden_mse_layers: no effect without hidden_mse_weight")
    if not 0 <= config.on_policy_fraction <= 1:
        raise InputError(f"on_policy_fraction: {config.on_policy_fraction} is not between 0 and 1")
    if not 0 <= config.rollout_temperature <= 2:  # vLLM takes no more
        raise InputError(f"rollout_temperature: {config.rollout_temperature} is not between 0 and 2")
    if config.rollout_sync_steps < 1:
        raise InputError(f"rollout_sync_steps: {config.rollout_sync_steps}: must be at least 1")
    if config.rollout_engine != "transformers" and not config.on_policy_fraction:
        raise InputError("rollout_engine: no effect without on_policy_fraction")
    if config.rollout_engine == "transformers" and config.vllm:
        raise InputError("vllm: has no effect without rollout_engine vllm")
    if config.on_policy_fraction and config.alpha == 0:
        raise InputError("on_policy_fraction: the teacher scores the student's responses; alpha 0 has no teacher")
    if config.on_policy_fraction and weights_are_sharded():  # gathered within a forward pass, not in `generate`
        raise InputError(
            "on_policy_fraction: not with FSDP or ZeRO-3; recipes/accelerate/ddp.yaml or deepspeed_zero2.yaml"
        )


def _rollout_engine(config: DistillConfig, checkpoint: CheckpointInfo) -> AbstractContextManager[RolloutEngine | None]:
    if config.rollout_engine == "transformers":
        return nullcontext()
    return open_rollouts(checkpoint, config.seed, config.vllm, config.rollout_sync_steps)


def _check_layers(hidden_mse_layers: int, model_config: OmniConfig) -> None:
    layers = model_config.get_text_config().num_hidden_layers
    if not 1 <= hidden_mse_layers <= layers:
        raise InputError(f"hidden_mse_layers: {hidden_mse_layers} is not between 1 and the {layers} layers of the LLM")


def _recipe_name(model_config: OmniConfig) -> str:
    return {"native": NATIVE, "stack": STACK, "ctc": CTC}[model_config.projector_type]


def _check_native(config: DistillConfig, model_config: OmniConfig) -> None:
    """Raises InputError, before anything is loaded, for settings that a native omni model does not support."""
    if model_config.projector_type == "native":
        for name in ("spec_augment", *ALIGNMENT_WEIGHTS):
            if getattr(config, name):
                raise InputError(f"{name}: needs a Whisper encoder; a native omni model has its own audio encoder")


def _check_without_responses(config: DistillConfig, loss_config: LossConfig) -> None:
    """Raises InputError for settings that need responses, or that leave no loss at all."""
    if not loss_config.ctc_weight and not any(getattr(loss_config, name) for name in ALIGNMENT_WEIGHTS):
        raise InputError(
            "response_weight: 0 leaves no loss: ctc_weight needs a CTC projector, soft_dtw_weight and "
            "contrastive_weight any model but a native omni model"
        )
    if config.on_policy_fraction:
        raise InputError("on_policy_fraction: trains on the student's responses; response_weight 0 leaves them out")
    check_ctc_only(config.trainable)


def _checkpoint(config: DistillConfig) -> CheckpointInfo | None:
    """The model to start from; None where a dry run has a model configuration for one that does not exist yet."""
    if config.dry_run and config.model_config and not (Path(config.model) / "config.json").is_file():
        return None
    source = config.model or ("" if config.model_config else TINY_MODEL)
    return inspect_checkpoint(source, weights=not config.dry_run)


def loss_config_of(config: DistillConfig, model_config: OmniConfig) -> LossConfig:
    """The loss of a configuration (`resolve_config`); the CTC loss is for models with a CTC projector only."""
    assert config.divergence is not None, "resolve_config() sets it"  # noqa: S101 an invariant of this code, no check of input
    return LossConfig(
        alpha=config.alpha,
        temperature=config.temperature,
        divergence=config.divergence,
        hidden_mse_weight=config.hidden_mse_weight,
        hidden_mse_layers=config.hidden_mse_layers,
        ctc_weight=config.ctc_weight if model_config.ctc_token_ids else 0.0,
        soft_dtw_weight=config.soft_dtw_weight,
        contrastive_weight=config.contrastive_weight,
        response_weight=config.response_weight,
    )
