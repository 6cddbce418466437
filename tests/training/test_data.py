"""Both modalities of an example: exact ids, exact lengths, the same response."""

import random
from copy import copy
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from examples import tone, toy_examples
from tokenizers import Tokenizer
from tokenizers.models import Unigram
from tokenizers.pre_tokenizers import Metaspace
from transformers import PreTrainedTokenizerFast

from selfkd.errors import InputError
from selfkd.evaluation.backends.local import predict_modality
from selfkd.model.queries import AUDIO_TOKEN
from selfkd.training.data import PairedCollator, PairedDataset, paired_item
from selfkd.training.sampler import CostSampler
from selfkd.training.self_kd import paired_rows

BEFORE = "<|im_start|>user\n<img>" + "<IMG_CONTEXT>" * 16 + "</img>\n"
AFTER = "<|im_end|>\n<|im_start|>assistant\n"


# 100 mel frames a second, 50 encoder frames, stacks of 4
@pytest.mark.parametrize(("seconds", "mel_frames", "vectors"), [(0.5, 50, 7), (3.0, 300, 38), (10.0, 1000, 125)])
def test_ids_and_lengths_of_both_modalities(model, processor, example, seconds, mel_frames, vectors):
    example = example.with_audio(tone(seconds), "tone")
    item = paired_item(processor, example)
    assert processor.tokenizer.decode(item.prefix_ids) == BEFORE
    assert processor.tokenizer.decode(item.text_ids) == example.question + AFTER
    assert processor.tokenizer.decode(item.audio_ids) == AUDIO_TOKEN + AFTER
    assert processor.tokenizer.decode(item.response_ids) == example.answer + "<|im_end|>"
    assert item.audio_inputs["input_features"].shape == (1, 80, mel_frames)

    batch = PairedCollator(processor)([item])
    whole_text = processor.ids(BEFORE + example.question + AFTER + example.answer + "<|im_end|>")
    assert batch["prefix_ids"][0].tolist() + batch["text_ids"][0].tolist() == whole_text[:-1]
    inputs, mask, _ = model.merge_audio_embeddings(batch["audio_ids"], batch["audio_mask"], batch["audio_inputs"])
    after = len(processor.ids(AFTER))
    assert inputs["inputs_embeds"].shape[1] == mask.sum() == vectors + after + len(item.response_ids) - 1
    student, teacher, labels, *_ = paired_rows(model, batch, with_teacher=True)
    assert student.shape == teacher.shape == (len(item.response_ids), model.get_input_embeddings().embedding_dim)
    assert labels.tolist() == item.response_ids


def test_instruction_and_answer_format_are_text_in_both_modalities(processor, example):
    example = replace(example, instruction="Reference: STOP\n", answer_format="\nAnswer with one word.")
    item = paired_item(processor, example)
    assert processor.tokenizer.decode(item.prefix_ids) == BEFORE + "Reference: STOP\n"
    after = "\nAnswer with one word." + AFTER
    assert processor.tokenizer.decode(item.text_ids) == example.question + after
    assert processor.tokenizer.decode(item.audio_ids) == AUDIO_TOKEN + after


def test_an_item_of_ctc_only_training_has_no_image_and_the_question_as_response(processor, example):
    whole = paired_item(processor, example)
    ctc_only = paired_item(processor, replace(example, image=b"torn"), with_image=False)
    assert ctc_only.image_inputs == {} and "<IMG_CONTEXT>" not in processor.tokenizer.decode(ctc_only.prefix_ids)
    assert ctc_only.transcript_ids == whole.transcript_ids
    assert torch.equal(ctc_only.audio_inputs["input_features"], whole.audio_inputs["input_features"])
    without_answer = paired_item(processor, replace(example, answer=" "), with_image=False)
    assert without_answer.response_ids == ctc_only.response_ids == [*ctc_only.transcript_ids, whole.response_ids[-1]]
    assert PairedDataset([example], processor, context=1, with_image=False)[0].response_ids == ctc_only.response_ids


def test_a_response_is_tokenized_as_within_a_conversation(parts):
    """SentencePiece marks the beginning of a text as it does a space; the response after "assistant" has none."""
    pieces = ["▁", "▁Yes", "Yes", "<|im_end|>", "\n", *sorted({*"assistant", "u", "e", "r", "Y", ".", "<", ">", "|"})]
    model = Tokenizer(Unigram([("<unk>", -9.0), *((piece, -float(1 + (len(piece) < 2))) for piece in pieces)], 0))
    model.pre_tokenizer = Metaspace(prepend_scheme="first", split=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=model, unk_token="<unk>")
    tokenizer.add_tokens(["<|im_end|>", "<|im_start|>"], special_tokens=True)
    processor = copy(parts[1])
    processor.tokenizer, processor.end_id = tokenizer, tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert tokenizer.convert_ids_to_tokens(processor.ids("Yes")) == ["▁Yes"]
    response = processor.response_ids("Yes", with_image=True)
    assert tokenizer.convert_ids_to_tokens(response) == ["Yes", "<|im_end|>"]
    whole = processor.ids(AFTER + "Yes<|im_end|>")
    assert response == whole[-2:], "not what the model would generate"


