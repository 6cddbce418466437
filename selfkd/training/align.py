"""Stage 1, audio-text alignment: speech encoder and projector train on synthesized sentences or questions.

A CTC projector trains on the CTC loss only, and no LLM is run. A frame-stacking projector, the paper baseline, trains
through the frozen LLM, which repeats the utterance. The stage begins with a warning where less training is planned than
any that worked, and ends with what the model understands in held-out voices (`align_check`).
"""

import sys
from typing import Any

from transformers import set_seed

from selfkd.data.dataset import open_folders
from selfkd.data.example import HISTORY
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
from selfkd.model.checkpoint import check_prompts
from selfkd.model.checkpoint_files import check_checkpoint, reading
from selfkd.model.configuration_omni import OmniConfig
from selfkd.model.ctc_asr import joined_config, load_joined
from selfkd.model.modeling_omni import OmniModel
from selfkd.model.processing_omni import OmniProcessor
from selfkd.model.projectors import CTCProjector
from selfkd.model.speech_encoder import ASRModelConfig
from selfkd.model.tiny import asr_model_path, vlm_path
from selfkd.run_dir import MODEL, Run, is_main_process
from selfkd.stage_function import stage_function
from selfkd.training.align_check import held_out_check, lines
from selfkd.training.align_evidence import warnings
from selfkd.training.config import ALIGN_RECIPES, CTC, NEW_CTC, STACK, AlignConfig
from selfkd.training.data import check_vocabulary_coverage
from selfkd.training.estimate import estimate, read_model_config
from selfkd.training.estimate_counts import SENTENCES
from selfkd.training.stage import FREE, check_ctc_only, check_data, inputs_of, resolve_config, train, usable_examples
from selfkd.training.validation import Scorer

ASSUMED_TOKENS = 4000  # CTC vocabulary in an estimate, which does not read the data for it
LOSSES = {
    STACK: LossConfig(alpha=0.0),
    CTC: LossConfig(ctc_weight=1.0, response_weight=0.0),
    # a token is about four characters
    NEW_CTC: LossConfig(ctc_weight=1.0, response_weight=0.0, character_ctc_weight=0.25),
}
COVERAGE_REMEDY = "speech_encoder: name a Whisper, which gets a new CTC head over the tokens of the data"


@stage_function(AlignConfig)
def align(config: AlignConfig, score: Scorer | None = None) -> dict[str, Any]:
    """Writes `output/model`, an `OmniModel`, and returns the result; with `dry_run` returns the estimate.
    `score` grades what `eval_every` asks for."""
    if config.projector == "ctc" and config.stack_factor != AlignConfig.stack_factor:
        raise InputError(
            f"stack_factor: {config.stack_factor}: is for the frame-stacking projector (--projector stack)"
        )
    is_estimate = config.dry_run and bool(config.model_config)  # the checkpoints need not exist
    if config.pad_to_window and not is_estimate and _from_asr_model(config):
        raise InputError("pad_to_window: an ASR model of selfkd encodes clips at their own length, not 30 seconds")
    recipe = _recipe_name(config, is_estimate)
    config, loss_config = resolve_config(config, ALIGN_RECIPES[recipe]), LOSSES[recipe]
    if config.projector == "ctc":
        check_ctc_only(config.trainable)
    if config.dry_run:
        return estimate(config, _estimate_model_config(config), None, loss_config, assumed=SENTENCES)
    check_data(config)
    model_config, processor = _without_weights(config)
    parts = list(zip(("vlm", "speech_encoder"), _sources(config), strict=True))
    if is_main_process():
        for line in warnings(recipe, config, open_folders(config.data)):
            print(f"selfkd align: warning: {line}", file=sys.stderr)
    with Run.open(config.output, "align", config, FREE, inputs=lambda: inputs_of(config, *parts)) as run:
        examples, skipped = usable_examples(config, run, processor, model_config, loss_config)
        rate = config.projector_learning_rate
        result = train(
            run,
            *assemble(config),
            examples,
            config,
            loss_config,
            projector_learning_rate=rate,
            skipped=skipped,
            check=lambda model, processor: held_out_check(model, processor, config),
            score=score,
        )
    if is_main_process():
        for line in (*lines(result["held_out"]), f"the model is in {config.output / MODEL}"):
            print(f"{config.output}: {line}")
    return result


