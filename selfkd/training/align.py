"""Stage 1, audio-text alignment: ears learn to hear what is said. Stacked ears through the frozen LLM, which learns to
repeat it, the paper's way; ears that hear tokens by CTC alone, and no LLM is run."""

from dataclasses import dataclass, replace
from typing import Any, Literal

from transformers import set_seed

from selfkd.data.dataset import folders_of
from selfkd.errors import InputError
from selfkd.losses import LossConfig
from selfkd.model.backbones import (
    check_speech_encoder,
    check_vlm,
    load_feature_extractor,
    load_speech_encoder,
    load_vlm,
    load_vlm_processor,
    read_config,
)
from selfkd.model.checkpoint_files import check_checkpoint, reading
from selfkd.model.configuration_omni import OmniConfig
from selfkd.model.ctc_asr import joined_config, load_joined
from selfkd.model.modeling_omni import OmniModel
from selfkd.model.processing_omni import OmniProcessor
from selfkd.model.projectors import CTCProjector
from selfkd.model.speech_encoder import ASRModelConfig
from selfkd.model.tiny import asr_model_path, vlm_path
from selfkd.run_dir import Run
from selfkd.stage_function import stage_function
from selfkd.training.data import check_vocabulary_coverage
from selfkd.training.estimate import plan, read_model_config
from selfkd.training.stage import (
    TrainConfig,
    check_ctc_only,
    check_data,
    inputs_of,
    resolve_config,
    train,
    usable_examples,
)
from selfkd.training.trainable import AUDIO_PARTS

ASSUMED_TOKENS = 4000  # that can be heard, in a plan; the data are not read for it
RECIPES: dict[str, dict[str, Any]] = {
    "stack": {"trainable": ["projector"], "learning_rate": 2e-3, "spec_augment": 0.0, "weight_averaging": 0.0},
    "ctc": {"trainable": list(AUDIO_PARTS), "learning_rate": 4e-4, "spec_augment": 1.0, "weight_averaging": 1 / 3},
}
# of an encoder that others pretrained under a new head: at one rate for both it forgets, or the head learns nothing
NEW_HEAD = RECIPES["ctc"] | {"learning_rate": 1e-4, "projector_learning_rate": 3e-3}
OBJECTIVES = {"stack": LossConfig(alpha=0.0), "ctc": LossConfig(transcript=1.0, response=0.0)}
NEW_AUDIO_PARTS = "speech_encoder: name a Whisper, whose head is made for the tokens of the data"
CHARACTERS = 0.25  # weight of CTC on characters while a head is new: a token is about four of them


@dataclass
class AlignConfig(TrainConfig):
    """Stage 1: ears learn to hear what is said, the vision-language model frozen.

    Ears that hear tokens learn by CTC alone, and the LLM is not run; `--encoder stacked` is the paper's form, through it.

    Args:
        data: Folders of what is spoken, sentences (selfkd synthesize --source words) or questions; FOLDER:WEIGHT mixes
            them by weight.
        output: Run directory.
        vlm: Checkpoint of the vision-language model, a hub id or a path; the embedded one by default.
        speech_encoder: Whisper checkpoint, a hub id or a path; the embedded one by default.
        projector: What the LLM is handed: one vector for each of its "ctc" that is heard, by CTC, or "stacked" frames
            through an MLP, the paper's form. The head of CTC is the recogniser's own where speech_encoder is one of
            selfkd; on another encoder it is new, over the tokens that occur in the data, and learns beside one over
            characters, which is thrown away.
        stack_factor: Encoder frames (50 a second) that make one vector, of stacked ears.
        pad_to_window: Whether the encoder reads 30 seconds whatever was said, as Whisper was trained.
        trainable: Parts that train, among projector, speech_encoder, llm_adapters and llm; by default the projector,
            and with ears that hear tokens the speech encoder too.
        steps: Optimizer steps.
        batch_size: Examples a step and device.
        learning_rate: Peak learning rate; by default 2e-3 of stacked ears, 4e-4 of ears that hear tokens, 1e-4 where
            their head is new.
        projector_learning_rate: That of the projector, in which the heads of ears that hear tokens are; by default 3e-3
            where these are new, else learning_rate.
        warmup_steps: Steps of linear warm-up.
        save_steps: Steps between checkpoints.
        spec_augment: How much each clip is made another speaker's, by warped and masked log-mel frames; by default 1
            of ears that hear tokens, else 0.
        weight_averaging: Share of the steps, the last ones, whose weights the trained model has the mean of; the rate is
            then constant after the warm-up. By default a third with ears that hear tokens, else 0.
        seed: Seed of the projector's weights and of the order of the data.
        lora: Fields of peft.LoraConfig for llm_adapters: LoRA on the LLM, on for the spoken question and the response.
        training: Further fields of transformers.TrainingArguments; one that has no effect here is refused.
        skip_unusable: Leave out rows that the model cannot take (a picture or text too large, sound too short, neither
            readable), and count them; by default they are listed and nothing is trained.
        dry_run: Print what the run would take (parameters, data, memory, time) and end; reads no weights.
        model_config: Configuration (JSON) to plan with where the model is not there yet.
    """

    vlm: str = ""
    speech_encoder: str = ""
    projector: Literal["ctc", "stack"] = "ctc"
    stack_factor: int = 4
    pad_to_window: bool = False
    steps: int = 400
    projector_learning_rate: float | None = None


