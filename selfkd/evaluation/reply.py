"""What a model says to an item, or why it says nothing."""

from dataclasses import dataclass, field

from selfkd.evaluation.response import Outcome, gate


@dataclass(frozen=True)
class Reply:
    """A response that has passed the gate (`response.py`): making one takes what came as it came, and leaves in `text`
    what is graded."""

    text: str
    heard: str = ""  # the transcript, where there is one
    error: str = ""  # why there is no reply; `text` is "" then, and it is no wrong answer: who asked decides
    log_likelihoods: tuple[float, ...] = ()  # of an item's options as replies, in nats, where that was asked
    seconds: float = 0.0  # how long it took; of an endpoint, waiting and earlier tries not counted
    finish_reason: str = ""  # as the server says it; of a model here "stop" or "length"; "" where nobody knows
    reasoning: str = ""  # what the model thought aloud; never graded
    outcome: Outcome = field(init=False)

    def __post_init__(self) -> None:
        gated = gate(self.text, self.finish_reason, self.reasoning, self.error)
        for name, value in gated._asdict().items():
            object.__setattr__(self, name, value)

    @property
    def is_read(self) -> bool:
        """Whether a grader is to read `text`: a refusal and an empty answer say nothing that a rule may read."""
        return self.outcome in ("answer", "cut")
