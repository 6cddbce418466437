"""`OmniModel` in vLLM: vLLM's own class of each VLM, with the speech encoder and projector of selfkd.

A class here is a subclass of the VLM's: images, M-RoPE, attention, sampling and weights of the LLM are vLLM's code.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor
from torch.nn import functional as F
from vllm.model_executor.models.idefics3 import Idefics3DummyInputsBuilder, Idefics3MultiModalProcessor
from vllm.model_executor.models.interns1 import (
    InternS1DummyInputsBuilder,
    InternS1ForConditionalGeneration,
    InternS1MultiModalProcessor,
    InternS1ProcessingInfo,
)
from vllm.model_executor.models.qwen2_5_vl import (
    Qwen2_5_VLDummyInputsBuilder,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLMultiModalProcessor,
    Qwen2_5_VLProcessingInfo,
)
from vllm.model_executor.models.qwen2_vl import (
    Qwen2VLDummyInputsBuilder,
    Qwen2VLForConditionalGeneration,
    Qwen2VLMultiModalProcessor,
    Qwen2VLProcessingInfo,
)
from vllm.model_executor.models.qwen3_vl import (
    Qwen3VLDummyInputsBuilder,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMultiModalProcessor,
    Qwen3VLProcessingInfo,
)
from vllm.model_executor.models.smolvlm import SmolVLMForConditionalGeneration, SmolVLMProcessingInfo
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.processing import BaseProcessingInfo

from selfkd.model.queries import AUDIO_TOKEN
from selfkd.vllm.configuration import ServedOmniConfig
from selfkd.vllm.processing import MEL, VECTORS, ClipsDummies, ClipsInfo, ClipsProcessor
from selfkd.vllm.speech import CLIP, SpeechEncoderAndProjector

_OWN = ("speech_encoder.", "projector.")  # prefixes of weights in a checkpoint


class WithSpeech:
    """Adds clips to vLLM's class of a VLM, after which it is a base. With a CTC projector the engine gets audio
    embeddings, and has no speech encoder; with a frame-stacking one it gets log-mel frames."""

    def __init__(self, *, vllm_config: Any, prefix: str = ""):
        config: ServedOmniConfig = vllm_config.model_config.hf_config
        own = vllm_config.with_hf_config(config.vlm_config, config.architectures)
        super().__init__(vllm_config=own, prefix=prefix)  # type: ignore[call-arg]  # of vLLM's class
        text = config.get_text_config()
        self.vocabulary, self.llm_width = text.vocab_size, text.hidden_size
        self.llm_dtype = vllm_config.model_config.dtype
        self.speech: SpeechEncoderAndProjector | None = None
        if config.ctc_token_ids is None:
            self.speech = SpeechEncoderAndProjector(config)

    @classmethod
    def get_placeholder_str(cls, modality: str, i: int) -> str | None:
        if modality.startswith(CLIP):
            return AUDIO_TOKEN
        return super().get_placeholder_str(modality, i)  # type: ignore[misc]  # of vLLM's class

    def embed_multimodal(self, **kwargs: Any) -> Any:
        """Embeddings of the clips or images of a batch, which holds one kind of them."""
        vectors = kwargs.get(VECTORS)
        if vectors is None and (mels := kwargs.get(MEL)) is not None:
            assert self.speech is not None, "clips of a CTC projector are encoded ahead"  # noqa: S101 an invariant of this code, no check of input
            vectors = self.speech(list(mels))
        if vectors is None:
            return super().embed_multimodal(**kwargs)  # type: ignore[misc]  # of vLLM's class
        return tuple(self._as_embeddings(vectors_UD) for vectors_UD in vectors)

    def _as_embeddings(self, vectors_UD: Tensor) -> Tensor:
        return vectors_UD.to(self.llm_dtype)

    def embed_input_ids(self, input_ids: Tensor, multimodal_embeddings: Any = None, **kwargs: Any) -> Tensor:
        """`input_ids` below the vocabulary's size: the clip's token may lie beyond, where a raw prompt names it."""
        return super().embed_input_ids(  # type: ignore[misc]  # of vLLM's class
            input_ids.clamp(max=self.vocabulary - 1), multimodal_embeddings, **kwargs
        )

    def get_mrope_input_positions(self, input_tokens: list[int], mm_features: list[Any]) -> tuple[Tensor, int]:
        """Positions of a model with M-RoPE; a clip has those of text."""
        images = [feature for feature in mm_features if feature.modality != CLIP]
        return super().get_mrope_input_positions(input_tokens, images)  # type: ignore[misc]  # of vLLM's class

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        own: dict[str, Tensor] = {}

        def of_vlm() -> Iterable[tuple[str, Tensor]]:
            for name, tensor in weights:
                if name.startswith(_OWN):
                    own[name] = tensor
                else:
                    yield name.removeprefix("vlm."), tensor

        loaded = super().load_weights(of_vlm())  # type: ignore[misc]  # of vLLM's class
        if self.speech is not None:
            self.speech.load_state_dict(own)
            loaded = {*loaded, *(f"speech.{name}" for name in own)}
        return loaded


class _InternVLInfo(ClipsInfo, InternS1ProcessingInfo):
    pass


class _InternVLDummies(ClipsDummies, InternS1DummyInputsBuilder):
    pass


class _InternVLProcessor(ClipsProcessor, InternS1MultiModalProcessor):
    pass


@MULTIMODAL_REGISTRY.register_processor(_InternVLProcessor, info=_InternVLInfo, dummy_inputs=_InternVLDummies)
class OmniInternVL(WithSpeech, InternS1ForConditionalGeneration):
    """On InternVL in the layout of transformers."""


class _Qwen2VLInfo(ClipsInfo, Qwen2VLProcessingInfo):
    pass


class _Qwen2VLDummies(ClipsDummies, Qwen2VLDummyInputsBuilder):
    pass


class _Qwen2VLProcessor(ClipsProcessor, Qwen2VLMultiModalProcessor):
    pass


@MULTIMODAL_REGISTRY.register_processor(_Qwen2VLProcessor, info=_Qwen2VLInfo, dummy_inputs=_Qwen2VLDummies)
class OmniQwen2VL(WithSpeech, Qwen2VLForConditionalGeneration):
    """On Qwen2-VL."""


class _Qwen25VLInfo(ClipsInfo, Qwen2_5_VLProcessingInfo):
    pass


class _Qwen25VLDummies(ClipsDummies, Qwen2_5_VLDummyInputsBuilder):
    pass


class _Qwen25VLProcessor(ClipsProcessor, Qwen2_5_VLMultiModalProcessor):
    pass


@MULTIMODAL_REGISTRY.register_processor(_Qwen25VLProcessor, info=_Qwen25VLInfo, dummy_inputs=_Qwen25VLDummies)
class OmniQwen25VL(WithSpeech, Qwen2_5_VLForConditionalGeneration):
    """On Qwen2.5-VL."""


class _Qwen3VLInfo(ClipsInfo, Qwen3VLProcessingInfo):
    def get_supported_mm_processor_kwargs(self) -> dict[str, set[str]]:
        return BaseProcessingInfo.get_supported_mm_processor_kwargs(self)  # Qwen3-VL's own are of videos too

    def get_mm_max_tokens_per_item(self, seq_len: int, mm_counts: Mapping[str, int]) -> Mapping[str, int]:
        return {"image": self.get_max_image_tokens(), CLIP: self.clips.max_vectors}  # Qwen3-VL's own counts videos


class _Qwen3VLImages(Qwen3VLDummyInputsBuilder):
    """The largest images; Qwen3-VL's own wants a video processor, whatever the number of videos."""

    def get_dummy_mm_data(self, seq_len: int, mm_counts: Mapping[str, int], mm_options: Any) -> dict[str, Any]:
        width, height = self.info.get_image_size_with_most_features()
        count, overrides = mm_counts.get("image", 0), mm_options.get("image")
        return {"image": self._get_dummy_images(width=width, height=height, num_images=count, overrides=overrides)}


