"""What a checkpoint is, inspected once (`CheckpointInfo`) and handed down, and how it is loaded."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import nn

from selfkd.data.example import SAMPLE_RATE_HZ
from selfkd.errors import InputError
from selfkd.hub import from_hub
from selfkd.model.backbones import load_native, load_processor, load_strict, read_config
from selfkd.model.checkpoint_files import Source, check_checkpoint, reading
from selfkd.model.configuration_omni import OmniConfig
from selfkd.model.modeling_omni import OmniModel
from selfkd.model.native_omni import NATIVE_AUDIO, THINKERS, native_audio_token
from selfkd.model.processing_omni import OmniProcessor
from selfkd.model.queries import AUDIO_TOKEN
from selfkd.model.speech_encoder import ASRModelConfig
from selfkd.model.tiny import (
    TINY_MODEL,
    TINY_MODELS,
    asr_model_path,
    load_tiny_model,
    tiny_model_config,
    tiny_model_paths,
)
from selfkd.run_dir import MODEL

ModelT = TypeVar("ModelT", bound=nn.Module)
CheckpointKind = Literal["tiny", "omni", "native", "asr_model", "whisper"]


@dataclass(frozen=True, eq=False)
class CheckpointInfo:
    """What `inspect_checkpoint` finds out from the configuration of a checkpoint.

    Attributes:
        source: Hub id, folder, `selfkd-tiny` or `selfkd-tiny-stack`.
        field: The config field that named it, for error messages.
        kind: tiny: a model in the package; omni: an `OmniModel` that selfkd saved; native: a native omni model in the
            layout of transformers; asr_model: an ASR model of selfkd; whisper: a Whisper checkpoint.
        paths: The folders or hub ids that hold its weights; a tiny model has several.
        omni_config: Configuration of an omni model; None for asr_model and whisper.
        tiny_processor: The processor of a tiny model, which its configuration needs.
    """

    source: Source
    field: str
    kind: CheckpointKind
    paths: tuple[Source, ...]
    omni_config: OmniConfig | None = None
    tiny_processor: OmniProcessor | None = None

    @property
    def config(self) -> OmniConfig:
        """The configuration of an omni model; its `projector_type` is ctc, stack or native."""
        assert self.omni_config is not None, f"{self.source}: {self.kind} is no omni model"  # noqa: S101 an invariant of this code, no check of input
        return self.omni_config

    @cached_property
    def processor(self) -> OmniProcessor:
        """Loaded on first use, without weights; raises InputError where it cannot prepare a prompt for the model."""
        if self.tiny_processor is not None:
            return self.tiny_processor
        processor = load_processor(self.source)
        check_prompts(processor, self.config, self.source, self.field)
        return processor

    def load(self) -> tuple[OmniModel, OmniProcessor]:
        """The model, on the CPU, and its processor; raises InputError where weights and configuration differ."""
        if self.kind == "tiny":
            return load_tiny_model(str(self.source), self.processor)
        processor = self.processor  # first: it takes a second, the weights may take minutes
        if self.kind == "omni":
            return load_strict(OmniModel, self.source, self.field), processor
        return OmniModel.from_native(load_native(self.source)), processor


def inspect_checkpoint(
    source: Source, field: str = "model", expected: Literal["omni", "asr"] = "omni", weights: bool = True
) -> CheckpointInfo:
    """Reads the configuration of a checkpoint, the one time that a stage does so, and the headers of its `weights`.

    Args:
        source: Hub id or folder; `selfkd-tiny` and `selfkd-tiny-stack` are the models in the package.
        field: The config field that names it, for error messages.
        expected: omni: a model that takes images, text and audio; asr: one that transcribes audio (Whisper, an ASR
            model of selfkd, or a model with a CTC projector).
        weights: Whether the weight files must be present and complete.

    Raises InputError for any other checkpoint.
    """
    if str(source) == TINY_MODEL and expected == "asr":
        return CheckpointInfo(source, field, "asr_model", (asr_model_path(),))
    if str(source) in TINY_MODELS:
        config, processor = tiny_model_config(str(source))
        if expected == "asr":
            _check_asr(source, field, "omni", config.model_type, config)
        return CheckpointInfo(source, field, "tiny", tiny_model_paths(str(source)), config, processor)
    values = read_config(source, field)
    model_type = values.get("model_type")
    kind, omni_config = _kind_of(model_type), None
    if kind in ("omni", "native"):
        with reading(source, field, "config.json"):
            omni_config = OmniConfig.from_pretrained(**from_hub(source)) if kind == "omni" else _native_config(values)
            if not isinstance(omni_config.context, int) or omni_config.context < 1:
                raise InputError(f"{field}: {source}: field max_position_embeddings: {omni_config.context!r:.60}")
    if expected == "omni":
        _check_omni(source, field, kind, model_type)
    else:
        _check_asr(source, field, kind, model_type, omni_config)
    assert kind is not None, "checked above"  # noqa: S101 an invariant of this code, no check of input
    if weights:
        check_checkpoint(source, field)
    return CheckpointInfo(source, field, kind, (source,), omni_config)


def load_model(source: Source = TINY_MODEL) -> tuple[OmniModel, OmniProcessor]:
    """A model and its processor, ready for inference: in evaluation mode, on the GPU where there is one.

    `source` is a model that selfkd has trained (the /model folder of a run), a native omni model of transformers, each
    by path or hub id, or one in the package, `selfkd-tiny` or `selfkd-tiny-stack`. Raises InputError for any other
    checkpoint."""
    model, processor = inspect_checkpoint(source).load()
    return ready(model), processor


def ready(model: ModelT) -> ModelT:
    """The same model in evaluation mode, on the GPU where there is one."""
    model.eval()
    if torch.cuda.is_available():
        nn.Module.cuda(model)
    return model


def check_prompts(processor: OmniProcessor, config: OmniConfig, source: Source, field: str) -> None:
    """Prepares a query about an image in both modalities: settings of a processor that do not fit each other or the
    model fail here, before the weights are loaded, and not at the first example."""
    try:
        with reading(source, field):
            image = processor.encode_image(Image.new("RGB", (640, 480)))
            audio = processor.encode_audio(np.zeros(SAMPLE_RATE_HZ, np.float32))
            prompts = [processor.text_prompt("Is it?", image), processor.audio_prompt(audio, image)]
            processor.collate(prompts)
    except InputError as error:
        raise error if str(source) in str(error) else InputError(f"{field}: {source}: {error}") from error
    own = None if processor.feature_extractor is None else processor.audio_token_id
    if own is not None and own != config.audio_token_id:
        raise InputError(
            f"{field}: {source}: the tokenizer gives {AUDIO_TOKEN} the id {own}, the model {config.audio_token_id}"
        )
    rows = config.get_text_config().vocab_size
    for token_id in (i for prompt in prompts for i in (*prompt.prefix_ids, *prompt.suffix_ids)):
        if token_id >= rows and token_id != own:
            token = processor.tokenizer.convert_ids_to_tokens(token_id)
            raise InputError(f"{field}: {source}: the prompt has the token {token!r}, which the model lacks")


def _kind_of(model_type: str | None) -> CheckpointKind | None:
    if model_type == OmniConfig.model_type:
        return "omni"
    if model_type == ASRModelConfig.model_type:
        return "asr_model"
    if model_type == "whisper":
        return "whisper"
    return "native" if THINKERS.get(model_type or "", model_type) in NATIVE_AUDIO else None


def _native_config(values: dict) -> OmniConfig:
    if values["model_type"] in THINKERS:
        values = values["thinker_config"] | {"model_type": THINKERS[values["model_type"]]}
    config = OmniConfig(values)
    config.audio_token_id = native_audio_token(config.vlm_config)
    return config


def _check_omni(source: Source, field: str, kind: CheckpointKind | None, model_type: str | None) -> None:
    if model_type is None and (Path(source) / MODEL).is_dir():
        raise InputError(f"{field}: {source}: a run, not a model; give {Path(source) / MODEL}")
    if kind not in ("omni", "native"):
        raise InputError(
            f"{field}: {source}: {model_type!r} takes no audio; give the /model folder of a run (selfkd align makes "
            "one from a vision-language model) or a native omni model"
        )


def _check_asr(
    source: Source, field: str, kind: CheckpointKind | None, model_type: str | None, config: OmniConfig | None
) -> None:
    if kind == "omni" and config is not None and config.projector_type != "ctc":
        raise InputError(f"{field}: {source}: this model has no CTC projector, so it gives no transcript")
    if kind not in ("omni", "asr_model", "whisper"):
        raise InputError(
            f"{field}: {source}: {model_type!r} is neither a Whisper checkpoint nor an ASR model of selfkd"
        )
