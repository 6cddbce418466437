# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of the size of what was trained: the weights that differ from the base models, which are named.

Training leaves the VLM as it is, so a release needs the projector, the adapters and, where it was trained, the speech
encoder: megabytes for an 8B model. `config.json` names each base model as PEFT's configurations do
(`base_model_name_or_path`, `revision`), with the SHA-256 of its weights, because a release fits no others.
"""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForMultimodalLM, PreTrainedModel, WhisperForConditionalGeneration
from transformers.models.auto.auto_factory import _get_model_class
from transformers.utils import SAFE_WEIGHTS_NAME, cached_file

from .configuration_omni import BaseModel, OmniConfig
from .input_error import InputError
from .lora import add_adapters
from .projectors import new_projector

_BASE_LAYER = ".base_layer."  # in the names of weights that have adapters
# arguments of `from_pretrained` that say where files are, and hold for the base models' files too
_WHERE = ("cache_dir", "force_download", "local_files_only", "proxies", "token")
_OF_THE_RELEASE = ("subfolder", "_commit_hash")


def weights_hash(module: nn.Module) -> str:
    """SHA-256 over names, types, shapes and bytes of all weights, which is the same however they lie in files."""
    found = hashlib.sha256()
    for name, tensor in sorted(_weights(module)):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().flatten()
        found.update(flat.view(torch.uint8).numpy().data)
    return found.hexdigest()


def _weights(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Weights that share their memory appear once."""
    kept = module.state_dict(keep_vars=True).keys()
    yield from module.named_parameters()
    yield from ((name, buffer) for name, buffer in module.named_buffers() if name in kept)


def trained_weights(model: PreTrainedModel, base_models: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """{name in the model: weight} of all that differ from the base models in any bit, by the model's part
    (`vlm`, `speech_encoder`)."""
    theirs = {f"{part}.{name}": weight for part, base in base_models.items() for name, weight in _weights(base)}

    def same(weight: Tensor, other: Tensor | None) -> bool:
        return other is not None and weight.dtype == other.dtype and torch.equal(weight.cpu(), other.cpu())

    ignored = tuple(model._keys_to_ignore_on_save or ())
    return {
        name: weight.detach().cpu().contiguous()
        for name, weight in _weights(model)
        if name not in ignored and not same(weight, theirs.get(name.replace(_BASE_LAYER, ".")))
    }


def load_release(model_class: Any, source: str | Path, config: OmniConfig, **settings: Any) -> Any:
    """The model of a release: its base models, and its own weights over theirs.

    `settings` are arguments of `from_pretrained`. Raises InputError for a base model that cannot be loaded or has other
    weights, and where the release lacks a weight or has one that the model lacks.
    """
    where = {name: settings[name] for name in _WHERE if name in settings}
    of_release = where | {name: settings[name] for name in _OF_THE_RELEASE if name in settings}
    placed = {name: settings[name] for name in ("attn_implementation", "device_map") if name in settings}
    assert config.base_models is not None, "a release names its base models"  # noqa: S101 an invariant of this code, no check of input
    base_models = {part: _load_base(part, base, config, where | placed) for part, base in config.base_models.items()}
    model = _around(model_class, config, base_models)
    revision = settings.get("revision") or "main"
    own = load_file(str(cached_file(str(source), SAFE_WEIGHTS_NAME, revision=revision, **of_release)))
    expected = {name for name, _ in _weights(model)} - set(model._keys_to_ignore_on_save or ())
    of_base_models = {name for name in expected if name.partition(".")[0] in base_models and "lora_" not in name}
    for problem, names in (("lacks", expected - of_base_models - own.keys()), ("has besides", own.keys() - expected)):
        if names:
            raise InputError(f"{source}: {SAFE_WEIGHTS_NAME}: the release {problem} the weight {min(names)}")
    try:
        model.load_state_dict(own, strict=False)
    except RuntimeError as error:  # torch's, of several lines
        raise InputError(f"{source}: {SAFE_WEIGHTS_NAME}: {' '.join(str(error).split())[:300]}") from error
    dtype = settings.get("dtype") or settings.get("torch_dtype")
    if dtype not in (None, "auto"):
        model.vlm.to(getattr(torch, dtype) if isinstance(dtype, str) else dtype)
    model.config.base_models = None  # in memory it is whole, and is saved so
    model.config._name_or_path = str(source)
    model.eval()
    info: dict[str, set[str]] = {f"{problem}_keys": set() for problem in ("missing", "unexpected", "mismatched")}
    return (model, info | {"error_msgs": set()}) if settings.get("output_loading_info") else model


def _around(model_class: Any, config: OmniConfig, base_models: Mapping[str, Any]) -> Any:
    with torch.device("meta"):  # allocates no second model
        model = model_class(config)
    model.vlm = base_models["vlm"]
    if config.audio_config is not None:
        encoder = base_models.get("speech_encoder") or type(model.speech_encoder)(config.audio_config)
        model.speech_encoder = encoder.float()
        model.projector = new_projector(config)
    if config.llm_lora is not None:
        add_adapters(model.vlm, config.llm_lora)
    return model


def _load_base(part: str, base: BaseModel, config: OmniConfig, settings: Mapping[str, Any]) -> PreTrainedModel:
    name, revision = base["base_model_name_or_path"], base.get("revision")
    shown = f"{part}: {name}{f' at {revision}' if revision else ''}"
    try:
        found = load_base_model(part, config, name, revision, **settings)
    except Exception as error:  # a library's: no such folder, the hub out of reach, no such revision
        raise InputError(f"{shown}: the base model cannot be loaded ({' '.join(str(error).split())[:300]})") from error
    if (there := weights_hash(found)) != base["sha256"]:
        raise InputError(
            f"{shown}: other weights than the release was made with (sha256 {there[:12]}... there, "
            f"{base['sha256'][:12]}... expected)"
        )
    return found


def load_base_model(part: str, config: OmniConfig, name: str, revision: str | None, **settings: Any) -> PreTrainedModel:
    """A base model as the release's part takes it: in the VLM's own dtype, or a Whisper encoder in fp32."""
    revision = revision or "main"
    if part == "speech_encoder":
        # with its decoder: otherwise the decoder's keys would count as unexpected
        whisper_class, dtype = WhisperForConditionalGeneration, torch.float32
        whisper = whisper_class.from_pretrained(name, revision=revision, dtype=dtype, **settings)
        return whisper.get_encoder()
    vlm_class = _get_model_class(config.vlm_config, AutoModelForMultimodalLM._model_mapping)
    return vlm_class.from_pretrained(name, revision=revision, dtype=config.vlm_config.dtype, **settings)
