"""Counters of a server in Prometheus' text format, for `/metrics`.

Written here and not with `prometheus_client`: five metrics of one process are forty lines, and a server that faces
others has one package fewer to trust.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping

from selfkd.serving.schema import RefusedError

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)  # upper bounds of the histogram


class Metrics:
    """Written and read in the event loop only, so there is no lock."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter({"answered": 0, "refused": 0, "disconnected": 0})
        self.refusals: Counter[str] = Counter()  # by `RefusedError.reason`
        self.tokens: Counter[str] = Counter({"prompt": 0, "completion": 0})  # of complete responses
        self._buckets, self._sum_seconds = [0] * (len(SECONDS) + 1), 0.0

    def answer(self, seconds: float, prompt_tokens: int, completion_tokens: int) -> None:
        """Counts a response of which all bytes were sent; `seconds` from the head of its request on."""
        self.outcomes["answered"] += 1
        self.tokens.update(prompt=prompt_tokens, completion=completion_tokens)
        self._buckets[bisect_left(SECONDS, seconds)] += 1
        self._sum_seconds += seconds

    def refuse(self, error: RefusedError) -> None:
        self.outcomes["refused"] += 1
        self.refusals[error.reason] += 1

    def disconnect(self) -> None:
        self.outcomes["disconnected"] += 1

    def text(self, gauges: Mapping[str, int]) -> str:
        """`gauges`: name -> value now."""
        total = sum(self._buckets)
        bounds = [*map(str, SECONDS), "+Inf"]
        buckets = {f'_bucket{{le="{bound}"}}': sum(self._buckets[: i + 1]) for i, bound in enumerate(bounds)}
        lines = [
            *_metric("requests_total", "counter", "Requests by outcome.", _labelled("outcome", self.outcomes)),
            *_metric("refusals_total", "counter", "Refused requests by reason.", _labelled("reason", self.refusals)),
            *_metric("tokens_total", "counter", "Tokens of complete responses.", _labelled("kind", self.tokens)),
            *_metric(
                "request_seconds",
                "histogram",
                "Head of a request to the last byte of its complete response.",
                [*buckets.items(), ("_sum", self._sum_seconds), ("_count", total)],
            ),
        ]
        for name, value in gauges.items():
            lines += _metric(name, "gauge", "Requests now.", [("", value)])
        return "\n".join(lines) + "\n"


def _metric(name: str, kind: str, help_text: str, values: Iterable[tuple[str, float]]) -> list[str]:
    name = f"selfkd_{name}"
    return [f"# HELP {name} {help_text}", f"# TYPE {name} {kind}", *(f"{name}{end} {value}" for end, value in values)]


def _labelled(label: str, counts: Mapping[str, int]) -> list[tuple[str, float]]:
    """Values of labels are names of the code, which need no escapes."""
    return [(f'{{{label}="{value}"}}', count) for value, count in sorted(counts.items())]