class _Qwen3VLDummies(ClipsDummies, _Qwen3VLImages):
    pass


class _Qwen3VLProcessor(ClipsProcessor, Qwen3VLMultiModalProcessor):
    pass


@MULTIMODAL_REGISTRY.register_processor(_Qwen3VLProcessor, info=_Qwen3VLInfo, dummy_inputs=_Qwen3VLDummies)
class OmniQwen3VL(WithSpeech, Qwen3VLForConditionalGeneration):
    """On Qwen3-VL, whose vision encoder adds to the first layers too; a clip adds nothing there."""

    def _as_embeddings(self, vectors_UD: Tensor) -> Tensor:
        levels = self.deepstack_num_level if self.use_deepstack else 0
        return F.pad(super()._as_embeddings(vectors_UD), (0, levels * self.llm_width))


class _SmolVLMInfo(ClipsInfo, SmolVLMProcessingInfo):
    pass


class _SmolVLMDummies(ClipsDummies, Idefics3DummyInputsBuilder):
    pass


class _SmolVLMProcessor(ClipsProcessor, Idefics3MultiModalProcessor):
    pass


@MULTIMODAL_REGISTRY.register_processor(_SmolVLMProcessor, info=_SmolVLMInfo, dummy_inputs=_SmolVLMDummies)
class OmniSmolVLM(WithSpeech, SmolVLMForConditionalGeneration):
    """On SmolVLM."""
