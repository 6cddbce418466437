"""One query to a model, in text and in audio: the response, the probability of each token, attention to the image.

One forward pass over prompt and response gives the attention of every layer and the hidden states that predict the
response.

Legend: S rows after the prefix, T keys, N response tokens, D width, V vocabulary, L layers, I image tokens, Y x X their
grid.
"""

import base64
import io
from collections.abc import Sequence
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
    encode_shared_prefix,
    forward_modality,
    modality_of,
    text_query,
)
from selfkd.data.example import Example
from selfkd.errors import InputError
from selfkd.losses import head_logits
from selfkd.model.generation import stop_token_ids
from selfkd.model.modeling_omni import OmniModel
from selfkd.model.processing_omni import OmniProcessor, Prompt
from selfkd.training.data import Modality, PairedCollator, PairedItem, modality_prompts

SIDE = 384  # pixels, of the longer side
DARKEST = 0.86  # opacity over a place that gets none


def thumbnail(image: Image.Image | None) -> Image.Image:
    """At most `SIDE` pixels a side; small pictures stay as they are."""
    assert image is not None, "a question here has a picture"
    small = image.copy()
    small.thumbnail((SIDE, SIDE))
    return small


def shade(share_YX: Tensor, most: float) -> Image.Image:
    """One pixel a place, to be stretched over the picture: black, the more opaque the less attention there is.
    `most` is the share of attention that leaves a place as bright as it is."""
    brightness = (share_YX.numpy() / max(most, 1e-9)).clip(0, 1)
    alpha = np.round(255 * DARKEST * (1 - brightness)).astype(np.uint8)
    return Image.fromarray(np.stack([np.zeros_like(alpha), alpha], axis=-1), "LA")


def data_uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


@dataclass(frozen=True)
class AttentionMaps:
    """`by_rows["query"]` is the attention of a question token to each place of the picture, `by_rows["response"]` that
    of the rows that predict the answer: means over rows and heads, each (L, Y, X)."""

    by_rows: dict[str, Tensor]

    @property
    def layers(self) -> int:
        return len(self.by_rows["query"])


class _BothRows(AttentionSums):
    """Maps of the response's rows beside those of the question's."""

    def __init__(self, positions: TokenPositions, layers: tuple[int, ...]):
        super().__init__(positions, layers)
        swapped = positions._replace(query_BS=positions.response_BS, response_BS=positions.query_BS)
        self.of_response = AttentionSums(swapped, layers)

    def add(self, layer: int, query_BHSE: Tensor, key_BHTE: Tensor, mask: Tensor | None, **how: Any) -> None:
        super().add(layer, query_BHSE, key_BHTE, mask, **how)
        self.of_response.add(layer, query_BHSE, key_BHTE, mask, **how)

    def of_image(self, rows: str) -> Tensor:
        """(L, I), mean over the rows; of the one item that there is."""
        positions = self.positions
        is_image_T = positions.keys_BT[0] == KEYS.index("image")
        sums = self if rows == "query" else self.of_response
        count = (positions.query_BS if rows == "query" else positions.response_BS).sum()
        return torch.stack([sums.maps[layer][0, is_image_T] for layer in sorted(sums.maps)]).cpu() / count.cpu()


@torch.no_grad()
def read_answer(
    model: OmniModel, processor: OmniProcessor, item: PairedItem, modality: Modality, question: slice
) -> tuple[Tensor, AttentionMaps | str]:
    """Hidden states (N, D) that predict each token of `item.response_ids`, and where the view looked, or why that
    cannot be drawn; `question` is the place of a written question in the item's ids."""
    batch = {name: _moved(value, model.device) for name, value in PairedCollator(processor)([item]).items()}
    prefix, after = encode_shared_prefix(model, batch), modality_of(model, batch, modality, [question])
    sums = _BothRows(after.positions, tuple(range(len(model.vlm.get_decoder().layers))))
    try:
        with recording(model.vlm, sums):
            hidden_BSD = forward_modality(model, prefix, modality, after)
    except InputError as error:  # attention of a kind that cannot be followed
        hidden_BSD, seen = forward_modality(model, prefix, modality, after), str(error).removeprefix("model: ")
        return hidden_BSD[after.positions.response_BS], seen
    return hidden_BSD[after.positions.response_BS], _looks(model, item, sums)


