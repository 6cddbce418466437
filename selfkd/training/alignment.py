"""Losses that align the audio embeddings with the text embeddings of the same query, without the LLM, in fp32.

Legend: B clips, T query tokens, U audio embeddings, D width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from selfkd.model.projectors import AudioEmbeddings

SOFT_DTW_TEMPERATURE = 0.06  # Lyra's
CONTRASTIVE_TEMPERATURE = 0.07  # CLIP's first value


def soft_dtw_loss(audio: AudioEmbeddings, transcript_ids_BT: Tensor, embed: nn.Module) -> Tensor:
    """sum over clips of the soft-DTW of 1 - cosine between audio and token embeddings, divided by the number of query
    tokens; a clip without audio embeddings counts as 0. `transcript_ids_BT` are the query's ids, -100 pads."""
    mask_BT = transcript_ids_BT != -100
    valid_B = audio.mask.any(-1) & mask_BT.any(-1)
    if not valid_B.any():
        return audio.vectors.sum() * 0
    with torch.autocast(audio.vectors.device.type, enabled=False):  # bf16 is too coarse for a temperature of 0.06
        vectors = F.normalize(audio.vectors[valid_B].float(), dim=-1)
        with torch.no_grad():
            tokens = F.normalize(embed(transcript_ids_BT[valid_B].clamp(min=0)).float(), dim=-1)
        costs_BUT = 1 - vectors @ tokens.transpose(1, 2)
        lengths = audio.mask[valid_B].sum(-1), mask_BT[valid_B].sum(-1)
        return (soft_dtw(costs_BUT, *lengths, SOFT_DTW_TEMPERATURE) / lengths[1]).sum()


def soft_dtw(costs_BUT: Tensor, rows_B: Tensor, columns_B: Tensor, temperature: float) -> Tensor:
    """(B,): the soft minimum, over monotone paths from the first cell to (rows, columns), of the cost of a path (Cuturi
    & Blondel 2017): r(i, j) = c(i, j) + softmin(r(i-1, j), r(i, j-1), r(i-1, j-1)). Computed diagonal by diagonal."""
    clips, rows, columns = costs_BUT.shape
    far = costs_BUT.new_full((clips, rows + 1), 1e6)  # finite, or the gradient of a soft minimum of nothing is NaN
    start = far.clone()
    start[:, 0] = 0
    before, last = start, far  # r on the last two diagonals; index i is cell (i, d - i)
    end_B = rows_B + columns_B
    total = costs_BUT.new_zeros(clips)
    for d in range(2, rows + columns + 1):
        i = torch.arange(max(1, d - columns), min(rows, d - 1) + 1, device=costs_BUT.device)
        neighbours = torch.stack([last[:, i - 1], last[:, i], before[:, i - 1]])
        value = costs_BUT[:, i - 1, d - i - 1] - temperature * torch.logsumexp(-neighbours / temperature, 0)
        current = far.index_copy(1, i, value)
        total = torch.where(end_B == d, current.gather(1, rows_B[:, None])[:, 0], total)
        before, last = last, current
    return total


def contrastive_loss(audio: AudioEmbeddings, transcript_ids_BT: Tensor, embed: nn.Module) -> Tensor:
    """sum over clips of InfoNCE (van den Oord et al. 2018, arXiv 1807.03748) between the mean audio embedding and the
    mean token embedding of the query, among the clips of the batch on this device, in both directions as CLIP has it;
    clips with the same query are not each other's negatives. 0 for clips without audio embeddings, and where the batch
    has no other query. `transcript_ids_BT` are the query's ids, -100 pads."""
    mask_BT = transcript_ids_BT != -100
    valid_B = audio.mask.any(-1) & mask_BT.any(-1)
    if not valid_B.any():
        return audio.vectors.sum() * 0
    with torch.autocast(audio.vectors.device.type, enabled=False):
        ids_BT, mask_BT = transcript_ids_BT[valid_B], mask_BT[valid_B]
        with torch.no_grad():
            tokens_BD = F.normalize(_mean(embed(ids_BT.clamp(min=0)).float(), mask_BT), dim=-1)
        clips_BD = F.normalize(_mean(audio.vectors[valid_B].float(), audio.mask[valid_B]), dim=-1)
        same_BB = (ids_BT[:, None] == ids_BT[None]).all(-1).fill_diagonal_(False)
        logits_BB = (clips_BD @ tokens_BD.T / CONTRASTIVE_TEMPERATURE).masked_fill(same_BB, -torch.inf)
        own_B = torch.arange(len(logits_BB), device=logits_BB.device)
        to_text, to_audio = (F.cross_entropy(x, own_B, reduction="sum") for x in (logits_BB, logits_BB.T))
        return (to_text + to_audio) / 2


def _mean(vectors_BUD: Tensor, mask_BU: Tensor) -> Tensor:
    return (vectors_BUD * mask_BU[..., None]).sum(1) / mask_BU.sum(1, keepdim=True)
