"""`SelfKDTrainer`: `transformers.Trainer` with the loss of Self-KD."""

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
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from selfkd.data.dataset import Examples, Mixture, example_metadata
from selfkd.data.example import Example
from selfkd.errors import InputError
from selfkd.files import follow_umask, sync, write_text
from selfkd.losses import LossConfig, needs_responses, needs_teacher
from selfkd.model.modeling_omni import OmniModel
from selfkd.model.processing_omni import OmniProcessor
from selfkd.progress import Progress
from selfkd.run_dir import append_log, read_log
from selfkd.training.config import AudioTurns
from selfkd.training.data import PairedCollator, PairedDataset
from selfkd.training.rollout import rollout, until_end, with_responses
from selfkd.training.rollout_engine import RolloutEngine, engine_prompts
from selfkd.training.sampler import CostSampler, StepBatches, token_cost
from selfkd.training.self_kd import FrozenTeacher, paired_loss
from selfkd.training.spec_augment import augment_mel
from selfkd.training.weight_averaging import WeightAverage

TRAINED = "trained.safetensors"
COMPLETE = "complete"  # the last file of a checkpoint, written once all others are on the disk
ON_POLICY = "on_policy"  # key of a batch whose responses are the student's
# arguments of DataLoader that TrainingArguments hold under the prefix "dataloader_"
_LOADING = ("num_workers", "pin_memory", "persistent_workers", "prefetch_factor", "multiprocessing_context", "in_order")
MAX_NEW_TOKENS = 16  # of a rollout, or the length of the longest response in its batch if that is longer


