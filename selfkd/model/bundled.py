"""The model that comes with the package: the embedded VLM with ears that hear its tokens."""

from typing import Any

from transformers import PreTrainedModel, WhisperFeatureExtractor

from selfkd.errors import InputError
from selfkd.model.embedded import recognizer_path, vlm_path
from selfkd.model.load import Source, load_recognizer, load_vlm, load_vlm_processor
from selfkd.model.omni import OmniModel
from selfkd.model.processor import OmniProcessor
from selfkd.model.speech_encoder import SpeechRecognizer


def load_bundled() -> tuple[OmniModel, OmniProcessor]:
    return load_listening(vlm_path(), recognizer_path())


def load_listening(vlm_source: Source, recognizer_source: Source) -> tuple[OmniModel, OmniProcessor]:
    """A VLM that hears by a recogniser whose pieces are the VLM's own tokens; nothing in it is new or trained here."""
    recognizer, extractor = load_recognizer(recognizer_source)
    if not isinstance(recognizer, SpeechRecognizer):
        raise InputError(
            f"speech_encoder: {recognizer_source}: has no CTC head (python -m selfkd.training.pretrain_recognizer)"
        )
    return join_recognizer(load_vlm(vlm_source), load_vlm_processor(vlm_source), recognizer, extractor)


def join_recognizer(
    vlm: PreTrainedModel, vlm_processor: Any, recognizer: SpeechRecognizer, extractor: WhisperFeatureExtractor
) -> tuple[OmniModel, OmniProcessor]:
    processor = OmniProcessor(vlm_processor, extractor)
    token_ids = []
    for piece in recognizer.config.pieces:
        ids = processor.ids(piece)
        if len(ids) != 1:
            raise InputError(f"speech_encoder: hears {piece!r}, which is no token of the language model")
        token_ids += ids
    model = OmniModel.from_parts(vlm, recognizer.encoder, processor.speech_token_id, speech_tokens=token_ids)
    model.get_submodule("projector.ctc_head").load_state_dict(recognizer.ctc_head.state_dict())
    return model, processor
