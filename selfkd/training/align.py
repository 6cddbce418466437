"""Stage 1, audio-text alignment: the frozen LLM learns to repeat what it hears, through the projector."""

from dataclasses import dataclass
from typing import Any

from transformers import WhisperFeatureExtractor, set_seed

from selfkd.losses import Objective
from selfkd.model.embedded import recognizer_path, vlm_path
from selfkd.model.load import config_of, load_speech_encoder, load_vlm, load_vlm_processor
from selfkd.model.omni import OmniModel
from selfkd.model.omni_config import OmniConfig
from selfkd.model.processor import OmniProcessor
from selfkd.runs import Run
from selfkd.training.plan import plan, read_skeleton
from selfkd.training.stage import TrainConfig, check_settings, examples_of, train


@dataclass
class AlignConfig(TrainConfig):
    """Stage 1: speech to text through the projector, the vision-language model frozen.

    Args:
        data: Folders of spoken words (selfkd synthesize --source words); FOLDER:WEIGHT mixes them by weight.
        output: Run directory.
        vlm: Checkpoint of the vision-language model, a hub id or a path; the embedded one by default.
        speech_encoder: Whisper checkpoint, a hub id or a path; the embedded one by default.
        speech_stack: Encoder frames (50 a second) that make one vector.
        speech_padded: Whether the encoder reads 30 seconds whatever was said, as Whisper was trained.
        trainable: Parts that train, among projector, speech_encoder, llm_adapters and llm.
        steps: Optimizer steps.
        batch_size: Examples a step and device.
        learning_rate: Peak learning rate.
        warmup_steps: Steps of linear warm-up.
        save_steps: Steps between checkpoints.
        seed: Seed of the projector's weights and of the order of the data.
        lora: Fields of peft.LoraConfig for llm_adapters: LoRA on the LLM, on for the spoken question and the response.
        training: Further fields of transformers.TrainingArguments.
        dry_run: Print what the run would take (parameters, data, memory, time) and end; reads no weights.
        skeleton: Configuration (JSON) to plan with where the model is not there yet.
    """

    vlm: str = ""
    speech_encoder: str = ""
    speech_stack: int = 4
    speech_padded: bool = False
    steps: int = 400


def align(config: AlignConfig) -> dict[str, Any]:
    """Writes `output/model`, an `OmniModel` that repeats what it hears; with `dry_run` it returns the plan."""
    check_settings(config)
    if config.dry_run:
        return plan(config, read_skeleton(config.skeleton) if config.skeleton else _model_config(config), alpha=0.0)
    examples = examples_of(config)
    with Run.open(config.output, "align", config) as run:
        return train(run, *assemble(config), examples, config, Objective(alpha=0.0))


def assemble(config: AlignConfig) -> tuple[OmniModel, OmniProcessor]:
    """VLM + speech encoder + a new projector, its weights drawn from the seed."""
    vlm_source, encoder_source = _sources(config)
    vlm, encoder = load_vlm(vlm_source), load_speech_encoder(encoder_source)
    extractor = WhisperFeatureExtractor.from_pretrained(encoder_source)
    processor = OmniProcessor(load_vlm_processor(vlm_source), extractor, config.speech_stack)
    set_seed(config.seed)
    stack, padded = config.speech_stack, config.speech_padded
    return OmniModel.from_parts(vlm, encoder, processor.speech_token_id, stack, padded), processor


def _sources(config: AlignConfig) -> tuple[str, str]:
    return config.vlm or str(vlm_path()), config.speech_encoder or str(recognizer_path())


def _model_config(config: AlignConfig) -> OmniConfig:
    vlm_source, encoder_source = _sources(config)
    ears = config_of(encoder_source, "speech_encoder")
    return OmniConfig(config_of(vlm_source, "vlm"), ears, config.speech_stack, speech_padded=config.speech_padded)
