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
    turn = _turn({"type": "text", "text": _QUESTION}, with_image)
    text = processor.apply_chat_template([turn], add_generation_prompt=True)
    before, mark, after = text.partition(_QUESTION)
    if not mark or _QUESTION in after:
        raise ValueError("the chat template must show the question exactly once")
    response = {"role": "assistant", "content": [{"type": "text", "text": _RESPONSE}]}
    end = processor.apply_chat_template([turn, response]).partition(_RESPONSE)[2]
    return ChatFrame(before, after, end)


def audio_frame(processor: Any) -> ChatFrame:
    """What a native omni model's template puts around the place of a clip, within the frame of a written question."""
    written = chat_frame(processor, with_image=False)
    text = processor.apply_chat_template([_turn({"type": "audio"}, False)], add_generation_prompt=True)
    clip = text.removeprefix(written.before).removesuffix(written.after)
    before, mark, after = clip.partition(processor.audio_token)
    if not mark or processor.audio_token in after:
        raise ValueError("the chat template must show a clip exactly once, where a written question would stand")
    return ChatFrame(before, after, written.end)


def _turn(question: dict[str, str], with_image: bool) -> dict[str, Any]:
    return {"role": "user", "content": [*([{"type": "image"}] if with_image else []), question]}
