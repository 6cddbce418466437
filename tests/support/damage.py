"""Damage to files as an accident or an attacker makes it: a value of JSON of another type, a field that is gone, bytes
that are cut off or changed. Every outcome of a command on a damaged file must be success or one `InputError`."""

import json
import random
from pathlib import Path
from typing import Any

from malformed import paths

VALUES = (None, True, -1, 10**20, 1.5, float("nan"), "", "text", "../x", [], [None], ["a", 1], {}, {"a": {"b": []}})
TEXTS = (
    b"", b"\xff\xfe{", b"null", b"[]", b"1" * 5_000, b"[" * 50_000, b'{"a":' * 20_000, b'{"a": NaN}', b"{}", b"\0" * 64,
    b'"text"', b"{} {}",
)  # fmt: skip


def replaced(value: Any, path: tuple, new: Any) -> Any:
    """The value with `new` at a path; `new` is `...` to leave the field out."""
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    if path[1:] or new is not ...:
        copy[path[0]] = replaced(value[path[0]], path[1:], new)
    else:
        del copy[path[0]]
    return copy


def damage_json(file: Path, rng: random.Random) -> str:
    """Damages one value of a JSON or JSON-lines file, or the whole file; returns what was done."""
    content = file.read_bytes()
    if rng.random() < 0.15:
        text = rng.choice(TEXTS)
        file.write_bytes(text)
        return f"{file.name} is {text[:20]!r}"
    lines = content.splitlines() if file.suffix == ".jsonl" else [content]
    at = rng.randrange(len(lines))
    value = json.loads(lines[at])
    # first a depth, then a place: most values are deep, and most code reads the ones above them
    by_depth: dict[int, list[tuple]] = {}
    for path in ((), *paths(value)):
        by_depth.setdefault(len(path), []).append(path)
    path = rng.choice(by_depth[rng.choice(list(by_depth))])
    new = rng.choice((..., *VALUES)) if path else rng.choice(VALUES)
    lines[at] = json.dumps(replaced(value, path, new)).encode()
    file.write_bytes(b"\n".join(lines) + b"\n")
    return f"{file.name}: {'.'.join(map(str, path))} is {new!r}"


def damage_bytes(file: Path, rng: random.Random) -> str:
    """Cuts a file, changes some of its bytes, or replaces it."""
    content = bytearray(file.read_bytes())
    match rng.randrange(4):
        case 0:
            content = content[: rng.randrange(len(content) + 1)]
        case 1:
            start = 0 if rng.random() < 0.5 else max(len(content) - 200, 0)
            for _ in range(rng.randint(1, 8)):
                content[rng.randrange(start, max(min(start + 200, len(content)), start + 1))] ^= 1 << rng.randrange(8)
        case 2:
            content = bytearray(rng.choice(TEXTS))
        case 3:
            content += bytes(rng.randrange(1, 64))
    file.write_bytes(content)
    return f"{file.name}: {len(content)} bytes"
