# SPDX-License-Identifier: Apache-2.0
"""`generate` of an `OmniModel`, with the interface of transformers: rows of images, clips and text in any order.

Legend: B rows, T tokens, G prefixes, P their tokens, C clips, N audio embeddings of all clips, D width, F mel bins,
M mel frames.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, GenerationMixin, PreTrainedModel

from .generation import stop_token_ids
from .input_error import InputError
from .native_omni import audio_start_token
from .prefix_cache import Prefix, encode_prefix
from .wide_rows import adapted_positions, audio_in, check_clips, check_context, is_padded_right, moved_left, widen

# inputs with a value for each token of a row
_ROW_INPUTS = ("attention_mask", "labels", "token_type_ids", "mm_token_type_ids")


@dataclass(frozen=True)
class RowsWithAudio:
    """The inputs of the VLM; for each position the number of its audio embedding (B, T), the embeddings (N, D), where
    adapters are active (B, T). None stands for rows without any. `held` tokens of each row come before them, in a
    cache."""

    inputs: dict[str, Any]
    audio_BT: Tensor | None  # noqa: N815
    vectors_ND: Tensor | None  # noqa: N815
    adapted_BT: Tensor | None  # noqa: N815
    held: int = 0

    def active(self, vlm: PreTrainedModel) -> AbstractContextManager[None]:
        """The context in which the VLM runs over the rows."""
        if self.audio_BT is None and self.adapted_BT is None:
            return nullcontext()
        return audio_in(vlm, self.audio_BT, self.vectors_ND, self.adapted_BT, self.held)


class _PromptAsGiven:
    """A streamer that gets the prompt as it was given, not with a token for each audio embedding."""

    def __init__(self, streamer: Any, input_ids: Tensor):
        self._streamer = streamer
        self._prompt: Tensor | None = input_ids

    def put(self, value: Tensor) -> None:
        if self._prompt is not None:
            value, self._prompt = self._prompt.cpu(), None
        self._streamer.put(value)

    def end(self) -> None:
        self._streamer.end()


def _row_inputs(inputs: Mapping[str, Any], input_ids: Tensor) -> dict[str, Tensor]:
    """All tensors that have a value for each token of a row, on one device."""
    given = {name: inputs[name].to(input_ids.device) for name in _ROW_INPUTS if inputs.get(name) is not None}
    return {**given, "input_ids": input_ids}


class OmniGenerationMixin(GenerationMixin):
    """The part of `OmniModel` that makes the inputs of its VLM for rows with clips, and generates from them."""

    def _rows_with_audio(
        self: Any,  # an `OmniModel`
        input_ids: Tensor,
        vlm_inputs: Mapping[str, Any],
        audio: Mapping[str, Tensor | None] | None,
        pad_left: bool | None = None,
        held: int = 0,
    ) -> RowsWithAudio:
        """The inputs of the VLM for rows with clips, of which `audio` are the inputs of `get_audio_features`; None for
        a native omni model, whose inputs stay as they are. `held` tokens of each row are in a cache already."""
        clips_BT = input_ids == self.config.audio_token_id
        adapted_BT = None
        if self.config.llm_lora is not None:
            if held:
                raise InputError("past_key_values: with adapters, only generate knows which rows have clips")
            opened_BT = input_ids == audio_start_token(self.config.vlm_config) if audio is None else clips_BT
            adapted_BT = adapted_positions(clips_BT | opened_BT)
            adapted_BT = adapted_BT if adapted_BT.any() else None
        features = None if audio is None else audio["input_features"]
        if audio is not None:
            clips = 0 if features is None else len(features)
            check_clips(int(clips_BT.sum()), clips, self.config.audio_token_id)
        if audio is None or features is None:
            check_context(held + input_ids.shape[1], self.config.context)
            return RowsWithAudio({"input_ids": input_ids, **vlm_inputs}, None, None, adapted_BT)
        if vlm_inputs.get("position_ids") is not None:
            raise InputError("position_ids: the number of audio embeddings decides them; give none for rows with clips")
        embeddings = self.get_audio_features(features.to(self.device), audio["feature_attention_mask"]).pooler_output
        lengths_C = torch.tensor([len(clip) for clip in embeddings], device=input_ids.device)
        tokens = _row_inputs(vlm_inputs, input_ids)
        mask = tokens.get("attention_mask", input_ids.new_ones(len(input_ids), held + input_ids.shape[1]))
        tokens |= {"attention_mask": mask[:, held:]} | ({} if adapted_BT is None else {"adapted": adapted_BT.long()})
        rows = widen(tokens, clips_BT, lengths_C, self._stand_in_id, pad_left)
        check_context(held + rows.width, self.config.context)
        adapted = rows.tokens.pop("adapted", None)
        mask = torch.cat([mask[:, :held], rows.tokens["attention_mask"]], dim=1)
        inputs = {**vlm_inputs, **rows.tokens, "attention_mask": mask}
        return RowsWithAudio(
            inputs, rows.audio_BT, torch.cat(embeddings), None if adapted is None else adapted.bool(), held
        )

    def encode_prefix(
        self: Any,  # an `OmniModel`
        ids_GP: Tensor,
        mask_GP: Tensor,
        image_inputs: Mapping[str, Tensor],
        audio_inputs: Mapping[str, Tensor],
    ) -> Prefix:
        """Runs the VLM over left-padded prefixes of images, clips and text, and returns their keys and values. As in
        `forward`, adapters are active from the first clip of a prefix on."""
        if not audio_inputs:
            return encode_prefix(self.vlm, ids_GP, mask_GP, **image_inputs)
        own_audio = None if self.is_native else audio_inputs
        rows = self._rows_with_audio(ids_GP, {"attention_mask": mask_GP}, own_audio, pad_left=True)
        native_audio = audio_inputs if self.is_native else {}
        with rows.active(self.vlm.base_model):
            ids, mask = rows.inputs["input_ids"], rows.inputs["attention_mask"]
            return encode_prefix(self.vlm, ids, mask, **image_inputs, **native_audio)

    @property
    def _stand_in_id(self: Any) -> int:
        """The id of a token that stands in for an audio embedding: the audio token where the VLM has a row for it, else
        one that no response has."""
        ids = self.vlm.get_input_embeddings().weight.shape[0]
        if self.config.audio_token_id < ids:
            return self.config.audio_token_id
        special = {*self.config.placeholder_ids, *stop_token_ids(self), self.config.get_text_config().pad_token_id}
        return next(id_ for id_ in reversed(range(ids)) if id_ not in special)

    @torch.no_grad()
    def generate(  # type: ignore[override]  # other arguments are passed on
        self: Any,  # an `OmniModel`
        inputs: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        *,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        input_features: Tensor | None = None,
        feature_attention_mask: Tensor | None = None,
        streamer: Any = None,
        **kwargs: Any,
    ) -> Any:
        """What `generate` of the VLM returns, for rows of images, clips and text as `forward` takes them: `input_ids`
        as they were given, followed by the new tokens, so `[:, input_ids.shape[1] :]` are the responses.

        Rows may be padded on either side. `max_length` and a stopping criterion see the row as the LLM does: an
        ordinary token for each audio embedding. Adapters are active from the first clip of a row on, in its response
        too.
        """
        ids = inputs if input_ids is None else input_ids
        own_audio = {"input_features": input_features, "feature_attention_mask": feature_attention_mask}
        kwargs |= {} if attention_mask is None else {"attention_mask": attention_mask}
        if ids is None:
            return self.vlm.generate(generation_config=generation_config, streamer=streamer, **kwargs)
        kwargs |= {name: value for name, value in own_audio.items() if value is not None} if self.is_native else {}
        given = ids.to(self.device)
        if attention_mask is not None and is_padded_right(attention_mask):
            kwargs |= moved_left(_row_inputs(kwargs, given))
            given = kwargs.pop("input_ids")
        rows = self._rows_with_audio(given, kwargs, None if self.is_native else own_audio, pad_left=True)
        if streamer is not None and rows.audio_BT is not None:
            streamer = _PromptAsGiven(streamer, ids)
        with rows.active(self.vlm):
            found = self.vlm.generate(generation_config=generation_config, streamer=streamer, **rows.inputs)
        sequences = found if isinstance(found, Tensor) else found.sequences
        new = sequences[:, rows.inputs["input_ids"].shape[1] :]
        whole = torch.cat([ids.to(new).repeat_interleave(len(new) // len(ids), 0), new], dim=1)
        if isinstance(found, Tensor):
            return whole
        found.sequences = whole
        return found
