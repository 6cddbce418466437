"""Forward passes of both modalities as in training: one shared prefix, then the text or the audio query, then the same
response; and the positions of image, query and response tokens.

Attention and hidden states are measured after the prefix: all query and response tokens are there, and the keys of the
prefix, those of the image among them, are in the cache. This is exact (`tests/analysis/test_attention.py` compares it
with whole sequences without a cache), and it is the only exact way for LoRA on the LLM, which is on only after the
prefix.

Legend: B examples, P prefix tokens, S tokens after the prefix, T = P + S, R response rows, N response rows
of all examples, V vocabulary.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from selfkd.data.example import Example
from selfkd.losses import head_logits
from selfkd.model.lora import adapters_on
from selfkd.model.modeling_omni import OmniModel
from selfkd.model.prefix_cache import Prefix, continue_prefix, encode_prefix
from selfkd.model.projectors import AudioEmbeddings
from selfkd.model.prompts import common_length
from selfkd.training.data import Modality, PairedItem, encode_example_image

# first: the first token of the sequence, an attention sink (arXiv 2309.17453)
# other: chat template, instruction, answer format
KEYS = ("image", "query", "response", "first", "other")
HEAD_CHUNK_ROWS = 256  # logits (HEAD_CHUNK_ROWS, V) are in memory at a time


class TokenPositions(NamedTuple):
    """The role of each token. Rows after the prefix: `query_BS`, and `response_BS`, the rows that predict the response
    (with the last token of the prompt; the end-of-turn token is predicted and never an input). Keys of the whole
    sequence: `keys_BT`, an index into `KEYS`, or -1 for padding."""

    query_BS: Tensor  # noqa: N815
    response_BS: Tensor  # noqa: N815
    keys_BT: Tensor  # noqa: N815


class Outcome(NamedTuple):
    """What an item's pass says of its response: the log-probability, in nats, and whether each token is the most
    probable one, that is whether greedy decoding gives the response."""

    log_prob: float
    is_exact: bool


class Continuation(NamedTuple):
    """A modality after the prefix: inputs of the VLM, their mask (B, S), the roles of tokens, and of an audio query,
    except a native model's, its audio embeddings."""

    inputs: dict[str, Tensor]
    mask_BS: Tensor  # noqa: N815
    positions: TokenPositions
    audio: AudioEmbeddings | None = None


def text_query(processor: Any, example: Example, item: PairedItem) -> slice:
    """The slice of `item.text_ids` that is the question. A token across its end ("?" and a line break are one token for
    some tokenizers) belongs to the question."""
    encoded_image = encode_example_image(processor, example)
    history, start_of_turn = list(encoded_image.history_ids), (encoded_image.before, example.instruction)
    before = history + processor.text_ids(*start_of_turn)
    whole = history + processor.text_ids(*start_of_turn, example.question, example.answer_format)
    assert whole == [*item.prefix_ids, *item.text_ids][: len(whole)], f"example {example.id}: tokenized in another way"  # noqa: S101 an invariant of this code, no check of input
    after = common_length(whole[::-1], processor.text_ids(example.answer_format)[::-1])
    start = len(item.prefix_ids)
    return slice(common_length(before, whole) - start, len(whole) - after - start)


def encode_shared_prefix(model: OmniModel, batch: Mapping[str, Any]) -> Prefix:
    prefix = encode_prefix(model.vlm, batch["prefix_ids"], batch["prefix_mask"], **batch["image_inputs"])
    return prefix.rows(batch["group"])


def encode_history(
    model: OmniModel, batch: dict[str, Any], audio_inputs: Mapping[str, Tensor]
) -> tuple[Prefix, dict[str, Any]]:
    """`encode_shared_prefix` of earlier turns with the clips `audio_inputs`, and the batch with the prefix as the LLM
    takes it: a clip's placeholder has become as many tokens as it has audio embeddings."""
    prefix = model.encode_prefix(batch["prefix_ids"], batch["prefix_mask"], batch["image_inputs"], audio_inputs)
    batch = {**batch, "prefix_ids": prefix.ids_GP, "prefix_mask": prefix.mask_GP}
    return prefix.rows(batch["group"]), batch


def text_modality(model: OmniModel, batch: Mapping[str, Any], questions: list[slice]) -> Continuation:
    """The text modality of a batch of `PairedCollator`; `questions` are slices as from `text_query`."""
    mask_BS = batch["text_mask"]
    query_BS = torch.zeros_like(mask_BS, dtype=torch.bool)
    for row, question in zip(query_BS, questions, strict=True):
        row[question] = True
    return Continuation({"input_ids": batch["text_ids"]}, mask_BS, _token_positions(model, batch, mask_BS, query_BS))


