"""The types of what the analyses write, as `read_json` checks them."""

from typing import Annotated, Any, NotRequired

from pydantic import AfterValidator, Field
from typing_extensions import TypedDict

Finite = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]
MODALITIES = ("text", "audio")
MEASURES_IN_TEXT = ("query_to_image", "response_to_image", "response_to_query")  # of a report; there are others


def _with_keys(*names: str) -> AfterValidator:
    def check(value: dict[str, Any]) -> dict[str, Any]:
        if missing := [name for name in names if name not in value]:
            raise ValueError(f"{missing[0]} is missing")
        return value

    return AfterValidator(check)


def _both_ends(value: dict[str, Any]) -> dict[str, Any]:
    if (value["low"] is None) != (value["high"] is None):
        raise ValueError("low and high are both known or both unknown")
    return value


def _same_length(value: dict[str, Any]) -> dict[str, Any]:
    if len({len(value[end]) for end in ("mean", "low", "high")}) > 1:
        raise ValueError("mean, low and high are not of the same layers")
    return value


def _rectangular(value: list[list[float]]) -> list[list[float]]:
    if len({len(row) for row in value}) > 1:
        raise ValueError("rows of different lengths")
    return value


Row = Annotated[list[Finite], Field(min_length=1)]
Grid = Annotated[list[Row], Field(min_length=1), AfterValidator(_rectangular)]


class _Mean(TypedDict):
    mean: Finite
    low: Finite | None
    high: Finite | None


class _Interval(_Mean):
    groups: Count


class _Layers(TypedDict):
    mean: Row
    low: list[Finite | None]
    high: list[Finite | None]
    groups: NotRequired[Count]  # of `group_count`, which names a missing one


Mean = Annotated[_Mean, AfterValidator(_both_ends)]
Interval = Annotated[_Interval, AfterValidator(_both_ends)]


class ByLayer(TypedDict):
    layers: Annotated[_Layers, AfterValidator(_same_length)]
    thirds: dict[str, Interval]


AttentionMeasures = Annotated[dict[str, ByLayer], _with_keys(*MEASURES_IN_TEXT)]


class Tokens(TypedDict):
    n: Count
    image: Finite
    query_text: Finite
    query_audio: Finite
    response_rows: Finite


class Intervention(TypedDict):
    log_prob_change: Interval
    exact: Interval
    exact_change: Interval


_InterventionName = Annotated[str, Field(pattern=r"^[^.]+\.[^.]+\.[^.]+$")]  # KIND.ROWS.LAYERS


_SCORES = ("nss", "auc")
MEASURES_OF_TRACES = (
    *_SCORES,
    *(
        f"{score}_{kind}{name}"
        for score in _SCORES
        for kind in ("", "above_")
        for name in ("other_words", "other_images")
    ),
)
TraceMeasures = Annotated[dict[str, ByLayer], _with_keys(*MEASURES_OF_TRACES)]


class AttentionTrace(TypedDict):
    """Scores against mouse traces; without `modalities` where no item could be scored."""

    items: Count
    words: Count
    left_out: dict[str, Count]
    modalities: NotRequired[Annotated[dict[str, TraceMeasures], _with_keys(*MODALITIES)]]
    audio_minus_text: NotRequired[TraceMeasures]


class AttentionModel(TypedDict):
    tokens: Tokens
    thirds: Annotated[dict[str, Annotated[list[int], Field(min_length=1)]], Field(min_length=1)]
    modalities: Annotated[dict[str, AttentionMeasures], _with_keys(*MODALITIES)]
    audio_minus_text: AttentionMeasures
    trace: NotRequired[AttentionTrace]
    interventions: NotRequired[dict[str, dict[_InterventionName, Intervention]]]


class AttentionBetween(TypedDict):
    audio: AttentionMeasures


class AttentionBenchmark(TypedDict):
    models: Annotated[dict[str, AttentionModel], Field(min_length=1)]
    between_models: dict[Annotated[str, Field(pattern=r".+ minus .+")], AttentionBetween]


class AttentionAbout(TypedDict):
    measures: Annotated[dict[str, str], _with_keys(*MEASURES_IN_TEXT)]


class _AttentionResult(TypedDict):
    benchmarks: dict[str, AttentionBenchmark]
    about: AttentionAbout


def _all_measures(value: _AttentionResult) -> _AttentionResult:
    for benchmark in value["benchmarks"].values():
        models, between = benchmark["models"].values(), benchmark["between_models"].values()
        groups = [g for m in models for g in (*m["modalities"].values(), m["audio_minus_text"])]
        for measures in (*groups, *(b["audio"] for b in between)):
            if missing := value["about"]["measures"].keys() - measures.keys():
                raise ValueError(f"the measure {min(missing)} is missing")
    return value


AttentionResult = Annotated[_AttentionResult, AfterValidator(_all_measures)]


class AttentionMap(TypedDict):
    """A line of `maps/*.jsonl`."""

    id: str
    modality: str
    layer: int
    grid: Grid


class HeadIntervals(TypedDict):
    mean: Grid


HeadMeasures = Annotated[dict[str, HeadIntervals], _with_keys(MEASURES_IN_TEXT[0])]
Heads = Annotated[dict[str, HeadMeasures], _with_keys(*MODALITIES)]  # `heads/*.json`


class _Agreement(TypedDict):
    n: Count
    kl: Mean
    same_top: Mean
    rank: Mean


class AgreementPart(_Agreement):
    groups: Count


class AtPosition(_Agreement):
    position: Count


class AgreementModel(_Agreement):
    groups: NotRequired[Count]
    by_layer: Annotated[dict[str, ByLayer], _with_keys("cosine", "distance")]
    by_position: list[AtPosition]
    by_question_type: dict[str, AgreementPart]
    by_voice: dict[str, AgreementPart]
    by_outcome: NotRequired[dict[str, AgreementPart]]


class AgreementBenchmark(TypedDict):
    models: Annotated[dict[str, AgreementModel], Field(min_length=1)]


class AgreementAbout(TypedDict):
    metrics: dict[str, str]


class AgreementResult(TypedDict):
    benchmarks: dict[str, AgreementBenchmark]
    about: AgreementAbout


class AgreementItem(TypedDict):
    """A line of `items/*.jsonl`."""

    id: str
    question_type: str
    voice: str
    kl: Row
    same_top: Annotated[list[bool], Field(min_length=1)]
