"""The recipes that the projector studies compare (projector, settings, data), and the speech of their test sets."""

from dataclasses import dataclass, field
from typing import Any, Literal

from selfkd.synthesis.config import SourceName

ProjectorName = Literal["stack", "ctc", "new head"]
STEPS, BATCH = 600, 16
SAMPLES = 4800  # questions, and a third as many sentences; an eighth as many steps use each one and a half times
KOKORO_VOICES = "af_heart,am_michael,bf_emma,bm_george"
CONDITIONS: dict[str, dict[str, Any]] = {
    "noise, 20 dB": {"augment": {"noise": 1.0}, "noise_snr_db": (20.0, 20.0)},
    "noise, 10 dB": {"augment": {"noise": 1.0}, "noise_snr_db": (10.0, 10.0)},
    "noise, 0 dB": {"augment": {"noise": 1.0}, "noise_snr_db": (0.0, 0.0)},
    # English read by espeak-ng's German and French voices
    "German": {"voices": "de+m4,de+f3,de+ian,de+steph", "language": "de"},
    "French": {"voices": "fr+m4,fr+f3,fr+ian,fr+steph", "language": "fr"},
    "Flite": {"engine": "flite", "voices": "training"},
    "Kokoro": {"engine": "kokoro", "voices": KOKORO_VOICES},
}


@dataclass(frozen=True)
class Recipe:
    """Differences from the defaults of `selfkd distill` with a CTC projector and forward KL; with a new CTC head, from
    those of `selfkd align`."""

    projector: ProjectorName = "ctc"
    voices: str = "random"
    sentences: bool = True
    responses: SourceName = "world-noisy"
    samples: int = SAMPLES
    settings: dict[str, Any] = field(default_factory=dict)


def _thousands(questions: int, **settings: Any) -> Recipe:
    """So many thousand questions, and proportionally more steps where that is more than "best" has."""
    more = {"steps": questions * 125} if questions * 125 > STEPS else {}
    return Recipe(samples=questions * 1000, settings=settings | more)


PAPER: dict[str, Any] = {"steps": 400, "batch_size": 32, "warmup_steps": 30}
RECIPES = {
    "paper-sft": Recipe("stack", "training", sentences=False, settings=PAPER | {"alpha": 0.0}),
    "paper-selfkd": Recipe("stack", "training", sentences=False, settings=PAPER),
    "stack": Recipe("stack", settings={"trainable": ["projector", "speech_encoder"], "learning_rate": 4e-4,
                                       "spec_augment": 1.0, "weight_averaging": 1 / 3}),
    "best": Recipe(),
    "best-sft": Recipe(settings={"alpha": 0.0}),
    "best-training-voices": Recipe(voices="training"),
    "best-no-sentences": Recipe(sentences=False),
    "best-adapters": Recipe(settings={"trainable": ["projector", "speech_encoder", "llm_adapters"]}),
    "best-last-weights": Recipe(settings={"weight_averaging": 0.0}),
    "best-300-steps": Recipe(settings={"steps": 300}),
    "best-no-ctc": Recipe(settings={"ctc_weight": 0.0}),
    **{f"best-ctc-{w}": Recipe(settings={"ctc_weight": float(w)}) for w in (2, 8, 100)},
    # CTC-only training: no teacher, no responses
    "ctc-only": Recipe(settings={"response_weight": 0.0}),
    "ctc-only-training-voices": Recipe(voices="training", settings={"response_weight": 0.0}),
    "ctc-only-no-sentences": Recipe(sentences=False, settings={"response_weight": 0.0}),
    **{f"ctc-only-{k}k": _thousands(k, response_weight=0.0) for k in (1, 3, 10, 30)},
    "ctc-only-whisper": Recipe("new head", settings={"steps": 1200}),  # on the encoder of a Whisper
    "best-reverse": Recipe(settings={"divergence": "reverse"}),
    "best-jensen-shannon": Recipe(settings={"divergence": "jensen_shannon"}),
    "best-hidden-mse": Recipe(settings={"hidden_mse_weight": 1.0}),
    "best-soft-dtw": Recipe(settings={"soft_dtw_weight": 0.5}),
    "best-on-policy": Recipe(settings={"on_policy_fraction": 0.5, "divergence": "reverse"}),
    **{f"best-alpha-{alpha}": Recipe(settings={"alpha": alpha}) for alpha in (0.25, 0.5, 0.75)},
    "best-exact": Recipe(responses="world"),
    "best-sft-exact": Recipe(responses="world", settings={"alpha": 0.0}),
    **{f"best-{k}k": _thousands(k) for k in (1, 3, 10, 30)},
}  # fmt: skip
