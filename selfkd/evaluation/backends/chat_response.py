"""The body of a chat endpoint's response -> the response text, or why there is none.

Servers that call themselves compatible send bodies that are not. A field that a body lacks becomes an `error`, never an
exception and never an empty answer.
"""

import re
from dataclasses import dataclass
from typing import Any

from selfkd.evaluation.response import REFUSAL
from selfkd.json_files import parse_json

MAX_REASON_CHARACTERS = 300


@dataclass(frozen=True)
class ChatResponse:
    text: str = ""
    error: str = ""  # why there is no text
    prompt_tokens: int | None = None  # None where the server does not say
    completion_tokens: int | None = None
    finish_reason: str = ""
    reasoning: str = ""  # from fields or parts of its own


# fields of reasoning next to a message's content: DeepSeek, vLLM and SGLang; OpenRouter, Groq; Ollama; LiteLLM
_REASONING_FIELDS = ("reasoning_content", "reasoning", "reasoning_details", "thinking", "thinking_blocks", "thoughts")
_REASONING_PART = re.compile(r"reason|think|thought|summary", re.IGNORECASE)
_TEXT_FIELDS = ("text", "thinking", "reasoning", "summary", "content")


def parse_chat_response(content: bytes) -> ChatResponse:
    """Reads the body of a response with status 200. Bytes that are not UTF-8 become U+FFFD; a text that ended at the
    token limit is kept."""
    try:
        body = parse_json(content.decode("utf-8", errors="replace"))
    except ValueError:
        start = content[:80].decode("utf-8", errors="replace")
        return ChatResponse(error=short(f"the response is not JSON: {start!r}"))
    if not isinstance(body, dict):
        return ChatResponse(error=f"the response is a JSON {type(body).__name__}, expected an object")
    usage = body.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    counts = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens"))
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        # some routers return 200 and put the error of the server behind them into the body
        failure = body.get("error")
        return ChatResponse("", short(f"the response has no choices{f': {failure}' if failure else ''}"), *counts)
    return _read_choice(choices[0], body.get("error"), counts)


def _read_choice(choice: dict[str, Any], failure: Any, counts: tuple[int | None, int | None]) -> ChatResponse:
    message, finish = choice.get("message"), choice.get("finish_reason")
    finish_reason = "" if finish is None else short(str(finish))
    if not isinstance(message, dict):
        return ChatResponse("", "the response's first choice has no message", *counts, finish_reason)
    content = message.get("content")
    parts = content if isinstance(content, list) else [content]
    thoughts = [_texts(p) for p in parts if _is_reasoning(p)] + [_texts(message.get(f)) for f in _REASONING_FIELDS]
    # the same reasoning may be in two fields
    reasoning = valid_utf8("\n".join(dict.fromkeys(t.strip() for t in thoughts if t.strip())))
    failure = choice.get("error") or message.get("error") or failure
    if failure:
        return ChatResponse("", short(f"the response holds an error: {failure}"), *counts, finish_reason, reasoning)
    text = content if isinstance(content, str) else _joined(content) if isinstance(content, list) else None
    refusal = message.get("refusal") or _refusal_in(parts)
    if not text and isinstance(refusal, str):
        return ChatResponse(valid_utf8(refusal).strip(), "", *counts, REFUSAL, reasoning)
    if text is None:
        called = " but calls" if message.get("tool_calls") or message.get("function_call") else ""
        return ChatResponse(
            "", f"the message has no text{called} (finish_reason {finish})", *counts, finish_reason, reasoning
        )
    if not text.strip() and (message.get("tool_calls") or message.get("function_call")):
        return ChatResponse("", "the message has no text but calls", *counts, finish_reason, reasoning)
    return ChatResponse(valid_utf8(text).strip(), "", *counts, finish_reason, reasoning)


def _is_reasoning(part: Any) -> bool:
    return isinstance(part, dict) and bool(_REASONING_PART.search(str(part.get("type", ""))))


def _joined(parts: list[Any]) -> str | None:
    texts = [
        p if isinstance(p, str) else p.get("text") for p in parts if isinstance(p, str | dict) and not _is_reasoning(p)
    ]
    found = [t for t in texts if isinstance(t, str)]
    return "".join(found) if found else None


def _refusal_in(parts: list[Any]) -> str | None:
    refusals = (p.get("refusal") for p in parts if isinstance(p, dict) and p.get("type") == "refusal")
    return next((text for text in refusals if isinstance(text, str)), None)


def _texts(value: Any) -> str:
    """All text in a field of reasoning: a text, parts, or parts within parts."""
    if isinstance(value, dict):
        value = [value[name] for name in _TEXT_FIELDS if name in value]
    if isinstance(value, list):
        return "\n".join(filter(None, map(_texts, value)))
    return value if isinstance(value, str) else ""


def valid_utf8(text: str) -> str:
    """Text that can be written as UTF-8: JSON may hold halves of surrogate pairs, which become U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def short(reason: str) -> str:
    """A reason as one line of a table or a log."""
    reason = " ".join(valid_utf8(reason).split())
    return reason if len(reason) <= MAX_REASON_CHARACTERS else f"{reason[:MAX_REASON_CHARACTERS]}..."


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
