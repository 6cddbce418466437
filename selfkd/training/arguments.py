"""Which fields of `transformers.TrainingArguments` and `peft.LoraConfig` training honours.

Loss, batches and what is frozen are our own, so many a field would be taken, written down, and without effect. Any
field that does not stand here, those of newer versions too, is refused where it is not what it is by default.
"""

from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import Any

import torch
from peft import LoraConfig
from transformers import Trainer, TrainingArguments, get_scheduler

from selfkd.errors import InputError

# fields of TrainingArguments -> ours
OURS = {"max_steps": "steps", "num_train_epochs": "steps", "output_dir": "output", "seed": "seed", "data_seed": "seed"}
OURS |= {"per_device_train_batch_size": "batch_size"}
OURS |= {name: name for name in ("learning_rate", "warmup_steps", "save_steps")}
_OF_OPTIMIZER = ("adam_beta1", "adam_beta2", "adam_epsilon", "optim_args")  # each of some optimizers alone
_OF_WORKERS = ("dataloader_multiprocessing_context", "dataloader_persistent_workers", "dataloader_prefetch_factor")
HONOURED = {
    *_OF_OPTIMIZER, *_OF_WORKERS,
    # what is learnt
    "bf16", "fp16", "full_determinism", "gradient_accumulation_steps", "lr_scheduler_kwargs", "lr_scheduler_type",
    "max_grad_norm", "optim", "tf32", "weight_decay",
    # where and at what cost
    "activation_checkpointing", "activation_checkpointing_kwargs", "dataloader_num_workers", "dataloader_pin_memory",
    "ddp_backend", "ddp_broadcast_buffers", "ddp_bucket_cap_mb", "ddp_find_unused_parameters", "ddp_timeout",
    "gradient_checkpointing", "gradient_checkpointing_kwargs", "torch_empty_cache_steps", "use_cpu",
    # what is written
    "disable_tqdm", "log_level", "log_level_replica", "log_on_each_node", "logging_first_step", "logging_steps",
    "logging_strategy", "project", "report_to", "run_name", "save_on_each_node", "save_strategy", "save_total_limit",
    "trackio_bucket_id", "trackio_space_id", "trackio_static_space_id",
}  # fmt: skip
_WHY = dict.fromkeys(("eval_strategy", "do_eval"), "nothing is asked in training; selfkd evaluate asks what came of it")
_WHY |= dict.fromkeys(("fsdp", "fsdp_config", "deepspeed"), "accelerate launch --config_file, as in recipes/accelerate")
_WHY |= {
    "average_tokens_across_devices": "the loss is divided by the response tokens of all processes",
    "dataloader_drop_last": "each example is taken once an epoch, and the last step is shorter",
    "push_to_hub": "selfkd publish uploads a trained model",
}
HONOURED_OF_LORA = {
    "r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "use_rslora", "init_lora_weights",
    "rank_pattern", "alpha_pattern",
}  # fmt: skip
_WHY_OF_LORA = dict.fromkeys(
    ("bias", "modules_to_save"), "the adapters alone train; the rest of the LLM stays as it is"
)


def check_training(given: Mapping[str, Any], arguments: Callable[[Mapping[str, Any]], TrainingArguments]) -> None:
    """Raises InputError naming the first of these fields of TrainingArguments that is not honoured; `arguments(given)`
    makes TrainingArguments of them."""
    for name in given:
        if name in OURS:  # what else follows from them would not
            raise InputError(f"training.{name}: is said by the field {OURS[name]}")
    _refuse_others("training", TrainingArguments, given, HONOURED, _WHY)
    if given.get("gradient_accumulation_steps", 1) < 1:
        raise InputError("training.gradient_accumulation_steps: must be at least 1")
    for kind in ("activation_checkpointing", "gradient_checkpointing"):
        settings = given.get(f"{kind}_kwargs")
        if (settings or {}).get("use_reentrant"):
            raise InputError(
                f"training.{kind}_kwargs.use_reentrant: true: a layer's adapters would not be as they were"
            )
        if settings and not given.get(kind):
            raise InputError(f"training.{kind}_kwargs: without training.{kind} nothing has them")
    made = _tried(lambda: arguments(given))  # now, and not when the model has been read
    of_optimizer = _optimizer(made)
    _check_scheduler(made)
    for name in _OF_OPTIMIZER:
        if name not in given or given[name] == _default(TrainingArguments, name):
            continue
        if _optimizer(arguments({field: given[field] for field in given if field != name})) == of_optimizer:
            raise InputError(f"training.{name}: {given[name]!r}: the optimizer {made.optim.value} does not have it")
    if made.fp16 and not torch.cuda.is_available():
        raise InputError("training.fp16: there is no GPU here, and a CPU trains in bf16 or fp32")
    if given.get("save_strategy") == "best":
        raise InputError(
            "training.save_strategy: best: nothing is asked in training; all checkpoints are of the last steps"
        )
    if made.dataloader_num_workers == 0 and (found := [name for name in _OF_WORKERS if given.get(name)]):
        raise InputError(f"training.{found[0]}: needs training.dataloader_num_workers")


def check_lora(given: Mapping[str, Any]) -> None:
    """Raises InputError naming the first of these fields of LoraConfig that is not honoured."""
    _refuse_others("lora", LoraConfig, given, HONOURED_OF_LORA, _WHY_OF_LORA)
    if given.get("init_lora_weights", True) not in (True, False, "gaussian"):
        # PiSSA and its kind begin with other weights in the layers themselves, which are the teacher's too
        raise InputError(f"lora.init_lora_weights: {given['init_lora_weights']!r}: true, false or gaussian")


def _tried(make: Callable[[], Any]) -> Any:
    """What `make` returns; raises InputError where it fails, as these libraries do, in many ways."""
    try:
        return make()
    except (ImportError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"training: {str(error).strip().splitlines()[0]}") from error


def _optimizer(arguments: Any) -> tuple[Any, Any]:
    """Class and settings; raises InputError for one whose weights are not those that the model has."""
    name = arguments.optim.value
    if any(kind in name for kind in ("galore", "apollo", "lomo", "schedule_free")):
        raise InputError(f"training.optim: {name}: steps over weights of its own, or within the backward pass")
    return _tried(lambda: Trainer.get_optimizer_cls_and_kwargs(arguments))


def _check_scheduler(arguments: Any) -> None:
    kind, settings = arguments.lr_scheduler_type, arguments.lr_scheduler_kwargs
    if kind in ("reduce_lr_on_plateau", "greedy"):
        raise InputError(f"training.lr_scheduler_type: {kind.value}: follows what an evaluation says")
    if kind in ("constant", "constant_with_warmup") and settings:
        raise InputError(f"training.lr_scheduler_kwargs: {settings}: the schedule {kind.value} has none")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 1.0)
    steps = int(arguments.warmup_steps), arguments.max_steps
    _tried(lambda: get_scheduler(kind, optimizer, *steps, settings))


def _refuse_others(
    where: str, kind: type, given: Mapping[str, Any], honoured: set[str], why: Mapping[str, str]
) -> None:
    known = {f.name for f in fields(kind)}
    for name, value in given.items():
        if name not in known:
            raise InputError(f"{where}.{name}: {kind.__module__.partition('.')[0]}.{kind.__name__} has no such field")
        if name not in honoured and value != _default(kind, name):
            reason = why.get(name, "has no effect on this training, or one that was not tried")
            raise InputError(f"{where}.{name}: {reason} (given: {value!r})")


def _default(kind: type, name: str) -> Any:
    found = next(f for f in fields(kind) if f.name == name)
    return found.default if found.default_factory is MISSING else found.default_factory()
