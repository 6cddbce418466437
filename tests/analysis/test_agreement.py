"""Agreement of text and audio: zero at identity, closed forms, whole sequences; intervals by seed; the stage."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from examples import toy_examples, training_start

from selfkd.analysis import agreement, analyze_agreement
from selfkd.analysis.agreement import agreement_of_batch, hidden_distance, row_agreement
from selfkd.analysis.analyze_agreement import AgreementConfig
from selfkd.analysis.forward import text_modality
from selfkd.analysis.runner import intervals, layer_intervals, pairs, read_items, thirds_of
from selfkd.data.example import MANIFEST
from selfkd.errors import InputError
from selfkd.evaluation.samples import FIELDS
from selfkd.files import write_json, write_text
from selfkd.losses import LossConfig, self_kd_loss
from selfkd.training.self_kd import paired_rows
from tests.analysis.test_attention import batch_of, examples_of_all_types


def test_kl_and_ranks_in_closed_form():
    """Three tokens, by hand; the top of the teacher is the last of the student. Adding a constant has no effect."""
    teacher, student = torch.tensor([0.5, 0.25, 0.25]).log(), torch.tensor([0.2, 0.3, 0.5]).log()
    rows = row_agreement(torch.stack([teacher, teacher]), torch.stack([student, teacher + 7]))
    expected = 0.5 * np.log(0.5 / 0.2) + 0.25 * np.log(0.25 / 0.3) + 0.25 * np.log(0.25 / 0.5)
    assert rows.kl_N.tolist() == pytest.approx([expected, 0.0], abs=1e-6)
    assert rows.same_top_N.tolist() == [False, True]
    assert rows.rank_N.tolist() == [3, 1]


def test_hidden_distance_of_known_vectors():
    teacher = torch.tensor([[3.0, 4.0], [1.0, 0.0], [2.0, 0.0]])
    student = torch.tensor([[3.0, 4.0], [0.0, 1.0], [-2.0, 0.0]])
    cosine, relative = hidden_distance(teacher, student)
    assert cosine.tolist() == pytest.approx([1, 0, -1])
    assert relative.tolist() == pytest.approx([0, 2**0.5, 2])


def test_same_modality_twice_agrees_fully(parts, monkeypatch):
    model, processor = parts
    _, batch, questions = batch_of(processor, toy_examples(3))
    monkeypatch.setattr(
        agreement, "modality_of", lambda model, batch, _modality, questions: text_modality(model, batch, questions)
    )
    for item in agreement_of_batch(model, batch, questions):
        assert item.kl == [0.0] * len(item.kl) and all(item.same_top) and set(item.rank) == {1}
        assert item.cosine == pytest.approx([1.0] * 6) and item.distance == [0.0] * 6


def test_batch_agrees_with_the_loss_and_with_whole_sequences(parts, monkeypatch):
    """The KL sums to that of the loss; each item as a whole sequence, with logits a few rows at a time, gives the same;
    hidden states are those of transformers."""
    model, processor = parts
    monkeypatch.setattr(agreement, "HEAD_CHUNK_ROWS", 3)
    items, batch, questions = batch_of(processor, examples_of_all_types())
    found = agreement_of_batch(model, batch, questions)
    with torch.no_grad():
        student, teacher, labels, *_ = paired_rows(model, batch, with_teacher=True)
        loss = self_kd_loss(student, teacher, model.get_output_embeddings().weight, labels, LossConfig(1.0))
        assert sum(sum(item.kl) for item in found) == pytest.approx(loss.kd.item(), rel=1e-5)
        for item, ours in zip(items, found, strict=True):
            assert len(ours.kl) == len(item.response_ids)
            ids = item.prefix_ids + item.text_ids + item.response_ids[:-1]
            audio_ids = item.prefix_ids + item.audio_ids + item.response_ids[:-1]
            settings = item.image_inputs | {"output_hidden_states": True}
            text = model.vlm(input_ids=torch.tensor([ids]), **settings)
            audio = model(torch.tensor([audio_ids]), **item.audio_inputs, **settings)
            rows = slice(-len(item.response_ids), None)
            expected = row_agreement(text.logits[0, rows], audio.logits[0, rows])
            assert ours.kl == pytest.approx(expected.kl_N.tolist(), abs=1e-4)
            assert ours.same_top == expected.same_top_N.tolist() and ours.rank == expected.rank_N.tolist()
            # the first are the embeddings, the last are after the final norm
            for layer, pair in enumerate(zip(text.hidden_states[1:-1], audio.hidden_states[1:-1], strict=True)):
                cosine, relative = hidden_distance(*(h[0, rows] for h in pair))
                assert ours.cosine[layer] == pytest.approx(cosine.mean().item(), abs=1e-5)
                assert ours.distance[layer] == pytest.approx(relative.mean().item(), abs=1e-4)


def test_intervals_depend_on_the_seed():
    values = np.random.default_rng(1).normal(2, 1, (400, 2))
    first, again, other = intervals(values, 0), intervals(values, 0), intervals(values, 1)
    assert first == again and first["low"] != other["low"]
    for column in range(2):
        error = values[:, column].std() / 20
        assert first["mean"][column] == pytest.approx(values[:, column].mean())
        for end, sign in (("low", -1), ("high", 1)):
            assert first[end][column] == pytest.approx(first["mean"][column] + sign * 1.96 * error, abs=0.15 * error)
    same = intervals(np.full(5, 3.0), 0)
    assert (same["n"], same["groups"], same["mean"], same["low"], same["high"]) == (5, 5, 3.0, None, None)
    with pytest.raises(ValueError, match="no items"):
        intervals(np.zeros((0, 2)), 0)


def test_intervals_are_over_groups():
    """Four questions on each of 25 images, equal within an image: the interval is that of 25 items."""
    images = np.random.default_rng(0).normal(size=25)
    single, four = intervals(images, 0), intervals(np.repeat(images, 4), 0, list(np.repeat(np.arange(25), 4)))
    assert (four["low"], four["high"]) == pytest.approx((single["low"], single["high"]))
    assert intervals(np.repeat(images, 4), 0)["low"] > four["low"]


def test_layers_and_thirds():
    values = np.arange(28.0).reshape(4, 7)
    found = layer_intervals({"a": values, "b": -values}, 0)
    assert thirds_of(7) == {"early": [0, 1, 2], "middle": [3, 4], "late": [5, 6]}
    assert thirds_of(1) == {"early": [0]}
    assert found["a"]["layers"]["mean"] == values.mean(0).tolist()
    assert found["b"]["thirds"]["late"]["mean"] == -values[:, 5:].mean()
    assert found["b"]["layers"]["low"] == [-high for high in found["a"]["layers"]["high"]], "not the same resamples"
    assert pairs(["base", "sft", "selfkd"]) == [("base", "sft"), ("base", "selfkd"), ("sft", "selfkd")]


@pytest.fixture
def start(parts, tmp_path):
    return training_start(parts, tmp_path)


def config_of(start, **changes):
    models = [f"one={start / 'model'}", f"two={start / 'model'}"]
    return replace(AgreementConfig(models, [str(start / "data")], start / "out", limit=6, batch_size=4), **changes)


def evaluation(folder, modality, correct):
    examples = zip(toy_examples(len(correct)), correct, strict=True)
    samples = (
        dict.fromkeys(FIELDS, "")
        | {"id": e.id, "turn": 1, "question": e.question, "details": {}, "log_likelihoods": [], "seconds": 0.0}
        | {"word_error_rate": None, "score": None if c is None else float(c), "correct": c}
        | {"outcome": "failed" if c is None else "answer", "error": "none came" if c is None else ""}
        for e, c in examples
    )
    lines = (json.dumps(sample) + "\n" for sample in samples)
    write_text(folder / "samples" / f"world-noisy.{modality}.jsonl", "".join(lines))
    return str(folder)


def test_stage(start):
    text_run = evaluation(start / "eval", "text", [True, True, True, False, False, True])
    audio_run = evaluation(start / "eval", "audio", [True, False, False, False, True, True])
    config = config_of(start, text_run=text_run, audio_runs=[f"two={audio_run}"])
    result = analyze_agreement.analyze_agreement(config)["world-noisy"]
    one, two = result["models"]["one"], result["models"]["two"]
    assert one["n"] == 6 and one["kl"]["low"] < one["kl"]["mean"] < one["kl"]["high"]
    assert {name: by["n"] for name, by in two["by_outcome"].items()} == {
        "both correct": 2, "only text correct": 2, "neither correct": 1, "only audio correct": 1,
    }  # fmt: skip
    ids = [e.id for e in toy_examples(6)]
    assert two["flips"] == {"only text correct": ids[1:3], "only audio correct": [ids[4]]}
    assert "by_outcome" not in one and "flips" not in one and one["by_layer"] == two["by_layer"]
    assert one["by_voice"]["tone"]["kl"] == one["kl"]
    assert sum(by["n"] for by in one["by_question_type"].values()) == 6
    assert one["by_position"][0]["n"] == 6 and one["by_position"][-1]["n"] <= 6
    lines = [json.loads(line) for line in (start / "out/items/world-noisy.one.jsonl").read_text().splitlines()]
    assert one["kl"]["mean"] == pytest.approx(np.mean([np.mean(line["kl"]) for line in lines]))
    assert one["by_position"][0]["rank"]["mean"] == pytest.approx(np.mean([line["rank"][0] for line in lines]))
    assert result["between_models"]["two minus one"]["kl"] == {"mean": 0.0, "low": None, "high": None}
    assert json.loads((start / "out/result.json").read_text())["benchmarks"] == {"world-noisy": result}
    with pytest.raises(InputError, match="run is complete already"):
        analyze_agreement.analyze_agreement(config)


def test_items_without_a_response_have_no_outcome(start):
    """As with `selfkd evaluate --keep_failures`."""
    text_run = evaluation(start / "eval", "text", [True, None, True, False, False, True])
    audio_run = evaluation(start / "eval", "audio", [None, False, False, False, True, True])
    config = config_of(start, text_run=text_run, audio_runs=[f"two={audio_run}"])
    two = analyze_agreement.analyze_agreement(config)["world-noisy"]["models"]["two"]
    assert two["n"] == 6 and sum(by["n"] for by in two["by_outcome"].values()) == 4
    assert two["flips"]["only text correct"] == [toy_examples(6)[2].id]


def test_resume_keeps_complete_item_files(start, monkeypatch):
    config = config_of(start)
    plain = analyze_agreement.agreement_of_batch
    calls = []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return plain(*arguments)

    monkeypatch.setattr(analyze_agreement, "agreement_of_batch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        analyze_agreement.analyze_agreement(config)
    items = start / "out/items/world-noisy.one.jsonl"
    assert list(items.parent.iterdir()) == [items]
    manifest, measured = start / "data" / MANIFEST, items.read_text()
    content = json.loads(manifest.read_text())
    write_json(manifest, content | {"shards": [shard | {"seed": 1} for shard in content["shards"]]})
    with pytest.raises(InputError, match=r"since the run began \(data: .*data: "):
        analyze_agreement.analyze_agreement(config)
    write_json(manifest, content)
    analyze_agreement.analyze_agreement(config)
    assert len(calls) == 4 + 2
    write_text(items, measured.replace(toy_examples(1)[0].id, "another"))
    with pytest.raises(InputError, match=r"world-noisy.two.jsonl: has different items than one"):
        read_items(start / "out", "world-noisy", ["one", "two"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text_run": "there"}, "text_run, audio_runs"),
        ({"text_run": "eval", "audio_runs": ["three=eval"]}, "audio_runs: three: not the name of a model"),
        ({"text_run": "eval", "audio_runs": ["two=eval"]}, "not found"),
        ({"models": ["/"]}, "models"),
    ],
)
def test_bad_input_is_refused(start, change, message):
    with pytest.raises(InputError, match=message):
        analyze_agreement.analyze_agreement(config_of(start, **change))


def test_evaluation_of_different_items_is_refused(start):
    run = evaluation(start / "eval", "text", [True])
    with pytest.raises(InputError, match=r"text_run: .* lacks item"):
        analyze_agreement.analyze_agreement(config_of(start, text_run=run, audio_runs=[f"one={run}"]))
