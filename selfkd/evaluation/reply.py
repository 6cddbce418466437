"""What a model says to an item, or why it says nothing."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Reply:
    text: str
    heard: str = ""  # the transcript, where there is one
    error: str = ""  # why there is no reply; `text` is "" then, and it is no wrong answer: who asked decides
    seconds: float = 0.0  # how long it took; of an endpoint, waiting and earlier tries not counted
