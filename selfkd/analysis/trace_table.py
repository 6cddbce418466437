"""The scores of attention against mouse traces, as a table for a terminal of 80 columns."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text


def trace_table(result: Mapping[str, Any]) -> Group:
    """A row for each benchmark, model, modality and third of the layers: AUC of the words' own traces, of the two
    baselines, and how far it is above that of the narrative's other words, with its interval over images. NSS is in
    result.json."""
    table = Table(title="Attention to the image by word: AUC against mouse traces of")
    for column in ("model, query", "layers", "the word", "others", "images", "above others (95%)"):
        is_name = column in ("model, query", "layers")
        table.add_column(column, justify="left" if is_name else "right", overflow="fold" if is_name else "ellipsis")
    lines = []
    for benchmark, of in result.items():
        for model, found in of["models"].items():
            trace = found.get("trace")
            if trace is None:
                continue
            lines += [f"{benchmark}, {model}: {trace['items']} items, {trace['words']} words", *left_out_lines(trace)]
            for modality, measures in trace.get("modalities", {}).items():
                for third, above in measures["auc_above_other_words"]["thirds"].items():
                    names = ("auc", "auc_other_words", "auc_other_images")
                    means = (f"{measures[name]['thirds'][third]['mean']:.2f}" for name in names)
                    table.add_row(f"{model}, {modality}", third, *means, _with_interval(above))
            table.add_section()
    return Group(table, *map(Text, lines))


def left_out_lines(trace: Mapping[str, Any]) -> Iterator[str]:
    """Why items with a trace have no score."""
    for reason, count in trace["left_out"].items():
        yield f"{count} left out: {reason}"


def _with_interval(interval: Mapping[str, Any]) -> str:
    if interval["low"] is None:
        return f"{interval['mean']:.2f}"
    return f"{interval['mean']:.2f} ({interval['low']:.2f} to {interval['high']:.2f})"
