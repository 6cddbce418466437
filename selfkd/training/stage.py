"""The common part of both training stages: examples -> a trained `OmniModel` in a run directory. An interrupted run
resumes and ends in the same bytes."""

import atexit
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from torch import Tensor
from transformers import PrinterCallback, ProgressCallback, TrainingArguments, set_seed
from transformers.integrations import TensorBoardCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import get_last_checkpoint
from typing_extensions import TypedDict

from selfkd.data.dataset import Examples, open_folders, open_mixture, split_weight
from selfkd.data.example import MANIFEST, Example
from selfkd.errors import InputError, reason_of
from selfkd.files import is_disk_full, write_folder_atomically
from selfkd.input_hashes import hashes_of_checkpoint, hashes_of_data
from selfkd.json_files import read_json
from selfkd.losses import LossConfig, needs_responses
from selfkd.model.backbones import Source
from selfkd.model.configuration_omni import OmniConfig
from selfkd.model.fast_linear import fast_linear
from selfkd.model.kept_frames import keep_frames
from selfkd.model.modeling_omni import OmniModel
from selfkd.model.processing_omni import OmniProcessor
from selfkd.progress import progress
from selfkd.run_dir import MODEL, Run, append_log, is_main_process, read_log
from selfkd.training.arguments import check_lora, check_training
from selfkd.training.config import ADAPTERS, AUDIO_PARTS, LORA, TRAINABLE, TrainConfig
from selfkd.training.trainable import set_trainable
from selfkd.training.trainer import COMPLETE, RunLog, SelfKDTrainer, ShowProgress, mean_loss_and_seconds
from selfkd.training.usable_rows import Use, by_folder, checked_rows, find_unusable, skip_unusable_rows, unusable_text
from selfkd.training.validation import Scorer, Validation
from selfkd.training.weight_averaging import WeightAverage

CHECKPOINTS = "checkpoints"  # subfolder of the run
TENSORBOARD = "tensorboard"  # a value of `report_to`, and a subfolder of the run
VALIDATION_TOKENS = 48  # of a response
FREE = ("report_to",)  # a run resumes with other values of these


C = TypeVar("C", bound=TrainConfig)


def resolve_config(config: C, recipe: Mapping[str, Any]) -> C:
    """The configuration with its open fields (None or []) from a recipe; raises InputError for invalid settings."""
    config = replace(config, **{name: value for name, value in recipe.items() if getattr(config, name) in (None, [])})
    unknown = [part for part in config.trainable if part not in TRAINABLE]
    if unknown:
        raise InputError(f"trainable: {unknown}; choose among {', '.join(TRAINABLE)}")
    if config.weight_averaging is not None and not 0 <= config.weight_averaging <= 1:
        raise InputError(f"weight_averaging: {config.weight_averaging} is not between 0 and 1")
    for name in ("spec_augment", "warmup_steps"):
        if (getattr(config, name) or 0) < 0:
            raise InputError(f"{name}: {getattr(config, name)}: must not be negative")
    for name in ("learning_rate", "projector_learning_rate"):
        rate = getattr(config, name, None)
        if rate is not None and not rate > 0:
            raise InputError(f"{name}: {rate}: must be above 0")
    if {"llm", ADAPTERS} <= set(config.trainable):
        raise InputError(f"trainable: llm and {ADAPTERS} exclude each other")
    if "llm" in config.trainable and under_fsdp():
        # a layer runs twice in a step, on prefix and continuation, and FSDP2 frees it after the first backward pass
        raise InputError(
            "trainable: llm: not with FSDP; recipes/accelerate/deepspeed_zero2.yaml shards trained weights"
        )
    if config.device_kind is not None and not config.dry_run:
        raise InputError("device_kind: has no effect without dry_run")
    for name in ("steps", "batch_size", "save_steps"):
        if getattr(config, name) < 1:
            raise InputError(f"{name}: {getattr(config, name)}: must be at least 1")
    _check_validation(config)
    check_lora(config.lora)
    if config.lora != LORA and ADAPTERS not in config.trainable:
        raise InputError(f"lora: is for trainable {ADAPTERS}")
    check_training(config.training, lambda given: training_arguments(replace(config, training=dict(given))))
    return config


