# SPDX-License-Identifier: Apache-2.0
"""Native omni models: models that encode audio with modules of their own, and the paths of those modules.

Such a model merges audio embeddings into its token embeddings itself, so nothing of selfkd stands between its processor
and its `forward`: Self-KD uses its own chat template, features and position ids.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn
from transformers import PretrainedConfig


@dataclass(frozen=True)
class NativeAudio:
    """Paths of a model's modules: the audio encoder, and the layers that project into the LLM's embedding space."""

    speech_encoder: str
    projector: tuple[str, ...]

    def modules(self, vlm: nn.Module, part: str) -> Iterator[nn.Module]:
        """The modules of `part`: "speech_encoder" or "projector"."""
        # transformers 5.19 has the encoders of Qwen-Omni next to `model`, not within it
        outer = hasattr(vlm, _TOWER.removeprefix("model."))
        for path in (self.speech_encoder,) if part == "speech_encoder" else self.projector:
            yield vlm.get_submodule(path.removeprefix("model.") if outer else path)


_TOWER, _PHI = "model.audio_tower", "model.embed_tokens_extend.audio_embed"
_GEMMA = NativeAudio(_TOWER, ("model.embed_audio.embedding_projection",))
NATIVE_AUDIO = {
    "qwen2_5_omni_thinker": NativeAudio(_TOWER, (f"{_TOWER}.ln_post", f"{_TOWER}.proj")),
    "qwen3_omni_moe_thinker": NativeAudio(_TOWER, (f"{_TOWER}.ln_post", f"{_TOWER}.proj1", f"{_TOWER}.proj2")),
    "gemma3n": _GEMMA,
    "gemma4": _GEMMA,
    # it has a second projection, for audio without an image, which does not train here
    "phi4_multimodal": NativeAudio(
        f"{_PHI}.encoder", (f"{_PHI}.up_proj_for_vision_speech", f"{_PHI}.down_proj_for_vision_speech")
    ),
}
# children of a decoder that encode images and audio: Phi-4 has them next to its layers
MODALITY_ENCODERS = ("embed_tokens_extend",)
# a whole Qwen-Omni model also generates speech; its "thinker" takes images and audio and generates text
SPEECH_OUTPUT = ("talker.", "token2wav.", "code2wav.")  # prefixes of its other weights
THINKERS = {"qwen2_5_omni": "qwen2_5_omni_thinker", "qwen3_omni_moe": "qwen3_omni_moe_thinker"}


def native_audio_token(config: PretrainedConfig) -> int:
    """The id of the token that stands for an audio embedding in the input of a native omni model."""
    holder = config.audio_config if config.model_type == "phi4_multimodal" else config
    return holder.audio_token_id


def audio_start_token(config: PretrainedConfig) -> int:
    """The id of the token that opens a clip in the input of a native omni model, -1 for a model without one."""
    found = (getattr(config, name, None) for name in ("audio_start_token_id", "boa_token_id"))
    return next((id_ for id_ in found if id_ is not None), -1)
