"""Interventions: those that change nothing, and those whose effect is known, for all backbones."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from examples import training_start
from hypothesis import given
from hypothesis import strategies as st

from selfkd.analysis import interventions as module
from selfkd.analysis.analyze_attention import MEASURED_WITH_EXACT, AttentionConfig, analyze_attention
from selfkd.analysis.attention import ROWS, attention_of_batch
from selfkd.analysis.interventions import Intervention, interventions_of, outcomes_of_batch, scaled_to_image
from selfkd.analysis.interventions import with_image_attention as with_attention
from selfkd.analysis.runner import thirds_of
from selfkd.evaluation.uncertainty import correlations
from tests.analysis.test_attention import (
    attention_implementation,
    backbone,  # noqa: F401  # a fixture
    batch_of,
    examples_of_all_types,
    groups_by_hand,
)
from tests.model.test_native_omni import plain_inputs

KINDS = ["image_cut", "image_doubled", "text_attention", "text_states"]


def outcomes(model, batch, questions, audio, text=()):
    return outcomes_of_batch(model, batch, questions, {"text": text, "audio": audio})


def close(ours, plain):
    assert ours.log_prob == pytest.approx(plain.log_prob, rel=1e-4, abs=1e-4) and ours.is_exact == plain.is_exact


def test_interventions_by_kind_rows_and_band():
    found = interventions_of(KINDS, thirds_of(6))
    names = [one.name for one in found["audio"]]
    assert len(names) == len(set(names)) == 3 * len(ROWS) * 4 + 2
    assert "text_states.response.middle" in names and "text_states.response.late" not in names
    assert {one.kind for one in found["text"]} == {"image_cut", "image_doubled"}
    assert next(o for o in found["audio"] if o.name == "image_cut.query.all").layers == tuple(range(6))


def test_interventions_without_effect_change_nothing(backbone, monkeypatch):  # noqa: F811
    """A factor of 1; and the text query's own attention and states for the text query."""
    model, processor = backbone
    _, batch, questions = batch_of(processor, examples_of_all_types())
    plain = attention_of_batch(model, batch, questions)
    layers = tuple(range(len(model.vlm.get_decoder().layers)))
    monkeypatch.setitem(module.FACTORS, "image_doubled", 1.0)
    doubled = [Intervention("image_doubled", rows, "all", layers) for rows in ROWS]
    own = [Intervention("text_attention", "response", "all", layers)]
    own += [Intervention("text_states", "response", str(layer), (layer,)) for layer in layers]
    for i, item in enumerate(outcomes(model, batch, questions, [*doubled, *own], [*doubled, *own])):
        for one in doubled:
            for modality in ("text", "audio"):
                close(item[modality][one.name], plain[modality][i].outcome)
        for one in own:
            close(item["text"][one.name], plain["text"][i].outcome)
        close(item["audio"][own[-1].name], plain["text"][i].outcome)  # states after the last layer are the answer


def test_cut_attention_changes_the_response(backbone):  # noqa: F811
    model, processor = backbone
    _, batch, questions = batch_of(processor, examples_of_all_types()[:1])
    plain = attention_of_batch(model, batch, questions)
    layers = tuple(range(len(model.vlm.get_decoder().layers)))
    cut = [Intervention("image_cut", rows, "all", layers) for rows in ROWS]
    found = outcomes(model, batch, questions, cut, cut)[0]
    for modality in ("text", "audio"):
        for one in cut:
            assert abs(found[modality][one.name].log_prob - plain[modality][0].outcome.log_prob) > 1e-5


