"""Several turns in the app: each modality of each model continues its own conversation, exactly."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from serving import audio_file, png_bytes

from selfkd.app.config import AppConfig
from selfkd.app.conversation import MAX_TURNS, PastTurn, about, continued
from selfkd.app.inference import AttentionMaps, generate_responses
from selfkd.app.results_html import responses_html
from selfkd.app.session import VOICES, Session, builtin_examples
from selfkd.data.example import SAMPLE_RATE_HZ, Example
from selfkd.errors import InputError
from selfkd.evaluation.backends.transcriber import Transcriber
from selfkd.model.lora import adapter_parameters
from selfkd.synthesis.tts.base import EspeakEngine, Utterance
from selfkd.training.align import AlignConfig, assemble
from selfkd.training.data import MODALITIES, aligned_prompts, encode_example_image

pytestmark = pytest.mark.usefixtures("one_thread")
VOICE = next(iter(VOICES.values()))
FIRST, SECOND = "What color is the circle?", "Is there a star?"
TOKENS = 8


def clip(text):
    return EspeakEngine().synthesize_audio(Utterance(text, "en-US+m3"))


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    """A model with non-zero adapters, which are on from the first clip of a conversation on."""
    model, processor = assemble(AlignConfig([], tmp_path_factory.mktemp("adapted"), projector="stack"))
    model.add_llm_adapters(r=4, lora_alpha=8)
    torch.manual_seed(0)
    for parameter in adapter_parameters(model.vlm):
        parameter.data.normal_(std=0.2)
    return model.eval(), processor


@pytest.fixture(scope="module")
def turns():
    """A first turn whose responses differ between the modalities, and a second query about the same image."""
    image = builtin_examples()[1].image
    first = Example("question", FIRST, "", "app", "", "", image=image).with_audio(clip(FIRST), "")
    second = Example("question", SECOND, "", "app", "", "", image=image).with_audio(clip(SECOND), "")
    return (PastTurn(first, "what colour is the circle", {"one": {"text": "red", "audio": "a blue one"}}),), second


@pytest.mark.parametrize("kind", ["plain", "adapted"])
def test_later_turns_equal_a_plain_forward_pass(kind, parts, adapted, turns):
    model, processor = parts if kind == "plain" else adapted
    earlier, query = turns
    examples = continued(query, earlier, "one")
    assert {m: e.history[0].answer for m, e in examples.items()} == {"text": "red", "audio": "a blue one"}
    found = generate_responses(model, processor, examples, TOKENS)
    for modality, example in examples.items():
        image = encode_example_image(processor, example, modality)
        (prompt,) = aligned_prompts(processor, example, {modality: image})
        assert len(prompt.clips) == (2 if modality == "audio" else 0)
        tokens = found[modality].tokens
        ids = [processor.ids(token.text)[0] for token in tokens]
        whole = torch.tensor([[*prompt.prefix_ids, *prompt.suffix_ids, *ids[:-1]]])
        with torch.no_grad():
            logits = model(whole, torch.ones_like(whole), **prompt.audio_inputs, **prompt.image_inputs).logits
        probabilities = logits[0, -len(ids) :].softmax(-1)
        assert probabilities.argmax(-1).tolist() == ids
        for token, id_, row in zip(tokens, ids, probabilities, strict=True):
            assert token.probability == pytest.approx(float(row[id_]), abs=1e-4)
        maps = found[modality].attention
        assert isinstance(maps, AttentionMaps)
        assert 0 < float(maps.by_rows["query"].sum((1, 2)).max()) <= 1


def test_responses_equal_those_of_encode_queries(parts, turns):
    model, processor = parts
    earlier, query = turns
    found = generate_responses(model, processor, continued(query, earlier, "one"), TOKENS)
    image = query.load_image()
    histories = {"text": [(FIRST, "red")], "audio": [(clip(FIRST), "a blue one")]}
    for modality in MODALITIES:
        text, audio = (SECOND, None) if modality == "text" else (None, query.samples())
        inputs = processor.encode_queries(image, text, audio, history=histories[modality])
        expected = processor.response_texts(model.generate_responses(**inputs, max_new_tokens=TOKENS))
        assert found[modality].text == expected[0]


def test_a_conversation_is_about_one_image_and_bounded(turns):
    earlier, query = turns
    assert about(earlier, query.image) == earlier and about(earlier, png_bytes(8, 8)) == () and about((), None) == ()
    assert continued(query, (), "one")["audio"].history == ()
    with pytest.raises(InputError, match=f"at most {MAX_TURNS} turns; start again"):
        continued(query, earlier * MAX_TURNS, "one")


def test_a_turn_that_was_only_recorded_is_text_by_its_transcript(turns):
    (first,), query = turns
    recorded = replace(first, example=replace(first.example, question=""), responses={"one": {"audio": "a blue one"}})
    text = continued(query, (recorded,), "one")["text"]
    assert [(t.question, t.answer) for t in text.history] == [("what colour is the circle", "a blue one")]
    for transcript in (None, ""):
        found = continued(query, (replace(recorded, transcript=transcript),), "one")
        assert list(found) == ["audio"] and len(found["audio"].history) == 1, "no text to continue"


def test_session_continues_and_starts_again(parts):
    session = Session(AppConfig(max_new_tokens=TOKENS), {"one": parts}, Transcriber.from_pretrained())
    try:
        image = builtin_examples()[1].image
        first, made = session.run(image, FIRST, None, None, VOICE)
        assert len(first.conversation) == 1 and "kd-turns" not in responses_html(first)
        own = audio_file(clip(SECOND), SAMPLE_RATE_HZ)
        second, _ = session.run(image, "", own, made, VOICE, first.conversation)
        assert [t.example.question for t in second.conversation] == [FIRST, ""]
        assert list(second.responses["one"]) == ["audio"]
        third, _ = session.run(image, "<b>And</b> the square?", None, None, VOICE, second.conversation)
        assert list(third.responses["one"]) == list(MODALITIES), "the recording continues in text by its transcript"
        page = responses_html(third)
        assert page.count("<li>") == 2 and FIRST in page and "<b>And" not in page
        other, _ = session.run(png_bytes(64, 64), FIRST, None, None, VOICE, third.conversation)
        assert len(other.conversation) == 1, "another image is another conversation"
        single, _ = session.run(image, FIRST, None, None, VOICE)
        assert single.responses["one"]["text"].text == first.responses["one"]["text"].text
    finally:
        session.close()


def test_a_conversation_beyond_the_context(parts, monkeypatch, turns):
    session = Session(AppConfig(max_new_tokens=TOKENS), {"one": parts}, None)
    try:
        earlier, query = turns
        monkeypatch.setattr(parts[0].config.get_text_config(), "max_position_embeddings", 100)
        own = audio_file(np.float32(query.samples()), SAMPLE_RATE_HZ)
        with pytest.raises(InputError, match=r"do not fit the model's context .*; 5 earlier turns are in it: start"):
            session.run(query.image, SECOND, own, None, VOICE, earlier * 5)
    finally:
        session.close()
