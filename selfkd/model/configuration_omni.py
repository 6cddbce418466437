# SPDX-License-Identifier: Apache-2.0
"""The configuration of an `OmniModel`."""

from typing import Any, ClassVar, Literal

from transformers import AutoConfig, PretrainedConfig, WhisperConfig

# the classes that the auto classes of transformers load with `trust_remote_code`, from the code that a checkpoint
# carries
AUTO_MAP = {
    "AutoConfig": "configuration_omni.OmniConfig",
    "AutoModel": "modeling_omni.OmniModel",
    "AutoModelForImageTextToText": "modeling_omni.OmniModel",
    "AutoModelForMultimodalLM": "modeling_omni.OmniModel",
}


class OmniConfig(PretrainedConfig):
    """Configuration of the VLM and the speech encoder, and of the projector between them.

    Args:
        vlm_config: Of the VLM, or of a native omni model, which encodes audio with its own modules.
        audio_config: Of the Whisper encoder; None for a native omni model.
        stack_factor: Encoder frames per audio embedding of the frame-stacking projector.
        audio_token_id: The token that stands for a clip in `input_ids`, once, however many embeddings the clip has; the
            VLM's embedding never looks it up. A native omni model has its own, once per embedding.
        pad_to_window: Whether the encoder gets clips padded to 30 seconds.
        ctc_token_ids: Ids of the LLM's tokens in the vocabulary of the CTC projector; None for the frame-stacking one.
        llm_lora: Fields of `peft.LoraConfig` where the LLM has adapters.
    """

    model_type = "selfkd_omni"
    sub_configs: ClassVar = {"vlm_config": AutoConfig, "audio_config": WhisperConfig}

    def __init__(
        self,
        vlm_config=None,
        audio_config=None,
        stack_factor: int = 4,
        audio_token_id: int = 0,
        pad_to_window: bool = False,
        ctc_token_ids: list[int] | None = None,
        llm_lora: dict[str, Any] | None = None,
        **kwargs,
    ):
        if isinstance(vlm_config, dict):
            vlm_config = AutoConfig.for_model(**vlm_config)
        if isinstance(audio_config, dict):
            audio_config = WhisperConfig(**{k: v for k, v in audio_config.items() if k != "model_type"})
        self.vlm_config, self.audio_config = vlm_config, audio_config
        self.stack_factor, self.audio_token_id, self.pad_to_window = stack_factor, audio_token_id, pad_to_window
        self.ctc_token_ids, self.llm_lora = ctc_token_ids, llm_lora
        kwargs.pop("auto_map", None)  # that of a checkpoint on the hub names the hub's copy of the code
        super().__init__(**kwargs)
        self.auto_map = dict(AUTO_MAP)

    @property
    def projector_type(self) -> Literal["ctc", "stack", "native"]:
        """What maps encoder frames to the LLM's embedding space: `CTCProjector`, `StackProjector`, or the model's own
        module."""
        if self.audio_config is None:
            return "native"
        return "stack" if self.ctc_token_ids is None else "ctc"

    @property
    def context(self) -> int:
        """The LLM's context length, in tokens."""
        return self.get_text_config().max_position_embeddings

    @property
    def placeholder_ids(self) -> list[int]:
        """Tokens that stand for images, videos and audio, and are never part of a response."""
        parts = [c for c in vars(self.vlm_config).values() if isinstance(c, PretrainedConfig)]
        names = [f"{modality}_token_{key}" for modality in ("image", "video", "audio") for key in ("id", "index")]
        found = {getattr(config, name, None) for config in (self.vlm_config, *parts) for name in names}
        return sorted({i for i in found if isinstance(i, int) and i >= 0} | {self.audio_token_id})

    def get_text_config(self, *args, **kwargs):
        return self.vlm_config.get_text_config(*args, **kwargs) if self.vlm_config is not None else self
