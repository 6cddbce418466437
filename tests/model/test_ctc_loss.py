"""CTC over padded batches: a clip's loss does not depend on the longer clips and labels around it."""

import torch

from selfkd.model.projectors import CTCOutput, ctc_loss


def test_padding_of_labels_and_frames_does_not_change_the_loss():
    torch.manual_seed(0)
    log_probs = torch.randn(2, 6, 4).log_softmax(-1)
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    labels = torch.tensor([[1, 0, 2], [2, -100, -100]])
    batched = ctc_loss(CTCOutput(log_probs, mask), labels)
    single = ctc_loss(CTCOutput(log_probs[1:, :4], mask[1:, :4]), labels[1:, :1])
    torch.testing.assert_close(batched[1], single[0])
