"""The configurations of `selfkd align` and `selfkd distill`, with the recipe of each projector. Imports no torch:
`--help` reads them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from selfkd.loss_config import Divergence, LossConfig

ADAPTERS = "llm_adapters"
LORA = {"r": 16, "lora_alpha": 32}  # default fields of peft.LoraConfig
AUDIO_PARTS = ("projector", "speech_encoder")
TRAINABLE = (*AUDIO_PARTS, ADAPTERS, "llm")

AudioTurns = Literal["all", "last"]
Tracker = Literal["tensorboard", "wandb", "mlflow"]
DeviceKindName = Literal["h200", "h100", "a100", "l40s", "rtx4090", "a10", "cpu"]
Recipe = dict[str, Any]  # {field: its value where the configuration leaves it open}

_STACK: Recipe = {"trainable": ["projector"], "learning_rate": 2e-3, "spec_augment": 0.0, "weight_averaging": 0.0}
_CTC: Recipe = {
    "trainable": list(AUDIO_PARTS),
    "learning_rate": 1e-4,  # a pretrained encoder forgets other voices at higher rates
    "spec_augment": 1.0,
    "weight_averaging": 1 / 3,
}
STACK, CTC, NEW_CTC, NATIVE = "frame-stacking projector", "CTC projector", "new CTC head", "native omni model"
ALIGN_RECIPES: dict[str, Recipe] = {
    STACK: _STACK,
    CTC: _CTC,
    # one rate for both does not work: a new head learns nothing at 1e-4, a pretrained encoder forgets at 3e-3
    NEW_CTC: _CTC | {"projector_learning_rate": 3e-3},
}
DISTILL_RECIPES: dict[str, Recipe] = {  # `docs/method.md` has the measurements behind them
    STACK: _STACK | {"divergence": "forward"},
    CTC: _CTC | {"divergence": "jensen_shannon"},
    NATIVE: _STACK | {"divergence": "forward", "learning_rate": 1e-4},  # its projector is trained already
}

T = TypeVar("T")


def describe_recipes(recipes: Mapping[str, Recipe]) -> Callable[[type[T]], type[T]]:
    """Class decorator: in the docstring, `{recipe.FIELD}` becomes the field's value in each of the recipes."""

    def describe(config: type[T]) -> type[T]:
        for name in {name for recipe in recipes.values() for name in recipe}:
            text = recipe_values(recipes, name)
            config.__doc__ = (config.__doc__ or "").replace(f"{{recipe.{name}}}", text)
        return config

    return describe


def recipe_values(recipes: Mapping[str, Recipe], name: str) -> str:
    """`0.002 (frame-stacking projector), 0.0004 (CTC projector)`: a field's value in each recipe that has it."""
    by_value: dict[str, list[str]] = {}
    for recipe, values in recipes.items():
        if name in values:
            by_value.setdefault(_value_text(values[name]), []).append(recipe)
    return ", ".join(f"{value} ({', '.join(names)})" for value, names in by_value.items())


def _value_text(value: Any) -> str:
    if isinstance(value, list):
        return " and ".join(value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)


@dataclass
class TrainConfig:
    """The fields of both training stages; `training` holds further fields of `transformers.TrainingArguments`.

    A field that is None or an empty list takes its value from the recipe of the projector (`resolve_config`).
    """

    data: list[str]
    output: Path
    trainable: list[str] = field(default_factory=list)
    steps: int = 300
    batch_size: int = 32
    learning_rate: float | None = None
    warmup_steps: int = 30
    save_steps: int = 200
    seed: int = 0
    spec_augment: float | None = None
    weight_averaging: float | None = None
    lora: dict[str, Any] = field(default_factory=lambda: dict(LORA))
    report_to: list[Tracker] = field(default_factory=list)
    eval_data: list[str] = field(default_factory=list)
    eval_every: int = 0
    training: dict[str, Any] = field(default_factory=dict)
    audio_turns: AudioTurns = "all"
    skip_unusable: bool = False
    dry_run: bool = False
    model_config: str = ""
    device_kind: DeviceKindName | None = None


