"""Which fields of `transformers.TrainingArguments` and `peft.LoraConfig` have an effect on training; others are
refused.

Loss, batches and frozen parts are selfkd's own, so many fields would be accepted and recorded without effect. A field
that is not listed here, also one of a newer version, is refused unless it has its default value.
"""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import Any

import torch
from peft import LoraConfig
from transformers import Trainer, TrainingArguments, get_scheduler

from selfkd.errors import InputError

# field of TrainingArguments -> field of TrainConfig
OWN_FIELDS = {
    "max_steps": "steps",
    "num_train_epochs": "steps",
    "output_dir": "output",
    "seed": "seed",
    "data_seed": "seed",
}
OWN_FIELDS |= {"per_device_train_batch_size": "batch_size"}
OWN_FIELDS |= {name: name for name in ("learning_rate", "warmup_steps", "save_steps", "report_to")}
_OPTIMIZER_FIELDS = ("adam_beta1", "adam_beta2", "adam_epsilon", "optim_args")  # each has an effect on some optimizers
_WORKER_FIELDS = ("dataloader_multiprocessing_context", "dataloader_persistent_workers", "dataloader_prefetch_factor")
SUPPORTED = {
    *_OPTIMIZER_FIELDS, *_WORKER_FIELDS,
    # optimization
    "bf16", "fp16", "full_determinism", "gradient_accumulation_steps", "lr_scheduler_kwargs", "lr_scheduler_type",
    "max_grad_norm", "optim", "tf32", "weight_decay",
    # devices and cost
    "activation_checkpointing", "activation_checkpointing_kwargs", "dataloader_num_workers", "dataloader_pin_memory",
    "ddp_backend", "ddp_broadcast_buffers", "ddp_bucket_cap_mb", "ddp_find_unused_parameters", "ddp_timeout",
    "gradient_checkpointing", "gradient_checkpointing_kwargs", "torch_empty_cache_steps", "use_cpu",
    # logs and checkpoints
    "log_level", "log_level_replica", "log_on_each_node", "logging_first_step", "logging_steps",
    "logging_strategy", "project", "run_name", "save_on_each_node", "save_strategy", "save_total_limit",
    "trackio_bucket_id", "trackio_space_id", "trackio_static_space_id",
}  # fmt: skip
_REASONS = dict.fromkeys(
    ("eval_strategy", "do_eval", "eval_steps"), "eval_every scores held-out questions during training"
)
_REASONS |= dict.fromkeys(
    ("fsdp", "fsdp_config", "deepspeed"), "accelerate launch --config_file, as in recipes/accelerate"
)
_REASONS |= dict.fromkeys(
    ("use_liger_kernel", "liger_kernel_config"),
    "liger knows no model of this type, so the Trainer would apply no kernel",
)
_REASONS |= dict.fromkeys(
    ("torch_compile", "torch_compile_backend", "torch_compile_mode"),
    "the Trainer would compile the whole step; compiled layers are measured by experiments/step_cost.py --variants",
)
_REASONS |= {
    "average_tokens_across_devices": "the loss is divided by the response tokens of all processes",
    "dataloader_drop_last": "each example is used once an epoch, and the last step is shorter",
    "push_to_hub": "selfkd publish uploads a trained model",
}
SUPPORTED_LORA = {
    "r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "use_rslora", "init_lora_weights",
    "rank_pattern", "alpha_pattern",
}  # fmt: skip
_LORA_REASONS = dict.fromkeys(("bias", "modules_to_save"), "only the adapters train; the rest of the LLM is frozen")


