"""Each field of TrainingArguments and LoraConfig has an effect or is refused."""

import copy
from dataclasses import MISSING, fields
from pathlib import Path

import pytest
import torch
from examples import toy_examples
from peft import LoraConfig
from transformers import TrainingArguments

from selfkd.errors import InputError
from selfkd.losses import LossConfig
from selfkd.model.lora import add_adapters
from selfkd.training.arguments import OWN_FIELDS, SUPPORTED, SUPPORTED_LORA
from selfkd.training.config import CTC, DISTILL_RECIPES, DistillConfig
from selfkd.training.stage import resolve_config, training_arguments
from selfkd.training.trainable import set_trainable
from selfkd.training.trainer import SelfKDTrainer

RECIPE = DISTILL_RECIPES[CTC]


def config(**changes):
    given = {"data": [], "output": Path("run"), "trainable": ["projector", "llm_adapters"], "steps": 2, "batch_size": 2}
    return DistillConfig(**given | {"warmup_steps": 0} | changes)


def other_than(value):
    """A value that differs from a field's default."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return {"a": 1} if isinstance(value, dict) else "something"


def default_of(field):
    return field.default if field.default_factory is MISSING else field.default_factory()


UNSUPPORTED = [
    (where, field)
    for where, kind, supported in (
        ("training", TrainingArguments, SUPPORTED | set(OWN_FIELDS)),
        ("lora", LoraConfig, SUPPORTED_LORA),
    )
    for field in fields(kind)
    if field.name not in supported
]


def test_unsupported_fields_are_refused():
    """All fields of the installed versions, hence any new field of another version."""
    for where, field in UNSUPPORTED:
        with pytest.raises(InputError, match=rf"^{where}\.{field.name}: "):
            resolve_config(config(**{where: {field.name: other_than(default_of(field))}}), RECIPE)
    for where in ("training", "lora"):
        defaults = {field.name: default_of(field) for kind, field in UNSUPPORTED if kind == where}
        resolve_config(config(**{where: defaults}), RECIPE)


def test_supported_fields_exist():
    known = {f.name for f in fields(TrainingArguments)}
    later = {"activation_checkpointing", "activation_checkpointing_kwargs"}  # in transformers 5.16: gradient_...
    assert known | later >= SUPPORTED and not SUPPORTED & set(OWN_FIELDS)
    assert {f.name for f in fields(LoraConfig)} >= SUPPORTED_LORA


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": {"label_smoothing_factor": 0.5}}, "training.label_smoothing_factor: has no effect"),
        ({"training": {"neftune_noise_alpha": 5}}, "training.neftune_noise_alpha: has no effect"),
        ({"training": {"torch_compile": True}}, "training.torch_compile: the Trainer would compile the whole step"),
        ({"training": {"use_liger_kernel": True}}, "training.use_liger_kernel: liger knows no model of this type"),
        ({"training": {"accelerator_config": {"split_batches": True}}}, "training.accelerator_config: "),
        ({"training": {"deepspeed": "z2.json"}}, "training.deepspeed: accelerate launch --config_file"),
        (
            {"training": {"optim": "sgd", "adam_beta1": 0.5}},
            "training.adam_beta1: 0.5: has no effect on the optimizer sgd",
        ),
        (
            {"training": {"optim_args": "momentum=0.9"}},
            "training.optim_args: .*: has no effect on the optimizer adamw_torch_fused",
        ),
        ({"training": {"optim": "galore_adamw"}}, "training.optim: galore_adamw"),
        ({"training": {"optim": "nothing"}}, "training: nothing is not a valid OptimizerNames"),
        (
            {"training": {"lr_scheduler_type": "reduce_lr_on_plateau"}},
            "training.*(evaluation|eval)",
        ),
        (
            {"training": {"lr_scheduler_kwargs": {"nope": 1}}},
            "lr_scheduler_kwargs: .*: the schedule constant_with_warmup takes",
        ),
        ({"training": {"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"nope": 1}}}, "training: .*nope"),
        (
            {"training": {"gradient_checkpointing_kwargs": {"offload": True}}},
            "no effect without training.gradient_check",
        ),
        (
            {"training": {"dataloader_persistent_workers": True, "dataloader_num_workers": 0}},
            "needs training.dataloader_n",
        ),
        ({"training": {"save_strategy": "best"}}, "training.save_strategy: best"),
        ({"lora": {"bias": "all"}}, "lora.bias: only the adapters train"),
        ({"lora": {"init_lora_weights": "pissa"}}, "lora.init_lora_weights: 'pissa': true, false or gaussian"),
        ({"lora": {"r": 4}, "trainable": ["projector"]}, "lora: is for trainable llm_adapters"),
    ],
)
def test_refused_settings_are_named_with_the_reason(changes, message):
    with pytest.raises(InputError, match=message):
        resolve_config(config(**changes), RECIPE)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU trains in fp16")
def test_fp16_is_refused_on_a_cpu():
    with pytest.raises(InputError, match=r"training.fp16: there is no GPU here"):
        resolve_config(config(training={"fp16": True, "bf16": False}), RECIPE)


@pytest.fixture(scope="module")
def trained(parts, tmp_path_factory):
    """A function: settings -> trainable weights after two steps with them."""
    model, processor = parts
    folder, examples = tmp_path_factory.mktemp("trained"), toy_examples(4)

    def weights(**changes):
        torch.manual_seed(0)
        settings, student = resolve_config(config(output=folder, **changes), RECIPE), copy.deepcopy(model)
        set_trainable(student, settings.trainable, settings.lora)
        arguments = training_arguments(settings)
        arguments.save_strategy = "no"
        SelfKDTrainer(student, arguments, examples, processor, LossConfig(0.5)).train()
        return [p.detach() for p in student.parameters() if p.requires_grad]

    return weights


CHANGES = [
    {"weight_decay": 0.9}, {"adam_beta1": 0.1}, {"adam_beta2": 0.5}, {"adam_epsilon": 0.1}, {"max_grad_norm": 1e-6},
    {"optim": "sgd"}, {"optim": "sgd", "optim_args": "momentum=0.9"}, {"gradient_accumulation_steps": 2},
    {"lr_scheduler_type": "polynomial", "lr_scheduler_kwargs": {"power": 3}}, {"lr_scheduler_type": "linear"},
    {"bf16": True},
]  # fmt: skip


@pytest.mark.slow
def test_supported_settings_change_the_weights(trained):
    """Each setting gives other weights than the plain run and than each other setting."""
    found = [trained()] + [trained(training=change) for change in CHANGES]
    lora = [{"use_rslora": True}, {"lora_alpha": 3}, {"init_lora_weights": False}, {"init_lora_weights": "gaussian"}]
    lora += [{"alpha_pattern": {"q_proj": 3}}, {"lora_dropout": 0.5}]
    found += [trained(lora={"r": 16, "lora_alpha": 32} | change) for change in lora]
    for i, weights in enumerate(found):
        for others in found[:i]:
            assert any(not torch.equal(a, b) for a, b in zip(weights, others, strict=True)), i
    assert all(torch.equal(a, b) for a, b in zip(found[0], trained(), strict=True))


@pytest.mark.parametrize(
    ("lora", "kept"),
    [
        ({"target_modules": ["q_proj"]}, "q_proj"),
        ({"exclude_modules": ["q_proj"]}, "v_proj"),
        ({"rank_pattern": {"q_proj": 2}}, "q_proj"),
    ],
)
def test_adapters_are_on_the_modules_that_lora_selects(parts, lora, kept):
    vlm = copy.deepcopy(parts[0].vlm)
    add_adapters(vlm, {"r": 8} | lora)
    names = [n for n, _ in vlm.named_parameters() if "lora_A" in n]
    selected = [n for n in names if kept in n]
    if "rank_pattern" in lora:
        assert {vlm.get_parameter(n).shape[0] for n in selected} == {2} and len(names) > len(selected)
    elif "exclude_modules" in lora:
        assert selected and not any("q_proj" in n for n in names)
    else:
        assert names == selected
