"""A transformers vision-language model with ears: `OmniModel` = VLM + Whisper encoder + projector.

The VLM is used as it is: on the text view nothing of ours runs, so written answers stay what they were.

Legend: B items, T tokens, F mel bins, M mel frames, S speech vectors, D width, N response rows.
"""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, ClassVar

import torch
from accelerate.utils import send_to_device
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    PretrainedConfig,
    PreTrainedModel,
    WhisperConfig,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from selfkd.losses import SelfKDLoss, self_kd_loss
from selfkd.model.adapters import ADAPTER_MARK, adapters_on, add_adapters, is_adapter
from selfkd.model.paired import paired_rows
from selfkd.model.prefix import generate_after, read_prefix
from selfkd.model.projector import SpeechProjector
from selfkd.model.speech_encoder import encode_speech


class OmniConfig(PretrainedConfig):
    """Configuration of the VLM and of the speech encoder, and how the two are joined.

    `speech_token_id` stands for one speech vector in `input_ids`; the VLM's embedding never sees it. With
    `speech_padded` the encoder reads 30 seconds whatever was said. `llm_lora` holds the fields of `peft.LoraConfig`
    where the LLM has adapters.
    """

    model_type = "selfkd_omni"
    sub_configs: ClassVar = {"vlm_config": AutoConfig, "speech_config": WhisperConfig}

    def __init__(
        self,
        vlm_config=None,
        speech_config=None,
        speech_stack: int = 4,
        speech_token_id: int = 0,
        speech_padded: bool = False,
        llm_lora: dict[str, Any] | None = None,
        **kwargs,
    ):
        if isinstance(vlm_config, dict):
            vlm_config = AutoConfig.for_model(**vlm_config)
        if isinstance(speech_config, dict):
            speech_config = WhisperConfig(**{k: v for k, v in speech_config.items() if k != "model_type"})
        self.vlm_config, self.speech_config = vlm_config, speech_config
        self.speech_stack, self.speech_token_id, self.speech_padded = speech_stack, speech_token_id, speech_padded
        self.llm_lora = llm_lora
        super().__init__(**kwargs)

    def get_text_config(self, *args, **kwargs):
        return self.vlm_config.get_text_config(*args, **kwargs) if self.vlm_config is not None else self


