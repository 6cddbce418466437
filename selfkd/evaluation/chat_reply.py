"""The body of a chat endpoint's response -> the reply's text, or why there is none.

Servers that call themselves compatible send bodies that are not, so nothing is taken for granted here: what a body
lacks becomes an `error`, never an exception and never an empty answer.
"""

import json
from dataclasses import dataclass
from typing import Any

MOST_REASON_LETTERS = 300


@dataclass(frozen=True)
class ChatReply:
    text: str = ""
    error: str = ""  # why there is no text
    prompt_tokens: int | None = None  # None where the server does not say
    completion_tokens: int | None = None


def read_chat_reply(content: bytes) -> ChatReply:
    """Reads the body of a response with status 200. Bytes that are no UTF-8 become U+FFFD; a text that ended at the
    limit of tokens is kept as it came."""
    try:
        body = json.loads(content.decode("utf-8", errors="replace"))
    except (ValueError, RecursionError):
        start = content[:80].decode("utf-8", errors="replace")
        return ChatReply(error=short(f"the response is not JSON: {start!r}"))
    if not isinstance(body, dict):
        return ChatReply(error=f"the response is a JSON {type(body).__name__}, expected an object")
    usage = body.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    text, error = _text(body)
    return ChatReply(text, error, _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens")))


def _text(body: dict[str, Any]) -> tuple[str, str]:
    """(text, "") or ("", reason)."""
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        # some routers answer 200 and put the failure of the server behind them into the body
        failure = body.get("error")
        return "", short(f"the response has no choices{f': {failure}' if failure else ''}")
    message, finish = choices[0].get("message"), choices[0].get("finish_reason")
    if not isinstance(message, dict):
        return "", "the response's first choice has no message"
    content = message.get("content")
    if content is None:
        content = message.get("refusal")  # a refusal is what the model said
    if isinstance(content, list):
        content = _joined(content)
    if not isinstance(content, str) or (not content and finish == "content_filter"):
        return "", short(f"the response's message has no text (finish_reason {finish})")
    return plain(content).strip(), ""


def _joined(parts: list[Any]) -> str | None:
    texts = [p if isinstance(p, str) else p.get("text") for p in parts if isinstance(p, str | dict)]
    found = [t for t in texts if isinstance(t, str)]
    return "".join(found) if found else None


def plain(text: str) -> str:
    """Text that can be written as UTF-8: JSON may hold halves of surrogate pairs, which become U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def short(reason: str) -> str:
    """A reason as one line of a table or a log."""
    reason = " ".join(plain(reason).split())
    return reason if len(reason) <= MOST_REASON_LETTERS else f"{reason[:MOST_REASON_LETTERS]}..."


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
