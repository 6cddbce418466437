"""The bundled model: the embedded VLM and speech encoder, joined."""

from transformers import WhisperFeatureExtractor, set_seed

from selfkd.model.embedded import recognizer_path, vlm_path
from selfkd.model.load import load_speech_encoder, load_vlm, load_vlm_processor
from selfkd.model.omni import OmniModel
from selfkd.model.processor import OmniProcessor


def load_bundled() -> tuple[OmniModel, OmniProcessor]:
    """The model and its processor; its projector is untrained, drawn from a fixed seed."""
    vlm, encoder = load_vlm(vlm_path()), load_speech_encoder(recognizer_path())
    processor = OmniProcessor(
        load_vlm_processor(vlm_path()), WhisperFeatureExtractor.from_pretrained(recognizer_path())
    )
    set_seed(0)
    return OmniModel.from_parts(vlm, encoder, processor.speech_token_id), processor
