"""Conversations in training: loss and gradients of two full passes, on the responses that follow an audio turn."""

import json
from dataclasses import replace

import pytest
import torch
from examples import conversation_folder, interrupted_at, tone, toy_conversations, toy_examples
from safetensors.torch import load_file

from selfkd.errors import InputError
from selfkd.losses import LossConfig, cross_entropy, divergence
from selfkd.training.align import AlignConfig, assemble
from selfkd.training.data import PairedCollator, paired_item
from selfkd.training.distill import DistillConfig, distill
from selfkd.training.estimate import load_of
from selfkd.training.self_kd import FrozenTeacher, paired_loss, widened_positions
from selfkd.training.trainable import set_trainable


def plain_ids(processor, example, modality, audio_turns):
    """(all ids, clips, positions that predict) of a modality by whole texts, without the code under test."""
    turns = list(example.turns())
    n = len(turns)
    image = processor.encode_image(example.load_image(), history=[("", "")] * (n - 1))
    ids, features, predicts = [], [], []
    for k, turn in enumerate(turns):
        is_audio = modality == "audio" and (audio_turns == "all" or k == n - 1)
        ids += processor.ids(image.pieces[2 * k]) if k == 0 else processor.ids(image.pieces[2 * k])[1:]
        ids += [processor.audio_token_id] if is_audio else processor.ids(turn.question)
        ids += processor.ids(image.pieces[2 * k + 1])
        if is_audio:
            features.append(processor.encode_audio(turn.samples()).audio_inputs)
        response = [*processor.ids(turn.answer), processor.end_id]
        if audio_turns == "all" or k == n - 1:
            predicts += [(len(ids) - 1 + j, id_) for j, id_ in enumerate(response)]
        ids += response
    return ids[:-1], features, predicts, image.image_inputs


def two_full_passes(model, processor, examples, alpha, audio_turns, teacher_vlm=None):
    """Teacher and student one conversation at a time through the standard path, all logits."""
    total = torch.zeros(())
    for example in examples:
        ids, _, predicts, image = plain_ids(processor, example, "text", audio_turns)
        with torch.no_grad():
            teacher = (teacher_vlm or model.vlm)(input_ids=torch.tensor([ids]), **image).logits[0]
        teacher = teacher[[at for at, _ in predicts]]
        ids, clips, predicts, image = plain_ids(processor, example, "audio", audio_turns)
        widths = [len(model.get_audio_features(**one).pooler_output[0]) for one in clips]
        features = [one["input_features"] for one in clips]
        longest = max(f.shape[2] for f in features)
        mask = torch.stack([(torch.arange(longest) < f.shape[2]).long() for f in features])
        padded = torch.cat([torch.nn.functional.pad(f, (0, longest - f.shape[2])) for f in features])
        student = model(torch.tensor([ids]), input_features=padded, feature_attention_mask=mask, **image).logits[0]
        clip_positions = [at for at, id_ in enumerate(ids) if id_ == processor.audio_token_id]
        moved = [
            at + sum(w - 1 for position, w in zip(clip_positions, widths, strict=True) if position < at)
            for at, _ in predicts
        ]
        labels = torch.tensor([id_ for _, id_ in predicts])
        total = total + alpha * divergence(teacher, student[moved])
        total = total + (1 - alpha) * cross_entropy(student[moved], labels)
    return total


