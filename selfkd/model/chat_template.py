"""The chat template of a VLM, split around the query, so that a text query and an audio query share all before it."""

from dataclasses import dataclass
from typing import Any

# stand for the query and for the response while the chat template is rendered
_QUERY, _RESPONSE = "\N{BULLSEYE}", "\N{FISHEYE}"


@dataclass(frozen=True)
class ChatFrame:
    before: str  # up to the query; with an image, its placeholder included
    after: str  # from the end of the query to the beginning of the response
    end: str  # follows the response; its first token is the one that ends the model's turn


def chat_frame(processor: Any, with_image: bool) -> ChatFrame:
    """Renders the processor's chat template for one user turn and splits it at the query."""
    turn = _turn({"type": "text", "text": _QUERY}, with_image)
    text = processor.apply_chat_template([turn], add_generation_prompt=True)
    before, mark, after = text.partition(_QUERY)
    if not mark or _QUERY in after:
        raise ValueError("the chat template must contain the question exactly once")
    response = {"role": "assistant", "content": [{"type": "text", "text": _RESPONSE}]}
    end = processor.apply_chat_template([turn, response]).partition(_RESPONSE)[2]
    return ChatFrame(before, after, end)


def audio_frame(processor: Any) -> ChatFrame:
    """The text that a native omni model's template has around a clip, within the frame of a text query."""
    text_frame = chat_frame(processor, with_image=False)
    text = processor.apply_chat_template([_turn({"type": "audio"}, False)], add_generation_prompt=True)
    clip = text.removeprefix(text_frame.before).removesuffix(text_frame.after)
    before, mark, after = clip.partition(processor.audio_token)
    if not mark or processor.audio_token in after:
        raise ValueError("the chat template must contain a clip exactly once, in the position of a text query")
    return ChatFrame(before, after, text_frame.end)


def _turn(query: dict[str, str], with_image: bool) -> dict[str, Any]:
    return {"role": "user", "content": [*([{"type": "image"}] if with_image else []), query]}