def _check_validation(config: TrainConfig) -> None:
    if config.eval_every < 0:
        raise InputError(f"eval_every: {config.eval_every}: must not be negative")
    if bool(config.eval_every) != bool(config.eval_data):
        given, other = ("eval_every", "eval_data") if config.eval_every else ("eval_data", "eval_every")
        raise InputError(f"{given}: has no effect without {other}")
    trained = {split_weight(entry)[0].resolve() for entry in config.data}
    if both := [entry for entry in config.eval_data if split_weight(entry)[0].resolve() in trained]:
        raise InputError(f"eval_data: {both[0]}: is in data too; hold out other questions")
    if config.eval_every and (under_fsdp() or under_deepspeed()):
        raise InputError("eval_every: wants the whole weights on each process; not with FSDP or DeepSpeed")


def check_ctc_only(trainable: Sequence[str]) -> None:
    """Raises InputError where parts are to train that CTC-only training does not run."""
    idle = [part for part in trainable if part not in AUDIO_PARTS]
    if idle:
        raise InputError(f"trainable: {idle[0]}: does not train in CTC-only training, which runs no LLM")


def under_fsdp() -> bool:
    return os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"


def under_deepspeed() -> bool:
    return os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true"


def weights_are_sharded() -> bool:
    """Whether no process has the whole weights: under FSDP and under DeepSpeed's ZeRO-3."""
    return under_fsdp() or (under_deepspeed() and os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE") == "3")


def check_data(config: TrainConfig) -> None:
    """Raises InputError where `data` does not name folders with examples."""
    open_mixture(config.data, config.seed)


def usable_examples(
    config: TrainConfig, run: Run, processor: OmniProcessor, model_config: OmniConfig, loss_config: LossConfig
) -> tuple[Examples, dict[str, Any]]:
    """(examples to train on, counts of the skipped rows for the result). Raises InputError that lists the rows which
    the model cannot take, unless `skip_unusable`; reads no weights."""
    use = use_of(config, processor, model_config, loss_config)
    positions, counts = skip_unusable_rows(run.folder, open_folders(config.data), use, config.skip_unusable)
    return open_mixture(config.data, config.seed, positions), counts


def rows_to_skip(
    config: TrainConfig, processor: OmniProcessor | None, model_config: OmniConfig, loss_config: LossConfig
) -> dict[Path, list[int]]:
    """{folder: positions of the rows that the run would skip}; raises InputError as the run would. Empty where model or
    data do not exist yet."""
    paths = [split_weight(entry)[0] for entry in config.data]
    if processor is None or not all((path / MANIFEST).is_file() for path in paths):
        return {}
    use = use_of(config, processor, model_config, loss_config)
    return by_folder(checked_rows(open_folders(config.data), use, config.skip_unusable))


def use_of(config: TrainConfig, processor: OmniProcessor, model_config: OmniConfig, loss_config: LossConfig) -> Use:
    """What training needs of a row."""
    ctc_tokens = frozenset(model_config.ctc_token_ids or ()) if loss_config.ctc_weight else None
    with_image = needs_responses(loss_config)
    use = Use(processor, model_config.context, trains=True, with_image=with_image, ctc_tokens=ctc_tokens)
    return replace(use, audio_turns=config.audio_turns)


def inputs_of(config: TrainConfig, *checkpoints: tuple[str, Source]) -> dict[str, Any]:
    """The inputs of a run besides `config`: hashes of its data and of the checkpoints (field, source) that it starts
    from, and the number of processes, because each adds a batch to a step."""
    found: dict[str, Any] = {"processes": int(os.environ.get("WORLD_SIZE", 1))}
    found |= hashes_of_data({str(folder.folder): folder for folder in open_folders(config.data + config.eval_data)})
    for field_and_source in checkpoints:
        found |= hashes_of_checkpoint(*field_and_source)
    return found


def loader_workers() -> int:
    """Data loader workers of this process. With a GPU one for each core, at most 8: InternVL2 takes 0.1 s of a core for
    a photograph. Without a GPU none: a worker would compete with the compute threads for the same cores."""
    if not torch.cuda.is_available():
        return 0
    return max(1, min(8, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))


def training_arguments(config: TrainConfig, dtype: torch.dtype = torch.float32) -> TrainingArguments:
    """Our settings, overridden by `config.training`; `dtype` is the model's."""
    workers = config.training.get("dataloader_num_workers", loader_workers())
    settings: dict[str, Any] = {
        "output_dir": str(config.output / CHECKPOINTS),
        "max_steps": config.steps,
        "per_device_train_batch_size": config.batch_size,
        "learning_rate": config.learning_rate,
        # averaging needs weights that still change
        "lr_scheduler_type": "constant_with_warmup" if config.weight_averaging else "cosine",
        "warmup_steps": config.warmup_steps,
        "weight_decay": 0.01,
        "save_steps": config.save_steps,
        "save_total_limit": 1,
        "logging_steps": max(1, config.steps // 40),
        "dataloader_num_workers": workers,
        "dataloader_persistent_workers": workers > 0,  # workers keep prepared items over epochs
        "use_cpu": not torch.cuda.is_available(),
        # a bf16 model with trainable parts in fp32 needs autocast
        "bf16": dtype == torch.bfloat16 or (torch.cuda.is_available() and torch.cuda.is_bf16_supported()),
        "report_to": [name for name in config.report_to if name != TENSORBOARD] or "none",
        "run_name": config.output.name,
        "seed": config.seed,
        "data_seed": config.seed,
        "average_tokens_across_devices": True,
        "ddp_find_unused_parameters": False,
    }
    return TrainingArguments(**{**settings, **config.training})


class _TrainerControlFile(TypedDict):
    TrainerControl: dict[str, Any]


class _TrainerStateFile(TypedDict):
    """What the Trainer reads of its state, and uses in later steps only."""

    global_step: int
    epoch: float
    max_steps: int
    num_train_epochs: int
    logging_steps: float
    save_steps: float
    total_flos: float
    log_history: list[dict[str, Any]]
    stateful_callbacks: _TrainerControlFile


def train(
    run: Run,
    model: OmniModel,
    processor: OmniProcessor,
    examples: Sequence[Example],
    config: TrainConfig,
    loss_config: LossConfig,
    projector_learning_rate: float | None = None,
    skipped: Mapping[str, Any] | None = None,
    check: Callable[[OmniModel, OmniProcessor], dict[str, Any]] | None = None,
    score: Scorer | None = None,
    **on_policy: Any,
) -> dict[str, Any]:
    """Trains `config.trainable`, saves the model under the run, and returns the run's result, with `skipped` (counts of
    skipped rows) and, as `held_out`, what `check` finds in it. Where ranks hold shards of the weights, nothing is
    checked. `score` is for `eval_every`; `on_policy` are the arguments of `SelfKDTrainer` for the student's own
    responses."""
    set_seed(config.seed)
    arguments = training_arguments(config, model.dtype)
    if arguments.bf16 and arguments.device.type == "cpu":  # the backward pass of fused attention takes 3x as long there
        model.set_attn_implementation("eager")
    dtypes = {name: parameter.dtype for name, parameter in model.named_parameters()}
    trained_parameters = set_trainable(model, config.trainable, config.lora)
    if under_fsdp():  # accelerate refuses names of layers that are not there: Whisper's encoder names its decoder's
        present = {type(module).__name__ for module in model.modules()}
        model._no_split_modules = set(model._no_split_modules or ()) & present
    checkpoint = last_checkpoint(config.output / CHECKPOINTS)
    if checkpoint:
        read_json(Path(checkpoint) / TRAINER_STATE_NAME, _TrainerStateFile)
    average, log = None, RunLog(run.folder)
    if skipped and checkpoint is None and is_main_process():
        append_log(run.folder, {"step": 0, "steps": 0, **skipped})
    try:
        if config.weight_averaging:
            average = WeightAverage(config.steps - max(1, round(config.weight_averaging * config.steps)), checkpoint)
        title = f"{run.folder.name}: training"
        # augmented frames do not come a second time, and an encoder in shards cannot be hashed
        keeps = not config.spec_augment and not weights_are_sharded()
        frames = keep_frames() if keeps else nullcontext()
        products = nullcontext() if weights_are_sharded() else fast_linear()  # ZeRO-3 has linear layers of its own
        with frames, products, progress(title, config.steps, "steps", shown=is_main_process()) as shown:
            trainer = SelfKDTrainer(
                model, arguments, examples, processor, loss_config, config.spec_augment or 0.0, average=average,
                projector_learning_rate=projector_learning_rate, audio_turns=config.audio_turns,
                callbacks=[log, ShowProgress(shown)], **on_policy,
            )  # fmt: skip
            for others in (PrinterCallback, ProgressCallback):
                trainer.remove_callback(others)
            validation = None
            if config.eval_every:
                validation = _validation(trainer, run, config, score)
                trainer.add_callback(validation)  # after the average of the weights, which it scores
            if TENSORBOARD in config.report_to:
                trainer.add_callback(tensorboard_callback(run.folder / TENSORBOARD))
            outcome = trainer.train(resume_from_checkpoint=checkpoint)
    except torch.OutOfMemoryError as error:
        raise InputError(
            f"{error} (batch_size is {config.batch_size}; a smaller one with training.gradient_accumulation_steps "
            "gives the same loss, training.activation_checkpointing takes less memory and more time)"
        ) from error
    except Exception as error:
        if checkpoint is None or log.has_begun or isinstance(error, InputError) or is_disk_full(error):
            raise
        raise InputError(
            f"{checkpoint}: cannot be resumed from ({reason_of(error)}); remove it, and the same command starts again"
        ) from error
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)  # gathered where ranks hold shards
    result: dict[str, Any] = {
        "examples": len(examples),
        "steps": outcome.global_step,
        "trained_parameters": trained_parameters,
        **(skipped or {}),
    } | ({} if validation is None else {"validation": validation.result()})
    if is_main_process():
        seconds = outcome.metrics["train_runtime"]  # for a run too short to have log entries
        result |= {"final_loss": outcome.training_loss, "seconds": seconds} | mean_loss_and_seconds(run.folder)
        shutil.rmtree(run.folder / MODEL, ignore_errors=True)  # from a process that was stopped before `run.finish`
        with write_folder_atomically(run.folder / MODEL) as folder:
            model.save_pretrained(folder, state_dict=in_dtypes(weights, dtypes))
            processor.save_pretrained(folder)
        if check is not None:
            sharded = {"reason": "ranks hold shards of the weights; selfkd evaluate measures the saved model"}
            result["held_out"] = sharded if weights_are_sharded() else check(model, processor)
        run.finish(**result, inputs=run.inputs)
        print(f"{run.folder / MODEL}: {outcome.global_step:,} steps{_last_losses(run.folder)}")
        shutil.rmtree(config.output / CHECKPOINTS, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()
    # at exit, because the process may train again; never later: threads of a live group can abort an ending interpreter
    atexit.register(PartialState().destroy_process_group)
    return result


def _validation(trainer: SelfKDTrainer, run: Run, config: TrainConfig, score: Scorer | None) -> Validation:
    """Raises InputError for held-out questions that the model cannot take."""
    if score is None:
        raise InputError("eval_every: needs a grader; selfkd.align and selfkd.distill have one")
    folders = open_folders(config.eval_data)
    model = trainer.accelerator.unwrap_model(trainer.model)
    use = Use(trainer.processor, model.context, new_tokens=VALIDATION_TOKENS)
    if found := find_unusable([(folder, None) for folder in folders], use):
        raise InputError(f"eval_data: {unusable_text(found, sum(map(len, folders)))}")
    return Validation(trainer, run.folder, config.output / CHECKPOINTS, folders, config.eval_every, score)


def tensorboard_callback(folder: Path) -> TensorBoardCallback:
    """Writes into `folder`; raises InputError where there is no tensorboard."""
    try:
        callback = TensorBoardCallback()
    except RuntimeError as error:
        raise InputError("report_to: tensorboard: is not installed; pip install tensorboard") from error
    callback.logging_dir = str(folder)
    return callback


def _last_losses(folder: Path) -> str:
    """The last ones in a run's log, as a second line: `loss 0.5 (sft 0.7, kd 0.2 per token)`."""
    entries = [entry for entry in read_log(folder) if "loss" in entry]
    if not entries:
        return ""
    ending = "_per_token"
    terms = [f"{k.removesuffix(ending)} {v:.4g}" for k, v in entries[-1].items() if k.endswith(ending)]
    return f"\n  loss {entries[-1]['loss']:.4g} ({', '.join(terms)} per token)"


def in_dtypes(weights: Mapping[str, Tensor], dtypes: Mapping[str, torch.dtype]) -> dict[str, Tensor]:
    """Weights in the dtypes that they were loaded in: trainable parts of a bf16 model are in fp32. Tied weights stay
    tied."""
    known = [(weights[name], dtype) for name, dtype in dtypes.items() if name in weights]
    restored = {weight.data_ptr(): weight.to(dtype) for weight, dtype in known}
    return {name: restored.get(weight.data_ptr(), weight) for name, weight in weights.items()}


def last_checkpoint(folder: Path) -> str | None:
    """The newest complete checkpoint; deletes incomplete ones."""
    for path in sorted(folder.glob("checkpoint-*")):
        if not (path / COMPLETE).is_file():
            shutil.rmtree(path, ignore_errors=True)
    return get_last_checkpoint(str(folder)) if folder.is_dir() else None
