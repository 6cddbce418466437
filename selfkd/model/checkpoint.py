"""A model to evaluate or to train, from a checkpoint: one of ours, or a native omni model."""

from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from selfkd.errors import InputError
from selfkd.model.backbones import config_of, is_native, load_native, load_whole
from selfkd.model.checkpoint_files import Source, check_checkpoint, reading
from selfkd.model.configuration_omni import OmniConfig
from selfkd.model.modeling_omni import OmniModel
from selfkd.model.native_omni import THINKERS, native_speech_token
from selfkd.model.processing_omni import OmniProcessor
from selfkd.run_dir import MODEL

ModelT = TypeVar("ModelT", bound=nn.Module)


def load_omni(source: Source) -> tuple[OmniModel, OmniProcessor]:
    """The model and its processor, by hub id or path; raises InputError for what is neither."""
    ours = is_ours(source)
    check_checkpoint(source, "model")
    processor = OmniProcessor.from_pretrained(source)  # first: it is read in a second
    model = load_whole(OmniModel, source, "model") if ours else OmniModel.from_native(load_native(source))
    return model, processor


def ready(model: ModelT) -> ModelT:
    """The same, in evaluation mode, on the GPU where there is one."""
    model.eval()
    if torch.cuda.is_available():
        nn.Module.cuda(model)
    return model


def omni_config(source: Source) -> OmniConfig:
    """The configuration alone, for what can be said without weights."""
    ours = is_ours(source)
    with reading(source, "model", "config.json"):
        if ours:
            return OmniConfig.from_pretrained(source)
        values = config_of(source, "model")
        if values["model_type"] in THINKERS:
            values = values["thinker_config"] | {"model_type": THINKERS[values["model_type"]]}
        config = OmniConfig(values)
        config.audio_token_id = native_speech_token(config.vlm_config)
        return config


def is_ours(source: Source) -> bool:
    """True for a model of selfkd, False for a native omni model; raises InputError for any other."""
    kind = config_of(source, "model").get("model_type")
    if kind is None and (Path(source) / MODEL).is_dir():
        raise InputError(f"model: {source}: a run, not a model; give {Path(source) / MODEL}")
    if kind != OmniConfig.model_type and not is_native(source):
        raise InputError(
            f"model: {source}: {kind!r} does not hear; give the /model folder of a run (selfkd align makes one of a "
            "vision-language model) or a native omni model"
        )
    return kind == OmniConfig.model_type
