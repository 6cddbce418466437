# SPDX-License-Identifier: Apache-2.0
"""The chat template of a VLM, split around the query, so that a text query and an audio query share all before it.

A template is a program of whoever made the checkpoint. transformers' sandbox keeps it from files and processes, but not
from endless loops and gigabytes of text, so it is rendered in a process that can be killed.
"""

import json
import os
import resource
import select
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from .input_error import InputError

# stand for the query and for the response while the chat template is rendered
_QUERY, _RESPONSE = "\N{BULLSEYE}", "\N{FISHEYE}"
RENDER_SECONDS = 10.0  # a template takes milliseconds
_MAX_BYTES = 2**30  # of memory, in addition to what this process has
_MAX_CHARACTERS = 1_000_000


@dataclass(frozen=True)
class ChatFrame:
    before: str  # up to the query; with an image, its placeholder included
    after: str  # from the end of the query to the beginning of the response
    end: str  # follows the response; its first token is the one that ends the model's turn


def chat_frame(processor: Any, with_image: bool) -> ChatFrame:
    """Renders the processor's chat template for one user turn and splits it at the query. Raises InputError for a
    template that fails, that takes too long, or whose text does not contain the query once."""
    return ChatFrame(*_rendered(lambda: astuple(_chat_frame(processor, with_image))))


def audio_frame(processor: Any) -> ChatFrame:
    """The text that a native omni model's template has around a clip, within the frame of a text query."""
    return ChatFrame(*_rendered(lambda: astuple(_audio_frame(processor))))


def conversation_pieces(processor: Any, with_images: Sequence[bool], with_system: bool) -> list[str]:
    """The processor's chat template around the texts of a conversation: a system message, and a query for each of
    `with_images`, which says whether its turn has an image; all but the last have a response. There is one piece more
    than there are texts. Raises InputError as `chat_frame` does."""
    return _rendered(lambda: _conversation_pieces(processor, with_images, with_system))


def _chat_frame(processor: Any, with_image: bool) -> ChatFrame:
    turn = _turn({"type": "text", "text": _QUERY}, with_image)
    text = processor.apply_chat_template([turn], add_generation_prompt=True)
    before, mark, after = text.partition(_QUERY)
    if not mark or _QUERY in after:
        raise InputError("must contain the question exactly once")
    response = {"role": "assistant", "content": [{"type": "text", "text": _RESPONSE}]}
    end = processor.apply_chat_template([turn, response]).partition(_RESPONSE)[2]
    return ChatFrame(before, after, end)


def _audio_frame(processor: Any) -> ChatFrame:
    text_frame = _chat_frame(processor, with_image=False)
    text = processor.apply_chat_template([_turn({"type": "audio"}, False)], add_generation_prompt=True)
    clip = text.removeprefix(text_frame.before).removesuffix(text_frame.after)
    before, mark, after = clip.partition(processor.audio_token)
    if not mark or processor.audio_token in after:
        raise InputError("must contain a clip exactly once, in the position of a text query")
    return ChatFrame(before, after, text_frame.end)


def _conversation_pieces(processor: Any, with_images: Sequence[bool], with_system: bool) -> list[str]:
    roles = [("system", False)] * with_system
    roles += [role for with_image in with_images for role in (("user", with_image), ("assistant", False))][:-1]
    marks = [f"{_QUERY}{number}{_QUERY}" for number in range(len(roles))]
    messages = [
        _turn({"type": "text", "text": mark}, with_image) | {"role": role}
        for (role, with_image), mark in zip(roles, marks, strict=True)
    ]
    text, pieces = processor.apply_chat_template(messages, add_generation_prompt=True), []
    for mark in marks:
        before, found, text = text.partition(mark)
        pieces.append(before)
        if not found or _QUERY in before:
            raise InputError("must contain each text of a conversation exactly once, in their order")
    if _QUERY in text:
        raise InputError("must contain each text of a conversation exactly once, in their order")
    return [*pieces, text]


def _turn(query: dict[str, str], with_image: bool) -> dict[str, Any]:
    return {"role": "user", "content": [*([{"type": "image"}] if with_image else []), query]}


def _rendered(render: Callable[[], Sequence[str]]) -> list[str]:
    """The texts that `render` returns, in a copy of this process with limits of time and memory."""
    reader, writer = os.pipe()
    child = os.fork()  # multiprocessing lets no worker of a data loader have children
    if not child:
        try:
            os.close(reader)
            with os.fdopen(writer, "wb") as file:
                file.write(json.dumps(_limited(render)).encode())
        finally:
            os._exit(0)
    os.close(writer)
    try:
        with os.fdopen(reader, "rb") as file:
            error, parts = json.loads(_read_all(file.fileno()) or '["cannot be rendered within a gigabyte", []]')
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    if error:
        raise InputError(f"chat template: {error}")
    return parts


def _read_all(descriptor: int) -> bytes:
    """What the other end of a pipe writes until it closes. Raises InputError where that takes too long."""
    content, end = b"", time.monotonic() + RENDER_SECONDS
    while select.select([descriptor], [], [], max(end - time.monotonic(), 0))[0]:
        more = os.read(descriptor, 1 << 16)
        if not more:
            return content
        content += more
    raise InputError(f"chat template: takes more than {RENDER_SECONDS:g} s to render")


def _limited(render: Callable[[], Sequence[str]]) -> tuple[str, Sequence[str]]:
    """(what is wrong with the template or "", the texts)."""
    size = Path("/proc/self/statm")
    if size.exists():  # on Linux
        mapped_bytes = int(size.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped_bytes + _MAX_BYTES, resource.RLIM_INFINITY))
    try:
        parts = render()
    except InputError as refused:
        return str(refused), ()
    except MemoryError:
        return "cannot be rendered within a gigabyte", ()
    except Exception as failed:  # of the template, which may raise anything
        return f"cannot be rendered ({type(failed).__name__}: {' '.join(str(failed).split())[:300]})", ()
    if sum(map(len, parts)) > _MAX_CHARACTERS:
        return f"makes a text of more than {_MAX_CHARACTERS:,} characters", ()
    return "", parts
