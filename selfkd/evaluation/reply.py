"""What a model says to an item, or why it says nothing."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Reply:
    text: str
    heard: str = ""  # the transcript, where there is one
    error: str = ""  # why there is no reply; `text` is "" then, and it is no wrong answer: who asked decides
    log_likelihoods: tuple[float, ...] = ()  # of an item's options as replies, in nats, where that was asked
    seconds: float = 0.0  # how long it took; of an endpoint, waiting and earlier tries not counted
