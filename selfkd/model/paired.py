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
    _assert_same_response(batch)
    teacher_ND = None
    with torch.no_grad():
        prefix = read_prefix(model.vlm, batch["prefix_ids"], batch["prefix_mask"], **batch["image_inputs"])
        prefix = prefix.rows(batch["group"])
        if with_teacher:
            hidden = continue_prefix(model.vlm, prefix, {"input_ids": batch["text_ids"]}, batch["text_mask"])
            teacher_ND = response_rows(hidden, batch["text_mask"], labels_BR)
    inputs, mask = model.listen(batch["speech_ids"], batch["speech_mask"], batch["speech_inputs"], "right")
    with adapters_on(model.vlm):
        hidden = continue_prefix(model.vlm, prefix, inputs, mask)
    return response_rows(hidden, mask, labels_BR), teacher_ND, labels_BR[labels_BR != -100]


def _assert_same_response(batch: Mapping[str, Any]) -> None:
    """Both views must read the very response that the labels hold, or their rows would not line up."""
    for i, labels in enumerate(batch["labels"]):
        read = labels[labels != -100][:-1].tolist()
        views = (batch[f"{view}_ids"][i][batch[f"{view}_mask"][i].bool()].tolist() for view in ("text", "speech"))
        tails = tuple(ids[len(ids) - len(read) :] for ids in views)
        assert tails == (read, read), f"the two views read different responses: {tails}"