@describe_recipes(ALIGN_RECIPES)
@dataclass
class AlignConfig(TrainConfig):
    """Stage 1: audio-text alignment of speech encoder and projector, the vision-language model frozen.

    A CTC projector trains on the CTC loss only, without running the LLM. A frame-stacking projector (`--projector
    stack`, the paper baseline) trains through the frozen LLM, which repeats the utterance.

    Args:
        data: Folders of synthesized sentences (selfkd synthesize --source words) or questions; FOLDER:WEIGHT mixes
            them by weight.
        output: Run directory.
        vlm: Checkpoint of the vision-language model, a hub id or a path; the bundled tiny model by default.
        speech_encoder: Whisper checkpoint, a hub id or a path; the bundled ASR model by default.
        projector: How encoder frames become LLM inputs: ctc gives one soft token embedding for each CTC token, stack
            stacks frames and projects them by an MLP, as the paper does. The CTC head is that of the ASR model where
            speech_encoder is one of selfkd. On another encoder the head is new: its vocabulary is the tokens that occur
            in the data, and a temporary head over characters trains next to it.
        stack_factor: Encoder frames (50 a second) in one vector of the frame-stacking projector.
        pad_to_window: Whether clips are padded to 30 seconds, as Whisper was trained.
        trainable: Parts that train, among projector, speech_encoder, llm_adapters and llm; by default
            {recipe.trainable}.
        steps: Optimizer steps.
        batch_size: Examples in a batch of one device.
        learning_rate: Peak learning rate; by default {recipe.learning_rate}.
        projector_learning_rate: Peak learning rate of the projector, the CTC head included; by default
            {recipe.projector_learning_rate}, else learning_rate.
        warmup_steps: Steps of linear warm-up.
        save_steps: Steps between checkpoints.
        spec_augment: Strength of the augmentation of log-mel frames (warped frequencies, SpecAugment masks); 0 is off.
            By default {recipe.spec_augment}.
        weight_averaging: Share of the steps, at the end, whose mean weights become the trained model; the learning rate
            is then constant after the warm-up. By default {recipe.weight_averaging}.
        seed: Seed of the projector's initial weights and of the order of the data.
        lora: Fields of peft.LoraConfig for llm_adapters: LoRA on the LLM, active for the audio query and the response.
        report_to: Where else the metrics go, step by step: tensorboard (files in OUTPUT/tensorboard), wandb, mlflow.
        eval_data: Folders of held-out questions that are scored during training.
        eval_every: Steps between two scores: the accuracy of text and of audio queries on eval_data, graded as selfkd
            evaluate does. The trained model is that of the best audio accuracy. 0 scores nothing.
        training: Further fields of transformers.TrainingArguments; a field without effect here is refused.
        audio_turns: User turns of a conversation that are audio in the student: all of them, or the last only. The loss
            is on every response that follows an audio turn.
        skip_unusable: Leave out rows that the model cannot take (image or text too large, audio too short, either
            unreadable), and count them; by default such rows are listed and nothing trains.
        dry_run: Print an estimate (parameters, data, memory, disk, FLOPs, hours) and end; reads no weights.
        model_config: Model configuration (JSON) for an estimate without the model.
        device_kind: Device of the estimate; by default the one that is there. Speeds of the other kinds are marked
            measured or assumed.
    """

    vlm: str = ""
    speech_encoder: str = ""
    projector: Literal["ctc", "stack"] = "ctc"
    stack_factor: int = 4
    pad_to_window: bool = False
    steps: int = 400
    projector_learning_rate: float | None = None


