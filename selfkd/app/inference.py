"""One query to a model, in text and in audio: the response, the probability of each token, attention to the image.

One forward pass over prompt and response gives the attention of every layer and the hidden states that predict the
response.

Legend: S rows after the prefix, T keys, N response tokens, D width, V vocabulary, L layers, I image tokens, Y x X their
grid.
"""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from selfkd.analysis.attention import ROWS, AttentionSums, image_grid, recording
from selfkd.analysis.forward import (
    KEYS,
    TokenPositions,
    encode_history,
    forward_modality,
    modality_of,
    text_query,
)
from selfkd.data.example import Example
from selfkd.errors import InputError
from selfkd.losses import head_logits
from selfkd.model.generation import stop_token_ids
from selfkd.model.modeling_omni import OmniModel
from selfkd.model.processing_omni import OmniProcessor
from selfkd.model.prompts import Prompt, clips_in, join_clips
from selfkd.training.data import Modality, PairedCollator, PairedItem, aligned_prompts, encode_example_image

THUMBNAIL_SIDE = 384  # pixels, of the longer side
MAX_OPACITY = 0.86  # of the overlay, where attention is zero


def thumbnail(image: Image.Image | None) -> Image.Image:
    """A copy whose longer side has at most `THUMBNAIL_SIDE` pixels; small images keep their size."""
    assert image is not None, "queries of the app always have an image"  # noqa: S101 an invariant of this code, no check of input
    small = image.copy()
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    return small


def attention_overlay(share_YX: Tensor, max_share: float) -> Image.Image:
    """A black mask with one pixel for each image token, to be stretched over the image: the less attention a region
    gets, the more opaque it is. A region with `max_share` of the attention is transparent."""
    brightness = (share_YX.numpy() / max(max_share, 1e-9)).clip(0, 1)
    alpha = np.round(255 * MAX_OPACITY * (1 - brightness)).astype(np.uint8)
    return Image.fromarray(np.stack([np.zeros_like(alpha), alpha], axis=-1), "LA")


def png_data_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


@dataclass(frozen=True)
class AttentionMaps:
    """Attention to the image, each map (L, Y, X), averaged over heads and rows: `by_rows["query"]` from the question's
    tokens, `by_rows["response"]` from the rows that predict the response."""

    by_rows: dict[str, Tensor]

    @property
    def layers(self) -> int:
        return len(self.by_rows["query"])


class _QueryAndResponseSums(AttentionSums):
    """`AttentionSums` of the question's rows, and in `response_sums` those of the response's rows."""

    def __init__(self, positions: TokenPositions, layers: tuple[int, ...]):
        super().__init__(positions, layers)
        swapped = positions._replace(query_BS=positions.response_BS, response_BS=positions.query_BS)
        self.response_sums = AttentionSums(swapped, layers)

    def add(self, layer: int, query_BHSE: Tensor, key_BHTE: Tensor, mask: Tensor | None, **settings: Any) -> None:
        super().add(layer, query_BHSE, key_BHTE, mask, **settings)
        self.response_sums.add(layer, query_BHSE, key_BHTE, mask, **settings)

    def image_attention(self, rows: str) -> Tensor:
        """(L, I), mean over the rows of a batch of one item."""
        positions = self.positions
        is_image_T = positions.keys_BT[0] == KEYS.index("image")
        sums = self if rows == "query" else self.response_sums
        count = (positions.query_BS if rows == "query" else positions.response_BS).sum()
        return torch.stack([sums.maps[layer][0, is_image_T] for layer in sorted(sums.maps)]).cpu() / count.cpu()


@torch.no_grad()
def forward_response(
    model: OmniModel,
    processor: OmniProcessor,
    item: PairedItem,
    modality: Modality,
    question: slice,
    history_audio: Mapping[str, Tensor] | None = None,
) -> tuple[Tensor, AttentionMaps | str]:
    """(hidden states (N, D) that predict each token of `item.response_ids`, attention to the image or the reason why
    there is none). `question`: the positions of a text question in the item's ids. `history_audio`: the clips of
    earlier turns, which are in the item's prefix."""
    batch = {name: _to_device(value, model.device) for name, value in PairedCollator(processor)([item]).items()}
    prefix, batch = encode_history(model, batch, _to_device(dict(history_audio or {}), model.device))
    after = modality_of(model, batch, modality, [question])
    sums = _QueryAndResponseSums(after.positions, tuple(range(len(model.vlm.get_decoder().layers))))
    try:
        with recording(model.vlm, sums):
            hidden_BSD = forward_modality(model, prefix, modality, after)
    except InputError as error:  # an attention implementation that cannot be recorded
        hidden_BSD, reason = forward_modality(model, prefix, modality, after), str(error).removeprefix("model: ")
        return hidden_BSD[after.positions.response_BS], reason
    return hidden_BSD[after.positions.response_BS], _attention_maps(model, item, sums)


