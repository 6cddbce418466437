"""The processor of an `OmniModel` in vLLM: images as vLLM's own class of the VLM takes them, clips next to them.

vLLM processes a request in the process of its API server: `ClipsInfo` says what the model takes, `ClipsDummies` makes
the largest input, for which vLLM reserves memory, and `ClipsProcessor` turns images and clips into tensors and their
placeholders into as many tokens as they have embeddings. Each is a base class placed before the VLM's own.

Legend: F mel bins, M mel frames, U audio embeddings, D width.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.parse import AudioEmbeddingItems, MultiModalDataItems
from vllm.multimodal.processing import PromptReplacement

from selfkd.data.example import SAMPLE_RATE_HZ
from selfkd.data.resample import resampled
from selfkd.errors import InputError
from selfkd.hub import split_revision
from selfkd.model.backbones import load_feature_extractor, load_vlm_processor
from selfkd.model.processing_omni import EXTRACTOR_FOLDER
from selfkd.model.queries import AUDIO_TOKEN
from selfkd.vllm.chat_template import serve_template, with_audio
from selfkd.vllm.configuration import ServedOmniConfig
from selfkd.vllm.speech import CLIP, ClipEncoder

# of the tensors that the engine gets: audio embeddings (U, D), or log-mel frames (F, M)
VECTORS, MEL = "audio_embeds", "audio_mel"
# fills the positions of a clip in the prompt; the id of its own token may lie beyond the vocabulary, where penalties
# on prompt tokens would look it up
POSITION_ID = 0


class Resampler:
    """selfkd's own resampling in the place of vLLM's, so that a recording has the same samples in both."""

    def resample(self, samples: NDArray[np.float32], *, orig_sr: float) -> NDArray[np.float32]:
        if samples.ndim == 2:
            samples = samples.mean(0 if samples.shape[0] < samples.shape[1] else 1)
        return resampled(samples, round(orig_sr))


@lru_cache(maxsize=2)
def loaded_processor(source: str) -> Any:
    """The VLM's processor of a checkpoint, the same object as long as this process serves it."""
    processor = load_vlm_processor(source, "model")
    if getattr(processor, "video_token", None) is None:  # InternVL2's; vLLM counts videos, of which there are none
        processor.video_token = processor.image_token
    return processor


class ClipsInfo:
    """What an `OmniModel` takes: what vLLM's class for its VLM says about images, and clips."""

    def __init__(self, ctx: Any):
        model_config = copy.copy(ctx.model_config)
        self.omni_config: ServedOmniConfig = model_config.hf_config
        model_config.hf_config = self.omni_config.vlm_config
        super().__init__(replace(ctx, model_config=model_config))  # type: ignore[call-arg]  # of vLLM's class
        self.ctx: Any
        serve_template(with_audio(self.get_hf_processor().chat_template, AUDIO_TOKEN), ctx.tokenizer, model_config)

    @cached_property
    def source(self) -> str:
        """Path or hub id, with its revision where vLLM was given one."""
        model_config = self.ctx.model_config
        name, revision = split_revision(model_config.model)[0], model_config.revision
        return f"{name}@{revision}" if revision else model_config.model

    @cached_property
    def clips(self) -> ClipEncoder:
        mel_bins = self.omni_config.audio_config.num_mel_bins
        extractor = load_feature_extractor(self.source, "model", EXTRACTOR_FOLDER, mel_bins)
        return ClipEncoder(self.source, self.omni_config, extractor)

    def get_hf_processor(self, **kwargs: object) -> Any:
        """selfkd's processor of the VLM, which takes no videos; `kwargs` count where it is called."""
        return loaded_processor(self.source)

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        return {"image": None, CLIP: None}

    def get_data_parser(self) -> Any:
        parser = super().get_data_parser()  # type: ignore[misc]  # of vLLM's class
        parser.audio_resampler, parser.target_channels = Resampler(), 1
        return parser

    def get_mm_max_tokens_per_item(self, seq_len: int, mm_counts: Mapping[str, int]) -> Mapping[str, int] | None:
        images = {modality: count for modality, count in mm_counts.items() if modality != CLIP}
        found = super().get_mm_max_tokens_per_item(seq_len, images)  # type: ignore[misc]  # of vLLM's class
        return None if found is None else {**found, CLIP: self.clips.max_vectors}


