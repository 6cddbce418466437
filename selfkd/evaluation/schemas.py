"""The types of what evaluations, comparisons and judges write, as `read_json` checks them. A later reader may rely on
each field that is named here; other fields are for people."""

from typing import Annotated, Any, Literal, NotRequired

from pydantic import AfterValidator, Field
from typing_extensions import TypedDict

Finite = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]
Pair = Annotated[list[Finite], Field(min_length=2, max_length=2)]
_MAX_OPTIONS = 26


class Outcome(TypedDict):
    """Of a sample, and of the other form of a cascade's."""

    transcript: str
    prediction: str
    outcome: Literal["answer", "cut", "empty", "refused", "failed"]
    finish_reason: str
    reasoning: str
    seconds: Finite
    error: str
    parsed: str | None
    score: Finite | None
    correct: bool | None


def _graded(value: Any) -> Any:
    if bool(value["error"]) != (value["score"] is None) or (value["score"] is None) != (value["correct"] is None):
        raise ValueError("a sample has either a score or an error")
    return value


class _Sample(Outcome):
    id: str
    turn: NotRequired[Count]
    source: str
    question_type: str
    category: str
    instruction: str
    question: str
    answer_format: str
    image: str
    target: str
    details: dict[str, Any]
    voice: str
    word_error_rate: Finite | None
    prompt_hash: str
    log_likelihoods: Annotated[list[Finite], Field(max_length=_MAX_OPTIONS)]
    group: str


class _CascadeSample(_Sample):
    form: Literal["verbatim", "question"]
    other_form: Annotated[Outcome, AfterValidator(_graded)] | Annotated[dict[str, Any], Field(max_length=0)]


Sample = Annotated[_Sample, AfterValidator(_graded)]
CascadeSample = Annotated[_CascadeSample, AfterValidator(_graded)]


class JudgedLine(TypedDict):
    """A line of `judged/*.jsonl`."""

    id: str
    on_topic: bool | None
    error: str
    answered: NotRequired[bool]
    request_hash: NotRequired[str]


class JudgeMetrics(TypedDict):
    wrong: Count
    judged: Count
    on_topic: Finite | None
    stderr: Finite | None
    overlap: Finite | None


class JudgeAgreement(TypedDict):
    n: Count
    agreement: Finite | None
    stderr: Finite | None
    interval: Pair | None
    kappa: Finite | None
    without_verdict: Count


class Judge(TypedDict):
    judge: str
    agreement: JudgeAgreement


class Judged(TypedDict):
    """`judged.json`."""

    about: Judge | Annotated[dict[str, Any], Field(max_length=0)]  # {} without a judge
    metrics: dict[str, JudgeMetrics]


class CorrectnessLine(TypedDict):
    """A line of `correctness/*.jsonl`."""

    id: str
    score: Annotated[float, Field(ge=0, le=1)] | None
    error: str
    answered: NotRequired[bool]
    request_hash: NotRequired[str]


class RatingAgreement(TypedDict):
    """Of two ratings of the same items; {} of none."""

    n: Count
    agreement: Finite
    difference: Finite
    kappa: Finite | None
    low: Finite | None
    high: Finite | None


_Agreement = RatingAgreement | Annotated[dict[str, Any], Field(max_length=0)]


class CorrectnessMetrics(TypedDict):
    items: Count
    judged: Count
    score: Finite | None
    stderr: Finite | None
    interval: Pair | None
    by_category: dict[str, Finite]
    with_rule: _Agreement
    with_itself: _Agreement


class CorrectnessGap(TypedDict):
    n: Count
    gap: Finite
    gap_interval: Pair | None


class _NoGap(TypedDict):
    n: Literal[0]


class JudgeOfCorrectness(TypedDict):
    judge: str


class Correctness(TypedDict):
    """`correctness.json`."""

    about: JudgeOfCorrectness
    metrics: dict[str, CorrectnessMetrics]
    gaps: dict[str, CorrectnessGap | _NoGap]


def _scored(value: Any) -> Any:
    if value["n"] and not all(name in value for name in ("accuracy", "stderr", "chance")):
        raise ValueError("no accuracy, stderr or chance of n responses")
    return value


class _Scores(TypedDict):
    n: Count
    failed: NotRequired[Count]
    accuracy: NotRequired[Finite]
    stderr: NotRequired[Finite | None]
    chance: NotRequired[Finite | None]
    form: NotRequired[str]
    scoring: NotRequired[str]


class Counts(TypedDict):
    """Of a modality of a benchmark; all other metrics are computed from its samples."""

    n: Count
    failed: Count
    scoring: NotRequired[str]


class OverVoices(TypedDict):
    mean: Finite | None
    sd: Finite | None
    min: Finite | None
    max: Finite | None
    interval: NotRequired[Pair | None]


def _has_voices(value: Any) -> Any:
    if not isinstance(value.get("voices"), int) or not all(
        isinstance(v, dict) for k, v in value.items() if k != "voices"
    ):
        raise ValueError("expected the number of voices and metrics")
    return value


class BenchmarkResult(TypedDict):
    text: NotRequired[Counts]
    audio: NotRequired[Counts]
    cascade: NotRequired[Counts]
    over_voices: NotRequired[Annotated[dict[str, Count | OverVoices], AfterValidator(_has_voices)]]


EvaluationResult = dict[str, BenchmarkResult]  # `result.json`


class GapClosed(TypedDict):
    share: Finite | None
    verdict: str
    interval: Pair | None


class BenchmarkComparison(TypedDict):
    systems: dict[str, Annotated[_Scores, AfterValidator(_scored)]]
    gap_closed: dict[str, GapClosed]
    benchmarks: NotRequired[list[str]]


Comparison = dict[str, BenchmarkComparison]  # `scores.json` of `selfkd compare`
