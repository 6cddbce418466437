"""Teacher's and student's hidden states on the response rows of a batch (`data/views.py` makes the batch).

The teacher is the text view of the very same weights, without gradient. The prefix is read once, without gradient, and
serves both: nothing that trains stands before the question.

Legend: B examples, T tokens, R response tokens, N response rows (all examples' R, one after another), D width.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from selfkd.model.adapters import adapters_on
from selfkd.model.prefix import continue_prefix, read_prefix

if TYPE_CHECKING:
    from selfkd.model.omni import OmniModel


def response_rows(hidden_BTD: Tensor, mask_BT: Tensor, labels_BR: Tensor) -> Tensor:
    """Hidden states (N, D) that predict the response: the last R places of each row, in the order of `labels_BR`."""
    ends = mask_BT.sum(-1, keepdim=True)
    starts = ends - (labels_BR != -100).sum(-1, keepdim=True)
    place = torch.arange(mask_BT.shape[1], device=mask_BT.device)
    return hidden_BTD[(place >= starts) & (place < ends)]


def paired_rows(
    model: "OmniModel", batch: Mapping[str, Any], with_teacher: bool
) -> tuple[Tensor, Tensor | None, Tensor]:
    """(student (N, D), teacher (N, D) or None, labels (N,)). Gradient reaches the student's question and response."""
    labels_BR = batch["labels"]
    teacher_ND = None
    with torch.no_grad():
        prefix = read_prefix(model.vlm, batch["prefix_ids"], batch["prefix_mask"], **batch["image_inputs"])
        prefix = prefix.rows(batch["group"])
        if with_teacher:
            _assert_same_response(batch)
            embeddings = model.get_input_embeddings()(batch["text_ids"])
            hidden = continue_prefix(model.vlm, prefix, embeddings, batch["text_mask"])
            teacher_ND = response_rows(hidden, batch["text_mask"], labels_BR)
    embeddings, mask = model.speech_suffixes(
        batch["speech_before_ids"], batch["speech_after_ids"], batch["mel_BFM"], batch["mel_mask_BM"]
    )
    with adapters_on(model.vlm):
        hidden = continue_prefix(model.vlm, prefix, embeddings, mask)
    return response_rows(hidden, mask, labels_BR), teacher_ND, labels_BR[labels_BR != -100]


def _assert_same_response(batch: Mapping[str, Any]) -> None:
    """Both views must read the very response that the labels hold, or their rows would not line up."""
    for text, mask, speech, labels in zip(
        batch["text_ids"], batch["text_mask"], batch["speech_after_ids"], batch["labels"], strict=True
    ):
        read = labels[labels != -100][:-1].tolist()
        in_text = text[mask.bool()].tolist()
        tails = in_text[len(in_text) - len(read) :], speech.tolist()[len(speech) - len(read) :]
        assert tails == (read, read), f"the two views read different responses: {tails}"