def gradients(model):
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(got, expected):
    assert expected and set(got) == set(expected)
    scale = max(g.abs().max() for g in expected.values())
    for name, gradient in expected.items():
        torch.testing.assert_close(got[name] / scale, gradient / scale, rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("audio_turns", ["all", "last"])
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_loss_and_gradients_are_those_of_two_full_passes(model, processor, alpha, audio_turns):
    """In one batch with a single question, whose row has one response only."""
    model.vlm.requires_grad_(False)
    examples = [*toy_conversations(2), toy_examples(1)[0], *toy_conversations(1, turns=2)]
    plain = two_full_passes(model, processor, examples, alpha, audio_turns)
    plain.backward()
    expected = gradients(model)
    model.zero_grad()
    items = [paired_item(processor, e, audio_turns=audio_turns) for e in examples]
    assert [len(item.earlier) for item in items] == ([2, 2, 0, 1] if audio_turns == "all" else [0, 0, 0, 0])
    ours = paired_loss(model, PairedCollator(processor)(items), LossConfig(alpha))
    ours.total.backward()
    assert ours.total.item() == pytest.approx(plain.item(), rel=1e-5)
    assert ours.tokens == sum(len(item.labels) for item in items)
    assert_same_gradients(gradients(model), expected)


@pytest.mark.parametrize("trained", [["projector", "llm"], ["projector", "llm_adapters"]])
def test_llm_and_adapters_train_on_every_turn(tmp_path, trained):
    """A frozen copy is the teacher of an LLM that trains; adapters are active from the first clip on, as in
    `forward`."""
    model, processor = assemble(AlignConfig([], tmp_path, projector="stack"))
    model.eval()
    set_trainable(model, trained, {"r": 4})
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    teacher = FrozenTeacher(model) if "llm" in trained else None
    if teacher:
        with torch.no_grad():
            for parameter in model.vlm.get_decoder().parameters():
                parameter.mul_(1.01)
    examples = toy_conversations(2)
    two_full_passes(model, processor, examples, 0.5, "all", teacher and teacher.vlm).backward()
    expected = gradients(model)
    model.zero_grad()
    batch = PairedCollator(processor)([paired_item(processor, e) for e in examples])
    paired_loss(model, batch, LossConfig(0.5), teacher and teacher(batch)).total.backward()
    assert_same_gradients(gradients(model), expected)


def test_the_prefix_ends_where_the_first_audio_turn_begins(processor):
    """Shared are the image and, in `last`, all earlier turns as text."""
    (example,) = toy_conversations(1)
    whole, last = (paired_item(processor, example, audio_turns=turns) for turns in ("all", "last"))
    image = processor.encode_image(example.load_image(), history=[("", "")] * 2)
    assert whole.prefix_ids == processor.text_ids(image.pieces[0])
    assert len(whole.audio_inputs["input_features"]) == 3 and len(last.audio_inputs["input_features"]) == 1
    texts = processor.tokenizer.decode(last.prefix_ids)
    assert all(turn.question in texts and turn.answer in texts for turn in example.history)
    assert whole.prefix_ids + whole.text_ids == last.prefix_ids + last.text_ids
    assert processor.audio_token_id not in [*last.prefix_ids, *whole.prefix_ids, *whole.text_ids]


def test_a_conversation_of_one_turn_is_a_single_question(processor):
    single = toy_examples(1)[0]
    (one,) = toy_conversations(1, turns=1)
    assert one.history == () and not paired_item(processor, single).earlier
    a, b = (paired_item(processor, single, audio_turns=turns) for turns in ("all", "last"))
    assert a.labels == b.labels == a.response_ids and (a.prefix_ids, a.audio_ids) == (b.prefix_ids, b.audio_ids)


def test_ctc_only_training_has_every_clip(model, processor):
    """The clips of a conversation are as many questions, their tokens the labels."""
    (example,) = toy_conversations(1)
    item = paired_item(processor, example, with_image=False)
    batch = PairedCollator(processor)([item])
    assert batch["transcripts"] == [turn.question for turn in example.turns()] and batch["clips"] == [3]
    assert len(batch["audio_inputs"]["input_features"]) == len(batch["transcript_ids"]) == 3
    singles = [replace(turn, history=()) for turn in example.turns()]
    assert item.labels == [id_ for e in singles for id_ in paired_item(processor, e, with_image=False).response_ids]


def test_positions_move_behind_the_embeddings_of_the_clips_before_them():
    predicts = torch.tensor([[0, 1, 0, 1, 0], [1, 0, 0, 0, 0]]).bool()
    clips = torch.tensor([[1, 0, 1, 0, 0], [0, 0, 1, 0, 0]]).bool()
    wide = widened_positions(predicts, clips, torch.tensor([3, 2, 4]), 8)
    assert wide.nonzero().tolist() == [[0, 3], [0, 6], [1, 0]]
    at_clip = widened_positions(clips, clips, torch.tensor([3, 2, 4]), 8)
    assert at_clip.nonzero().tolist() == [[0, 2], [0, 5], [1, 5]]


def test_rows_that_do_not_line_up_are_an_error(model, processor):
    batch = PairedCollator(processor)([paired_item(processor, toy_conversations(1)[0])])
    where = batch["audio_predicts"].nonzero()[0, 1] + 1
    batch["audio_ids"][0, where] += 1
    with pytest.raises(AssertionError, match="the audio modality has other responses"):
        paired_loss(model, batch, LossConfig(0.5))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return conversation_folder(tmp_path_factory.mktemp("turns") / "data", [*toy_conversations(4), *toy_examples(2)])


@pytest.mark.slow
@pytest.mark.parametrize("spec_augment", [0.0, 1.0])
def test_a_killed_run_ends_in_the_same_bytes(start, data, tmp_path, spec_augment):
    settings = {"steps": 3, "batch_size": 2, "warmup_steps": 1, "alpha": 0.5, "spec_augment": spec_augment}
    config = DistillConfig([data], tmp_path / "whole", model=str(start / "model"), **settings)
    assert distill(config)["examples"] == 6
    again = replace(config, output=tmp_path / "again", save_steps=2)
    with interrupted_at(3), pytest.raises(KeyboardInterrupt):
        distill(again)
    distill(again)
    first, second = (load_file(c.output / "model/model.safetensors") for c in (config, again))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert json.loads((tmp_path / "whole/config.json").read_text())["audio_turns"] == "all"


def test_an_estimate_counts_all_turns(data, processor):
    load = load_of([data], processor)
    examples = [*toy_conversations(4), *toy_examples(2)]
    assert load.speech_seconds == pytest.approx(sum(e.speech_seconds for e in examples) / 6)
    characters = sum(len(turn.answer) for e in examples for turn in e.turns())
    assert load.response_tokens == round(characters / 6 / 4) + round(14 / 6) and load.turns == pytest.approx(14 / 6)


def test_on_policy_training_refuses_conversations(start, data, tmp_path):
    config = DistillConfig([data], tmp_path / "run", model=str(start / "model"), alpha=1.0, on_policy_fraction=0.5)
    with pytest.raises(InputError, match="on_policy_fraction: not with conversations"):
        distill(config)


@pytest.mark.parametrize("change, problem", [
    ({"answer": " "}, "field history: turn 2: field answer: is empty"),
    ({"question": ""}, "field history: turn 2: field question: is empty"),
    ({"audio": None, "duration_seconds": 0.0}, "field history: turn 2: field audio: 0.000 s of audio is too short"),
    ({"audio": None}, "field history: turn 2: field audio: no audio"),
])  # fmt: skip
def test_a_turn_that_cannot_train_is_named(start, tmp_path, change, problem):
    (example,) = toy_conversations(1)
    broken = replace(example, history=(example.history[0], replace(example.history[1], **change)))
    data = conversation_folder(tmp_path / "data", [broken, *toy_conversations(2)[1:]])
    config = DistillConfig([data], tmp_path / "run", model=str(start / "model"), steps=1)
    with pytest.raises(InputError, match=problem) as error:
        distill(config)
    assert f"{data}: example {example.id}: " in str(error.value) and "1 of 2 rows" in str(error.value)


def test_a_conversation_that_ends_with_the_user_is_named(start, tmp_path):
    (example,) = toy_conversations(1)
    data = conversation_folder(tmp_path / "data", [replace(example, answer="")])
    config = DistillConfig([data], tmp_path / "run", model=str(start / "model"), steps=1)
    with pytest.raises(InputError, match=f"{data}: example {example.id}: field answer: is empty"):
        distill(config)


def test_more_clips_than_the_context_takes_are_named(start, tmp_path, processor):
    (example,) = toy_conversations(1)
    turn = replace(example.history[0], audio=example.with_audio(tone(9.0), "tone").audio, duration_seconds=9.0)
    long = replace(example, history=(turn,) * 40)
    data = conversation_folder(tmp_path / "data", [long, *toy_conversations(2)[1:]])
    config = DistillConfig([data], tmp_path / "run", model=str(start / "model"), steps=1)
    with pytest.raises(InputError, match=r"example \S+: 41 turns, 41 clips: [\d,]+ tokens do not fit"):
        distill(config)
