"""The gate between a response and its grade: every response is exactly one of answer, cut, empty, refused, failed.

Every `Prediction` passes the gate, whatever its backend: an endpoint, a model on this machine, a checkpoint's own code.
Reasoning is kept apart and never graded. A response that was cut at the token limit is graded as it stands, as in
official tables; a refusal and an empty response are not parsed; a failed one has no score.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from selfkd.evaluation.refusals import is_refusal

MIN_DIFFERENCE = 0.005  # of two rates: half a point, which one decimal of a gap can show
_OUTCOME_WORDS = {
    "cut": ("responses were cut at the token limit", "raise --max_new_tokens before reading the gap"),
    "empty": ("responses were empty", "they count as wrong"),
    "refused": ("responses were refusals", "does the model take this modality at all?"),
    "failed": ("items failed", "the gap leaves them out"),
}


def count_outcomes(samples: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """{outcome: number of samples} for all outcomes in their order."""
    # a sample made elsewhere may lack its outcome
    found = Counter(s.get("outcome", "failed" if s["error"] else "answer") for s in samples)
    return {outcome: found[outcome] for outcome in OUTCOMES}


def outcome_warnings(
    text: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]], modality: str = "audio"
) -> list[str]:
    """A sentence for each outcome that is more frequent in one of two modalities of the same items."""
    counts, sizes = [count_outcomes(text), count_outcomes(other)], [len(text), len(other)]
    if not all(sizes):
        return []
    warnings = []
    for outcome, (event, hint) in _OUTCOME_WORDS.items():
        text_rate, other_rate = (count[outcome] / size for count, size in zip(counts, sizes, strict=True))
        if abs(text_rate - other_rate) >= MIN_DIFFERENCE:
            by_rate = sorted([(text_rate, "text"), (other_rate, modality)], reverse=True)
            (high, first), (low, second) = by_rate
            warnings.append(f"{_percent(high)} of {first} {event}, {_percent(low)} of {second}: {hint}")
    return warnings


def _percent(rate: float) -> str:
    whole = f"{100 * rate:.0f}"
    return f"{whole}%" if abs(100 * rate - round(100 * rate)) < 0.05 or rate >= 0.1 else f"{100 * rate:.1f}%"


Outcome = Literal["answer", "cut", "empty", "refused", "failed"]
OUTCOMES: tuple[Outcome, ...] = ("answer", "cut", "empty", "refused", "failed")

_WORDS = {
    "missing": "null none",
    "ended": "stop stopped eos eos_token end_turn stop_sequence complete completed finished",
    "limit": "length max_tokens max_new_tokens max_length max_output_tokens model_length token_limit"
    " model_context_window_exceeded",
    "think": "think thinking thought thoughts reason reasoning reflect reflection analysis cot scratchpad rationale",
    "think in brackets": "think thinking thought thoughts reasoning",  # "[analysis]" may be an answer
    "answer": "answer response solution output conclusion",
    "ending": "end stop close suffix",
    "around": "end stop close suffix begin start open prefix of the final",
}
_SETS = {name: frozenset(words.split()) for name, words in _WORDS.items()}
# finish reasons of servers: none given; ended by itself; token limit
MISSING = _SETS["missing"] | {""}
ENDED, LIMIT = MISSING | _SETS["ended"], _SETS["limit"]
REFUSAL = "refusal"  # as finish_reason: the server marks a refusal
_BLANK = " \t\r\n\u00a0\u200b\u200c\u200d\u2060\u3000\ufeff"

# words in the names of tags
_THINK, _THINK_IN_BRACKETS, _ANSWER = _SETS["think"], _SETS["think in brackets"], _SETS["answer"]
_ENDING, _AROUND = _SETS["ending"], _SETS["around"]
_GENERIC = (
    r"(?P<bracket><\|?|&lt;|◁|\[)(?P<slash>/?)(?P<name>[A-Za-z][A-Za-z_:-]{2,40})(?:\s+\w+=[^<>\n]{0,60})?"
    r"(?:\|?>|&gt;|▷|\])"
)
# tags of one model family each, under names of the form kind_family: OpenAI's harmony with its special tokens and
# decoded without them, Granite's sentences, Gemma's tokens
_NAMED = {
    "think_harmony": r"<\|channel\|>\s*(?:analysis|commentary)[^<>]{0,40}<\|message\|>",
    "answer_harmony": r"<\|channel\|>\s*final[^<>]{0,40}<\|message\|>",
    "finish_harmony": r"<\|(?:end|return)\|>",
    "think_decoded": r"\Aanalysis(?=[A-Z\"'])",
    "answer_decoded": r"assistantfinal",
    "think_granite": r"(?im:^[^\w\n]*here(?:'s| is) my thought process:)",
    "answer_granite": r"(?im:^[^\w\n]*here(?:'s| is) my response:)",
    "think_channel": r"<\|channel>thought",
    "rethink_channel": r"<channel\|>",
    "think_unused": r"<unused94>(?:thought)?",
    "rethink_unused": r"<unused95>",
    "answer_box": r"<\|begin_of_box\|>",
    "finish_box": r"<\|end_of_box\|>",
}
_MARK = re.compile("|".join([*(f"(?P<{name}>{pattern})" for name, pattern in _NAMED.items()), _GENERIC]))

Kind = Literal["think", "rethink", "answer", "finish"]  # reasoning begins and ends, the answer begins and ends


class Mark(NamedTuple):
    kind: Kind
    family: str  # an end is that of a beginning of its family
    start: int
    end: int


class Gated(NamedTuple):
    outcome: Outcome
    text: str  # the text to grade; "" where there is none
    reasoning: str
    error: str  # why there is no response; "" but for `failed`


def gate(text: str, finish_reason: str = "", reasoning: str = "", error: str = "") -> Gated:
    """Classifies a response. `reasoning` came apart from the text; `error` is why there is no response.

    Blank text at the token limit, or after reasoning that was cut, is a failure: with more tokens the model may answer.
    Blank text that ended by itself is an empty response. The gate is idempotent on its own text.
    """
    answer, thought, is_open = split_reasoning(text)
    reasoning = "\n".join(part for part in (reasoning, thought) if part)
    finish = finish_reason.strip().lower()
    if not error and finish not in ENDED | LIMIT | {REFUSAL}:
        content = "incomplete text" if answer.strip(_BLANK) else "no text"
        error = f"the response has {content} (finish_reason {finish_reason})"
    if not error and not answer.strip(_BLANK) and finish != REFUSAL:
        content = "reasoning and no answer" if reasoning else "no text"
        if finish in LIMIT:
            error = f"{content} within the token limit (finish_reason {finish_reason}): raise max_new_tokens"
        elif is_open and finish in MISSING:
            error = f"{content}: the reasoning does not end"
        else:
            return Gated("empty", "", reasoning, "")
    if error:
        return Gated("failed", "", reasoning, error)
    if finish == REFUSAL or is_refusal(answer):
        return Gated("refused", answer, reasoning, "")
    return Gated("cut" if finish in LIMIT else "answer", answer, reasoning, "")


def split_reasoning(text: str) -> tuple[str, str, bool]:
    """(text outside of reasoning, text within it, whether the reasoning is left open).

    An end tag without a begin tag makes all text before it reasoning: the chat template opened it. So does a tag that
    begins the answer (`<answer>`). Reasoning that is left open leaves no answer, whatever text is before it.
    """
    marks = list(_marks(text))
    if not marks:
        return text, "", False
    answer: list[str] = []
    thoughts: list[str] = []
    opened: list[str] = []  # families of the open reasoning
    is_over = False  # after the end of a tagged answer
    begun, start = False, 0
    for mark in marks:
        (thoughts if opened or is_over else answer).append(text[start : mark.start])
        start = mark.end
        if mark.kind == "think":
            opened += [] if mark.family in opened else [mark.family]
        elif mark.kind == "rethink":
            if mark.family in opened:
                del opened[opened.index(mark.family) :]
            elif not opened:
                thoughts += answer
                answer = []
        elif mark.kind == "answer" and set(opened) <= {mark.family}:
            thoughts += answer
            answer, opened, is_over, begun = [], [], False, True
        elif mark.kind == "finish" and not opened:
            is_over = begun
    (thoughts if opened or is_over else answer).append(text[start:])
    if opened:
        thoughts, answer = [*answer, *thoughts], []
    return _joined(answer), _joined(thoughts), bool(opened)


def _marks(text: str) -> Iterator[Mark]:
    for found in _MARK.finditer(text):
        if found["name"] is None:
            kind, _, family = (found.lastgroup or "").partition("_")
        else:
            kind, family = _kind_of(found["name"].lower(), found["bracket"] == "[", bool(found["slash"]))
        if kind:
            yield Mark(kind, family, found.start(), found.end())  # type: ignore[arg-type]


def _kind_of(name: str, in_brackets: bool, has_slash: bool) -> tuple[str, str]:
    """(kind, family) of a tag: think, seed:think, begin_of_thought, START_THINKING, /reasoning; ("", "") of others."""
    words = re.split(r"[_:-]+", name)
    is_end = has_slash or bool(_ENDING & set(words))
    if in_brackets:
        thinks, answers = name in _THINK_IN_BRACKETS, False
    else:
        core = [w for w in words if w not in _AROUND]
        # a namespace may precede the word, only words for begin or end may follow it
        thinks = (bool(core) and core[-1] in _THINK and len(core) <= 2) or (words[0] == "inner" and len(words) == 2)
        answers = len(core) == 1 and core[0] in _ANSWER
    if thinks:
        stem = "think" if words[0] == "inner" else next(w for w in reversed(words) if w in _THINK)[:5]
        return "rethink" if is_end else "think", stem.replace("thoug", "think")
    if answers:
        return "finish" if is_end else "answer", "answer"
    return "", ""


def _joined(parts: list[str]) -> str:
    return "\n".join(stripped for part in parts if (stripped := part.strip(_BLANK)))


@dataclass(frozen=True)
class Prediction:
    """A response after the gate: the constructor takes it raw and leaves in `text` the part that is graded."""

    text: str
    transcript: str = ""  # of the cascade's ASR model
    error: str = ""  # why there is no response; `text` is "" then, and the item does not count as wrong
    log_likelihoods: tuple[float, ...] = ()  # of the options, in nats, where they are scored
    seconds: float = 0.0  # of generation; of an endpoint the last request, without waiting and retries
    finish_reason: str = ""  # the server's; of a local model "stop" or "length"; "" where it is not known
    reasoning: str = ""  # never graded
    question_form: "Prediction | None" = None  # of a cascade's transcript as a question, where that is another text
    outcome: Outcome = field(init=False)

    def __post_init__(self) -> None:
        gated = gate(self.text, self.finish_reason, self.reasoning, self.error)
        for name, value in gated._asdict().items():
            object.__setattr__(self, name, value)

    @property
    def is_parsable(self) -> bool:
        """Whether our rules parse `text`: not that of a refusal or an empty response."""
        return self.outcome in ("answer", "cut")
