"""The chat frame around one question: what the model's own template puts before it and after it."""

from dataclasses import dataclass
from typing import Any

_MARK = "\N{BULLSEYE}"  # stands for the question while the template is rendered


@dataclass(frozen=True)
class ChatFrame:
    before: str  # up to the question; with an image, its placeholder included
    after: str  # from the end of the question up to where the response begins

    def around(self, question: str) -> str:
        return self.before + question + self.after


def chat_frame(processor: Any, with_image: bool) -> ChatFrame:
    """Renders the processor's chat template for one user turn and splits it at the question."""
    content = [{"type": "image"}] if with_image else []
    content.append({"type": "text", "text": _MARK})
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    before, mark, after = text.partition(_MARK)
    if not mark or _MARK in after:
        raise ValueError("the chat template must show the question exactly once")
    return ChatFrame(before, after)
