"""What is heard against what was written, token by token: a soft-DTW between speech vectors and the question's
embeddings, after Lyra (arXiv 2412.09501), which the paper leaves open (its "direct vision-audio alignment").

Legend: B clips, U speech vectors, T question tokens, D width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from selfkd.model.projector import Heard

TEMPERATURE = 0.06  # Lyra's


def alignment_loss(heard: Heard, transcript_ids_BT: Tensor, embed: nn.Module) -> Tensor:
    """sum over clips of the soft-DTW of 1 - cosine, divided by the question's tokens; a clip that gave no vector counts
    for nothing. `transcript_ids_BT` are the question's ids, -100 pads."""
    written_BT = transcript_ids_BT != -100
    there_B = heard.mask.any(-1) & written_BT.any(-1)
    if not there_B.any():
        return heard.vectors.sum() * 0
    with torch.autocast(heard.vectors.device.type, enabled=False):  # a temperature of 0.06 leaves bf16 no digits
        vectors = F.normalize(heard.vectors[there_B].float(), dim=-1)
        with torch.no_grad():
            tokens = F.normalize(embed(transcript_ids_BT[there_B].clamp(min=0)).float(), dim=-1)
        costs_BUT = 1 - vectors @ tokens.transpose(1, 2)
        lengths = heard.mask[there_B].sum(-1), written_BT[there_B].sum(-1)
        return (soft_dtw(costs_BUT, *lengths, TEMPERATURE) / lengths[1]).sum()


def soft_dtw(costs_BUT: Tensor, rows_B: Tensor, columns_B: Tensor, temperature: float) -> Tensor:
    """(B,): the soft minimum over monotone paths from the first cell to (rows, columns) of the costs on them (Cuturi &
    Blondel 2017): r(i, j) = c(i, j) + softmin(r(i-1, j), r(i, j-1), r(i-1, j-1)). Diagonal by diagonal."""
    clips, rows, columns = costs_BUT.shape
    far = costs_BUT.new_full((clips, rows + 1), 1e6)  # finite, or the gradient of a soft minimum of nothing is NaN
    start = far.clone()
    start[:, 0] = 0
    before, last = start, far  # of two diagonals ago, of the last; cell (i, d - i) stands at i
    wanted_B = rows_B + columns_B
    total = costs_BUT.new_zeros(clips)
    for d in range(2, rows + columns + 1):
        i = torch.arange(max(1, d - columns), min(rows, d - 1) + 1, device=costs_BUT.device)
        around = torch.stack([last[:, i - 1], last[:, i], before[:, i - 1]])
        value = costs_BUT[:, i - 1, d - i - 1] - temperature * torch.logsumexp(-around / temperature, 0)
        now = far.index_copy(1, i, value)
        total = torch.where(wanted_B == d, now.gather(1, rows_B[:, None])[:, 0], total)
        before, last = last, now
    return total