def check_training(given: Mapping[str, Any], arguments: Callable[[Mapping[str, Any]], TrainingArguments]) -> None:
    """Raises InputError naming the first unsupported field in `given`, fields of TrainingArguments; `arguments(given)`
    makes TrainingArguments of them."""
    for name in given:
        if name in OWN_FIELDS:  # other settings derive from our field
            raise InputError(f"training.{name}: set the field {OWN_FIELDS[name]} instead")
    _refuse_unsupported("training", TrainingArguments, given, SUPPORTED, _REASONS)
    if given.get("gradient_accumulation_steps", 1) < 1:
        raise InputError("training.gradient_accumulation_steps: must be at least 1")
    for kind in ("activation_checkpointing", "gradient_checkpointing"):
        settings = given.get(f"{kind}_kwargs")
        if (settings or {}).get("use_reentrant"):
            raise InputError(
                f"training.{kind}_kwargs.use_reentrant: true: a layer's adapters would not be restored in recomputation"
            )
        if settings and not given.get(kind):
            raise InputError(f"training.{kind}_kwargs: has no effect without training.{kind}")
    made = _checked(lambda: arguments(given))  # before the model is loaded
    optimizer = _optimizer(made)
    _check_scheduler(made)
    for name in _OPTIMIZER_FIELDS:
        if name not in given or given[name] == _default(TrainingArguments, name):
            continue
        if _optimizer(arguments({field: given[field] for field in given if field != name})) == optimizer:
            raise InputError(f"training.{name}: {given[name]!r}: has no effect on the optimizer {made.optim.value}")
    if made.fp16 and not torch.cuda.is_available():
        raise InputError("training.fp16: there is no GPU here, and a CPU trains in bf16 or fp32")
    if given.get("save_strategy") == "best":
        raise InputError("training.save_strategy: best: checkpoints are of the last steps; see eval_every")
    if made.dataloader_num_workers == 0 and (found := [name for name in _WORKER_FIELDS if given.get(name)]):
        raise InputError(f"training.{found[0]}: needs training.dataloader_num_workers")


def check_lora(given: Mapping[str, Any]) -> None:
    """Raises InputError naming the first unsupported field in `given`, fields of LoraConfig."""
    _refuse_unsupported("lora", LoraConfig, given, SUPPORTED_LORA, _LORA_REASONS)
    if given.get("init_lora_weights", True) not in (True, False, "gaussian"):
        # PiSSA and similar methods change the base weights, which the teacher uses too
        raise InputError(f"lora.init_lora_weights: {given['init_lora_weights']!r}: true, false or gaussian")


def _checked(make: Callable[[], Any]) -> Any:
    """The result of `make`; raises InputError for the errors that these libraries raise."""
    try:
        return make()
    except (ImportError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"training: {str(error).strip().splitlines()[0]}") from error


def _optimizer(arguments: Any) -> tuple[Any, Any]:
    """(class, settings) of the optimizer; raises InputError for one that does not step on the model's own weights."""
    name = arguments.optim.value
    if any(kind in name for kind in ("galore", "apollo", "lomo", "schedule_free")):
        raise InputError(f"training.optim: {name}: optimizes projected weights, or steps within the backward pass")
    return _checked(lambda: Trainer.get_optimizer_cls_and_kwargs(arguments))


def _check_scheduler(arguments: Any) -> None:
    kind, settings = arguments.lr_scheduler_type, arguments.lr_scheduler_kwargs
    if kind in ("reduce_lr_on_plateau", "greedy"):
        raise InputError(f"training.lr_scheduler_type: {kind.value}: needs evaluation during training")
    if kind in ("constant", "constant_with_warmup") and settings:
        raise InputError(f"training.lr_scheduler_kwargs: {settings}: the schedule {kind.value} takes none")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 1.0)
    steps = int(arguments.warmup_steps), arguments.max_steps
    _checked(lambda: get_scheduler(kind, optimizer, *steps, settings))


def _refuse_unsupported(
    where: str, kind: type, given: Mapping[str, Any], supported: set[str], reasons: Mapping[str, str]
) -> None:
    known = {f.name for f in fields(kind)}
    for name, value in given.items():
        if name not in known:
            raise InputError(f"{where}.{name}: {kind.__module__.partition('.')[0]}.{kind.__name__} has no such field")
        if name not in supported and value != _default(kind, name):
            reason = reasons.get(name, "has no effect on this training, or an untested one")
            raise InputError(f"{where}.{name}: {reason} (given: {value!r})")


def _default(kind: type, name: str) -> Any:
    found = next(f for f in fields(kind) if f.name == name)
    return found.default if found.default_factory is MISSING else found.default_factory()
