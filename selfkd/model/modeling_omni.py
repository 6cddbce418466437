# SPDX-License-Identifier: Apache-2.0
"""`OmniModel`: a vision-language model of transformers + Whisper encoder + projector, or a native omni model as it is.

The VLM does not change: text queries run through its own code only, so its text responses stay the same.

Legend: B items, T tokens, F mel bins, M mel frames, D width.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint
from transformers import (
    AutoModelForMultimodalLM,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    WhisperConfig,
)
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from .configuration_omni import OmniConfig
from .generation import encode_prompts, generate_responses, stop_token_ids
from .generation_mixin import OmniGenerationMixin
from .lora import ADAPTER_MARK, adapter_contexts, add_adapters, is_adapter, train_adapters
from .native_omni import MODALITY_ENCODERS, NATIVE_AUDIO, native_audio_token
from .prefix_cache import generate_after
from .projectors import CHARACTER_HEAD, AudioEmbeddings, CTCOutputs, CTCProjector, new_projector
from .release import load_release
from .speech_encoder import encode_mel
from .wide_rows import check_clips

MAX_NEW_TOKENS = 128  # of a response, where `generate_responses` gets no length


class OmniModel(PreTrainedModel, OmniGenerationMixin):
    """VLM + Whisper encoder + projector (`OmniModel.from_parts`), or a native omni model (`OmniModel.from_native`).

    `forward` and `generate` take what `OmniProcessor` returns, as any model of transformers does; `generate_responses`
    takes queries of both modalities, and encodes each image once for all of them.
    """

    config: OmniConfig
    config_class = OmniConfig
    base_model_prefix = "vlm"
    _auto_class = "AutoModelForMultimodalLM"  # `save_pretrained` copies the code of this class next to the weights
    main_input_name = "input_ids"
    input_modalities: Any = ("image", "text", "audio")
    _supports_sdpa = True
    supports_gradient_checkpointing = True
    _keys_to_ignore_on_save: Any = frozenset({f"{CHARACTER_HEAD}weight", f"{CHARACTER_HEAD}bias"})
    # trainable parts next to a VLM in bf16; patterns are searched within names, and a VLM has a projector of its own
    _keep_in_fp32_modules_strict: Any = frozenset({r"^speech_encoder\.", r"^projector\.", ADAPTER_MARK})

    def __init__(self, config: OmniConfig):
        super().__init__(config)
        self.vlm = AutoModelForMultimodalLM.from_config(config.vlm_config)
        if config.audio_config is not None:
            self.speech_encoder = WhisperEncoder(config.audio_config)
            self.projector = new_projector(self.config)
        if config.llm_lora is not None:
            add_adapters(self.vlm, config.llm_lora)
        self.post_init()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As `PreTrainedModel.from_pretrained`; a release is put together from its base models (`load_release`)."""
        source, config = pretrained_model_name_or_path, kwargs.pop("config", None)
        if not isinstance(config, PretrainedConfig):  # a checkpoint's own code has an OmniConfig of its own
            where = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
            config = OmniConfig.from_pretrained(config or source, **{k: kwargs[k] for k in where if k in kwargs})
        if config.base_models:
            return load_release(cls, source, config, **kwargs)
        return super().from_pretrained(source, *args, config=config, **kwargs)

    def add_llm_adapters(self, **settings: Any) -> None:
        """Adds LoRA for audio queries and their responses; `settings` are fields of `peft.LoraConfig`."""
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
        """Joins a trained VLM, in its own dtype, and a trained Whisper encoder, in fp32, by a new projector in fp32.

        The parts are used as they are, not copied."""
        own = speech_encoder.config.to_dict().items()
        audio_config = WhisperConfig(**{k: v for k, v in own if k not in ("model_type", "architectures", "dtype")})
        joined = OmniConfig(vlm.config, audio_config, stack_factor, audio_token_id, pad_to_window, ctc_token_ids)
        model = cls._around(vlm, joined)
        model.speech_encoder = speech_encoder.float()
        model.projector = new_projector(model.config).apply(model._init_weights)
        return model

    @classmethod
    def from_native(cls, vlm: PreTrainedModel) -> "OmniModel":
        """A native omni model with its own audio encoder; it is used as it is, not copied."""
        return cls._around(vlm, OmniConfig(vlm.config, audio_token_id=native_audio_token(vlm.config)))

    @classmethod
    def _around(cls, vlm: PreTrainedModel, config: OmniConfig) -> "OmniModel":
        config.vlm_config.dtype = vlm.dtype  # not the checkpoint's: `from_pretrained` uses this one
        with torch.device("meta"):  # allocates no second model
            model = cls(config)
        model.vlm = vlm
        return model

    @property
    def generation_config(self) -> Any:
        """The VLM's own: its `generate` is the one that runs."""
        return self.vlm.generation_config if "vlm" in self._modules else None

    @generation_config.setter
    def generation_config(self, value: Any) -> None:
        if "vlm" in self._modules:  # transformers sets one before there is a VLM
            self.vlm.generation_config = value

    def stop_at(self, end_id: int) -> None:
        """Ends the responses of `generate` at `end_id`, the end of a turn in the chat template, too: a VLM's own
        generation config may not name it, and who serves a checkpoint reads nothing else."""
        self.generation_config.eos_token_id = stop_token_ids(self, end_id)

    @property
    def is_native(self) -> bool:
        return self.config.audio_config is None

    @property
    def dtype(self) -> torch.dtype:
        """The VLM's, as it was loaded; the first parameter's may be fp32, because trainable parts are."""
        return getattr(self.vlm.config, "dtype", None) or super().dtype

    @property
    def context(self) -> int:
        """The LLM's context length, in tokens."""
        return self.config.context

    @property
    def logit_softcap(self) -> float | None:
        """The c in c * tanh(logits / c), which Gemma models apply to their logits; None for other models."""
        return getattr(self.config.get_text_config(), "final_logit_softcapping", None)

    @property
    def llm_trains(self) -> bool:
        """Whether weights of the LLM train, adapters not counted."""
        return any(p.requires_grad and not is_adapter(n) for m in self.part("llm") for n, p in m.named_parameters())

    def part(self, name: str) -> Iterator[nn.Module]:
        """The modules of a part: "projector", "speech_encoder" or "llm"."""
        if name == "llm":
            decoder = self.vlm.get_decoder()
            if any(hasattr(decoder, name) for name in MODALITY_ENCODERS):
                yield from (child for name, child in decoder.named_children() if name not in MODALITY_ENCODERS)
            else:
                yield decoder
            yield self.vlm.get_output_embeddings()
        elif self.is_native:
            yield from NATIVE_AUDIO[self.config.vlm_config.model_type].modules(self.vlm, name)
        else:
            yield self.get_submodule(name)

    def train(self, mode: bool = True) -> "OmniModel":
        """Sets training mode of trainable parts only: with dropout in frozen parts the teacher would be noisy."""
        super().train(mode)
        self.vlm.eval()
        projector_ids = {id(p) for module in self.part("projector") for p in module.parameters()}
        for name in ("speech_encoder", "projector", "llm"):
            for module in self.part(name):  # after its encoder: a native model's projector may be a submodule of it
                own = [p for n, p in module.named_parameters() if not is_adapter(n)]
                train = [p.requires_grad for p in own if name == "projector" or id(p) not in projector_ids]
                module.train(mode and any(train))
        train_adapters(self.vlm, mode)
        if any(getattr(module, "gradient_checkpointing", False) for module in self.modules()):
            for layer in (layer for module in self.part("llm") for layer in module.modules()):
                if isinstance(layer, GradientCheckpointingLayer):
                    layer.training = mode  # of this module only: it enables checkpointing of the layer
                    layer._can_checkpoint_with_cache = True  # `_PrefixCache` may be updated twice by a layer
        return self

    def _set_gradient_checkpointing(
        self, enable: bool = True, gradient_checkpointing_func: Callable = checkpoint, every_n_layers: int = 1
    ) -> None:
        """Called by `activation_checkpointing_enable`, which transformers 5.19 calls
        `gradient_checkpointing_enable`; its settings are the keywords of the function."""
        given = gradient_checkpointing_func.keywords if isinstance(gradient_checkpointing_func, partial) else {}
        settings = {"use_reentrant": False, "context_fn": partial(adapter_contexts, self.vlm), **given}
        super()._set_gradient_checkpointing(enable, partial(gradient_checkpointing_func, **settings), every_n_layers)

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """As any model of transformers, which writes the code of this class too. Values of the generation config that
        have no effect, such as a temperature without sampling, are left out: transformers writes nothing with them."""
        try:
            self.generation_config.validate(strict=True)
        except ValueError:
            names = ("bos_token_id", "eos_token_id", "pad_token_id")
            ids = {name: getattr(self.generation_config, name) for name in names}
            self.generation_config = GenerationConfig(**ids)
        super().save_pretrained(save_directory, *args, **kwargs)

    def get_input_embeddings(self):
        return self.vlm.get_input_embeddings()

    def get_output_embeddings(self):
        return self.vlm.get_output_embeddings()

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Embedding:
        embed = self.vlm.resize_token_embeddings(*args, **kwargs)
        self.config.vlm_config = self.vlm.config
        return embed

    def encode_audio(self, input_features: Tensor, feature_attention_mask: Tensor) -> AudioEmbeddings:
        """Audio embeddings (B, U, D) in the LLM's embedding space for log-mel frames (B, F, M) and their mask (B, M);
        the projector determines U."""
        frames = encode_mel(self.speech_encoder, input_features, feature_attention_mask, self.config.pad_to_window)
        return self.projector(*frames, self.get_input_embeddings())

    def ctc_outputs(self, input_features: Tensor, feature_attention_mask: Tensor) -> CTCOutputs:
        """The outputs of a CTC projector's heads, without audio embeddings."""
        assert isinstance(self.projector, CTCProjector), "only a CTC projector has CTC outputs"  # noqa: S101 an invariant of this code, no check of input
        frames = encode_mel(self.speech_encoder, input_features, feature_attention_mask, self.config.pad_to_window)
        return self.projector.ctc_outputs(*frames)

    def merge_audio_embeddings(
        self, ids_BT: Tensor, mask_BT: Tensor, audio_inputs: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], Tensor, AudioEmbeddings | None]:
        """(inputs of the VLM, their mask, audio embeddings) for rows that are padded on the right and have any number
        of clips.

        A native model takes `ids_BT` and its own features. Otherwise the audio embeddings of each clip replace its
        token: the inputs are `inputs_embeds` (B, longer T, D). Rows without clips stay ids."""
        if self.is_native or not audio_inputs:
            return {"input_ids": ids_BT, **audio_inputs}, mask_BT, None
        audio = self.encode_audio(**audio_inputs)
        embed, rows, mask_BT = self.get_input_embeddings(), [], mask_BT.bool()
        is_clip_BT = (ids_BT == self.config.audio_token_id) & mask_BT
        check_clips(int(is_clip_BT.sum()), len(audio.vectors), self.config.audio_token_id)
        clips = iter(zip(audio.vectors, audio.mask, strict=True))
        for ids, mask, is_clip in zip(ids_BT, mask_BT, is_clip_BT, strict=True):
            ids, pieces = ids[mask], []
            start = 0
            for at in is_clip[mask].nonzero().flatten().tolist():
                vectors, vectors_mask = next(clips)
                pieces += [embed(ids[start:at]), vectors[vectors_mask].to(embed.weight.dtype)]
                start = at + 1
            rows.append(torch.cat([*pieces, embed(ids[start:])]))
        masks = [torch.ones(len(row), dtype=torch.long, device=ids_BT.device) for row in rows]
        return {"inputs_embeds": pad_sequence(rows, True)}, pad_sequence(masks, True), audio

    def get_audio_features(
        self, input_features: Tensor, feature_attention_mask: Tensor | None = None, **kwargs: Any
    ) -> Any:
        """`pooler_output` has the audio embeddings (U, D) of each clip, `last_hidden_state` the same ones padded
        (clips, U, D). That of a native omni model is its own."""
        if self.is_native:
            return self.vlm.get_audio_features(input_features, feature_attention_mask, **kwargs)
        mask_BM = input_features.new_ones(len(input_features), input_features.shape[2]).long()
        audio = self.encode_audio(input_features, mask_BM if feature_attention_mask is None else feature_attention_mask)
        clips = tuple(vectors[mask] for vectors, mask in zip(audio.vectors, audio.mask, strict=True))
        found: Any = clips  # as for images, transformers has a tuple there
        return BaseModelOutputWithPooling(last_hidden_state=audio.vectors, pooler_output=found)

    def get_image_features(self, *args: Any, **kwargs: Any) -> Any:
        """The VLM's own."""
        return self.vlm.get_image_features(*args, **kwargs)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        input_features: Tensor | None = None,
        feature_attention_mask: Tensor | None = None,
        paired: Mapping[str, Any] | None = None,
        loss_function: "Callable[[OmniModel, Mapping[str, Any]], Any] | None" = None,
        **vlm_inputs: Any,
    ):
        """The VLM's outputs for rows of images, clips and text; without clips this is the VLM's own forward.

        Args:
            input_ids: Token ids (B, T), with one audio token for each clip.
            attention_mask: 0 on padding, on either side; without it no token is padding.
            labels: Targets (B, T), -100 where there is none; the loss is computed in fp32.
            input_features: Log-mel frames (clips, F, M) of all clips, in the order of their tokens over the rows.
            feature_attention_mask: 0 on the frames that pad a clip (clips, M).
            vlm_inputs: Any other inputs of the VLM: pixel values, token types, a cache.

        The logits of rows with clips have a position for each audio embedding in place of one for each clip, and are
        padded on the side on which the rows are. Adapters are active from the first clip of a row on.

        With `paired`, a batch of `PairedCollator`, returns `loss_function(self, paired)` instead (a `LossOutput`; see
        `training/self_kd.py`). The loss is computed here and not in the trainer because DDP and FSDP hook into a
        model's `forward`.

        Raises InputError for a placeholder without its clip, a clip without its placeholder, and rows longer than the
        model's context.
        """
        if paired is not None:
            assert loss_function is not None, "paired needs a loss_function"  # noqa: S101 an invariant of this code, no check of input
            return loss_function(self, paired)
        given = {"attention_mask": attention_mask, "labels": labels}
        own_audio = {"input_features": input_features, "feature_attention_mask": feature_attention_mask}
        given |= own_audio if self.is_native else {}
        vlm_inputs |= {name: value for name, value in given.items() if value is not None}
        if input_ids is None:  # embeddings, which have no clips
            return self.vlm(**vlm_inputs)
        cache = vlm_inputs.get("past_key_values")
        held = 0 if cache is None else int(cache.get_seq_length())
        rows = self._rows_with_audio(input_ids, vlm_inputs, None if self.is_native else own_audio, held=held)
        with rows.active(self.vlm):
            return self.vlm(**rows.inputs)

    @torch.no_grad()
    def generate_responses(
        self,
        prefix_ids: Tensor,
        prefix_mask: Tensor,
        group: Tensor,
        suffix_ids: Tensor,
        suffix_mask: Tensor,
        image_inputs: dict[str, Tensor],
        audio_inputs: dict[str, Tensor] | None = None,
        has_audio: Tensor | None = None,
        prefix_audio_inputs: dict[str, Tensor] | None = None,
        end_id: int | None = None,
        **generate_inputs: Any,
    ) -> Tensor:
        """Ids of the responses (B, new tokens), without the prompts. Each image is encoded once for all its prompts.

        Args:
            prefix_ids, prefix_mask, group, suffix_ids, suffix_mask, image_inputs, audio_inputs, prefix_audio_inputs: As
                `encode_queries` of `OmniProcessor` returns them, on any device.
            has_audio: Which prompts have clips (B,); by default all where there are `audio_inputs`, else none.
            end_id: The token that ends a turn of the chat template; it ends a response, as the checkpoint's own
                do.
            generate_inputs: Arguments of `transformers.GenerationMixin.generate`; `max_new_tokens` is 128 by default.
        """
        if has_audio is None:
            has_audio = torch.full((len(suffix_ids),), bool(audio_inputs))
        if end_id is not None:
            generate_inputs.setdefault("eos_token_id", stop_token_ids(self, end_id))
        if not generate_inputs.keys() & {"max_new_tokens", "max_length", "generation_config"}:
            generate_inputs["max_new_tokens"] = MAX_NEW_TOKENS
        prompts = prefix_ids, prefix_mask, group, suffix_ids, suffix_mask, image_inputs, audio_inputs or {}, has_audio
        encoded = encode_prompts(self, *prompts, prefix_audio_inputs=prefix_audio_inputs)
        return generate_responses(
            self, encoded, lambda *prompts, **settings: generate_after(*prompts, **settings)[0], **generate_inputs
        )
