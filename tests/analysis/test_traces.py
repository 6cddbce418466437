"""Attention against mouse traces: which rows are those of a word, scores known by hand, the stage on toy narratives."""

import json
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from examples import toy_examples

from selfkd.analysis.analyze_attention import _trace, analyze_attention
from selfkd.analysis.config import AttentionConfig
from selfkd.analysis.forward import modality_of, text_query
from selfkd.analysis.schemas import AttentionResult
from selfkd.analysis.traces import (
    FEW_WORDS,
    NOT_ONE_GRID,
    ONE_IMAGE,
    STRETCHED,
    Traces,
    audio_spans,
    character_spans,
    score_trace,
    summarize_traces,
    token_spans,
    word_rows,
)
from selfkd.data.example import MANIFEST, write_shard
from selfkd.data.trace import trace_of
from selfkd.errors import InputError
from selfkd.files import write_json
from selfkd.json_files import read_json
from selfkd.model.projectors import StackProjector
from selfkd.training.data import PairedCollator, paired_item

LEFT, RIGHT = [[0.1, 0.1], [0.1, 0.9]], [[0.9, 0.1], [0.9, 0.9]]  # points in a grid of 2 x 2


def traced(example, parts):
    """The example with a trace: [(number of words, points)], over equal parts of its audio."""
    words, trace = example.question.split(" "), []
    step = example.duration_seconds / len(parts)
    for number, (count, points) in enumerate(parts):
        taken, words = words[:count], words[count:]
        times = {"start": number * step, "stop": (number + 1) * step}
        trace.append({"utterance": " ".join(taken), **times, "points": points})
    trace[-1]["utterance"] = " ".join([trace[-1]["utterance"], *words])
    return replace(example, details=json.dumps({"trace": trace}))


def narratives(count):
    return [traced(e, [(1, LEFT), (2, RIGHT), (1, [])]) for e in toy_examples(count)]


@pytest.mark.parametrize(
    ("details", "message"),
    [
        ('{"trace": [{"utterance": "a", "start": 0, "stop": 1, "points": [[2, 0]]}]}', "less than or equal to 1"),
        ('{"trace": [{"utterance": "a", "stop": 1, "points": []}]}', "start"),
        ('{"trace": 3}', "trace"),
        ('{"trace"', "not JSON"),
    ],
)
def test_other_traces_are_named(details, message):
    example = replace(toy_examples(1)[0], details=details)
    with pytest.raises(InputError, match=f"example {example.id}: field details.*{message}"):
        trace_of(example)
    assert trace_of(toy_examples(1)[0]) == []


def test_tokens_have_their_characters(parts):
    """Each token spans what it decodes to; words are where they stand in the question."""
    _, processor = parts
    (example,) = narratives(1)
    item = paired_item(processor, example)
    question = text_query(processor, example, item)
    spans = token_spans(processor.tokenizer, item.text_ids[question], example.question)
    assert spans[0][0] <= 0 and spans[-1][1] >= len(example.question)
    assert all(a[1] == b[0] for a, b in pairwise(spans))
    texts = [example.question[int(start) : int(stop)] for start, stop in character_spans(trace_of(example))]
    assert texts == [word["utterance"] for word in trace_of(example)]
    assert token_spans(processor.tokenizer, item.text_ids[question], "something else") == []


