# SPDX-License-Identifier: Apache-2.0
"""Tokenizes queries, answers and transcripts as ordinary text, even where they contain names of control tokens.

A tokenizer converts the name of a special token (end of a turn, image or audio placeholder) wherever it occurs in a
text. In the model's own chat template that is intended; in a question, an answer or a transcript "<|im_end|>" is plain
text. `TextTokenizer.ids` distinguishes the two. Text without such a name is tokenized by the tokenizer itself, together
with the template around it, to the same ids.

Text with such a name is tokenized by a copy of the tokenizer in which every control token has a random name that no
text contains: same pieces, same rules, same ids. The template's own control tokens are inserted by these names.
"""

import json
import re
import secrets
from collections.abc import Collection, Iterable
from functools import cached_property
from typing import Any

from tokenizers import AddedToken, Tokenizer

from .input_error import InputError

# an added token that is neither `special` nor in the template may be a piece of text: spaces, HTML tags, words
_MARK = re.compile(r"<(?!/?(?:h[1-6]|[a-z]+)>).*>|\[.+\]|\{.+\}|</?(?:think|image|audio|video|speech|mask)>", re.DOTALL)


class Template(str):
    """Text of a model's own chat template, or its processor's text for an image or a clip: names of control tokens in
    it become control tokens. In any other string they are ordinary text."""

    __slots__ = ()

    def __add__(self, other: str) -> "Template":
        """Joins two pieces of a template; a template and a text are separate arguments of `ids`."""
        if not isinstance(other, Template):
            raise TypeError("text of a template cannot be joined to other text")
        return Template(str.__add__(self, other))


class TextTokenizer:
    """Tokenizes templates and texts.

    Args:
        tokenizer: The tokenizer of transformers.
        named: Names of control tokens that the processor has as attributes.
        templates: The processor's chat templates in Jinja.
    """

    def __init__(self, tokenizer: Any, named: Iterable[str] = (), templates: Iterable[str] = ()):
        self.tokenizer = tokenizer
        self._named, self._templates = frozenset(named), tuple(templates)

    def ids(self, *parts: str) -> list[int]:
        """Token ids of `parts` as one text, without the tokenizer's own first token.

        Raises InputError for the name of a control token in a text where the tokenizer cannot treat it as text."""
        parts = tuple(part for part in parts if part)
        if any(self._holds_control(parts, at) for at, part in enumerate(parts) if not isinstance(part, Template)):
            return self._ids_of_text(parts)
        return self.tokenizer("".join(parts), add_special_tokens=False)["input_ids"]

    @cached_property
    def control(self) -> dict[str, int]:
        """Ids of the control tokens by name."""
        return control_tokens(self.tokenizer, self._named, self._templates)

    @cached_property
    def _pattern(self) -> re.Pattern[str] | None:
        return _any_of(self.control)

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self.control), default=1)

    def _holds_control(self, parts: tuple[str, ...], at: int) -> bool:
        """Whether a part contains the name of a control token, or its beginning or end."""
        if self._pattern is None:
            return False
        before, after = "".join(parts[:at]), "".join(parts[at + 1 :])
        before, after = before[len(before) - min(len(before), self._longest - 1) :], after[: self._longest - 1]
        start, end = len(before), len(before) + len(parts[at])
        around = before + parts[at] + after
        found = self._pattern.search(around)
        while found and found.start() < end:
            if found.end() > start:
                return True
            found = self._pattern.search(around, found.start() + 1)
        return self._is_normalized_to_control(parts[at])

    def _is_normalized_to_control(self, text: str) -> bool:
        """Some tokenizers match their tokens after normalization: full-width characters, capitals."""
        normalizer = getattr(getattr(self.tokenizer, "backend_tokenizer", None), "normalizer", None)
        if normalizer is None or self._pattern is None:
            return False
        return self._pattern.search(normalizer.normalize_str(text)) is not None

    def _ids_of_text(self, parts: tuple[str, ...]) -> list[int]:
        assert self._pattern is not None  # noqa: S101 an invariant of this code, no check of input
        if getattr(self.tokenizer, "backend_tokenizer", None) is None:
            return [i for part in parts for i in self._ids_without_backend(part)]
        pieces = (
            self._pattern.sub(lambda found: self._renamed[1][found.group()], part)
            if isinstance(part, Template)
            else str(part)
            for part in parts
        )
        return self._renamed[0].encode("".join(pieces), add_special_tokens=False).ids

    @cached_property
    def _renamed(self) -> tuple[Tokenizer, dict[str, str]]:
        return renamed(self.tokenizer.backend_tokenizer, self.control)

    def _ids_without_backend(self, part: str) -> list[int]:
        """Ids of a part by a tokenizer in Python, which has an option to not match added tokens."""
        if isinstance(part, Template):
            return self.tokenizer(part, add_special_tokens=False)["input_ids"]
        kept = _any_of(self.tokenizer.get_added_vocab().keys() - self.control.keys())
        ids: list[int] = []
        for piece in re.split(f"({kept.pattern})", part) if kept else [part]:
            if piece:
                is_text = kept is None or not kept.fullmatch(piece)
                tokens = self.tokenizer.tokenize(piece, split_special_tokens=is_text)
                ids += self.tokenizer.convert_tokens_to_ids(tokens)
        known = set(ids) - {self.tokenizer.unk_token_id}
        if left := sorted(name for name, i in self.control.items() if i in known):
            raise InputError(
                f"the text contains {left[0]!r}, which {type(self.tokenizer).__name__} cannot treat as text"
            )
        return ids


def control_tokens(tokenizer: Any, named: Iterable[str] = (), templates: Iterable[str] = ()) -> dict[str, int]:
    """{name: id} of the added tokens that are control tokens: special ones, those in a chat template or known by name,
    and those of the form of a mark. Other added tokens are pieces of text: spaces, an HTML tag, a word."""
    known, jinja = {*named, *tokenizer.all_special_tokens}, "\n".join(templates)

    def is_control(token: AddedToken) -> bool:
        name = token.content
        if token.special or name in known or _MARK.fullmatch(name):
            return True
        return name.startswith(("<", "[")) and name in jinja

    return {t.content: i for i, t in tokenizer.added_tokens_decoder.items() if is_control(t)}


def _any_of(names: Collection[str]) -> re.Pattern[str] | None:
    """A pattern of the names, the longest first, as tokenizers match them."""
    return re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True)))) if names else None


def renamed(backend: Tokenizer, control: Collection[str]) -> tuple[Tokenizer, dict[str, str]]:
    """(a copy of a tokenizer in which control tokens have random names, those names by the original ones); ids and
    rules are the same. No merge rule of the copy produces a control token."""
    names = {name: f"{name[0]}{secrets.token_hex(12)}{name[-1]}" for name in control}
    state = json.loads(backend.to_str())
    state["truncation"] = state["padding"] = state["post_processor"] = None
    for token in state["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
    model = state["model"]
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        model["vocab"] = {names.get(piece, piece): i for piece, i in vocabulary.items()}
    else:  # a Unigram model has (piece, score) pairs
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in vocabulary]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    if model.get("merges"):
        pairs = [tuple(merge.split(" ", 1)) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
        model["merges"] = [[a, b] for a, b in pairs if not {a, b, a + b} & names.keys()]
    return Tokenizer.from_str(json.dumps(state)), names
