"""`selfkd-tiny`, the model that comes with the package: InternVL and Whisper classes at a size that a laptop trains.

`build_processor` and `build_vlm` make the untrained parts, `tools/tiny_model` trains them, and `selfkd/assets` holds
the weights. An ASR model whose vocabulary are tokens of the VLM gives a CTC projector, and a CTC projector gives an ASR
model.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import (
    GotOcr2ImageProcessorPil,
    InternVLConfig,
    InternVLForConditionalGeneration,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    WhisperFeatureExtractor,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from selfkd.errors import InputError
from selfkd.model.backbones import config_of, load_asr_model, load_feature_extractor, load_vlm, load_vlm_processor
from selfkd.model.checkpoint_files import Source, reading
from selfkd.model.configuration_omni import OmniConfig
from selfkd.model.image_processor import InternVLImageTextProcessor
from selfkd.model.modeling_omni import OmniModel
from selfkd.model.processing_omni import OmniProcessor
from selfkd.model.projectors import CTCOutput, CTCProjector, transcripts_of
from selfkd.model.speech_encoder import ASRModel, encode_flac

VOCABULARY_SIZE = 512
IMAGE_TOKENS = 16  # 64 pixels / patch 8 = 8 x 8 patches, 4 x 4 after the pixel shuffle
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<video>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<IMG_CONTEXT>\n{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# how Qwen2 (the LLM of InternVL2-1B) cuts text before byte-pair encoding
_QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def vlm_path() -> Path:
    return Path(str(files("selfkd") / "assets" / "vlm"))


def asr_model_path() -> Path:
    return Path(str(files("selfkd") / "assets" / "asr_model"))


def build_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on `texts`, with the special tokens of InternVL."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_QWEN2_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY_SIZE,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        extra_special_tokens={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
    )


def build_processor(texts: Iterable[str]) -> InternVLImageTextProcessor:
    image_processor = GotOcr2ImageProcessorPil(
        size={"height": 64, "width": 64}, crop_to_patches=True, min_patches=1, max_patches=12, do_convert_rgb=True
    )
    return InternVLImageTextProcessor(
        image_processor=image_processor,
        tokenizer=build_tokenizer(texts),
        image_seq_length=IMAGE_TOKENS,
        chat_template=CHAT_TEMPLATE,
    )


def build_vlm(tokenizer: PreTrainedTokenizerFast) -> InternVLForConditionalGeneration:
    """InternVL2-1B's classes (InternViT, pixel shuffle, MLP, Qwen2), about 3.5M parameters, random weights."""
    text = {
        "model_type": "qwen2",
        "vocab_size": len(tokenizer),
        "hidden_size": 160,
        "intermediate_size": 448,
        "num_hidden_layers": 6,
        "num_attention_heads": 5,
        "num_key_value_heads": 5,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "hidden_size": 192,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "image_size": 64,
        "patch_size": 8,
        "layer_scale_init_value": 1.0,
    }
    config = InternVLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=tokenizer.vocab["<IMG_CONTEXT>"],
        image_seq_length=IMAGE_TOKENS,
        tie_word_embeddings=True,
    )
    return InternVLForConditionalGeneration(config)


# a Whisper encoder of three layers, width 128; the special tokens are those of Whisper's decoder, which is not there
WHISPER_SIZE: dict[str, Any] = {
    "num_mel_bins": 80,
    "d_model": 128,
    "encoder_layers": 3,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 512,
    "max_source_positions": 1500,
    "dropout": 0.1,
    "decoder_layers": 0,
}


def bundled_paths() -> tuple[Path, Path]:
    """The VLM and the recogniser that the bundled model is made of."""
    return vlm_path(), asr_model_path()


def load_bundled() -> tuple[OmniModel, OmniProcessor]:
    return load_bundled_encoder(*bundled_paths())


def bundled_config() -> tuple[OmniConfig, OmniProcessor]:
    """Of the bundled model, without its weights."""
    return listening_config(*bundled_paths())