class SelfKDTrainer(Trainer):
    """A `transformers.Trainer` that minimizes the loss of a `LossConfig` over response tokens; in the paper (arXiv
    2503.00059) L = alpha * KL(teacher || student) + (1 - alpha) * SFT.

    The sum over a step is divided by the number of response tokens of the whole step, over accumulation and ranks, so
    batches of 8 x 1 and 2 x 4 give the same loss. The teacher runs only where the loss needs it.

    Args:
        model: The student. `selfkd.training.trainable.set_trainable` chooses the parts that train.
        args: `transformers.TrainingArguments`.
        examples: The training data.
        processor: The model's processor.
        loss_config: The weights of the loss.
        spec_augment: Strength of the augmentation of log-mel frames, sampled for every example and step; 0 is off.
        on_policy_fraction: Share of the steps that train on the student's own responses in place of the data's.
        rollout_temperature: Of those responses; 0 is greedy.
        rollout_engine: What generates them in place of the model itself.
        average: Callback that leaves the model with the mean of its weights over the last steps.
        projector_learning_rate: Learning rate of the projector where it differs from that of the other parts.
        audio_turns: The user turns of a conversation that are audio in the student.
        trainer_arguments: Further arguments of `transformers.Trainer`.
    """

    def __init__(
        self,
        model: OmniModel,
        args: TrainingArguments,
        examples: Sequence[Example],
        processor: OmniProcessor,
        loss_config: LossConfig,
        spec_augment: float = 0.0,
        on_policy_fraction: float = 0.0,
        rollout_temperature: float = 1.0,
        rollout_engine: RolloutEngine | None = None,
        average: WeightAverage | None = None,
        projector_learning_rate: float | None = None,
        audio_turns: AudioTurns = "all",
        **trainer_arguments: Any,
    ):
        # a copy of the weights before training; a resumed run loads its trained weights after this
        has_own_teacher = needs_teacher(loss_config) and model.llm_trains
        self.teacher = FrozenTeacher(model, loss_config.hidden_mse_layers) if has_own_teacher else None
        args.remove_unused_columns = False  # our items are no columns
        if args.n_gpu > 1:  # DataParallel would split a batch from the images that its rows share
            print(f"{args.n_gpu} GPUs are visible, one is used; accelerate launch uses them all")
            args._n_gpu = 1
        _check_head(model)
        super().__init__(
            model,
            args,
            data_collator=PairedCollator(processor),
            train_dataset=PairedDataset(examples, processor, model.context, needs_responses(loss_config), audio_turns),
            **trainer_arguments,
        )
        self.examples, self.processor = examples, processor
        self.loss_config: LossConfig = loss_config
        self.spec_augment, self.on_policy_fraction, self.average = spec_augment, on_policy_fraction, average
        self.rollout_temperature, self.rollout_engine = rollout_temperature, rollout_engine
        self.projector_learning_rate = projector_learning_rate
        if average:
            self.add_callback(average)
        self.model_accepts_loss_kwargs = True  # compute_loss gets the global count of response tokens
        self._loss_shifts_labels = False  # our labels hold response tokens only, and all of them count
        self._terms: dict[str, float] = {}  # sums since the last log entry
        self._staleness: list[int] = []  # of the rollouts since then, in steps

    def get_train_dataloader(self) -> DataLoader:
        """The Trainer's, with the batches of `StepBatches`; accelerate's batches would repeat examples."""
        args, dataset = self.args, cast(PairedDataset, self.train_dataset)
        batches = StepBatches(self._get_train_sampler(), args.train_batch_size, args.world_size)
        settings = {name: getattr(args, f"dataloader_{name}") for name in _LOADING}
        loader = DataLoader(dataset, batch_sampler=batches, collate_fn=self.data_collator, **settings)
        return self.accelerator.prepare(loader)

    def _get_train_sampler(self, train_dataset=None) -> CostSampler:
        step_size = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        if isinstance(self.examples, Examples):  # without reading images
            sketches = self.examples.metadata()
        else:
            sketches = [example_metadata(example) for example in self.examples]
        epoch = self.examples.epoch if isinstance(self.examples, Mixture) else None
        if needs_responses(self.loss_config):
            sizes = {(s.width, s.height) for s in sketches}
            image_tokens = {size: self.processor.image_tokens(*size) for size in sizes}
            costs = [token_cost(s, image_tokens[s.width, s.height]) for s in sketches]
            self._sampler = CostSampler(costs, step_size, seed, [s.image for s in sketches], epoch)
        else:  # only speech encoder and projector run
            self._sampler = CostSampler([s.speech_seconds for s in sketches], step_size, seed, epoch=epoch)
        return self._sampler

    def create_optimizer(self, model=None):
        """The Trainer's, with the projector's own learning rate."""
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
        # with several processes neither transformers nor accelerate sets the epoch of a resumed run on the sampler
        self._sampler.set_epoch(kwargs["epoch"])
        if self.state.global_step >= self.state.max_steps:  # a run with all its steps whose model was not saved yet
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """(the batches of a step, augmented or with on-policy responses; the number of their response tokens)."""
        if self.spec_augment:
            epoch_iterator = map(self._augmented, epoch_iterator)
        if self.on_policy_fraction and self._random("policy").random() < self.on_policy_fraction:
            epoch_iterator = (self._on_policy(inputs, num_batches == 1) for inputs in epoch_iterator)
        return super().get_batch_samples(epoch_iterator, num_batches, device)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        with self.accelerator.autocast():
            teacher = self.teacher(inputs) if self.teacher else None
        # SFT on the student's own responses would reinforce its mistakes: those have the KD term only
        loss_config = replace(self.loss_config, alpha=1.0) if inputs.get(ON_POLICY) else self.loss_config
        loss = model(paired=inputs, loss_function=partial(paired_loss, loss_config=loss_config, teacher=teacher))
        if not torch.isfinite(loss.total):
            raise InputError(
                f"the loss of step {self.state.global_step + 1} is {loss.total.item()}; "
                f"examples {', '.join(inputs['ids'])}. What was saved before is kept; a lower learning_rate may help"
            )
        if inputs["is_stand_in"]:  # the model runs because all processes must; the gradient is zero
            loss = loss._replace(total=0 * loss.total, terms={name: 0 * term for name, term in loss.terms.items()})
        count = loss.tokens if num_items_in_batch is None else num_items_in_batch
        response_terms = {"kd": loss.kd} if needs_teacher(loss_config) else {}
        response_terms |= {"sft": loss.sft} if needs_responses(loss_config) else {}
        for name, value in {**response_terms, **loss.terms, "tokens": loss.tokens}.items():
            self._terms[name] = self._terms.get(name, 0.0) + float(value)
        # DDP and FSDP average gradients over ranks; the loss is a sum over ranks divided by the global count
        ranks = 1 if num_items_in_batch is None else self.accelerator.num_processes
        mean = loss.total * ranks / count
        return (mean, {}) if return_outputs else mean

    def _augmented(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The batch with augmented log-mel frames, random by seed, step and example id: the clips of a conversation are
        of one speaker."""
        names = [name for name, clips in zip(inputs["ids"], inputs["clips"], strict=True) for _ in range(clips)]
        seeds = [self._random(f"voices/{name}").getrandbits(63) for name in names]
        generators, audio = [torch.Generator().manual_seed(seed) for seed in seeds], inputs["audio_inputs"]
        mel_BFM = augment_mel(audio["input_features"], audio["feature_attention_mask"], generators, self.spec_augment)
        return inputs | {"audio_inputs": audio | {"input_features": mel_BFM}}

    def _on_policy(self, inputs: dict[str, Any], keep_prefix: bool) -> dict[str, Any]:
        """The batch with the student's own responses. `keep_prefix` keeps the encoded images, for a step of one
        batch."""
        if inputs["is_stand_in"]:
            return inputs
        inputs = self._prepare_inputs(inputs)
        length, temperature = max(MAX_NEW_TOKENS, inputs["labels"].shape[1]), self.rollout_temperature
        model, end_id = self.accelerator.unwrap_model(self.model), self.processor.end_id
        if self.rollout_engine:
            examples = [self.examples[i] for i in inputs["indices"]]
            seeds = [self._random(f"replies/{i}/{at}").getrandbits(31) for at, i in enumerate(inputs["ids"])]
            with self.accelerator.autocast():
                prompts = engine_prompts(model, self.processor, inputs, examples)
            stale = self.rollout_engine.synchronize(model, self.processor, self.state.global_step)
            responses = self.rollout_engine.generate(prompts, end_id, length, temperature, seeds)
            self._staleness.append(stale)
            responses_R = [torch.tensor(ids, device=inputs["labels"].device) for ids in responses]
            return with_responses(inputs, [until_end(row, end_id) for row in responses_R]) | {ON_POLICY: True}
        devices = [self.args.device] if self.args.device.type == "cuda" else []
        with self.accelerator.autocast(), torch.random.fork_rng(devices):
            torch.manual_seed(self._random(f"replies/{inputs['ids'][0]}").getrandbits(63))
            rolled = rollout(model, inputs, end_id, length, temperature)
        return {name: v for name, v in rolled.items() if name != "prefix" or keep_prefix} | {ON_POLICY: True}

    def _random(self, key: str) -> random.Random:
        """Random numbers that depend on key, seed and step only: the same on every rank and after a resume."""
        return random.Random(f"{key}/{self.args.seed}/{self.state.global_step}")  # noqa: S311 seeded, for the same data in every run; nothing secret

    def _save_checkpoint(self, model, trial) -> None:
        checkpoints = str(self.args.output_dir)
        folder = Path(checkpoints) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        if self.average:
            self.average.save(folder, self.accelerator.unwrap_model(self.model), self.args.should_save)
        # the Trainer would delete older checkpoints before this one is on the disk
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        self.accelerator.wait_for_everyone()  # each process has files of its own in the folder
        if self.args.should_save:
            sync(folder)
            write_text(folder / COMPLETE, "")
            sync(folder.parent, recursive=False)
            rotate_checkpoints(output_dir=checkpoints, save_total_limit=limit, use_mtime=True)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """Saves trainable weights only; frozen ones are unchanged in the model that the run started from."""
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
                f"{path}: its weights are not the trainable ones ({different[0]}, {len(different)} in all)"
            )
        whole.load_state_dict(saved, strict=False)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self._terms:
            own = torch.tensor(list(self._terms.values()), device=self.args.device)
            *sums, tokens = self.accelerator.reduce(own, "sum").tolist()
            logs |= {f"{name}_per_token": value / tokens for name, value in zip(self._terms, sums, strict=False)}
            self._terms.clear()
        if self._staleness and "loss" in logs:
            logs["rollout_staleness"] = sum(self._staleness) / len(self._staleness)
            self._staleness.clear()
        super().log(logs, start_time)


def _check_head(model: OmniModel) -> None:
    """Raises InputError for a model whose logits are not hidden states x head, as the losses compute them."""
    text = model.config.get_text_config()
    for name in ("logits_scaling", "logit_scale"):  # of Granite, of Cohere
        if (scale := getattr(text, name, None)) not in (None, 1):
            raise InputError(
                f"model: its {name} of {scale} would be left out of the loss; such models cannot train yet"
            )
    if getattr(model.get_output_embeddings(), "bias", None) is not None:
        raise InputError("model: its head has a bias, which would be left out of the loss; it cannot train yet")


class ShowProgress(TrainerCallback):
    """Shows the steps and the loss, in place of the dictionaries that the Trainer prints."""

    def __init__(self, shown: Progress):
        self.shown = shown

    def on_train_begin(self, args, state, control, **kwargs):
        self.shown.resume_at(state.global_step)

    def on_step_end(self, args, state, control, **kwargs):
        self.shown.advance()

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs and "loss" in logs:
            self.shown.advance(0, f"loss {logs['loss']:.4g}")


class RunLog(TrainerCallback):
    """Writes the Trainer's metrics to the run's log: means over the last `steps`, and the seconds that these took."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.has_begun = False  # a step; what a resumed training reads is read before

    def on_step_begin(self, args, state, control, **kwargs):
        self.has_begun = True

    def on_train_begin(self, args, state, control, **kwargs):
        self.since, self.step = time.monotonic(), state.global_step
        self.logged = {entry["step"]: entry.get("steps", 1) for entry in read_log(self.folder) if "loss" in entry}

    def on_log(self, args, state, control, logs=None, **kwargs):
        if logs and "loss" in logs and state.is_world_process_zero:
            now = time.monotonic()
            values = {k: float(v) for k, v in logs.items()} | {"seconds": now - self.since}
            values = {"step": state.global_step, "steps": state.global_step - self.step, **values}
            self.since, self.step = now, state.global_step
            # a step that was logged before the run was killed, and is repeated because its checkpoint was not written
            if self.logged.get(values["step"], 0) < values["steps"]:
                append_log(self.folder, values)


def mean_loss_and_seconds(folder: Path) -> dict[str, float]:
    """`final_loss`, the mean over the steps in the run's log, and their `seconds`, over all resumes; {} without log
    entries."""
    entries = [entry for entry in read_log(folder) if "loss" in entry]
    if not entries:
        return {}
    loss = sum(e["steps"] * e["loss"] for e in entries) / sum(e["steps"] for e in entries)
    return {"final_loss": loss, "seconds": sum(e["seconds"] for e in entries)}