@describe_recipes(DISTILL_RECIPES)
@dataclass
class DistillConfig(TrainConfig):
    """Stage 2: SFT and Self-KD, weighted by alpha.

    L = alpha * KL(teacher || student) + (1 - alpha) * SFT

    Args:
        data: Folders of synthesized questions with images (selfkd synthesize); FOLDER:WEIGHT mixes them by weight.
        output: Run directory.
        model: Model to start from: the output of selfkd align (with /model), or a native omni model (hub id or path);
            the bundled tiny model by default.
        alpha: Weight of Self-KD; 0 is SFT only, 1 is Self-KD only.
        temperature: Temperature of the distillation term.
        divergence: forward is KL(teacher || student), as in the paper; reverse is KL(student || teacher);
            jensen_shannon is the mean of both to their mixture. By default {recipe.divergence}.
        response_weight: Weight of the losses on responses, Self-KD and SFT; 0 is CTC-only training, which runs no LLM
            and encodes no image.
        hidden_mse_weight: Weight of the squared distance between hidden states of student and teacher.
        hidden_mse_layers: Number of layers, evenly spaced up to the last, whose hidden states it compares.
        ctc_weight: Weight of the CTC loss on the question, with a CTC projector.
        soft_dtw_weight: Weight of soft-DTW between audio embeddings and the question's token embeddings.
        contrastive_weight: Weight of InfoNCE between mean audio embeddings and mean token embeddings of the questions
            of a batch.
        spec_augment: Strength of the augmentation of log-mel frames (warped frequencies, SpecAugment masks); 1 is what
            the bundled ASR model was trained with, 0 is off. By default {recipe.spec_augment}.
        on_policy_fraction: Share of the steps that train on the student's own responses, scored by the teacher, in
            place of the data's.
        rollout_engine: What generates those responses: transformers, the model itself, or vllm, in this process
            (selfkd[vllm]; no native omni model, no llm_adapters). vLLM gets the audio embeddings of each step.
        rollout_sync_steps: Steps between copies of the LLM's weights to vLLM, with trainable llm; a frozen LLM needs
            none. The log has the mean of the steps between copy and use as rollout_staleness.
        rollout_temperature: Temperature of those responses; 0 is greedy.
        vllm: Arguments of vLLM's LLM: {gpu_memory_utilization: 0.3, max_num_seqs: 64}.
        weight_averaging: Share of the steps, at the end, whose mean weights become the trained model; the learning rate
            is then constant after the warm-up. By default {recipe.weight_averaging}; at 0 the last step's weights are
            kept, and the rate falls by a cosine.
        trainable: Parts that train, among projector, speech_encoder, llm_adapters and llm; by default
            {recipe.trainable}.
        steps: Optimizer steps.
        batch_size: Examples in a batch of one device.
        learning_rate: Peak learning rate; by default {recipe.learning_rate}.
        warmup_steps: Steps of linear warm-up.
        save_steps: Steps between checkpoints.
        seed: Seed of the order of the data.
        lora: Fields of peft.LoraConfig for llm_adapters: LoRA on the LLM, active for the audio query and the response.
        report_to: Where else the metrics go, step by step: tensorboard (files in OUTPUT/tensorboard), wandb, mlflow.
        eval_data: Folders of held-out questions that are scored during training.
        eval_every: Steps between two scores: the accuracy of text and of audio queries on eval_data, graded as selfkd
            evaluate does. The trained model is that of the best audio accuracy. 0 scores nothing.
        training: Further fields of transformers.TrainingArguments; a field without effect here is refused.
        audio_turns: User turns of a conversation that are audio in the student: all of them, or the last only. The loss
            is on every response that follows an audio turn.
        skip_unusable: Leave out rows that the model cannot take (image or text too large, audio too short, either
            unreadable), and count them; by default such rows are listed and nothing trains.
        dry_run: Print an estimate (parameters, data, memory, disk, FLOPs, hours) and end; reads no weights.
        model_config: Model configuration (JSON) for an estimate without the model.
        device_kind: Device of the estimate; by default the one that is there. Speeds of the other kinds are marked
            measured or assumed.
    """

    model: str = ""
    alpha: float = LossConfig.alpha
    temperature: float = LossConfig.temperature
    divergence: Divergence | None = None
    response_weight: float = LossConfig.response_weight
    hidden_mse_weight: float = LossConfig.hidden_mse_weight
    hidden_mse_layers: int = LossConfig.hidden_mse_layers
    ctc_weight: float = 0.5
    soft_dtw_weight: float = LossConfig.soft_dtw_weight
    contrastive_weight: float = LossConfig.contrastive_weight
    on_policy_fraction: float = 0.0
    rollout_engine: Literal["transformers", "vllm"] = "transformers"
    rollout_sync_steps: int = 1
    rollout_temperature: float = 1.0
    vllm: dict[str, Any] = field(default_factory=dict)