class OmniModel(PreTrainedModel):
    config_class = OmniConfig
    base_model_prefix = "vlm"
    main_input_name = "input_ids"
    _supports_sdpa = True
    supports_gradient_checkpointing = True
    # what may train beside a VLM in bf16; looked for anywhere in a name: "projector" alone would be the VLM's own too
    _keep_in_fp32_modules_strict: Any = frozenset(
        {"speech_encoder", "projector.norm", "projector.linear_in", "projector.linear_out", ADAPTER_MARK}
    )

    def __init__(self, config: OmniConfig):
        super().__init__(config)
        self.vlm = AutoModelForImageTextToText.from_config(config.vlm_config)
        self.speech_encoder = WhisperEncoder(config.speech_config)
        self.projector = SpeechProjector(
            config.speech_config.d_model, self.vlm.get_input_embeddings().embedding_dim, config.speech_stack
        )
        if config.llm_lora is not None:
            add_adapters(self.vlm, config.llm_lora)
        self.post_init()

    def add_llm_adapters(self, **settings: Any) -> None:
        """LoRA for the spoken question and the response; `settings` are fields of `peft.LoraConfig`."""
        add_adapters(self.vlm, settings)
        self.config.llm_lora = settings

    @classmethod
    def from_parts(
        cls,
        vlm: PreTrainedModel,
        speech_encoder: WhisperEncoder,
        speech_token_id: int,
        speech_stack: int = 4,
        speech_padded: bool = False,
    ) -> "OmniModel":
        """Joins a trained VLM, in its own dtype, and a trained Whisper encoder by a new projector; ours is in fp32."""
        speech_config = WhisperConfig(**_without_model_type(speech_encoder.config.to_dict()))
        model = cls(OmniConfig(vlm.config, speech_config, speech_stack, speech_token_id, speech_padded))
        model.vlm = model.vlm.to(vlm.dtype)
        model.vlm.load_state_dict(vlm.state_dict())
        model.speech_encoder.load_state_dict(speech_encoder.state_dict())
        model.vlm.generation_config = vlm.generation_config
        return model

    def train(self, mode: bool = True) -> "OmniModel":
        """Parts that do not train stay in evaluation mode: with dropout the teacher would be another each time."""
        super().train(mode)
        for part in (self.vlm, self.speech_encoder):
            if not any(p.requires_grad for name, p in part.named_parameters() if not is_adapter(name)):
                part.eval()
        return self

    def get_input_embeddings(self):
        return self.vlm.get_input_embeddings()

    def get_output_embeddings(self):
        return self.vlm.get_output_embeddings()

    def hear(self, mel_BFM: Tensor, mel_mask_BM: Tensor) -> tuple[Tensor, Tensor]:
        """Speech vectors (B, S, D) in the LLM's space and their mask; how many an item gets is the ears' business."""
        frames_BSD, mask_BS = encode_speech(self.speech_encoder, mel_BFM, mel_mask_BM, self.config.speech_padded)
        return self.projector(frames_BSD.to(self.projector.linear_in.weight.dtype), mask_BS)

    def embed(self, input_ids_BT: Tensor, mel_BFM: Tensor | None, mel_mask_BM: Tensor | None) -> Tensor:
        """Token embeddings (B, T, D), the heard vectors in the places of the speech token, in order."""
        is_speech = input_ids_BT == self.config.speech_token_id
        embeddings = self.get_input_embeddings()(input_ids_BT.masked_fill(is_speech, 0))
        if mel_BFM is None or mel_mask_BM is None:
            return embeddings
        vectors, mask = self.hear(mel_BFM, mel_mask_BM)
        heard = vectors[mask].to(embeddings.dtype)
        if len(heard) != int(is_speech.sum()):
            raise ValueError(f"{len(heard)} speech vectors for {int(is_speech.sum())} places in the prompt")
        return embeddings.masked_scatter(is_speech[..., None], heard)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        mel_BFM: Tensor | None = None,
        mel_mask_BM: Tensor | None = None,
        paired: Mapping[str, Any] | None = None,
        alpha: float = 1.0,
        temperature: float = 1.0,
        **vlm_inputs: Any,
    ):
        """The VLM's outputs for prompts with pictures, text and speech; without speech this is the VLM itself.

        With `paired`, a batch as `PairedCollator` makes it, the loss of Self-KD instead (a `SelfKDLoss`): here, and not
        in the trainer, for DDP and FSDP follow a model through its `forward` alone.
        """
        if paired is not None:
            return self._paired_loss(paired, alpha, temperature)
        assert input_ids is not None, "input_ids or paired"
        if mel_BFM is None:
            return self.vlm(input_ids=input_ids, attention_mask=attention_mask, **vlm_inputs)
        embeddings = self.embed(input_ids, mel_BFM, mel_mask_BM)
        if self.config.llm_lora is not None:
            raise ValueError("adapters are on after the prefix alone: use paired_rows or generate")
        return self.vlm(inputs_embeds=embeddings, attention_mask=attention_mask, **vlm_inputs)

    def _paired_loss(self, batch: Mapping[str, Any], alpha: float, temperature: float) -> SelfKDLoss:
        student, teacher, labels = paired_rows(self, batch, with_teacher=alpha > 0)
        return self_kd_loss(student, teacher, self.get_output_embeddings().weight, labels, alpha, temperature)

    @torch.no_grad()
    def generate(
        self,
        prefix_ids: Tensor,
        prefix_mask: Tensor,
        group: Tensor,
        suffix_ids: Tensor,
        suffix_mask: Tensor,
        image_inputs: dict[str, Tensor],
        mel_BFM: Tensor | None = None,
        mel_mask_BM: Tensor | None = None,
        **generate_inputs: Any,
    ) -> Tensor:
        """Ids of the replies alone (B, new tokens). Takes what `OmniProcessor` gives, on any device, and the arguments
        of `transformers.GenerationMixin.generate`. A picture is read once for all prompts about it."""
        prefix_ids, prefix_mask, group, suffix_ids, suffix_mask, image_inputs, mel_BFM, mel_mask_BM = send_to_device(
            (prefix_ids, prefix_mask, group, suffix_ids, suffix_mask, image_inputs, mel_BFM, mel_mask_BM), self.device
        )
        prefix = read_prefix(self.vlm, prefix_ids, prefix_mask, **image_inputs).rows(group)
        embeddings = self.embed(suffix_ids, mel_BFM, mel_mask_BM)
        with nullcontext() if mel_BFM is None else adapters_on(self.vlm):
            return generate_after(self.vlm, prefix, embeddings, suffix_mask, **generate_inputs)

    def speech_suffixes(
        self, before: list[Tensor], after: list[Tensor], mel_BFM: Tensor, mel_mask_BM: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Embeddings (B, T, D) of `before` + what is heard + `after`, padded on the right, and their mask (B, T)."""
        vectors, mask = self.hear(mel_BFM, mel_mask_BM)
        embed = self.get_input_embeddings()
        items = [
            torch.cat([embed(b), v[m].to(embed.weight.dtype), embed(a)])
            for b, v, m, a in zip(before, vectors, mask, after, strict=True)
        ]
        lengths = torch.tensor([len(i) for i in items], device=vectors.device)
        padded = pad_sequence(items, batch_first=True)
        return padded, (torch.arange(padded.shape[1], device=lengths.device) < lengths[:, None]).long()


def _without_model_type(values: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in values.items() if k not in ("model_type", "architectures", "dtype")}
