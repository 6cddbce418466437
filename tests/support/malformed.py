"""Strategies of malformed content that generators share: JSON values, edits of a JSON document, damaged bytes."""

import copy
import json
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

ODD_TEXTS = [
    "", " ", "\0", "a\0b", "../outside", "/etc/hostname", "..", ".", "a/../../b", "~", "x" * 300, "x" * 100_000, "\n",
    "\u202e", "\ud800", "NaN", "null", "1e999", "-1", "0x10", "{}", "[]", "<image>", "{{ 7 * 7 }}", "%s%n", "\x1b[31m",
    "https://127.0.0.1:9/x", "file:///etc/hostname", "é" * 255, "<script>alert(1)</script>",
]  # fmt: skip
ODD_NUMBERS = [0, 1, -1, 2, 7, 2**31, 2**63, -(2**63) - 1, 10**30, 0.5, -0.0, 1e308, float("inf"), float("nan")]


def json_values(odd_texts: list[str] = ODD_TEXTS) -> st.SearchStrategy[Any]:
    """Values of every type of JSON, with extreme ones among them."""
    scalars = (
        st.none() | st.booleans() | st.sampled_from(ODD_NUMBERS) | st.sampled_from(odd_texts) | st.text(max_size=5)
    )
    nested = st.lists(scalars, max_size=3) | st.dictionaries(st.text(max_size=4), scalars, max_size=3)
    return (
        scalars | nested | st.lists(nested, max_size=2) | st.builds(deep, st.just(200))
    )  # a list of its own, which may be edited


def deep(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def paths(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value within a JSON document."""
    inner = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in inner:
        yield (*path, key)
        yield from paths(value, (*path, key))


@st.composite
def edited_documents(draw: st.DrawFn, document: Any, values: st.SearchStrategy[Any] | None = None) -> tuple[Any, str]:
    """(the document with one or two edits, what was edited): a value replaced, removed, repeated, or under another
    name."""
    document, labels, values = copy.deepcopy(document), [], json_values() if values is None else values
    for _ in range(draw(st.integers(1, 2))):
        positions = list(paths(document))
        if not positions or draw(st.integers(0, 30)) == 0:
            document = draw(values)
            labels.append(f"all = {short(document)}")
            continue
        *above, key = draw(st.sampled_from(positions))
        holder = document
        for step in above:
            holder = holder[step]
        edit = draw(st.sampled_from(["replace", "replace", "replace", "remove", "repeat", "rename"]))
        name = ".".join(map(str, (*above, key)))
        if edit == "replace":
            holder[key] = draw(values)
            labels.append(f"{name} = {short(holder[key])}")
        elif edit == "remove":
            del holder[key]
            labels.append(f"no {name}")
        elif isinstance(holder, list):
            holder.append(copy.deepcopy(holder[key]))
            labels.append(f"{name} twice")
        else:
            other = draw(st.sampled_from([*ODD_TEXTS, "other"]))
            holder[other] = copy.deepcopy(holder[key]) if edit == "repeat" else holder.pop(key)
            labels.append(f"{name} as {short(other)}")
    return document, ", ".join(labels)


def short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 120 else f"{text[:50]}... ({len(text)} characters)"


def as_json(value: Any, indent: int | None = None) -> bytes:
    """As lenient writers have it: NaN and infinity by their names, half a surrogate pair as its escape."""
    return json.dumps(value, indent=indent).encode()


_INSERTED = [
    b"\xff", b"\0", b"\xef\xbb\xbf", b"[" * 100_000, b'{"a":' * 50_000, b"9" * 6_000, b"\xe9", b'"', b",", b"\r\n",
]  # fmt: skip


@st.composite
def damaged_bytes(draw: st.DrawFn, content: bytes, inserted: list[bytes] | None = None) -> tuple[bytes, str]:
    """(the content cut, emptied, with bytes changed, inserted or repeated, what was done)."""
    kind = draw(st.sampled_from(["cut", "change", "change", "insert", "empty", "repeat", "head"]))
    at = draw(st.integers(0, max(0, len(content) - 1)))
    if kind == "cut":
        return content[:at], f"cut to {at} bytes"
    if kind == "empty":
        return b"", "empty"
    if kind == "insert":
        more = draw(st.sampled_from(inserted or _INSERTED))
        return content[:at] + more + content[at:], f"{short(more)} at {at}"
    if kind == "repeat":
        return content + content[at:], f"repeated from {at}"
    changed = bytearray(content)
    if kind == "head":
        at %= 64  # where headers have their lengths
    for offset in range(draw(st.integers(1, 8))):
        if at + offset < len(changed):
            changed[at + offset] = draw(st.sampled_from([0, 0xFF, 0x7F, 0x80, 1]) | st.integers(0, 255))
    return bytes(changed), f"bytes from {at} are {bytes(changed[at : at + 8]).hex()}"