@pytest.mark.parametrize("rows", ROWS)
def test_cut_attention_equals_a_mask(parts, rows):
    """The whole sequence in one pass of transformers, with image keys masked for these rows in the middle layers."""
    model, processor = parts
    (example,) = examples_of_all_types()[:1]
    (item,), batch, (question,) = batch_of(processor, [example])
    middle = tuple(thirds_of(6)["middle"])
    ours = outcomes(model, batch, [question], [], [Intervention("image_cut", rows, "middle", middle)])[0]["text"]

    ids = item.prefix_ids + item.text_ids + item.response_ids[:-1]
    at = groups_by_hand(model, item, "text", question, len(ids))
    is_cut = torch.zeros(len(ids), len(ids), dtype=torch.bool)
    is_cut[torch.tensor(at["query" if rows == "query" else "rows"])[:, None], torch.tensor(at["image"])] = True

    def cut(_module, args, kwargs):
        lowest = torch.finfo(torch.float32).min
        causal = torch.full((len(ids), len(ids)), lowest).triu(1)
        return args, kwargs | {"attention_mask": causal.masked_fill(is_cut, lowest)[None, None]}

    layers = [model.vlm.get_decoder().layers[layer] for layer in middle]
    handles = [layer.register_forward_pre_hook(cut, with_kwargs=True) for layer in layers]
    with torch.no_grad(), attention_implementation(model, "eager"):
        logits = model.vlm(**plain_inputs(model, ids, item.image_inputs, {})).logits[0].log_softmax(-1)
    for handle in handles:
        handle.remove()
    expected = sum(logits[row, token] for row, token in zip(at["rows"], item.response_ids, strict=True))
    assert ours[f"image_cut.{rows}.middle"].log_prob == pytest.approx(float(expected), abs=1e-4)


@given(st.integers(0, 10_000), st.floats(0, 4), st.integers(1, 5))
def test_rows_sum_to_one_and_keep_their_ratios(seed, factor, images):
    torch.manual_seed(seed)
    share = torch.rand(2, 3, 4, 9).softmax(-1)
    is_image = torch.zeros(2, 9, dtype=torch.bool)
    is_image[:, 1 : 1 + images] = True
    scaled = scaled_to_image(share, factor, is_image)
    torch.testing.assert_close(scaled.sum(-1), torch.ones(2, 3, 4))
    ratio = scaled / share
    torch.testing.assert_close(ratio[..., 1], factor * ratio[..., 0])
    wanted = torch.rand(2, 3, 4, 7).softmax(-1)
    patched = with_attention(share, wanted, is_image)
    torch.testing.assert_close(patched.sum(-1), torch.ones(2, 3, 4))
    torch.testing.assert_close(patched[..., is_image[0]], wanted[..., is_image[0, :7]])
    torch.testing.assert_close(patched[..., 8] / patched[..., 0], share[..., 8] / share[..., 0])


@given(st.integers(0, 1000), st.integers(12, 40))
def test_correlations_are_pearsons(seed, n):
    rng = np.random.default_rng(seed)
    values, right = rng.normal(size=(n, 2)) * 1e-3 + 5, rng.random(n) < 0.5
    found = correlations(values, right, seed=0)
    for column, one in zip(values.T, found, strict=True):
        if not right.any() or right.all():
            assert one["r"] is None
            continue
        assert one["r"] == pytest.approx(np.corrcoef(column, right)[0, 1], abs=1e-6)
        assert one["low"] is None or one["low"] <= one["r"] <= one["high"]
    many = correlations(np.arange(40.0), np.arange(40) % 2, seed=0)[0]
    assert many["low"] < many["r"] < many["high"]
    few = correlations(values[:5], right[:5], seed=0)[0]
    assert few["low"] is None


@pytest.mark.slow
def test_the_stage_writes_interventions(parts, tmp_path):
    start = training_start(parts, tmp_path)
    config = AttentionConfig([f"one={start / 'model'}"], [str(start / "data")], tmp_path / "run", limit=5, batch_size=2)
    config = replace(config, maps=0, interventions=["image_cut", "text_states"])
    model = analyze_attention(config)["world-noisy"]["models"]["one"]
    assert set(model["outcomes"]["audio"]) == {"log_prob", "exact"}
    assert set(model["interventions"]["text"]) == {f"image_cut.{r}.{b}" for r in ROWS for b in (*thirds_of(6), "all")}
    cut = model["interventions"]["audio"]["image_cut.response.all"]
    assert cut["log_prob_change"]["n"] == 5 and cut["log_prob_change"]["mean"] != 0
    assert cut["exact"]["mean"] - cut["exact_change"]["mean"] == model["outcomes"]["audio"]["exact"]["mean"]
    assert set(model["attention_and_exact"]["audio"]) == set(MEASURED_WITH_EXACT)
