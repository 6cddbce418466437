"""The ears of a cascade: any Whisper, or the recogniser of the embedded model, writes down what is said."""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import WhisperFeatureExtractor

from selfkd.data.example import Example
from selfkd.data.features import log_mel, pad_mels
from selfkd.model.embedded import recognizer_path
from selfkd.model.load import WhisperRecognizer, load_recognizer
from selfkd.model.speech_encoder import SpeechRecognizer


@dataclass
class Transcriber:
    recognizer: SpeechRecognizer | WhisperRecognizer
    extractor: WhisperFeatureExtractor

    @classmethod
    def from_pretrained(cls, checkpoint: str = "") -> "Transcriber":
        """A Whisper checkpoint or one of ours, by hub id or path; the embedded one by default."""
        return cls(*load_recognizer(checkpoint or recognizer_path()))

    def transcribe(self, examples: Sequence[Example]) -> list[str]:
        mels = [log_mel(self.extractor, e.samples(), f"example {e.id}") for e in examples]
        return self.recognizer.recognize(*(t.to(self.recognizer.device) for t in pad_mels(mels)))