@stage_function(AlignConfig)
def align(config: AlignConfig) -> dict[str, Any]:
    """Writes `output/model`, an `OmniModel` that hears; with `dry_run` it returns the plan."""
    if config.projector == "ctc" and config.stack_factor != AlignConfig.stack_factor:
        raise InputError(f"speech_stack: {config.stack_factor}: is for stacked ears (--projector stack)")
    planned = config.dry_run and bool(config.model_config)  # the parts need not be there
    if config.pad_to_window and not planned and _begins_as_recognizer(config):
        raise InputError("speech_padded: a recogniser of selfkd reads what was said, and no 30 seconds")
    is_new = config.projector == "ctc" and (planned or not _begins_as_recognizer(config))
    config, objective = (
        resolve_config(config, NEW_HEAD if is_new else RECIPES[config.projector]),
        OBJECTIVES[config.projector],
    )
    if is_new:
        objective = replace(objective, characters=CHARACTERS)
    if config.projector == "ctc":
        check_ctc_only(config.trainable)
    if config.dry_run:
        return plan(config, _model_config(config), None, objective)
    check_data(config)
    model_config, processor = _without_weights(config)
    parts = list(zip(("vlm", "speech_encoder"), _sources(config), strict=True))
    with Run.open(config.output, "align", config, inputs=lambda: inputs_of(config, *parts)) as run:
        examples, skipped = usable_examples(config, run, processor, model_config, objective)
        rate = config.projector_learning_rate
        return train(run, *assemble(config), examples, config, objective, projector_learning_rate=rate, skipped=skipped)


def _without_weights(config: AlignConfig) -> tuple[OmniConfig, OmniProcessor]:
    """Configuration and processor of what `assemble` makes; raises InputError for whatever is wrong with the files of
    the parts, and for data that their ears cannot hear."""
    vlm_source, encoder_source = _sources(config)
    check_checkpoint(vlm_source, "vlm")
    check_checkpoint(encoder_source, "speech_encoder")
    if _begins_as_recognizer(config):
        model_config, processor = joined_config(vlm_source, encoder_source)
        check_vocabulary_coverage(folders_of(config.data), model_config.ctc_token_ids or (), processor, NEW_AUDIO_PARTS)
        return model_config, processor
    check_vlm(vlm_source)
    check_speech_encoder(encoder_source)
    processor = _processor(config)
    with reading(vlm_source, "vlm", "config.json"):
        model_config = OmniConfig(read_config(vlm_source, "vlm"), read_config(encoder_source, "speech_encoder"))
    return model_config, processor


def assemble(config: AlignConfig) -> tuple[OmniModel, OmniProcessor]:
    """VLM + speech encoder + a new projector, its weights drawn from the seed; a new head over tokens spells, too."""
    vlm_source, encoder_source = _sources(config)
    if _begins_as_recognizer(config):
        return load_joined(vlm_source, encoder_source)
    processor = _processor(config)
    vlm, encoder = load_vlm(vlm_source), load_speech_encoder(encoder_source)
    set_seed(config.seed)
    said = _said(config) if config.projector == "ctc" else set()
    # a head over a whole vocabulary of 150,000 would be as large as the LLM's own, and nearly all of it never heard
    tokens = sorted({i for text in said for i in processor.text_ids(text)}) if config.projector == "ctc" else None
    stack, padded = config.stack_factor, config.pad_to_window
    model = OmniModel.from_parts(vlm, encoder, processor.audio_token_id, stack, padded, tokens)
    if isinstance(model.projector, CTCProjector):
        model.projector.set_characters(sorted({character for text in said for character in text}))
    return model, processor


def _processor(config: AlignConfig) -> OmniProcessor:
    vlm_source, encoder_source = _sources(config)
    bins = read_config(encoder_source, "speech_encoder").get("num_mel_bins", 0)
    extractor = load_feature_extractor(encoder_source, "speech_encoder", mel_bins=bins)
    return OmniProcessor(load_vlm_processor(vlm_source), extractor, config.stack_factor)


def _begins_as_recognizer(config: AlignConfig) -> bool:
    """Whether the ears are a recogniser of selfkd, its head with them."""
    encoder = read_config(_sources(config)[1], "speech_encoder") if config.projector == "ctc" else {}
    return encoder.get("model_type") == ASRModelConfig.model_type


def _said(config: AlignConfig) -> set[str]:
    return {row["question"] for folder in folders_of(config.data) for row in folder.columns("question")}


def _sources(config: AlignConfig) -> tuple[str, str]:
    return config.vlm or str(vlm_path()), config.speech_encoder or str(asr_model_path())


def _model_config(config: AlignConfig) -> OmniConfig:
    """Of the model to be, for a plan."""
    if config.model_config:
        model_config = read_model_config(config.model_config)
    else:
        vlm_source, encoder_source = _sources(config)
        encoder = read_config(encoder_source, "speech_encoder")
        model_config = OmniConfig(read_config(vlm_source, "vlm"), encoder)
    model_config.stack_factor, model_config.pad_to_window = config.stack_factor, config.pad_to_window
    if config.projector == "ctc":
        of_recognizer = len(getattr(model_config.audio_config, "pieces", ()))
        model_config.ctc_token_ids = list(range(of_recognizer or ASSUMED_TOKENS))
    return model_config