def listening_config(vlm_source: Source, asr_model_source: Source) -> tuple[OmniConfig, OmniProcessor]:
    """Configuration and processor of what `load_bundled_encoder` makes of the same parts, without reading weights."""
    vlm, encoder = config_of(vlm_source, "vlm"), config_of(asr_model_source, "speech_encoder")
    processor = OmniProcessor(
        load_vlm_processor(vlm_source), load_feature_extractor(asr_model_source, "speech_encoder")
    )
    with reading(asr_model_source, "speech_encoder", "config.json"):
        pieces = [str(piece) for piece in encoder["pieces"]]
    with reading(vlm_source, "vlm", "config.json"):
        config = OmniConfig(vlm, encoder, audio_token_id=processor.audio_token_id)
    config.ctc_token_ids = tokens_of(pieces, processor)
    return config, processor


def tokens_of(pieces: Sequence[str], processor: OmniProcessor) -> list[int]:
    """The LLM's tokens that are a recogniser's pieces; raises InputError for a piece that is none."""
    token_ids = []
    for piece in pieces:
        ids = processor.text_ids(piece)
        if len(ids) != 1:
            raise InputError(f"speech_encoder: hears {piece!r}, which is no token of the language model")
        token_ids += ids
    return token_ids


def load_bundled_encoder(vlm_source: Source, asr_model_source: Source) -> tuple[OmniModel, OmniProcessor]:
    """A VLM that hears by a recogniser whose pieces are the VLM's own tokens; nothing in it is new or trained here."""
    asr_model, extractor = load_asr_model(asr_model_source)
    if not isinstance(asr_model, ASRModel):
        raise InputError(
            f"speech_encoder: {asr_model_source}: has no CTC head (python -m tools.tiny_model.pretrain_asr_model)"
        )
    return join_asr_model(load_vlm(vlm_source), load_vlm_processor(vlm_source), asr_model, extractor)


def join_asr_model(
    vlm: PreTrainedModel, vlm_processor: Any, asr_model: ASRModel, extractor: WhisperFeatureExtractor
) -> tuple[OmniModel, OmniProcessor]:
    processor = OmniProcessor(vlm_processor, extractor)
    token_ids = tokens_of(asr_model.config.pieces, processor)
    model = OmniModel.from_parts(vlm, asr_model.encoder, processor.audio_token_id, ctc_token_ids=token_ids)
    model.get_submodule("projector.ctc_head").load_state_dict(asr_model.ctc_head.state_dict())
    return model, processor


@dataclass
class CTCTranscriber:
    """The ears of a model that hears tokens, as a recogniser of their own: its parts, without the LLM."""

    speech_encoder: WhisperEncoder
    projector: CTCProjector
    pad_to_window: bool
    processor: OmniProcessor

    @property
    def device(self) -> torch.device:
        return self.speech_encoder.device

    @torch.no_grad()
    def read(self, mel_BFM: Tensor, mel_mask_BM: Tensor) -> CTCOutput:
        return self.projector.read(*encode_flac(self.speech_encoder, mel_BFM, mel_mask_BM, self.pad_to_window)).tokens

    def recognize(self, mel_BFM: Tensor, mel_mask_BM: Tensor) -> list[str]:
        """What is heard in each clip. Tokens are read together: one alone may be half a letter, or lose its space."""
        heard = transcripts_of(self.read(mel_BFM, mel_mask_BM))
        return self.processor.decode([[self.projector.token_ids[place] for place in positions] for positions in heard])


def asr_model_of(model: OmniModel, processor: OmniProcessor) -> tuple[CTCTranscriber, WhisperFeatureExtractor]:
    """Raises InputError for ears that hear no tokens."""
    if model.config.ctc_token_ids is None or processor.feature_extractor is None:
        raise InputError("recognizer: this model's ears hear no tokens, so there is no transcript of what they hear")
    assert isinstance(model.projector, CTCProjector)
    encoder = CTCTranscriber(model.speech_encoder.eval(), model.projector.eval(), model.config.pad_to_window, processor)
    return encoder, processor.feature_extractor