@pytest.mark.parametrize("modality", ["text", "audio"])
def test_rows_of_a_word_are_weighted_by_their_share_of_it(parts, modality):
    model, processor = parts
    examples = narratives(2)
    items = [paired_item(processor, e) for e in examples]
    questions = [text_query(processor, e, i) for e, i in zip(examples, items, strict=True)]
    with torch.no_grad():
        continuation = modality_of(model, PairedCollator(processor)(items), modality, questions)
    words = [trace_of(examples[0]), []]
    weights_BSW = word_rows(model, processor, modality, continuation, examples, items, questions, words)
    query_BS = continuation.positions.query_BS
    assert weights_BSW.shape == (*query_BS.shape, 3)
    assert not weights_BSW[~query_BS].any() and not weights_BSW[1].any()
    sums = weights_BSW[0].sum(0)
    assert sums[sums > 0].tolist() == pytest.approx([1.0] * int((sums > 0).sum()))
    if modality == "text":
        assert (sums > 0).all()
        # earlier words have earlier rows
        centres = (weights_BSW[0] * torch.arange(len(weights_BSW[0]))[:, None]).sum(0)
        assert centres.tolist() == sorted(centres.tolist())


def test_a_stack_stands_for_its_frames_and_a_native_token_for_its_share():
    stack = SimpleNamespace(projector=StackProjector(4, 4, 8))
    assert audio_spans(stack, None, 0, 3, 0.4) == [(0.0, 0.16), (0.16, 0.32), (0.32, 0.4)]
    native = SimpleNamespace(projector=None)
    assert audio_spans(native, None, 0, 4, 2.0) == [(0.0, 0.5), (0.5, 1.0), (1.0, 1.5), (1.5, 2.0)]
    assert audio_spans(native, None, 0, 0, 2.0) == []


def maps_of(*words):
    """Maps (2 layers, W, I): the first layer as given, the second uniform; equal in both modalities."""
    both = np.stack([np.array(words, dtype=float), np.full((len(words), 4), 0.1)])
    return {"text": both, "audio": both}


LEFT_MAP, RIGHT_MAP = [0.3, 0.0, 0.3, 0.0], [0.0, 0.2, 0.0, 0.2]


def test_attention_to_the_own_trace_scores_above_that_of_other_words():
    examples = narratives(3)
    traces, has_rows = Traces(examples, 0), np.array([True, True, True])
    found = score_trace(traces, examples[0].id, (2, 2), maps_of(LEFT_MAP, RIGHT_MAP, LEFT_MAP), has_rows)
    assert found["words"] == 2, "the third word has no trace"
    for measures in found["modalities"].values():
        assert measures["auc"] == [1.0, 0.5] and measures["nss"] == [1.0, 0.0]
        assert measures["auc_other_words"] == [0.0, 0.5] and measures["nss_other_words"] == [-1.0, 0.0]
        # left and right are as frequent about the other images
        assert measures["auc_other_images"] == [0.5, 0.5] and measures["nss_other_images"] == [0.0, 0.0]


def test_attention_that_always_goes_left_is_not_above_the_baseline():
    examples = narratives(3)
    traces, has_rows = Traces(examples, 0), np.array([True, True, True])
    found = score_trace(traces, examples[0].id, (2, 2), maps_of(LEFT_MAP, LEFT_MAP, LEFT_MAP), has_rows)
    measures = found["modalities"]["audio"]
    assert measures["auc"] == measures["auc_other_words"] == [0.5, 0.5]


def test_items_without_a_score_have_a_reason():
    examples = narratives(2)
    has_rows, maps = np.array([True, True, True]), maps_of(LEFT_MAP, LEFT_MAP, LEFT_MAP)
    name = examples[0].id
    assert score_trace(Traces(examples[:1], 0), name, (2, 2), maps, has_rows) == {"left_out": ONE_IMAGE}
    some = np.array([True, False, True])
    assert score_trace(Traces(examples, 0), name, (2, 2), maps, some) == {"left_out": FEW_WORDS}
    # in a grid of one cell every trace is the whole image
    assert score_trace(Traces(examples, 0), name, (1, 1), maps, has_rows) == {"left_out": FEW_WORDS}


