"""Loads the parts of an `OmniModel` from checkpoints (hub id or local folder): VLM, speech encoder, ASR model,
processors.

A checkpoint that cannot be loaded exactly is refused with one line that names the config field and the reason.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

import torch
import transformers
from pydantic import Field
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
from transformers.utils import logging as transformers_logging
from typing_extensions import TypedDict

from selfkd.data.example import SAMPLE_RATE_HZ, language_code
from selfkd.errors import InputError
from selfkd.hub import from_hub, is_hub_id
from selfkd.json_files import check_schema
from selfkd.model.auto_classes import OmniProcessor
from selfkd.model.checkpoint_files import (
    Source,
    check_checkpoint,
    check_small_files,
    check_source,
    count_weights,
    read_header,
    read_json_object,
    reading,
    weight_files,
)
from selfkd.model.configuration_omni import BaseModel, OmniConfig
from selfkd.model.image_processor import open_processor
from selfkd.model.native_omni import SPEECH_OUTPUT, THINKERS
from selfkd.model.processing_omni import EXTRACTOR_FOLDER
from selfkd.model.speech_encoder import ASRModel, ASRModelConfig, pad_to_window

_MAX_TOKENS = 200  # of the transcript of a 30-second clip
# fields of config.json that only versions of selfkd before the first release wrote
_FIELDS_BEFORE = ("speech_config", "speech_tokens", "speech_stack", "speech_token_id", "speech_padded")
_ASR_MODEL_BEFORE = "selfkd_recognizer"


Id = Annotated[int, Field(ge=0, lt=2**31)]


class OmniFields(TypedDict):
    """The types of the fields in the `config.json` of an `OmniModel`; transformers checks those of the parts."""

    vlm_config: dict[str, Any]
    audio_config: NotRequired[dict[str, Any] | None]
    stack_factor: NotRequired[Annotated[int, Field(ge=1)]]
    audio_token_id: NotRequired[Id]
    pad_to_window: NotRequired[bool]
    ctc_token_ids: NotRequired[Annotated[list[Id], Field(min_length=1)] | None]
    llm_lora: NotRequired[dict[str, Any] | None]
    base_models: NotRequired[dict[Literal["vlm", "speech_encoder"], BaseModel] | None]


class _Config(TypedDict, total=False):
    model_type: str | None
    architectures: list[str] | None
    auto_map: dict[str, Any] | None


def load_vlm(source: Source) -> PreTrainedModel:
    """A vision-language model of transformers; raises InputError for a model without a vision encoder."""
    check_vlm(source)
    return load_strict(AutoModelForImageTextToText, source, "vlm")


def check_vlm(source: Source) -> None:
    """Raises InputError where config.json is not that of a vision-language model of transformers."""
    model_type = read_config(source, "vlm").get("model_type")
    if model_type == "internvl_chat":
        raise InputError(f"vlm: {source}: an original InternVL checkpoint; give it to selfkd convert first")
    if model_type not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise InputError(f"vlm: {source}: {model_type!r} is not a model that takes images and text")


def load_native(source: Source) -> PreTrainedModel:
    """A native omni model; of a model that also generates speech, its thinker alone."""
    model_type = read_config(source, "model")["model_type"]
    name = MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES[THINKERS.get(model_type, model_type)]
    return load_strict(getattr(transformers, name), source, "model", SPEECH_OUTPUT if model_type in THINKERS else ())


def load_vlm_processor(source: Source, field: str = "vlm") -> Any:
    """The processor of a VLM or OmniModel, without its video processor, which needs torchvision. `field` is the config
    field that holds `source`. Raises InputError where one of its files is missing or damaged."""
    config = read_config(source, field)
    if Path(source).is_dir():
        check_small_files(Path(source), field)
    with reading(source, field, _first_present(source, "processor_config.json", "preprocessor_config.json")):
        return open_processor(config, **from_hub(source))


def load_processor(source: Source) -> OmniProcessor:
    """The processor that `OmniProcessor.save_pretrained` wrote, or that of a native omni model, by hub id or path.
    Raises InputError where one of its files is missing or damaged."""
    config = read_config(source, "model")
    processor = load_vlm_processor(source, "model")
    if config.get("model_type") != OmniConfig.model_type or config.get("audio_config") is None:
        return OmniProcessor(processor)
    with reading(source, "model", "config.json"):
        mel_bins, stack_factor = config["audio_config"]["num_mel_bins"], int(config["stack_factor"])
    extractor = load_feature_extractor(source, "model", EXTRACTOR_FOLDER, mel_bins)
    return OmniProcessor(processor, extractor, stack_factor)


def load_feature_extractor(
    source: Source, field: str, subfolder: str = "", mel_bins: int = 0
) -> WhisperFeatureExtractor:
    """The feature extractor of a Whisper checkpoint. Raises InputError where it is missing or damaged, or where its
    features do not fit an encoder of `mel_bins` (0 accepts any number)."""
    folder = Path(source) / subfolder
    file = _first_present(folder, "preprocessor_config.json", "processor_config.json")
    if folder.is_dir():
        check_small_files(folder, field)
        if not (folder / file).is_file():
            raise InputError(f"{field}: {folder / file}: not there; it configures the feature extractor")
    with reading(source, field, f"{subfolder}/{file}".lstrip("/")):
        extractor = WhisperFeatureExtractor.from_pretrained(**from_hub(source), subfolder=subfolder)  # nosec B615 from_hub() gives a commit
        found = extractor.sampling_rate, extractor.feature_size
    expected = SAMPLE_RATE_HZ, mel_bins or found[1]
    if found != expected:
        raise InputError(
            f"{field}: {folder / file}: {found[1]} mel bins of audio at {found[0]} Hz; the encoder takes {expected[1]} "
            f"at {expected[0]}"
        )
    return extractor


def _first_present(source: Source, *files: str) -> str:
    """The first of these files that exists; the first name where none does."""
    return next((file for file in files if (Path(source) / file).is_file()), files[0])


def load_speech_encoder(source: Source) -> WhisperEncoder:
    """The encoder of a Whisper checkpoint of any size, or of an `ASRModel`."""
    if check_speech_encoder(source) == ASRModelConfig.model_type:
        return load_strict(ASRModel, source, "speech_encoder", dtype=torch.float32).encoder
    # loaded with its decoder: otherwise the decoder's keys would count as unexpected
    whisper = load_strict(WhisperForConditionalGeneration, source, "speech_encoder", dtype=torch.float32)
    return whisper.get_encoder()


def check_whisper(source: Source, field: str) -> None:
    """Raises InputError where the files are not those of a Whisper checkpoint; `field` is the one that holds
    `source`."""
    check_checkpoint(source, field)
    model_type = read_config(source, field).get("model_type")
    if model_type != "whisper":
        raise InputError(f"{field}: {source}: {model_type!r} is not a Whisper checkpoint")


def check_speech_encoder(source: Source) -> str:
    """The model type of a checkpoint with a Whisper encoder; raises InputError for any other."""
    model_type = read_config(source, "speech_encoder").get("model_type")
    if model_type not in (ASRModelConfig.model_type, "whisper"):
        raise InputError(f"speech_encoder: {source}: {model_type!r} is not a Whisper checkpoint")
    return model_type


def load_asr_model(source: Source) -> "tuple[ASRModel | WhisperASRModel, WhisperFeatureExtractor]":
    """The ASR model of a cascade, and the feature extractor that it was trained with."""
    config = read_config(source, "asr_model")
    model_type, mel_bins = config.get("model_type"), config.get("num_mel_bins", 0)
    if model_type == ASRModelConfig.model_type:
        extractor = load_feature_extractor(source, "asr_model", mel_bins=mel_bins)
        return load_strict(ASRModel, source, "asr_model", dtype=torch.float32).eval(), extractor
    if model_type == "whisper":
        extractor = load_feature_extractor(source, "asr_model", mel_bins=mel_bins)
        tokenizer = _whisper_tokenizer(source)
        model = load_strict(WhisperForConditionalGeneration, source, "asr_model", dtype=torch.float32).eval()
        return WhisperASRModel(model, tokenizer), extractor
    raise InputError(f"asr_model: {source}: {model_type!r} is neither a Whisper checkpoint nor an ASR model of selfkd")


def _whisper_tokenizer(source: Source) -> Any:
    with reading(source, "asr_model", _first_present(source, "tokenizer.json", "vocab.json")):
        return AutoTokenizer.from_pretrained(**from_hub(source))  # nosec B615 from_hub() gives a commit


def whisper_prompt_ids(source: Source, prompt: str) -> Tensor:
    """The ids (T,) of a text that Whisper's decoder takes as if it had transcribed it before: names and spellings to
    expect. Raises InputError for one that is too long."""
    ids = _whisper_tokenizer(source).get_prompt_ids(prompt, return_tensors="pt")
    limit = read_config(source, "asr_model")["max_target_positions"] // 2 - 1  # Whisper's own
    if len(ids) - 1 > limit:  # the first one marks a prompt
        raise InputError(f"asr_prompt: {len(ids) - 1} tokens, at most {limit} are read")
    return ids


@dataclass
class WhisperASRModel:
    """Whisper with its own decoder, on 30-second windows, as it was trained."""

    model: Any
    tokenizer: Any

    @property
    def device(self) -> torch.device:
        return self.model.device

    @torch.no_grad()
    def transcribe(
        self, mel_BFM: Tensor, mel_mask_BM: Tensor, language: str = "", prompt_ids: Tensor | None = None
    ) -> list[str]:
        """Transcripts of clips in `language`; with "" a multilingual Whisper detects the language of each clip. The
        prompt is not part of them."""
        code, settings = language_code(language), self.model.generation_config
        known = getattr(settings, "lang_to_id", None) or {}  # {"<|en|>": ...}; missing in English-only models
        language_settings = {"language": code, "task": "transcribe"} if f"<|{code}|>" in known else {}
        window = pad_to_window(mel_BFM, mel_mask_BM, self.model.config.max_source_positions)
        # Whisper's max_length counts new tokens; `max_new_tokens` does the same with a warning for each batch
        prompted = {} if prompt_ids is None else {"prompt_ids": prompt_ids.to(self.device)}
        ids = self.model.generate(
            input_features=window, max_length=_MAX_TOKENS, do_sample=False, **language_settings, **prompted
        )
        return [t.strip() for t in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]


def load_strict(model_class: Any, source: Source, field: str, left_out: tuple[str, ...] = (), **settings: Any) -> Any:
    """`model_class.from_pretrained(source, **settings)`; raises InputError where a file is missing or damaged, and
    where weights and configuration differ in any key, other than those that begin with one of `left_out`.

    transformers initializes missing weights at random, warns and continues.
    """
    check_checkpoint(source, field)
    if Path(source).is_dir():
        _check_size(model_class, source, field)
    transformers_logging.disable_progress_bar()  # over the tensors of a file
    with reading(source, field):  # ImportError included: Gemma 3n's vision encoder needs timm
        model, info = model_class.from_pretrained(
            **from_hub(source), output_loading_info=True, ignore_mismatched_sizes=True, use_safetensors=True, **settings
        )
    wrong = {problem: sorted(map(str, info[f"{problem}_keys"])) for problem in ("missing", "unexpected", "mismatched")}
    wrong["unexpected"] = [key for key in wrong["unexpected"] if not key.startswith(left_out)]
    found = [f"{len(keys)} {problem} (such as {keys[0]})" for problem, keys in wrong.items() if keys]
    if found:
        raise InputError(f"{field}: {source}: weights that do not fit the configuration: {', '.join(found)}")
    return model


def _check_size(model_class: Any, source: Source, field: str) -> None:
    """Raises InputError where config.json describes a model of more than twice the size of the weight files: one wrong
    digit would allocate more memory than the machine has."""
    with reading(source, field, "config.json"), torch.device("meta"):
        config = getattr(model_class, "config_class", AutoConfig).from_pretrained(**from_hub(source))
        if getattr(config, "quantization_config", None) is not None:  # one number packs several weights
            return
        if getattr(config, "base_models", None):  # most weights are those of the base models
            return
        model = model_class(config) if issubclass(model_class, PreTrainedModel) else model_class.from_config(config)
    _check_dtypes(Path(source), field)
    expected, found = sum(p.numel() for p in model.parameters()), count_weights(Path(source), field)
    if expected > 2 * found:
        raise InputError(
            f"{field}: {source}: weights that do not fit the configuration: {found:,} numbers there, config.json is of "
            f"a model of {expected:,}"
        )


def _check_dtypes(folder: Path, field: str) -> None:
    """Raises InputError for a weight of whole numbers, which transformers would convert to floats without a word."""
    for path in weight_files(folder, field):
        for name, (dtype, _) in read_header(path, field).items():
            if name.endswith((".weight", ".bias")) and not dtype.startswith(("F", "BF")):
                raise InputError(f"{field}: {path}: weight {name}: of type {dtype}, expected floats")


def read_config(source: Source, field: str) -> dict[str, Any]:
    """The content of a checkpoint's config.json; `field` is the config field that holds `source`. Raises InputError
    where there is none, where it names no model type, and where an older selfkd wrote it."""
    check_source(source, field)
    path = Path(source) / CONFIG_NAME
    if path.is_file():
        config = read_json_object(path, field)
    elif Path(source).is_dir():
        raise InputError(f"{field}: {source}: no checkpoint there ({CONFIG_NAME} is missing)")
    else:
        try:
            config = PretrainedConfig.get_config_dict(**from_hub(source))[0]
        except Exception as error:  # the hub's: out of reach, gated, no such name
            reason = str(error).strip().partition("\n")[0] if is_hub_id(source) else "no such folder"
            raise InputError(f"{field}: {source}: no checkpoint there ({reason})") from error
    check_schema(config, _Config, f"{field}: {path}")
    _refuse_older(config, path, field)
    if config.get("model_type") == OmniConfig.model_type:
        check_schema(config, OmniFields, f"{field}: {path}")
    return config


def _refuse_older(config: dict[str, Any], path: Path, field: str) -> None:
    """Raises InputError for the configuration of a model that a selfkd before the first release wrote."""
    if config.get("model_type") == _ASR_MODEL_BEFORE:
        raise InputError(
            f"{field}: {path}: field model_type: {_ASR_MODEL_BEFORE!r}: an older selfkd wrote this checkpoint; train "
            "it again"
        )
    if str(config.get("model_type")).startswith("selfkd"):
        for key in _FIELDS_BEFORE:
            if key in config:
                raise InputError(f"{field}: {path}: field {key}: an older selfkd wrote this checkpoint; train it again")
