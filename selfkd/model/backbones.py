"""The parts of an `OmniModel` from checkpoints, by hub id or local path; what does not fit is said in one line."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder
from transformers.utils import CONFIG_NAME

from selfkd.data.example import SAMPLE_RATE_HZ
from selfkd.errors import InputError
from selfkd.model.checkpoint_files import (
    Source,
    check_checkpoint,
    check_side_files,
    check_source,
    read_object,
    reading,
    weights_in,
)
from selfkd.model.image_processor import image_processor_class
from selfkd.model.native_omni import NATIVE_AUDIO, THINKERS
from selfkd.model.speech_encoder import ASRModel, ASRModelConfig, pad_to_window
from selfkd.synthesis.quality_filter import language_code

_MAX_TOKENS = 200  # that a clip of 30 s is transcribed to


def load_vlm(source: Source) -> PreTrainedModel:
    """A vision-language model of transformers; raises InputError for a model without an image tower."""
    check_vlm(source)
    return load_whole(AutoModelForImageTextToText, source, "vlm")


def check_vlm(source: Source) -> None:
    """Raises InputError, by its configuration, for what is no vision-language model of transformers."""
    kind = config_of(source, "vlm").get("model_type")
    if kind == "internvl_chat":
        raise InputError(f"vlm: {source}: an original InternVL checkpoint; give it to selfkd convert first")
    if kind not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise InputError(f"vlm: {source}: {kind!r} is not a model that takes images and text")


def is_native(source: Source) -> bool:
    """Whether a checkpoint is an omni model that hears by itself; raises InputError where there is none."""
    kind = config_of(source, "model").get("model_type", "")
    return THINKERS.get(kind, kind) in NATIVE_AUDIO


def load_native(source: Source) -> PreTrainedModel:
    """A native omni model; of one that speaks too, the part that sees, hears and answers."""
    kind = config_of(source, "model")["model_type"]
    name = MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES[THINKERS.get(kind, kind)]
    return load_whole(getattr(transformers, name), source, "model")


def load_vlm_processor(source: Source, name: str = "vlm") -> Any:
    """The processor of a VLM or OmniModel, without its video part, which would need torchvision; `name` is the field
    that holds `source`. Raises InputError where a file of it is missing or damaged."""
    config = config_of(source, name)
    if Path(source).is_dir():
        check_side_files(Path(source), name)
    with reading(source, name, _first_of(source, "processor_config.json", "preprocessor_config.json")):
        kind = config.get("vlm_config", config)["model_type"]
        whole = {thinker: omni for omni, thinker in THINKERS.items()}.get(kind, kind)
        processor = image_processor_class(whole).from_pretrained(source)
        if processor.chat_template is None:  # of Phi-4's, transformers hands it to the tokenizer alone
            processor.chat_template = processor.tokenizer.chat_template
    return processor


def load_feature_extractor(
    source: Source, name: str, subfolder: str = "", mel_bins: int = 0
) -> WhisperFeatureExtractor:
    """That of a Whisper checkpoint; raises InputError where it is missing or damaged, or makes other features than an
    encoder of `mel_bins` takes (0 for any)."""
    folder = Path(source) / subfolder
    file = _first_of(folder, "preprocessor_config.json", "processor_config.json")
    if folder.is_dir():
        check_side_files(folder, name)
        if not (folder / file).is_file():
            raise InputError(f"{name}: {folder / file}: not there; it says how sound becomes features")
    with reading(source, name, f"{subfolder}/{file}".lstrip("/")):
        extractor = WhisperFeatureExtractor.from_pretrained(source, subfolder=subfolder)
        found = extractor.sampling_rate, extractor.feature_size
    wanted = SAMPLE_RATE_HZ, mel_bins or found[1]
    if found != wanted:
        raise InputError(
            f"{name}: {folder / file}: {found[1]} mel bins of sound at {found[0]} Hz; the encoder takes {wanted[1]} at "
            f"{wanted[0]}"
        )
    return extractor


def _first_of(source: Source, *files: str) -> str:
    """The first of these files that is there; the first where none is."""
    return next((file for file in files if (Path(source) / file).is_file()), files[0])


def load_speech_encoder(source: Source) -> WhisperEncoder:
    """The encoder of a Whisper checkpoint of any size, or of a `ASRModel`."""
    if check_speech_encoder(source) == ASRModelConfig.model_type:
        return load_whole(ASRModel, source, "speech_encoder").encoder
    # with its decoder, or the keys of one would be too many
    whole = load_whole(WhisperForConditionalGeneration, source, "speech_encoder", dtype=torch.float32)
    return whole.get_encoder()


def check_whisper(source: Source, name: str) -> None:
    """Raises InputError, by its files, for what is no Whisper checkpoint; `name` is the field that holds `source`."""
    check_checkpoint(source, name)
    kind = config_of(source, name).get("model_type")
    if kind != "whisper":
        raise InputError(f"{name}: {source}: {kind!r} is not a Whisper checkpoint")


def check_speech_encoder(source: Source) -> str:
    """The type of a checkpoint with a Whisper encoder; raises InputError for any other."""
    kind = config_of(source, "speech_encoder").get("model_type")
    if kind not in (ASRModelConfig.model_type, "whisper"):
        raise InputError(f"speech_encoder: {source}: {kind!r} is not a Whisper checkpoint")
    return kind


def load_asr_model(source: Source) -> "tuple[ASRModel | WhisperASRModel, WhisperFeatureExtractor]":
    """What transcribes for the cascade, and the feature extractor that it was trained with."""
    config = config_of(source, "asr_model")
    kind, bins = config.get("model_type"), config.get("num_mel_bins", 0)
    if kind == ASRModelConfig.model_type:
        extractor = load_feature_extractor(source, "asr_model", mel_bins=bins)
        return load_whole(ASRModel, source, "asr_model").eval(), extractor
    if kind == "whisper":
        extractor = load_feature_extractor(source, "asr_model", mel_bins=bins)
        with reading(source, "asr_model", _first_of(source, "tokenizer.json", "vocab.json")):
            tokenizer = AutoTokenizer.from_pretrained(source)
        model = load_whole(WhisperForConditionalGeneration, source, "asr_model", dtype=torch.float32).eval()
        return WhisperASRModel(model, tokenizer), extractor
    raise InputError(f"recognizer: {source}: {kind!r} is neither a Whisper checkpoint nor a recogniser of selfkd")


@dataclass
class WhisperASRModel:
    """Whisper with its own decoder, as it was trained: on windows of 30 seconds."""

    model: Any
    tokenizer: Any

    @property
    def device(self) -> torch.device:
        return self.model.device

    @torch.no_grad()
    def recognize(self, mel_BFM: Tensor, mel_mask_BM: Tensor, language: str = "") -> list[str]:
        """Texts of clips in `language` ("" lets a Whisper of many languages guess, clip by clip)."""
        spoken, settings = language_code(language), self.model.generation_config
        known = getattr(settings, "lang_to_id", None) or {}  # {"<|en|>": ...}; none where it hears English alone
        how = {"language": spoken, "task": "transcribe"} if f"<|{spoken}|>" in known else {}
        window = pad_to_window(mel_BFM, mel_mask_BM, self.model.config.max_source_positions)
        # of new tokens, as Whisper counts them; `max_new_tokens` is the same with a warning a batch
        ids = self.model.generate(input_features=window, max_length=_MAX_TOKENS, do_sample=False, **how)
        return [t.strip() for t in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]


def load_whole(kind: Any, source: Source, name: str, **settings: Any) -> Any:
    """`kind.from_pretrained(source)`; raises InputError where a file is missing or damaged, and where weights and
    configuration do not fit to the last key.

    transformers would draw what is missing at random, with a warning, and go on. `settings` are its own.
    """
    check_checkpoint(source, name)
    if Path(source).is_dir():
        _check_size(kind, source, name)
    with reading(source, name):  # an ImportError too: Gemma 3n's eyes are timm's
        model, info = kind.from_pretrained(
            source, output_loading_info=True, ignore_mismatched_sizes=True, use_safetensors=True, **settings
        )
    wrong = {what: sorted(map(str, info[f"{what}_keys"])) for what in ("missing", "unexpected", "mismatched")}
    found = [f"{len(keys)} {what} (such as {keys[0]})" for what, keys in wrong.items() if keys]
    if found:
        raise InputError(f"{name}: {source}: weights that do not fit the configuration: {', '.join(found)}")
    return model


def _check_size(kind: Any, source: Source, name: str) -> None:
    """Raises InputError where a configuration is of a model far larger than its weights: what it lacks would be made,
    and one wrong digit asks for more memory than there is."""
    with reading(source, name, "config.json"), torch.device("meta"):
        config = getattr(kind, "config_class", AutoConfig).from_pretrained(source)
        if getattr(config, "quantization_config", None) is not None:  # several weights in one number
            return
        model = kind(config) if issubclass(kind, PreTrainedModel) else kind.from_config(config)
    wanted, there = sum(p.numel() for p in model.parameters()), weights_in(Path(source), name)
    if wanted > 2 * there:
        raise InputError(
            f"{name}: {source}: weights that do not fit the configuration: {there:,} numbers there, config.json is of "
            f"a model of {wanted:,}"
        )


def is_hub_id(source: Source) -> bool:
    """Whether it has the form of one: OWNER/NAME."""
    return re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)) is not None


def config_of(source: Source, name: str) -> dict[str, Any]:
    """The configuration of a checkpoint as it stands in its file; `name` is the field that holds `source`. Raises
    InputError where there is none, or one that says nothing of the model's type."""
    check_source(source, name)
    path = Path(source) / CONFIG_NAME
    if path.is_file():
        config = read_object(path, name)
    elif Path(source).is_dir():
        raise InputError(f"{name}: {source}: no checkpoint there ({CONFIG_NAME} is missing)")
    else:
        try:
            config = PretrainedConfig.get_config_dict(source)[0]
        except Exception as error:  # of the hub: out of reach, gated, no such name
            why = str(error).strip().partition("\n")[0] if is_hub_id(source) else "no such folder"
            raise InputError(f"{name}: {source}: no checkpoint there ({why})") from error
    for field, kind in (("model_type", str), ("architectures", list), ("auto_map", dict)):
        if not isinstance(config.get(field), kind | None):
            raise InputError(f"{name}: {path}: field {field}: {config[field]!r:.60} is no {kind.__name__}")
    return config