def test_generation_prompt_of_an_audio_query(processor, example):
    prompt = processor.audio_prompt(
        processor.encode_audio(example.samples()), processor.encode_image(example.load_image())
    )
    batch = processor.collate([prompt])
    assert batch["prefix_ids"][0].tolist() == processor.ids(BEFORE)
    assert batch["suffix_ids"][0].tolist() == [processor.audio_token_id, *processor.ids(AFTER)]


def test_a_clip_has_the_same_embeddings_in_any_batch(model, processor, examples):
    items = [paired_item(processor, e) for e in examples[:4]]
    batch = PairedCollator(processor)(items)
    together, mask = model.encode_audio(**batch["audio_inputs"])[:2]
    for item, vectors, vectors_mask in zip(items, together, mask, strict=True):
        single = model.encode_audio(**item.audio_inputs).vectors
        torch.testing.assert_close(vectors[vectors_mask], single[0], rtol=1e-5, atol=1e-5)


def test_different_responses_in_the_two_modalities_fail(model, processor, examples):
    batch = PairedCollator(processor)([paired_item(processor, e) for e in examples[:2]])
    batch["audio_ids"][1, batch["audio_mask"][1].sum() - 1] += 1
    with pytest.raises(AssertionError, match="different responses"):
        paired_rows(model, batch, with_teacher=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question": "  "}, "field question: is empty"),
        ({"answer": ""}, "field answer: is empty"),
        ({"image": b"no image"}, "field image: not a readable image"),
        ({"audio": b"no sound"}, "field audio: not readable audio"),
        ({"audio": None}, "field audio: (this example has not been spoken|no audio)"),
    ],
)
def test_bad_fields_are_named(processor, example, change, message):
    with pytest.raises(InputError, match=f"the-example: {message}"):
        paired_item(processor, replace(example, **change))


@pytest.mark.parametrize(("seconds", "message"), [(30.5, "over the encoder's 30 s"), (0.01, "too short")])
def test_audio_that_is_too_long_or_too_short_is_refused(processor, example, seconds, message):
    with pytest.raises(InputError, match=f"the-example: field audio: .*{message}"):
        paired_item(processor, example.with_audio(tone(seconds), "tone"))


def test_examples_of_similar_cost_share_a_step_and_each_comes_once_an_epoch():
    costs = [random.Random(i).randint(1, 100) for i in range(203)]
    sampler = CostSampler(costs, step_size=8, seed=3)
    first, again = list(sampler), list(sampler)
    assert first == again and sorted(first) == list(range(203))
    sampler.set_epoch(1)
    assert list(sampler) != first and sorted(sampler) == list(range(203))
    spread = [max(c) - min(c) for c in ([costs[i] for i in first[s : s + 8]] for s in range(0, 200, 8))]
    assert sum(spread) / len(spread) < 15, "random steps of 8 would spread over about 78"


def test_questions_about_one_image_are_adjacent():
    images = [i // 3 for i in range(60)]
    order = list(CostSampler([1] * 60, step_size=12, seed=0, images=images))
    assert sorted(order) == list(range(60)) and order != list(range(60))
    changes = sum(images[a] != images[b] for a, b in pairwise(order))
    assert changes == 19, "twenty images, each in one block"


def test_items_are_cached_up_to_a_number_of_bytes(parts, monkeypatch):
    _, processor = parts
    examples = toy_examples(4)
    dataset = PairedDataset(examples, processor, context=2048)
    assert all(dataset[i] is dataset[i] for i in range(4))
    tensors = (*dataset[0].audio_inputs.values(), *dataset[0].image_inputs.values())
    monkeypatch.setattr("selfkd.training.data.CACHE_BYTES", sum(t.nbytes for t in tensors))
    dataset = PairedDataset(examples, processor, context=2048)
    assert dataset[0] is dataset[0] and dataset[1] is not dataset[1]


def test_neighbours_with_one_image_process_it_once(parts, monkeypatch):
    """Their items are those of examples that are processed by themselves."""
    processor, processed = parts[1], []
    examples = toy_examples(4)
    examples[1] = replace(examples[1], image=examples[0].image)
    encode = processor.encode_image
    monkeypatch.setattr(
        processor, "encode_image", lambda *args, **kwargs: processed.append(args) or encode(*args, **kwargs)
    )
    items = PairedDataset(examples, processor, context=2048).__getitems__([0, 1, 2, 3, 0])
    assert len(processed) == 3
    for item, example in zip(items, examples, strict=False):
        plain = paired_item(processor, example)
        assert (item.prefix_ids, item.text_ids, item.audio_ids) == (plain.prefix_ids, plain.text_ids, plain.audio_ids)
        assert all(torch.equal(value, plain.image_inputs[name]) for name, value in item.image_inputs.items())


@pytest.mark.parametrize(("context", "modality"), [(50, "text"), (80, "audio")])
def test_an_example_longer_than_the_context_is_refused(model, processor, example, monkeypatch, context, modality):
    """The audio query is the longer one here: six seconds are 75 vectors."""
    example = example.with_audio(tone(6), "tone")
    with pytest.raises(InputError, match=f"the-example: .* tokens do not fit the model's context of {context}"):
        PairedDataset([example], processor, context)[0]
    monkeypatch.setattr(model.config.get_text_config(), "max_position_embeddings", context)
    with pytest.raises(InputError, match=f"the-example: .* tokens do not fit the model's context of {context - 48}"):
        predict_modality(model, processor, [example], modality)
