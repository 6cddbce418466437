"""The weights of the training loss. Imports no torch: `--help` reads its defaults."""

from dataclasses import dataclass
from typing import Literal

Divergence = Literal["forward", "reverse", "jensen_shannon"]


@dataclass(frozen=True)
class LossConfig:
    """The training loss: that of Self-KD (arXiv 2503.00059), L = alpha * L_KD + (1 - alpha) * L_SFT, with further
    terms:

        L = response_weight * (alpha * KD + (1 - alpha) * SFT)
            + hidden_mse_weight * MSE + ctc_weight * CTC + character_ctc_weight * CTC_characters
            + soft_dtw_weight * SoftDTW + contrastive_weight * InfoNCE

    With p_T, p_S the teacher's (text query) and the student's (audio query) distributions over the next token, and y
    the response:

        KD  = T^2 * KL(p_T(T) || p_S(T)),  SFT = -log p_S(y),

    each a mean over response tokens. The paper's loss is `LossConfig(alpha)`.

    Args:
        alpha: Weight of KD; 0 is SFT only, 1 is Self-KD only.
        temperature: T, of teacher and student in the divergence.
        divergence: forward is KL(teacher || student), as in the paper; reverse is KL(student || teacher);
            jensen_shannon is (KL(teacher || m) + KL(student || m)) / 2 with the mixture m.
        hidden_mse_weight: Weight of the squared distance between hidden states of student and teacher (DiVA, arXiv
            2410.02678).
        ctc_weight: Weight of the CTC loss on the question's tokens, -log p(question | audio); needs a CTC projector.
        soft_dtw_weight: Weight of soft-DTW between audio embeddings and the question's token embeddings, of 1 - cosine
            (Lyra, arXiv 2412.09501).
        response_weight: Weight of KD and SFT; where this and `hidden_mse_weight` are 0 no LLM is run.
        character_ctc_weight: Weight of the CTC loss on the question's characters, an auxiliary loss while the CTC head
            over tokens is new.
        contrastive_weight: Weight of InfoNCE between mean audio embeddings and mean token embeddings of the questions
            of a batch.
        hidden_mse_layers: Number of layers, evenly spaced up to the last, whose hidden states `hidden_mse_weight`
            compares.
    """

    alpha: float = 1.0
    temperature: float = 1.0
    divergence: Divergence = "forward"
    hidden_mse_weight: float = 0.0
    ctc_weight: float = 0.0
    soft_dtw_weight: float = 0.0
    response_weight: float = 1.0
    character_ctc_weight: float = 0.0
    contrastive_weight: float = 0.0
    hidden_mse_layers: int = 1


def needs_responses(config: LossConfig) -> bool:
    """Whether the loss has a term on responses. If not, only speech encoder and projector run."""
    return config.response_weight > 0 or config.hidden_mse_weight > 0


def needs_teacher(config: LossConfig) -> bool:
    return needs_responses(config) and (config.alpha > 0 or config.hidden_mse_weight > 0)
