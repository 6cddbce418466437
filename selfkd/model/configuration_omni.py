"""The configuration of an `OmniModel`."""

from typing import Any, ClassVar

from transformers import AutoConfig, PretrainedConfig, WhisperConfig


class OmniConfig(PretrainedConfig):
    """Configuration of the VLM and of the speech encoder, and how the two are joined.

    Without a `audio_config` the VLM is a native omni model and hears by itself. `audio_token_id` stands for what is
    heard in `input_ids`, however many vectors that will be; the VLM's embedding never sees it (a native model has its
    own, once for each vector). The ears stack `stack_factor` frames to a vector, or, where `ctc_token_ids` holds ids of
    the LLM's tokens, they give one vector for each of these that they hear. With `pad_to_window` the encoder reads 30
    seconds whatever was said. `llm_lora` holds the fields of `peft.LoraConfig` where the LLM has adapters.
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
        super().__init__(**kwargs)

    @property
    def context(self) -> int:
        """Tokens that the LLM can read at once."""
        return self.get_text_config().max_position_embeddings

    @property
    def placeholder_ids(self) -> list[int]:
        """Tokens that stand for what is seen and heard, and are never a word of a reply."""
        parts = [c for c in vars(self.vlm_config).values() if isinstance(c, PretrainedConfig)]
        names = [f"{sense}_token_{kind}" for sense in ("image", "video", "audio") for kind in ("id", "index")]
        found = {getattr(config, name, None) for config in (self.vlm_config, *parts) for name in names}
        return sorted({i for i in found if isinstance(i, int) and i >= 0} | {self.audio_token_id})

    def get_text_config(self, *args, **kwargs):
        return self.vlm_config.get_text_config(*args, **kwargs) if self.vlm_config is not None else self


AutoConfig.register(OmniConfig.model_type, OmniConfig)
