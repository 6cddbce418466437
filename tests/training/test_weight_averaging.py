"""Weight averaging: the arithmetic mean over the last steps, in fp32, also over a resume."""

import pytest
import torch
from examples import toy_examples, training_start
from transformers import TrainerCallback, TrainerState

from selfkd.errors import InputError
from selfkd.losses import LossConfig
from selfkd.model.checkpoint import load_model
from selfkd.training.distill import DistillConfig
from selfkd.training.stage import training_arguments
from selfkd.training.trainable import freeze_all_but
from selfkd.training.trainer import SelfKDTrainer
from selfkd.training.weight_averaging import STEPS, WeightAverage


class EachStep(TrainerCallback):
    """The weights of a layer after each step."""

    def __init__(self):
        self.weights, self.rates = [], []

    def on_step_end(self, args, state, control, model=None, lr_scheduler=None, **kwargs):
        self.weights.append(model.projector.linear_out.weight.detach().clone())
        self.rates.append(lr_scheduler.get_last_lr()[0])


def trained(parts, tmp_path, steps, average):
    start = training_start(parts, tmp_path)
    model, processor = load_model(start / "model")
    freeze_all_but(model, ["projector"])
    how = {"steps": steps, "batch_size": 2, "learning_rate": 2e-3, "warmup_steps": 1, "weight_averaging": 0.5}
    settings = DistillConfig([], tmp_path / "run", **how)
    each_step, arguments = EachStep(), training_arguments(settings)
    how = {"average": average, "callbacks": [each_step]}
    SelfKDTrainer(model, arguments, toy_examples(8), processor, LossConfig(0.5), **how).train()
    return model, each_step


def test_the_trained_model_has_the_mean_of_the_last_steps(parts, tmp_path):
    model, each_step = trained(parts, tmp_path, 6, WeightAverage(after=3))
    mean = torch.stack(each_step.weights[3:]).mean(0)
    assert (each_step.weights[3] - each_step.weights[5]).abs().max() > 1e-4
    torch.testing.assert_close(model.projector.linear_out.weight.detach(), mean, rtol=0, atol=1e-6)
    assert each_step.rates == [2e-3] * 6  # else the last steps would hardly count


def test_means_of_bfloat16_weights_are_in_float32():
    model, average = torch.nn.Linear(1, 1, bias=False).to(torch.bfloat16), WeightAverage(after=0)
    state = TrainerState(global_step=1)
    for step in range(1000):  # their mean is 1.001953125; in bf16 a thousandth of a step would be lost
        torch.nn.init.constant_(model.weight, 1.0 if step % 4 else 1.0078125)
        average.on_step_end(None, state, None, model)
    assert average.means["weight"].item() == pytest.approx(1.001953125, abs=1e-6)


def test_a_checkpoint_without_the_means_is_refused(tmp_path):
    model, average = torch.nn.Linear(2, 2), WeightAverage(after=1, checkpoint=str(tmp_path))
    state = TrainerState(global_step=3)
    with pytest.raises(InputError, match=r"averaged-0.safetensors: not the means of the trainable weights"):
        average.on_train_begin(None, state, None, model)
    before = WeightAverage(after=1)
    for _ in range(2):
        before.on_step_end(None, state, None, model)
    before.save(tmp_path, model, main_process=True)
    average.on_train_begin(None, state, None, model)
    assert average.steps == 2 and STEPS not in average.means
    assert all(torch.equal(average.means[name], p) for name, p in model.named_parameters())
