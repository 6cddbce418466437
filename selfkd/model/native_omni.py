"""Omni models that hear by themselves, and where each keeps its ears.

Such a model merges what it hears into its tokens itself, so nothing of ours stands between its processor and its
`forward`: it takes part in Self-KD by its own chat template, its own features and its own positions.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn
from transformers import PretrainedConfig


@dataclass(frozen=True)
class NativeAudio:
    """Modules of a model, by their path in it: what listens, and what brings it into the LLM's space."""

    speech_encoder: str
    projector: tuple[str, ...]

    def modules(self, vlm: nn.Module, part: str) -> Iterator[nn.Module]:
        """The modules of `part`: "speech_encoder" or "projector"."""
        for path in (self.speech_encoder,) if part == "speech_encoder" else self.projector:
            yield vlm.get_submodule(path)


_TOWER, _PHI = "model.audio_tower", "model.embed_tokens_extend.audio_embed"
_GEMMA = NativeAudio(_TOWER, ("model.embed_audio.embedding_projection",))
NATIVE_AUDIO = {
    "qwen2_5_omni_thinker": NativeAudio(_TOWER, (f"{_TOWER}.ln_post", f"{_TOWER}.proj")),
    "qwen3_omni_moe_thinker": NativeAudio(_TOWER, (f"{_TOWER}.ln_post", f"{_TOWER}.proj1", f"{_TOWER}.proj2")),
    "gemma3n": _GEMMA,
    "gemma4": _GEMMA,
    # it has a second projection for speech without a picture, which is not what is trained here
    "phi4_multimodal": NativeAudio(
        f"{_PHI}.encoder", (f"{_PHI}.up_proj_for_vision_speech", f"{_PHI}.down_proj_for_vision_speech")
    ),
}
# children of a decoder that see and hear: Phi-4's holds them beside its layers
SENSES = ("embed_tokens_extend",)
# a whole Qwen-Omni model can speak as well; what sees, hears and answers is its "thinker"
THINKERS = {"qwen2_5_omni": "qwen2_5_omni_thinker", "qwen3_omni_moe": "qwen3_omni_moe_thinker"}


def native_speech_token(config: PretrainedConfig) -> int:
    """The id that stands for what is heard in the tokens of a native omni model."""
    holder = config.audio_config if config.model_type == "phi4_multimodal" else config
    return holder.audio_token_id
