"""The chat frame around one question: what the model's own template puts before it and after it."""

from dataclasses import dataclass
from typing import Any

# stand for the question and for the response while the template is rendered
_QUESTION, _RESPONSE = "\N{BULLSEYE}", "\N{FISHEYE}"


@dataclass(frozen=True)
class ChatFrame:
    before: str  # up to the question; with an image, its placeholder included
    after: str  # from the end of the question up to where the response begins
    end: str  # what closes the response; its first token is the one that the model is to end with

    def around(self, question: str) -> str:
        return self.before + question + self.after


def chat_frame(processor: Any, with_image: bool) -> ChatFrame:
    """Renders the processor's chat template for one user turn and splits it at the question."""
    content = [{"type": "image"}] if with_image else []
    content.append({"type": "text", "text": _QUESTION})
    turn = {"role": "user", "content": content}
    text = processor.apply_chat_template([turn], add_generation_prompt=True)
    before, mark, after = text.partition(_QUESTION)
    if not mark or _QUESTION in after:
        raise ValueError("the chat template must show the question exactly once")
    response = {"role": "assistant", "content": [{"type": "text", "text": _RESPONSE}]}
    end = processor.apply_chat_template([turn, response]).partition(_RESPONSE)[2]
    return ChatFrame(before, after, end)