def test_an_image_of_several_tiles_is_left_out_by_name(parts):
    model, processor = parts
    (example,) = narratives(1)
    item = paired_item(processor, example)
    tiles = replace(item, image_inputs={"pixel_values": item.image_inputs["pixel_values"].repeat(4, 1, 1, 1)})
    modalities = {"audio": SimpleNamespace(image_tokens=64)}
    assert _trace(model, tiles, Traces([example], 0), modalities, {}, 0, "") == {"left_out": NOT_ONE_GRID}
    assert _trace(model, item, Traces([example], 0), modalities, {}, 0, STRETCHED) == {"left_out": STRETCHED}


def test_words_about_other_images_are_the_same_in_each_run():
    examples = narratives(8)
    first, again = Traces(examples, 3), Traces(examples, 3)
    name = examples[0].id
    assert first.others(name, 0) == again.others(name, 0) and len(first.others(name, 0)) == 10
    own = {id(word) for word in first.words[name]}
    assert not any(id(word) in own for number in range(5) for word in first.others(name, number))


def test_summary_of_known_items():
    """Two images: means over items, differences paired by item, reasons counted."""

    def record(group, auc, reason=""):
        measures = {f"{s}{b}": [0.5] * 3 for s in ("nss", "auc") for b in ("", "_other_words", "_other_images")}
        by_modality = {"text": measures, "audio": measures | {"auc": [0.5, auc, auc]}}
        return {"group": group, "trace": {"left_out": reason} if reason else {"words": 2, "modalities": by_modality}}

    records = [record("a", 0.6), record("b", 0.8), record("c", 0, STRETCHED), {"group": "d"}]
    found = summarize_traces(records, 0)
    assert (found["items"], found["words"], found["left_out"]) == (2, 4, {STRETCHED: 1})
    late = found["modalities"]["audio"]["auc"]["thirds"]["late"]
    assert late["mean"] == pytest.approx(0.7) and late["low"] < 0.7 < late["high"]
    above = found["modalities"]["audio"]["auc_above_other_words"]["layers"]["mean"]
    assert above == pytest.approx([0.0, 0.2, 0.2])
    assert found["audio_minus_text"]["auc"]["layers"]["mean"] == pytest.approx([0.0, 0.2, 0.2])
    assert summarize_traces([{"group": "d"}], 0) is None


@pytest.mark.slow
def test_stage_scores_traces_and_counts_items_left_out(parts, tmp_path, capsys):
    for part in parts:
        part.save_pretrained(tmp_path / "model")
    examples = narratives(6)
    examples[4] = replace(examples[4], augmentation="pause 0.5 s, room")
    examples[5] = toy_examples(6)[5]
    (tmp_path / "data").mkdir()
    write_shard(tmp_path / "data" / "train.parquet", examples, {"rows": 6, "rejected": []})
    write_json(tmp_path / "data" / MANIFEST, {"source": "world", "shards": [{"file": "train.parquet"}]})
    config = AttentionConfig([str(tmp_path / "model")], [str(tmp_path / "data")], tmp_path / "run", batch_size=4)
    (benchmark,) = analyze_attention(config).values()
    (found,) = benchmark["models"].values()
    trace = found["trace"]
    assert trace["items"] + sum(trace["left_out"].values()) == 5 and trace["left_out"][STRETCHED] == 1
    assert NOT_ONE_GRID not in trace["left_out"] and trace["items"] > 0
    written = read_json(tmp_path / "run" / "result.json", AttentionResult)
    assert "trace_measures" in written["about"]
    lines = [json.loads(line) for line in next((tmp_path / "run" / "items").iterdir()).read_text().splitlines()]
    scored = [line["trace"]["modalities"]["audio"]["auc"] for line in lines if "words" in line.get("trace", {})]
    means = trace["modalities"]["audio"]["auc"]["layers"]["mean"]
    assert means == pytest.approx(np.mean(scored, axis=0).tolist(), abs=1e-5) and len(means) == 6
    assert "trace" not in lines[5]
    printed = capsys.readouterr().out
    assert "AUC against mouse traces of" in printed and f"{STRETCHED}" in " ".join(printed.split())