def audio_modality(model: OmniModel, batch: Mapping[str, Any]) -> Continuation:
    """The audio modality. Its query is the audio embeddings, without the marker tokens that some models put around."""
    ids_BS, given_BS = batch["audio_ids"], batch["audio_mask"]
    inputs, mask_BS, audio = model.merge_audio_embeddings(ids_BS, given_BS, batch["audio_inputs"])
    is_audio = (ids_BS == model.config.audio_token_id) & given_BS.bool()
    first_B1 = is_audio.int().argmax(-1, keepdim=True)
    # our audio token is replaced by several embeddings; a native model has one token per embedding already
    count_B1 = is_audio.sum(-1, keepdim=True) + (mask_BS.sum(-1) - given_BS.sum(-1))[:, None]
    position_S = torch.arange(mask_BS.shape[1], device=mask_BS.device)
    query_BS = (position_S >= first_B1) & (position_S < first_B1 + count_B1)
    return Continuation(inputs, mask_BS, _token_positions(model, batch, mask_BS, query_BS), audio)


def modality_of(model: OmniModel, batch: Mapping[str, Any], modality: Modality, questions: list[slice]) -> Continuation:
    return text_modality(model, batch, questions) if modality == "text" else audio_modality(model, batch)


def forward_modality(model: OmniModel, prefix: Prefix, modality: Modality, continuation: Continuation) -> Tensor:
    """Last hidden states (B, S, D) of a modality; adapters are on for audio only."""
    if modality == "text":
        return continue_prefix(model.vlm, prefix, continuation.inputs, continuation.mask_BS)
    with adapters_on(model.vlm):
        return continue_prefix(model.vlm, prefix, continuation.inputs, continuation.mask_BS)


def response_positions(mask_BT: Tensor, labels_BR: Tensor) -> Tensor:
    """Mask (B, T) of the tokens that predict the response: the last of each row, as many as its labels."""
    ends_B1 = mask_BT.sum(-1, keepdim=True)
    starts_B1 = ends_B1 - (labels_BR != -100).sum(-1, keepdim=True)
    columns = torch.arange(mask_BT.shape[1], device=mask_BT.device)
    return (columns >= starts_B1) & (columns < ends_B1)


def response_outcomes(model: OmniModel, rows_ND: Tensor, labels_BR: Tensor) -> list[Outcome]:
    """The outcome of each item, from the last hidden states (N, D) of the response rows of all items."""
    head_VD, cap = model.get_output_embeddings().weight, model.logit_softcap
    labels_N = labels_BR[labels_BR != -100]
    log_probs, are_top = [], []
    for rows, labels in zip(rows_ND.split(HEAD_CHUNK_ROWS), labels_N.split(HEAD_CHUNK_ROWS), strict=True):
        log_NV = F.log_softmax(head_logits(rows, head_VD, cap).float(), dim=-1)
        log_probs.append(log_NV.gather(-1, labels[:, None])[:, 0])
        are_top.append(log_NV.argmax(-1) == labels)
    counts = (labels_BR != -100).sum(-1).tolist()
    by_item = zip(torch.cat(log_probs).split(counts), torch.cat(are_top).split(counts), strict=True)
    return [Outcome(float(log_prob.sum()), bool(top.all())) for log_prob, top in by_item]


def image_token(model: OmniModel) -> int:
    config = model.config.vlm_config
    return (config.vision_config if config.model_type == "phi4_multimodal" else config).image_token_id


def _token_positions(model: OmniModel, batch: Mapping[str, Any], mask_BS: Tensor, query_BS: Tensor) -> TokenPositions:
    predicts_BS = response_positions(mask_BS, batch["labels"])
    response_BS = predicts_BS & F.pad(predicts_BS, (1, 0))[:, :-1]  # without the last token of the prompt

    group = batch["group"]
    prefix_ids_BP, prefix_mask_BP = batch["prefix_ids"][group], batch["prefix_mask"][group].bool()
    is_token_BT = torch.cat([prefix_mask_BP, mask_BS.bool()], dim=1)
    width = prefix_ids_BP.shape[1]
    keys_BT = torch.full_like(is_token_BT, KEYS.index("other"), dtype=torch.long)
    roles = {
        "first": F.pad(prefix_mask_BP.cumsum(-1) == 1, (0, mask_BS.shape[1])) & is_token_BT,
        "image": F.pad(prefix_ids_BP == image_token(model), (0, mask_BS.shape[1])),
        "query": F.pad(query_BS, (width, 0)),
        "response": F.pad(response_BS, (width, 0)),
    }
    for name, is_role_BT in roles.items():
        keys_BT[is_role_BT] = KEYS.index(name)
    return TokenPositions(query_BS, predicts_BS, keys_BT.masked_fill(~is_token_BT, -1))
