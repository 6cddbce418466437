"""Both views of a batch, read as in training: one shared prefix, then the written and the spoken question, each
followed by the same response; and which token of them is what.

What is measured (attention, hidden states) is measured where the view goes on from the prefix: every question and
response token stands there, and the keys of the prefix, the image's among them, are in the model's cache. That is exact
(`tests/analysis/test_attention.py` compares it with whole sequences without a cache), and the only way exact for
LoRA on the LLM, which is on after the prefix alone.

Legend: B examples, P prefix tokens, S tokens after the prefix, T = P + S, R response rows.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from selfkd.data.example import Example
from selfkd.model.lora import adapters_on
from selfkd.model.modeling_omni import OmniModel
from selfkd.model.prefix_cache import Prefix, continue_prefix, encode_prefix
from selfkd.model.processing_omni import common_length
from selfkd.training.data import Modality, PairedItem
from selfkd.training.self_kd import response_positions

KEYS = ("image", "query", "response", "other")  # other: chat template, instruction, format of the answer


class TokenPositions(NamedTuple):
    """What each token is. The rows after the prefix: `query_BS`, and `response_BS`, those that predict the response
    (the last token of the prompt among them; the end of the turn is predicted and never read). The keys of the whole
    sequence: `keys_BT`, an index into `KEYS`, or -1 for padding."""

    query_BS: Tensor  # noqa: N815
    response_BS: Tensor  # noqa: N815
    keys_BT: Tensor  # noqa: N815


class Continuation(NamedTuple):
    """A view after its prefix: inputs of the VLM, their mask (B, S), and what each token is."""

    inputs: dict[str, Tensor]
    mask_BS: Tensor  # noqa: N815
    positions: TokenPositions


def text_query(processor: Any, example: Example, item: PairedItem) -> slice:
    """Which of `item.text_ids` are the question. A token that it shares with what stands around it ("?" and a line
    break are one token to some tokenizers) is the question's."""
    seen = processor.encode_image(example.load_image(), f"example {example.id}")
    before = processor.text_ids(seen.before, example.instruction)
    whole = processor.text_ids(seen.before, example.instruction, example.question, example.answer_format)
    assert whole == [*item.prefix_ids, *item.text_ids][: len(whole)], f"example {example.id}: tokenized in another way"
    after = common_length(whole[::-1], processor.text_ids(example.answer_format)[::-1])
    start = len(item.prefix_ids)
    return slice(common_length(before, whole) - start, len(whole) - after - start)


def encode_shared_prefix(model: OmniModel, batch: Mapping[str, Any]) -> Prefix:
    prefix = encode_prefix(model.vlm, batch["prefix_ids"], batch["prefix_mask"], **batch["image_inputs"])
    return prefix.rows(batch["group"])


def text_modality(model: OmniModel, batch: Mapping[str, Any], questions: list[slice]) -> Continuation:
    """The written view of a batch of `PairedCollator`; `questions` as `text_query` gives them."""
    mask_BS = batch["text_mask"]
    query_BS = torch.zeros_like(mask_BS, dtype=torch.bool)
    for row, question in zip(query_BS, questions, strict=True):
        row[question] = True
    return Continuation({"input_ids": batch["text_ids"]}, mask_BS, _places(model, batch, mask_BS, query_BS))


def audio_modality(model: OmniModel, batch: Mapping[str, Any]) -> Continuation:
    """The spoken view: its question is the speech vectors alone, not the marks that some models put around them."""
    ids_BS, given_BS = batch["audio_ids"], batch["audio_mask"]
    inputs, mask_BS, _ = model.merge_audio_embeddings(ids_BS, given_BS, batch["audio_inputs"])
    is_speech = (ids_BS == model.config.audio_token_id) & given_BS.bool()
    first_B1 = is_speech.int().argmax(-1, keepdim=True)
    # a speech token of ours gave way to vectors; a native model's ids hold one for each vector already
    vectors_B1 = is_speech.sum(-1, keepdim=True) + (mask_BS.sum(-1) - given_BS.sum(-1))[:, None]
    place = torch.arange(mask_BS.shape[1], device=mask_BS.device)
    query_BS = (place >= first_B1) & (place < first_B1 + vectors_B1)
    return Continuation(inputs, mask_BS, _places(model, batch, mask_BS, query_BS))


def modality_of(model: OmniModel, batch: Mapping[str, Any], modality: Modality, questions: list[slice]) -> Continuation:
    return text_modality(model, batch, questions) if modality == "text" else audio_modality(model, batch)


def forward_modality(model: OmniModel, prefix: Prefix, modality: Modality, after: Continuation) -> Tensor:
    """Last hidden states (B, S, D) of a view; adapters take part in the spoken one alone."""
    if modality == "text":
        return continue_prefix(model.vlm, prefix, after.inputs, after.mask_BS)
    with adapters_on(model.vlm):
        return continue_prefix(model.vlm, prefix, after.inputs, after.mask_BS)


def image_token(model: OmniModel) -> int:
    config = model.config.vlm_config
    return (config.vision_config if config.model_type == "phi4_multimodal" else config).image_token_id


def _places(model: OmniModel, batch: Mapping[str, Any], mask_BS: Tensor, query_BS: Tensor) -> TokenPositions:
    predicts_BS = response_positions(mask_BS, batch["labels"])
    read_BS = predicts_BS & F.pad(predicts_BS, (1, 0))[:, :-1]  # the first of them is the prompt's last token

    group = batch["group"]
    prefix_ids_BP, prefix_mask_BP = batch["prefix_ids"][group], batch["prefix_mask"][group].bool()
    there_BT = torch.cat([prefix_mask_BP, mask_BS.bool()], dim=1)
    width = prefix_ids_BP.shape[1]
    keys_BT = torch.full_like(there_BT, KEYS.index("other"), dtype=torch.long)
    is_image = F.pad(prefix_ids_BP == image_token(model), (0, mask_BS.shape[1]))
    for name, is_it in (("image", is_image), ("query", _after(query_BS, width)), ("response", _after(read_BS, width))):
        keys_BT[is_it] = KEYS.index(name)
    return TokenPositions(query_BS, predicts_BS, keys_BT.masked_fill(~there_BT, -1))


def _after(places_BS: Tensor, width: int) -> Tensor:
    return F.pad(places_BS, (width, 0))