def _recipe_name(config: AlignConfig, is_estimate: bool) -> str:
    if config.projector == "stack":
        return STACK
    return NEW_CTC if is_estimate or not _from_asr_model(config) else CTC


def _without_weights(config: AlignConfig) -> tuple[OmniConfig, OmniProcessor]:
    """Configuration and processor of the model that `assemble` makes. Raises InputError for missing or damaged files of
    the parts, and for data outside the CTC vocabulary."""
    vlm_source, encoder_source = _sources(config)
    check_checkpoint(vlm_source, "vlm")
    check_checkpoint(encoder_source, "speech_encoder")
    if _from_asr_model(config):
        model_config, processor = joined_config(vlm_source, encoder_source)
        check_vocabulary_coverage(
            open_folders(config.data), model_config.ctc_token_ids or (), processor, COVERAGE_REMEDY
        )
        return model_config, processor
    check_vlm(vlm_source)
    check_speech_encoder(encoder_source)
    processor = _processor(config)
    with reading(vlm_source, "vlm", "config.json"):
        model_config = OmniConfig(read_config(vlm_source, "vlm"), read_config(encoder_source, "speech_encoder"))
    return model_config, processor


def assemble(config: AlignConfig) -> tuple[OmniModel, OmniProcessor]:
    """VLM + speech encoder + a new projector with weights from the seed. A new CTC head has an auxiliary
    character-level head."""
    vlm_source, encoder_source = _sources(config)
    if _from_asr_model(config):
        return load_joined(vlm_source, encoder_source)
    processor = _processor(config)
    vlm, encoder = load_vlm(vlm_source), load_speech_encoder(encoder_source)
    set_seed(config.seed)
    questions = _questions(config) if config.projector == "ctc" else set()
    # a CTC head over all 150,000 tokens would be as large as the LLM's head, with few of them in the data
    tokens = sorted({i for text in questions for i in processor.text_ids(text)}) if config.projector == "ctc" else None
    stack, padded = config.stack_factor, config.pad_to_window
    model = OmniModel.from_parts(vlm, encoder, processor.audio_token_id, stack, padded, tokens)
    check_prompts(processor, model.config, vlm_source, "vlm")
    model.stop_at(processor.end_id)
    if isinstance(model.projector, CTCProjector):
        model.projector.set_characters(sorted({character for text in questions for character in text}))
    return model, processor


def _processor(config: AlignConfig) -> OmniProcessor:
    vlm_source, encoder_source = _sources(config)
    bins = read_config(encoder_source, "speech_encoder").get("num_mel_bins", 0)
    extractor = load_feature_extractor(encoder_source, "speech_encoder", mel_bins=bins)
    return OmniProcessor(load_vlm_processor(vlm_source), extractor, config.stack_factor)


def _from_asr_model(config: AlignConfig) -> bool:
    """Whether encoder and CTC head come from an ASR model of selfkd."""
    encoder = read_config(_sources(config)[1], "speech_encoder") if config.projector == "ctc" else {}
    return encoder.get("model_type") == ASRModelConfig.model_type


def _questions(config: AlignConfig) -> set[str]:
    rows = (row for folder in open_folders(config.data) for row in folder.columns("question", HISTORY))
    return {turn["question"] for row in rows for turn in (*row[HISTORY], row)}


def _sources(config: AlignConfig) -> tuple[str, str]:
    return config.vlm or str(vlm_path()), config.speech_encoder or str(asr_model_path())


def _estimate_model_config(config: AlignConfig) -> OmniConfig:
    """The configuration of the model that alignment would make."""
    if config.model_config:
        model_config = read_model_config(config.model_config)
    else:
        vlm_source, encoder_source = _sources(config)
        encoder = read_config(encoder_source, "speech_encoder")
        model_config = OmniConfig(read_config(vlm_source, "vlm"), encoder)
    model_config.stack_factor, model_config.pad_to_window = config.stack_factor, config.pad_to_window
    if config.projector == "ctc":
        asr_vocabulary = len(getattr(model_config.audio_config, "pieces", ()))
        model_config.ctc_token_ids = list(range(asr_vocabulary or ASSUMED_TOKENS))
    return model_config
