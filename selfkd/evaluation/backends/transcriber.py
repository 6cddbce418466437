"""The ears of a cascade: any Whisper, the recogniser of the embedded model, or the ears of a model that hears tokens,
write down what is said."""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import WhisperFeatureExtractor

from selfkd.data.example import Example
from selfkd.errors import InputError
from selfkd.model.backbones import WhisperASRModel, config_of, load_asr_model
from selfkd.model.checkpoint import load_omni, ready
from selfkd.model.checkpoint_files import check_checkpoint
from selfkd.model.configuration_omni import OmniConfig
from selfkd.model.features import log_mel, pad_mels
from selfkd.model.speech_encoder import ASRModel, ASRModelConfig
from selfkd.model.tiny import CTCTranscriber, asr_model_of, asr_model_path


def check_recognizer(checkpoint: str) -> None:
    """Raises InputError, before anything is loaded, for what is no recogniser."""
    check_checkpoint(checkpoint, "asr_model")
    config = config_of(checkpoint, "asr_model")
    kind = config.get("model_type")
    if kind == OmniConfig.model_type and config.get("ctc_token_ids") is None:
        raise InputError("recognizer: this model's ears hear no tokens, so there is no transcript of what they hear")
    if kind not in (OmniConfig.model_type, ASRModelConfig.model_type, "whisper"):
        raise InputError(
            f"recognizer: {checkpoint}: {kind!r} is neither a Whisper checkpoint nor a recogniser of selfkd"
        )


@dataclass
class Transcriber:
    asr_model: ASRModel | WhisperASRModel | CTCTranscriber
    extractor: WhisperFeatureExtractor

    @classmethod
    def from_pretrained(cls, checkpoint: str = "") -> "Transcriber":
        """A Whisper checkpoint, a recogniser of ours or a model that hears tokens, by hub id or path, on the GPU where
        there is one; the embedded recogniser by default."""
        if checkpoint and config_of(checkpoint, "asr_model").get("model_type") == OmniConfig.model_type:
            encoder, extractor = asr_model_of(*load_omni(checkpoint))
            ready(encoder.speech_encoder)
            ready(encoder.projector)
            return cls(encoder, extractor)
        asr_model, extractor = load_asr_model(checkpoint or asr_model_path())
        ready(asr_model.model if isinstance(asr_model, WhisperASRModel) else asr_model)
        return cls(asr_model, extractor)

    def transcribe(self, examples: Sequence[Example], language: str = "") -> list[str]:
        """What is said, in `language`; a Whisper of many languages guesses which, where none is given."""
        mels = [log_mel(self.extractor, e.samples(), f"example {e.id}") for e in examples]
        mel_BFM, mel_mask_BM = (t.to(self.asr_model.device) for t in pad_mels(mels))
        if isinstance(self.asr_model, WhisperASRModel):
            return self.asr_model.recognize(mel_BFM, mel_mask_BM, language)
        return self.asr_model.recognize(mel_BFM, mel_mask_BM)
