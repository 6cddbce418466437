"""`transformers.Trainer` with the loss of Self-KD."""

import random
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from selfkd.data.dataset import Examples, Mixture, sketch
from selfkd.data.example import Example
from selfkd.errors import InputError
from selfkd.files import follow_umask
from selfkd.losses import LossConfig, needs_responses, needs_teacher
from selfkd.model.modeling_omni import OmniModel
from selfkd.model.processing_omni import OmniProcessor
from selfkd.run_dir import append_log, read_log
from selfkd.training.data import CostSampler, PairedCollator, PairedDataset, StepBatches, token_cost
from selfkd.training.rollout import rollout
from selfkd.training.self_kd import FrozenTeacher, paired_loss
from selfkd.training.spec_augment import augmented
from selfkd.training.weight_averaging import WeightAverage

TRAINED = "trained.safetensors"
ON_POLICY_HINT = "own_words"  # in a batch: its responses are the student's
# arguments of DataLoader that TrainingArguments have with "dataloader_" before the name
_LOADING = ("num_workers", "pin_memory", "persistent_workers", "prefetch_factor", "multiprocessing_context", "in_order")
MAX_NEW_TOKENS = 16  # of a roll-out, or as many as the longest response of its batch


class SelfKDTrainer(Trainer):
    """The loss of an `LossConfig` over response tokens: L = alpha * KL(teacher || student) + (1 - alpha) * SFT in the
    paper (arXiv 2503.00059). With `spec_augment` every clip is of another speaker each time. A share
    `on_policy_fraction` of the steps learns on the student's own replies in place of the data's. With an `average` the model
    ends with the means of its weights over the last steps. The projector may have a rate of its own.

    The sum over a step is divided by the number of response tokens of the whole step, over accumulation and ranks, so
    that 8 x 1 and 2 x 4 give the same loss. A teacher is run only where the objective asks one.
    """

    def __init__(
        self,
        model: OmniModel,
        args: TrainingArguments,
        examples: Sequence[Example],
        processor: OmniProcessor,
        objective: LossConfig,
        spec_augment: float = 0.0,
        on_policy_fraction: float = 0.0,
        average: WeightAverage | None = None,
        projector_learning_rate: float | None = None,
        **trainer_arguments: Any,
    ):
        # the weights as they are now, if they are to change; a resumed run loads what it has learnt after this
        self.teacher = FrozenTeacher(model) if needs_teacher(objective) and model.llm_trains else None
        args.remove_unused_columns = False  # our items are no columns
        if args.n_gpu > 1:  # DataParallel would cut a batch apart from the pictures that its rows share
            print(f"{args.n_gpu} GPUs are visible, one is used; accelerate launch uses them all")
            args._n_gpu = 1
        _check_head(model)
        super().__init__(
            model,
            args,
            data_collator=PairedCollator(processor),
            train_dataset=PairedDataset(examples, processor, model.context, needs_responses(objective)),
            **trainer_arguments,
        )
        self.examples, self.processor = examples, processor
        self.objective: LossConfig = objective
        self.spec_augment, self.on_policy_fraction, self.average = spec_augment, on_policy_fraction, average
        self.projector_learning_rate = projector_learning_rate
        if average:
            self.add_callback(average)
        self.model_accepts_loss_kwargs = True  # the Trainer hands us the global count of response tokens
        self._loss_shifts_labels = False  # our labels are the response alone: every one of them counts
        self._parts: dict[str, float] = {}

    def get_train_dataloader(self) -> DataLoader:
        """As the Trainer's, but for the batches: `StepBatches` in place of accelerate's, which repeat examples."""
        args, dataset = self.args, cast(PairedDataset, self.train_dataset)
        batches = StepBatches(self._get_train_sampler(), args.train_batch_size, args.world_size)
        how = {name: getattr(args, f"dataloader_{name}") for name in _LOADING}
        loader = DataLoader(dataset, batch_sampler=batches, collate_fn=self.data_collator, **how)
        return self.accelerator.prepare(loader)

    def _get_train_sampler(self, train_dataset=None) -> CostSampler:
        a_step = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        if isinstance(self.examples, Examples):  # without reading a picture
            known = self.examples.sketches()
        else:
            known = [sketch(example) for example in self.examples]
        taken = self.examples.epoch if isinstance(self.examples, Mixture) else None
        if needs_responses(self.objective):
            image_tokens = {size: self.processor.image_tokens(*size) for size in {(s.width, s.height) for s in known}}
            costs = [token_cost(s, image_tokens[s.width, s.height]) for s in known]
            self._sampler = CostSampler(costs, a_step, seed, [s.image for s in known], taken)
        else:  # the ears alone are run
            self._sampler = CostSampler([s.speech_seconds for s in known], a_step, seed, taken=taken)
        return self._sampler

    def create_optimizer(self, model=None):
        """As the Trainer's, but for the projector's rate."""
        optimizer = super().create_optimizer(model)
        if self.projector_learning_rate is None:
            return optimizer
        whole = self.accelerator.unwrap_model(self.model if model is None else model)
        projector = {id(p) for module in whole.part("projector") for p in module.parameters()}
        for group in list(optimizer.param_groups):
            own = [p for p in group["params"] if id(p) in projector]
            if own:
                group["params"] = [p for p in group["params"] if id(p) not in projector]
                optimizer.add_param_group({**group, "params": own, "lr": self.projector_learning_rate})
        optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]
        return optimizer

    def _run_epoch(self, *args, **kwargs) -> None:
        # neither transformers nor accelerate reaches the sampler of several processes in an epoch that is resumed
        self._sampler.set_epoch(kwargs["epoch"])
        if self.state.global_step >= self.state.max_steps:  # a run that had come to its end and was not saved yet
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """The batches of a step as they are learnt from, and the number of their response tokens."""
        if self.spec_augment:
            epoch_iterator = map(self._augmented, epoch_iterator)
        if self.on_policy_fraction and self._drawn("policy").random() < self.on_policy_fraction:
            epoch_iterator = (self._rolled_out(inputs, num_batches == 1) for inputs in epoch_iterator)
        return super().get_batch_samples(epoch_iterator, num_batches, device)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        with self.accelerator.autocast():
            teacher = self.teacher(inputs) if self.teacher else None
        # the student's own words are nothing to imitate: of those the teacher alone speaks
        objective = replace(self.objective, alpha=1.0) if inputs.get(ON_POLICY_HINT) else self.objective
        loss = model(paired=inputs, loss_function=partial(paired_loss, objective=objective, teacher=teacher))
        if not torch.isfinite(loss.total):
            raise InputError(
                f"the loss of step {self.state.global_step + 1} is {loss.total.item()}; "
                f"examples {', '.join(inputs['ids'])}. What was saved before is kept; a lower learning_rate may help"
            )
        if inputs["stands_in"]:  # run for its part in what the processes do together; its gradient is zero
            loss = loss._replace(total=0 * loss.total, terms={name: 0 * term for name, term in loss.terms.items()})
        count = loss.tokens if num_items_in_batch is None else num_items_in_batch
        of_responses = {"kd": loss.kd} if needs_teacher(objective) else {}
        of_responses |= {"sft": loss.sft} if needs_responses(objective) else {}
        for name, value in {**of_responses, **loss.terms, "tokens": loss.tokens}.items():
            self._parts[name] = self._parts.get(name, 0.0) + float(value)
        # DDP and FSDP average the ranks' gradients; ours is a sum over all of them, divided by the count of all
        ranks = 1 if num_items_in_batch is None else self.accelerator.num_processes
        mean = loss.total * ranks / count
        return (mean, {}) if return_outputs else mean

    def _augmented(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The same with other voices. What is drawn for an example depends on seed, step and example alone."""
        seeds = [self._drawn(f"voices/{name}").getrandbits(63) for name in inputs["ids"]]
        generators, heard = [torch.Generator().manual_seed(seed) for seed in seeds], inputs["audio_inputs"]
        mel_BFM = augmented(heard["mel_BFM"], heard["mel_mask_BM"], generators, self.spec_augment)
        return inputs | {"audio_inputs": heard | {"mel_BFM": mel_BFM}}

    def _rolled_out(self, inputs: dict[str, Any], keep_prefix: bool) -> dict[str, Any]:
        """The same with the student's own replies; what was read of the pictures is kept for a step of one batch."""
        if inputs["stands_in"]:
            return inputs
        inputs = self._prepare_inputs(inputs)
        length = max(MAX_NEW_TOKENS, inputs["labels"].shape[1])
        devices = [self.args.device] if self.args.device.type == "cuda" else []
        with self.accelerator.autocast(), torch.random.fork_rng(devices):
            torch.manual_seed(self._drawn(f"replies/{inputs['ids'][0]}").getrandbits(63))
            rolled = rollout(self.accelerator.unwrap_model(self.model), inputs, self.processor.end_id, length)
        return {name: v for name, v in rolled.items() if name != "prefix" or keep_prefix} | {ON_POLICY_HINT: True}

    def _drawn(self, what: str) -> random.Random:
        """Chance that depends on seed and step alone: the same on every rank, and after a resume."""
        return random.Random(f"{what}/{self.args.seed}/{self.state.global_step}")

    def _save_checkpoint(self, model, trial) -> None:
        if self.average:  # first: a checkpoint that has the Trainer's state is whole
            folder = Path(str(self.args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            self.average.save(folder, self.accelerator.unwrap_model(self.model), self.args.should_save)
        super()._save_checkpoint(model, trial)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """A checkpoint holds what trains; the rest is, to the bit, in the model that the run started from."""
        if not self.args.should_save:
            return
        model = self.accelerator.unwrap_model(self.model)
        weights = model.state_dict() if state_dict is None else state_dict
        trained = {name: weights[name].contiguous() for name, p in model.named_parameters() if p.requires_grad}
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        save_file(trained, folder / TRAINED)
        follow_umask(folder / TRAINED)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        path = Path(resume_from_checkpoint) / TRAINED
        if not path.is_file():  # FSDP and DeepSpeed keep shards of their own
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        whole = self.accelerator.unwrap_model(self.model if model is None else model)
        saved, trained = load_file(path), {name for name, p in whole.named_parameters() if p.requires_grad}
        if set(saved) != trained:
            different = sorted(set(saved) ^ trained)
            raise InputError(
                f"{path}: holds other weights than those that train ({different[0]}, {len(different)} in all)"
            )
        whole.load_state_dict(saved, strict=False)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if self._parts and "loss" in logs:
            own = torch.tensor(list(self._parts.values()), device=self.args.device)
            *sums, tokens = self.accelerator.reduce(own, "sum").tolist()
            logs |= {f"{name}_per_token": value / tokens for name, value in zip(self._parts, sums, strict=False)}
        self._parts.clear()
        super().log(logs, start_time)


def _check_head(model: OmniModel) -> None:
    """Raises InputError where a model makes other logits of its hidden states than the losses do (hidden x head)."""
    text = model.config.get_text_config()
    for name in ("logits_scaling", "logit_scale"):  # of Granite, of Cohere
        if (scale := getattr(text, name, None)) not in (None, 1):
            raise InputError(
                f"model: its {name} of {scale} would be left out of the loss; such models cannot train yet"
            )
    if getattr(model.get_output_embeddings(), "bias", None) is not None:
        raise InputError("model: its head has a bias, which would be left out of the loss; it cannot train yet")


class RunLog(TrainerCallback):
    """Writes the Trainer's figures to the run's log, means over the last `steps`, with the seconds that these took."""

    def __init__(self, folder: Path):
        self.folder = folder

    def on_train_begin(self, args, state, control, **kwargs):
        self.since, self.step = time.monotonic(), state.global_step

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs and "loss" in logs and state.is_world_process_zero:
            now = time.monotonic()
            values = {k: float(v) for k, v in logs.items()} | {"seconds": now - self.since}
            values = {"step": state.global_step, "steps": state.global_step - self.step, **values}
            self.since, self.step = now, state.global_step
            append_log(self.folder, values)


def mean_loss_and_seconds(folder: Path) -> dict[str, float]:
    """Of a whole run, however often it was resumed: the mean over the steps that its log has, and their time; empty
    where it has none."""
    entries = [entry for entry in read_log(folder) if "loss" in entry]
    if not entries:
        return {}
    loss = sum(e["steps"] * e["loss"] for e in entries) / sum(e["steps"] for e in entries)
    return {"final_loss": loss, "seconds": sum(e["seconds"] for e in entries)}