class ClipsDummies:
    """The largest inputs: images as the VLM's class makes them, a clip of 30 s as noise, or as vectors where the engine
    gets vectors."""

    info: Any

    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
        images = {modality: count for modality, count in mm_counts.items() if modality != CLIP}
        return super().get_dummy_text(images) + AUDIO_TOKEN * mm_counts.get(CLIP, 0)  # type: ignore[misc]

    def get_dummy_mm_data(self, seq_len: int, mm_counts: Mapping[str, int], mm_options: Any) -> dict[str, Any]:
        images = {modality: count for modality, count in mm_counts.items() if modality != CLIP}
        data = dict(super().get_dummy_mm_data(seq_len, images, mm_options))  # type: ignore[misc]
        data = {modality: items for modality, items in data.items() if modality in images}
        count, clips = mm_counts.get(CLIP, 0), self.info.clips
        if count and clips.encodes_ahead:
            width = self.info.omni_config.get_text_config().hidden_size
            data[CLIP] = torch.zeros(count, clips.max_vectors, width)
        elif count:
            data[CLIP] = [np.zeros(clips.extractor.chunk_length * SAMPLE_RATE_HZ, np.float32)] * count
        return data


class ClipsProcessor:
    """Processes clips next to what the processor of the VLM's class does with images."""

    info: Any

    def _apply_hf_processor_main(self, mm_items: Any, hf_kwargs: Mapping[str, object]) -> Any:
        images = MultiModalDataItems({modality: items for modality, items in mm_items.items() if modality != CLIP})
        processed = super()._apply_hf_processor_main(images, hf_kwargs)  # type: ignore[misc]  # of vLLM's class
        if CLIP in mm_items:
            name, tensors = self._encoded(mm_items[CLIP])
            processed[name] = tensors
        return processed

    def _encoded(self, items: Any) -> tuple[str, list[torch.Tensor]]:
        clips: ClipEncoder = self.info.clips
        given = [items.get(i) for i in range(items.get_count())]
        if isinstance(items, AudioEmbeddingItems):
            return VECTORS, list(given)
        if clips.encodes_ahead:
            dtype = self.info.ctx.model_config.dtype
            return VECTORS, [clips.encode(samples).to(dtype) for samples in given]
        return MEL, [clips.mel(samples) for samples in given]

    def _get_mm_fields_config(self, hf_inputs: Any, hf_processor_mm_kwargs: Mapping[str, object]) -> Any:
        fields = super()._get_mm_fields_config(hf_inputs, hf_processor_mm_kwargs)  # type: ignore[misc]
        return {**fields, **{name: MultiModalFieldConfig.batched(CLIP) for name in (VECTORS, MEL)}}

    def _get_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, Any], out_mm_kwargs: Any
    ) -> Sequence[Any]:
        images = MultiModalDataItems({modality: items for modality, items in mm_items.items() if modality != CLIP})
        of_images = type(out_mm_kwargs)({k: items for k, items in out_mm_kwargs.items() if k != CLIP})
        updates = super()._get_prompt_updates(images, hf_processor_mm_kwargs, of_images)  # type: ignore[misc]

        def positions_of(item: int) -> list[int]:
            found = out_mm_kwargs[CLIP][item]
            count = self.info.clips.vectors_of(found[MEL].data) if MEL in found else len(found[VECTORS].data)
            return [POSITION_ID] * count

        return [*updates, PromptReplacement(CLIP, [self.info.omni_config.audio_token_id], positions_of)]

    def _maybe_apply_prompt_updates(self, mm_items: Any, mm_res: Any) -> Any:
        found = list(mm_res.prompt_ids).count(self.info.omni_config.audio_token_id)
        given = mm_items.get_all_counts().get(CLIP, 0)
        if found != given:
            raise InputError(f"{CLIP}: {given} clips for {found} placeholders {AUDIO_TOKEN!r}")
        return super()._maybe_apply_prompt_updates(mm_items, mm_res)  # type: ignore[misc]  # of vLLM's class
