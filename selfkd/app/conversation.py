"""The earlier turns of a conversation about one image. Each model has one conversation in text and one in audio, each
with its own responses: a query in audio follows clips, and a text query follows text.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from selfkd.data.example import Example, ExampleTurn
from selfkd.errors import InputError
from selfkd.training.data import Modality

MAX_TURNS = 20


@dataclass(frozen=True)
class PastTurn:
    """A query that was run, with its audio, and the response of each model in each modality that it had."""

    example: Example
    transcript: str | None
    responses: Mapping[str, Mapping[Modality, str]]

    def as_history(self, model: str, modality: Modality) -> ExampleTurn | None:
        """The turn as one modality of a model continues it; None where it has no text. A query that was only recorded
        is in the conversation in text by its transcript, with the response to the recording."""
        responses, example = self.responses[model], self.example
        if modality == "audio":
            return ExampleTurn(example.question, responses["audio"], audio=example.audio)
        text = example.question or self.transcript
        return ExampleTurn(text, responses.get("text", responses["audio"])) if text else None


Conversation = tuple[PastTurn, ...]


def continued(example: Example, turns: Conversation, model: str) -> dict[Modality, Example]:
    """The query after the earlier turns, in each modality that it can be run in. Raises InputError for a conversation
    that is too long."""
    if len(turns) >= MAX_TURNS:
        raise InputError(f"Question: a conversation has at most {MAX_TURNS} turns; start again")
    found: dict[Modality, Example] = {}
    history = [turn.as_history(model, "text") for turn in turns]
    known = tuple(turn for turn in history if turn is not None)
    if example.question and len(known) == len(history):
        found["text"] = replace(example, history=known)
    audio = (turn.as_history(model, "audio") for turn in turns)
    return found | {"audio": replace(example, history=tuple(turn for turn in audio if turn is not None))}


def about(turns: Conversation, image: bytes | None) -> Conversation:
    """The turns that a query about this image continues: none where they were about another."""
    return turns if turns and turns[0].example.image == image else ()
