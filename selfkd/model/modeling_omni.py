"""A transformers vision-language model with ears: `OmniModel` = VLM + Whisper encoder + projector, or a native omni
model with the ears that it has.

The VLM is used as it is: on the text view nothing of ours runs, so written answers stay what they were.

Legend: B items, T tokens, F mel bins, M mel frames, S speech vectors, D width, N response rows.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForMultimodalLM, PreTrainedModel, WhisperConfig
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from selfkd.losses import LossConfig
from selfkd.model.configuration_omni import OmniConfig
from selfkd.model.generation import encode_prompts, generate_responses
from selfkd.model.lora import ADAPTER_MARK, adapters_as_now, add_adapters, is_adapter, train_adapters
from selfkd.model.native_omni import NATIVE_AUDIO, SENSES, native_speech_token
from selfkd.model.prefix_cache import generate_after
from selfkd.model.projectors import CHARACTER_HEAD, AudioEmbeddings, CTCOutputs, CTCProjector, StackProjector
from selfkd.model.self_kd import Teacher, paired_loss
from selfkd.model.speech_encoder import encode_flac


class OmniModel(PreTrainedModel):
    config: OmniConfig
    config_class = OmniConfig
    base_model_prefix = "vlm"
    main_input_name = "input_ids"
    _supports_sdpa = True
    supports_gradient_checkpointing = True
    _keys_to_ignore_on_save: Any = frozenset({f"{CHARACTER_HEAD}weight", f"{CHARACTER_HEAD}bias"})
    # what may train beside a VLM in bf16; looked for anywhere in a name, and the VLM has a projector of its own
    _keep_in_fp32_modules_strict: Any = frozenset({r"^speech_encoder\.", r"^projector\.", ADAPTER_MARK})

    def __init__(self, config: OmniConfig):
        super().__init__(config)
        self.vlm = AutoModelForMultimodalLM.from_config(config.vlm_config)
        if config.audio_config is not None:
            self.speech_encoder = WhisperEncoder(config.audio_config)
            self.projector = self._new_projector()
        if config.llm_lora is not None:
            add_adapters(self.vlm, config.llm_lora)
        self.post_init()

    def _new_projector(self) -> StackProjector | CTCProjector:
        heard, read = self.config.audio_config.d_model, self.config.get_text_config().hidden_size
        if self.config.ctc_token_ids is not None:
            return CTCProjector(heard, self.config.ctc_token_ids)
        return StackProjector(heard, read, self.config.stack_factor)

    def add_llm_adapters(self, **settings: Any) -> None:
        """LoRA for the spoken question and the response; `settings` are fields of `peft.LoraConfig`."""
        add_adapters(self.vlm, settings)
        self.config.llm_lora = settings

    @classmethod
    def from_parts(
        cls,
        vlm: PreTrainedModel,
        speech_encoder: WhisperEncoder,
        audio_token_id: int,
        stack_factor: int = 4,
        pad_to_window: bool = False,
        ctc_token_ids: list[int] | None = None,
    ) -> "OmniModel":
        """Joins a trained VLM, in its own dtype, and a trained Whisper encoder by a new projector; ours is in fp32.

        The parts are taken over, not copied."""
        own = speech_encoder.config.to_dict().items()
        audio_config = WhisperConfig(**{k: v for k, v in own if k not in ("model_type", "architectures", "dtype")})
        joined = OmniConfig(vlm.config, audio_config, stack_factor, audio_token_id, pad_to_window, ctc_token_ids)
        model = cls._around(vlm, joined)
        model.speech_encoder = speech_encoder.float()
        model.projector = model._new_projector().apply(model._init_weights)
        return model

    @classmethod
    def from_native(cls, vlm: PreTrainedModel) -> "OmniModel":
        """A native omni model with its own ears; it is taken over, not copied."""
        return cls._around(vlm, OmniConfig(vlm.config, audio_token_id=native_speech_token(vlm.config)))

    @classmethod
    def _around(cls, vlm: PreTrainedModel, config: OmniConfig) -> "OmniModel":
        config.vlm_config.dtype = vlm.dtype  # and no longer what its checkpoint was in: ours is loaded by this
        with torch.device("meta"):  # no second model is made beside the one that is there
            model = cls(config)
        model.vlm = vlm
        return model

    @property
    def is_native(self) -> bool:
        return self.config.audio_config is None

    @property
    def dtype(self) -> torch.dtype:
        """The VLM's, as it was loaded: parts that train are in fp32, whichever comes first among the parameters."""
        return getattr(self.vlm.config, "dtype", None) or super().dtype

    @property
    def context(self) -> int:
        """Tokens that the LLM can read at once."""
        return self.config.context

    @property
    def logit_softcap(self) -> float | None:
        """c of the c * tanh(logits / c) that Gemma's models make of their logits."""
        return getattr(self.config.get_text_config(), "final_logit_softcapping", None)

    @property
    def llm_trains(self) -> bool:
        """Whether weights of the LLM itself train, adapters apart."""
        return any(p.requires_grad and not is_adapter(n) for m in self.part("llm") for n, p in m.named_parameters())

    def part(self, name: str) -> Iterator[nn.Module]:
        """The modules of a part: "projector", "speech_encoder" or "llm"."""
        if name == "llm":
            decoder = self.vlm.get_decoder()
            if any(hasattr(decoder, name) for name in SENSES):
                yield from (child for name, child in decoder.named_children() if name not in SENSES)
            else:
                yield decoder
            yield self.vlm.get_output_embeddings()
        elif self.is_native:
            yield from NATIVE_AUDIO[self.config.vlm_config.model_type].modules(self.vlm, name)
        else:
            yield self.get_submodule(name)

    def train(self, mode: bool = True) -> "OmniModel":
        """Parts that do not train stay in evaluation mode: with dropout the teacher would be another each time."""
        super().train(mode)
        self.vlm.eval()
        of_projector = {id(p) for module in self.part("projector") for p in module.parameters()}
        for name in ("speech_encoder", "projector", "llm"):
            for module in self.part(name):  # a native model's projector may lie within its encoder: it comes after it
                own = [p for n, p in module.named_parameters() if not is_adapter(n)]
                train = [p.requires_grad for p in own if name == "projector" or id(p) not in of_projector]
                module.train(mode and any(train))
        train_adapters(self.vlm, mode)
        if self.is_activation_checkpointing:
            for layer in (layer for module in self.part("llm") for layer in module.modules()):
                if isinstance(layer, GradientCheckpointingLayer):
                    layer.training = mode  # of the layer alone, it is what lets its activations be made again
                    layer._can_checkpoint_with_cache = True  # ours gives a layer the same however often it asks
        return self

    def activation_checkpointing_enable(  # type: ignore[override]  # its others as they come
        self, activation_checkpointing_kwargs: Any = None, **kwargs: Any
    ) -> None:
        settings = {"use_reentrant": False, "context_fn": partial(adapters_as_now, self.vlm)}
        super().activation_checkpointing_enable({**settings, **(activation_checkpointing_kwargs or {})}, **kwargs)

    def get_input_embeddings(self):
        return self.vlm.get_input_embeddings()

    def get_output_embeddings(self):
        return self.vlm.get_output_embeddings()

    def encode_audio(self, mel_BFM: Tensor, mel_mask_BM: Tensor) -> AudioEmbeddings:
        """Speech vectors in the LLM's space and their mask; how many an item gets is the ears' business."""
        frames = encode_flac(self.speech_encoder, mel_BFM, mel_mask_BM, self.config.pad_to_window)
        return self.projector(*frames, self.get_input_embeddings())

    def transcribe(self, mel_BFM: Tensor, mel_mask_BM: Tensor) -> CTCOutputs:
        """What ears that hear tokens read in the frames, and no vectors."""
        assert isinstance(self.projector, CTCProjector), "these ears hear no tokens"
        return self.projector.read(*encode_flac(self.speech_encoder, mel_BFM, mel_mask_BM, self.config.pad_to_window))

    def merge_audio_embeddings(
        self, ids_BT: Tensor, mask_BT: Tensor, audio_inputs: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], Tensor, AudioEmbeddings | None]:
        """(inputs, mask) of the VLM for tokens with speech among them, rows padded on the right; and what was heard.

        A native model takes `ids_BT` and its own features as they are. Otherwise the speech token of each row gives way
        to the vectors of what is heard, as many as there are: `inputs_embeds` (B, longer T, D) and their mask.
        """
        if self.is_native:
            return {"input_ids": ids_BT, **audio_inputs}, mask_BT, None
        heard = self.encode_audio(**audio_inputs)
        embed, rows = self.get_input_embeddings(), []
        for ids, mask, vectors, there in zip(ids_BT, mask_BT.bool(), heard.vectors, heard.mask, strict=True):
            ids = ids[mask]
            positions = (ids == self.config.audio_token_id).nonzero().flatten().tolist()
            if len(positions) != 1:
                raise ValueError(f"a spoken prompt has the speech token once, this one has it {len(positions)} times")
            before, after = ids[: positions[0]], ids[positions[0] + 1 :]
            rows.append(torch.cat([embed(before), vectors[there].to(embed.weight.dtype), embed(after)]))
        filled = [torch.ones(len(row), dtype=torch.long, device=ids_BT.device) for row in rows]
        return {"inputs_embeds": pad_sequence(rows, True)}, pad_sequence(filled, True), heard

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        audio_inputs: Mapping[str, Tensor] | None = None,
        paired: Mapping[str, Any] | None = None,
        objective: LossConfig | None = None,
        teacher: Teacher | None = None,
        **vlm_inputs: Any,
    ):
        """The VLM's outputs for prompts with pictures, text and speech; without speech this is the VLM itself.

        With `paired`, a batch as `PairedCollator` makes it, the loss of Self-KD instead (a `LossOutput`): here, and not
        in the trainer, for DDP and FSDP follow a model through its `forward` alone. Its teacher is the text view of the
        same weights unless one is given.
        """
        if paired is not None:
            return paired_loss(self, paired, objective or LossConfig(), teacher)
        assert input_ids is not None, "input_ids or paired"
        if not audio_inputs:
            return self.vlm(input_ids=input_ids, attention_mask=attention_mask, **vlm_inputs)
        if self.config.llm_lora is not None:
            raise ValueError("adapters are on after the prefix alone: use paired_rows or generate")
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        inputs, mask, _ = self.merge_audio_embeddings(input_ids, mask, audio_inputs)
        return self.vlm(attention_mask=mask, **inputs, **vlm_inputs)

    @torch.no_grad()
    def generate(
        self,
        prefix_ids: Tensor,
        prefix_mask: Tensor,
        group: Tensor,
        suffix_ids: Tensor,
        suffix_mask: Tensor,
        image_inputs: dict[str, Tensor],
        audio_inputs: dict[str, Tensor] | None = None,
        spoken: Tensor | None = None,
        **generate_inputs: Any,
    ) -> Tensor:
        """Ids of the replies alone (B, new tokens). Takes what `OmniProcessor` gives, on any device, and the arguments
        of `transformers.GenerationMixin.generate`. A picture is read once for all prompts about it, written and spoken.
        `spoken` (B,) says which prompts have speech; without it all have, or none."""
        if spoken is None:
            spoken = torch.full((len(suffix_ids),), bool(audio_inputs))
        parts = encode_prompts(
            self, prefix_ids, prefix_mask, group, suffix_ids, suffix_mask, image_inputs, audio_inputs or {}, spoken
        )
        return generate_responses(
            self, parts, lambda *asked, **how: generate_after(*asked, **how)[0], **generate_inputs
        )