def _attention_maps(model: OmniModel, item: PairedItem, sums: _QueryAndResponseSums) -> AttentionMaps | str:
    if not bool(sums.positions.query_BS.any()):
        return "the question gave the model no token"
    maps = {rows: sums.image_attention(rows) for rows in ROWS}
    tokens = maps["query"].shape[1]
    try:
        height, width = image_grid(model, item, tokens)
    except InputError:
        return f"its {tokens} image tokens form no single grid (the model tiles the image, or their order is unknown)"
    return AttentionMaps({rows: maps_LI.view(-1, height, width) for rows, maps_LI in maps.items()})


def _to_device(value: Any, device: torch.device) -> Any:
    if isinstance(value, dict):
        return {name: _to_device(v, device) for name, v in value.items()}
    return value.to(device) if isinstance(value, Tensor) else value


NUM_ALTERNATIVES = 4


@dataclass(frozen=True)
class Token:
    """A token of a response, its probability given everything before it, and the most likely alternatives."""

    text: str
    probability: float
    alternatives: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class ModelResponse:
    """`tokens` end with the end-of-turn token if `is_complete`; otherwise the response was cut at the token limit.
    `attention`: maps over the image, or the reason why there are none."""

    text: str
    tokens: tuple[Token, ...]
    is_complete: bool
    attention: AttentionMaps | str


@torch.no_grad()
def generate_responses(
    model: OmniModel, processor: OmniProcessor, examples: Mapping[Modality, Example], max_new_tokens: int
) -> dict[Modality, ModelResponse]:
    """The greedy response in each modality of `examples`, which are one query after the earlier turns of each modality.
    Generated in one batch, with the image encoded once where there are no earlier turns.

    Raises InputError for a prompt that exceeds the model's context less `max_new_tokens`."""
    prompts = _prompts(processor, examples)
    for prompt in prompts.values():
        ids = prompt.prefix_ids + prompt.suffix_ids
        processor.check_context("question", ids, prompt.audio_inputs, model.context - max_new_tokens)
    end_ids = stop_token_ids(model, processor.end_id)
    # as in evaluation, a checkpoint's own sampling and penalties are off
    responses = model.generate_responses(
        **processor.collate(list(prompts.values())),
        max_new_tokens=max_new_tokens,
        eos_token_id=end_ids,
        pad_token_id=processor.pad_id,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
    )
    return {
        modality: _model_response(model, processor, examples[modality], modality, prompt, ids, end_ids)
        for (modality, prompt), ids in zip(prompts.items(), responses.tolist(), strict=True)
    }


def _prompts(processor: OmniProcessor, examples: Mapping[Modality, Example]) -> dict[Modality, Prompt]:
    """The prompt of each modality. Without earlier turns they share what comes before the query; after such turns the
    prefix of each has all of its own, clips included."""
    if not any(example.history for example in examples.values()):
        example = next(iter(examples.values()))
        image = encode_example_image(processor, example)
        aligned = aligned_prompts(processor, example, dict.fromkeys(examples, image))
        return dict(zip(examples, aligned, strict=True))
    found = {}
    for modality, example in examples.items():
        image = encode_example_image(processor, example, modality)
        (found[modality],) = aligned_prompts(processor, example, {modality: image})
    return found


def _model_response(
    model: OmniModel,
    processor: OmniProcessor,
    example: Example,
    modality: Modality,
    prompt: Prompt,
    response_ids: list[int],
    end_ids: list[int],
) -> ModelResponse:
    end = next((at for at, id_ in enumerate(response_ids) if id_ in end_ids), None)
    ids = response_ids if end is None else response_ids[: end + 1]
    clips = clips_in(prompt.prefix_ids, prompt.clips, processor.clip_token_id)
    item = PairedItem(
        id=example.id,
        prefix_ids=prompt.prefix_ids,
        text_ids=prompt.suffix_ids,
        audio_ids=prompt.suffix_ids,
        response_ids=ids,
        image_inputs=prompt.image_inputs,
        audio_inputs=join_clips(prompt.clips[clips:]),
        transcript="",
        transcript_ids=[],
        image=example.id,
    )
    question = text_query(processor, example, item) if modality == "text" else slice(0)
    history_audio = join_clips(prompt.clips[:clips])
    hidden_ND, attention = forward_response(model, processor, item, modality, question, history_audio)
    probabilities_NV = _probabilities(model, hidden_ND)
    tokens = (_token(processor, id_, row_V) for id_, row_V in zip(ids, probabilities_NV, strict=True))
    return ModelResponse(processor.response_texts(torch.tensor([ids]))[0], tuple(tokens), end is not None, attention)


def _probabilities(model: OmniModel, hidden_ND: Tensor) -> Tensor:
    """(N, V), in fp32."""
    logits_NV = head_logits(hidden_ND, model.get_output_embeddings().weight, model.logit_softcap)
    return logits_NV.float().softmax(-1).cpu()


def _token(processor: OmniProcessor, id_: int, probabilities_V: Tensor) -> Token:
    top = probabilities_V.topk(NUM_ALTERNATIVES + 1)
    alternatives = [
        (processor.tokenizer.decode([other]), p)
        for other, p in zip(top.indices.tolist(), top.values.tolist(), strict=True)
        if other != id_
    ]
    return Token(processor.tokenizer.decode([id_]), float(probabilities_V[id_]), tuple(alternatives[:NUM_ALTERNATIVES]))
