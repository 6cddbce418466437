"""The ASR model of a cascade: any Whisper, an ASR model of selfkd (the bundled one is the default), or the speech
encoder and CTC projector of an omni model."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor
from transformers import WhisperFeatureExtractor

from selfkd.data.example import Example
from selfkd.errors import InputError
from selfkd.model.backbones import WhisperASRModel, load_asr_model, whisper_prompt_ids
from selfkd.model.checkpoint import CheckpointInfo, inspect_checkpoint, ready
from selfkd.model.ctc_asr import CTCTranscriber, ctc_transcriber
from selfkd.model.features import log_mel, pad_mels
from selfkd.model.speech_encoder import ASRModel
from selfkd.model.tiny import TINY_MODEL


def inspect_asr_model(checkpoint: str, prompt: str = "") -> CheckpointInfo:
    """An ASR model by hub id or path, or the bundled one; raises InputError for any other checkpoint, and for a prompt
    that it cannot take."""
    found = inspect_checkpoint(checkpoint or TINY_MODEL, "asr_model", "asr")
    if prompt:
        _prompt_ids(found, prompt)
    return found


def _prompt_ids(checkpoint: CheckpointInfo, prompt: str) -> Tensor:
    if checkpoint.kind != "whisper":
        raise InputError("asr_prompt: needs a Whisper checkpoint as asr_model; a CTC model takes no text")
    return whisper_prompt_ids(checkpoint.paths[0], prompt)


@dataclass
class Transcriber:
    asr_model: ASRModel | WhisperASRModel | CTCTranscriber
    extractor: WhisperFeatureExtractor
    prompt_ids: Tensor | None = None  # of a Whisper

    @classmethod
    def from_pretrained(cls, checkpoint: str = "") -> "Transcriber":
        return cls.load(inspect_asr_model(checkpoint))

    @classmethod
    def load(cls, checkpoint: CheckpointInfo, prompt: str = "") -> "Transcriber":
        """A Whisper checkpoint, an ASR model of selfkd or a model with a CTC projector, on the GPU where there is
        one. Raises InputError for a prompt that the ASR model cannot take."""
        prompt_ids = _prompt_ids(checkpoint, prompt) if prompt else None
        if checkpoint.kind == "omni":
            encoder, extractor = ctc_transcriber(*checkpoint.load())
            ready(encoder.speech_encoder)
            ready(encoder.projector)
            return cls(encoder, extractor)
        asr_model, extractor = load_asr_model(checkpoint.paths[0])
        ready(asr_model.model if isinstance(asr_model, WhisperASRModel) else asr_model)
        return cls(asr_model, extractor, prompt_ids)

    def transcribe(self, examples: Sequence[Example], language: str = "") -> list[str]:
        """The transcripts of the examples' audio in `language`; a multilingual Whisper detects the language where none
        is given."""
        mels = [log_mel(self.extractor, e.samples(), f"example {e.id}") for e in examples]
        mel_BFM, mel_mask_BM = (t.to(self.asr_model.device) for t in pad_mels(mels))
        if isinstance(self.asr_model, WhisperASRModel):
            return self.asr_model.transcribe(mel_BFM, mel_mask_BM, language, self.prompt_ids)
        return self.asr_model.transcribe(mel_BFM, mel_mask_BM)


def with_transcripts_of_history(
    transcriber: Transcriber | None, examples: Sequence[Example], language: str
) -> list[Example]:
    """The examples with the transcripts of their earlier turns in place of these turns' questions."""
    found = []
    for example in examples:
        earlier = list(example.turns())[:-1]
        texts = transcribe(transcriber, earlier, language) if earlier else []
        history = [replace(turn, question=text) for turn, text in zip(example.history, texts, strict=True)]
        found.append(replace(example, history=tuple(history)))
    return found


def transcribe(transcriber: Transcriber | None, examples: Sequence[Example], language: str) -> list[str]:
    """The transcripts that a cascade gives its model as text queries; see `cascade.predict_both_forms`."""
    assert transcriber is not None, "the modality cascade needs a transcriber"  # noqa: S101 an invariant of this code, no check of input
    return transcriber.transcribe(examples, language)