def _looks(model: OmniModel, item: PairedItem, sums: _BothRows) -> AttentionMaps | str:
    if not bool(sums.positions.query_BS.any()):
        return "the question gave the model no token"
    maps = {rows: sums.of_image(rows) for rows in ROWS}
    tokens = maps["query"].shape[1]
    try:
        height, width = image_grid(model, item, tokens)
    except InputError:
        return (
            f"its {tokens} image tokens make no one grid (the model cuts it into tiles, or does not say how they lie)"
        )
    return AttentionMaps({rows: maps_LI.view(-1, height, width) for rows, maps_LI in maps.items()})


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, dict):
        return {name: _moved(v, device) for name, v in value.items()}
    return value.to(device) if isinstance(value, Tensor) else value


ALTERNATIVES = 4


@dataclass(frozen=True)
class Token:
    """A token of an answer, its probability after all that stands before it, and the likeliest others."""

    text: str
    probability: float
    others: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Answer:
    """`tokens` end with the model's mark for the end of its turn where it `has_ended` by itself; `looks` is where it
    looked, layer by layer, or why that cannot be drawn."""

    text: str
    tokens: tuple[Token, ...]
    has_ended: bool
    looks: AttentionMaps | str


@torch.no_grad()
def answer(
    model: OmniModel, processor: OmniProcessor, example: Example, modalities: Sequence[Modality], max_new_tokens: int
) -> dict[Modality, Answer]:
    """The greedy answer in each of `modalities`; both are generated together, from one reading of the picture.

    Raises InputError for what does not fit the model's context with room for so many tokens."""
    prompts = modality_prompts(
        processor, example, modalities, processor.encode_image(example.load_image(), f"example {example.id}")
    )
    for prompt in prompts:
        ids = prompt.prefix_ids + prompt.suffix_ids
        processor.check_context("question", ids, prompt.audio_inputs, model.context - max_new_tokens)
    ends = stop_token_ids(model, processor.end_id)
    # as evaluation asks: a checkpoint's own sampling and penalties are off
    predictions = model.generate(
        **processor.collate(prompts),
        max_new_tokens=max_new_tokens,
        eos_token_id=ends,
        pad_token_id=processor.pad_id,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
    )
    return {
        modality: _answer(model, processor, example, modality, prompt, ids, ends)
        for modality, prompt, ids in zip(modalities, prompts, predictions.tolist(), strict=True)
    }


def _answer(
    model: OmniModel,
    processor: OmniProcessor,
    example: Example,
    modality: Modality,
    prompt: Prompt,
    response_ids: list[int],
    ends: list[int],
) -> Answer:
    end = next((at for at, id_ in enumerate(response_ids) if id_ in ends), None)
    ids = response_ids if end is None else response_ids[: end + 1]
    item = PairedItem(
        id=example.id,
        prefix_ids=prompt.prefix_ids,
        text_ids=prompt.suffix_ids,
        audio_ids=prompt.suffix_ids,
        response_ids=ids,
        image_inputs=prompt.image_inputs,
        audio_inputs=prompt.audio_inputs,
        transcript="",
        transcript_ids=[],
        image=example.id,
    )
    question = text_query(processor, example, item) if modality == "text" else slice(0)
    hidden_ND, looks = read_answer(model, processor, item, modality, question)
    probabilities_NV = _probabilities(model, hidden_ND)
    tokens = (_token(processor, id_, row_V) for id_, row_V in zip(ids, probabilities_NV, strict=True))
    return Answer(processor.decode(torch.tensor([ids]))[0], tuple(tokens), end is not None, looks)


def _probabilities(model: OmniModel, hidden_ND: Tensor) -> Tensor:
    """(N, V), in fp32."""
    logits_NV = head_logits(hidden_ND, model.get_output_embeddings().weight, model.logit_softcap)
    return logits_NV.float().softmax(-1).cpu()


def _token(processor: OmniProcessor, id_: int, probabilities_V: Tensor) -> Token:
    likeliest = probabilities_V.topk(ALTERNATIVES + 1)
    others = [
        (processor.tokenizer.decode([other]), p)
        for other, p in zip(likeliest.indices.tolist(), likeliest.values.tolist(), strict=True)
        if other != id_
    ]
    return Token(processor.tokenizer.decode([id_]), float(probabilities_V[id_]), tuple(others[:ALTERNATIVES]))
