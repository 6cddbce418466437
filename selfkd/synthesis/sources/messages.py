"""Conversations in a column of a table: lists of messages, user's and assistant's in turn, as chat templates have them.

A message is {"role": "user", "content": TEXT} with the fields `instruction`, `answer_format`, `question_type` and
`speech` of a question where it has them, or {"role": "assistant", "content": TEXT}.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from selfkd.data.as_text import as_text
from selfkd.errors import InputError
from selfkd.synthesis.config import TurnsForm
from selfkd.synthesis.sources.rows import Clip, Row, whole_conversation

_ROLES = ("user", "assistant")


def rows_of_messages(
    messages: Any, base: Row, form: TurnsForm, where: str, clips_of: Callable[[Any, str], tuple[Clip, ...]]
) -> Iterator[Row]:
    """The turns of a conversation, each as a row, or all as one. `base` has the conversation's id, image, speaker and
    category, `where` names file, row and column in errors, and `clips_of` reads a field `speech`.

    Raises InputError for messages that are not turns of user and assistant, for one without text, and for a turn
    without a recording where another has one. A conversation without messages has no rows."""
    given = list(messages) if isinstance(messages, list | tuple) else messages
    if not isinstance(given, list) or not all(isinstance(m, Mapping) for m in given):
        raise InputError(f"{where}: not a list of messages")
    texts = []
    for number, message in enumerate(given):
        role, content = message.get("role"), message.get("content")
        if role != _ROLES[number % 2]:
            raise InputError(f"{where}: message {number}: field role: {role!r:.40}, expected {_ROLES[number % 2]!r}")
        if content is not None and not isinstance(content, str):
            raise InputError(f"{where}: message {number}: field content: not a text")
        text = as_text(content, f"{where}: message {number}: field content")
        if not text:
            raise InputError(f"{where}: message {number}: field content: is empty")
        texts.append(text)
    if len(given) % 2:
        raise InputError(f"{where}: ends with a message of the user, without a response")
    turns = []
    for number in range(0, len(given), 2):
        at, message = f"{where}: message {number}", given[number]
        names = ("instruction", "answer_format", "question_type")
        fields = {name: as_text(message.get(name), f"{at}: field {name}") for name in names}
        row = base._replace(
            id=f"{base.id}-{number // 2:02d}",
            question=texts[number],
            answer=texts[number + 1],
            instruction=fields["instruction"] and f"{fields['instruction']}\n",
            answer_format=fields["answer_format"] and f"\n{fields['answer_format']}",
            question_type=fields["question_type"] or "open",
            clips=clips_of(message.get("speech"), f"{at}: field speech"),
        )
        turns.append(row)
    without = [2 * number for number, turn in enumerate(turns) if not turn.clips]
    if without and len(without) < len(turns):
        raise InputError(f"{where}: message {without[0]}: field speech: no recording, where others have one")
    if form == "whole" and turns:
        yield whole_conversation(turns, base.id)
    else:
        yield from turns
