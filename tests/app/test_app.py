"""What the app answers, without its page: exact probabilities, the maps of the analysis, and bad input in words."""

import io
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate.utils import send_to_device
from examples import tone
from native_models import NATIVE
from PIL import Image
from serving import encoded, png

from selfkd.analysis.attention import ROWS, attention_of_batch
from selfkd.analysis.forward import KEYS, text_query
from selfkd.app.app import app
from selfkd.app.config import AppConfig
from selfkd.app.inference import DARKEST, AttentionMaps, answer, shade
from selfkd.app.session import MAX_CHARACTERS, VOICES, Session, hears_as_bundled, parse_query, ready_examples, say
from selfkd.app.ui import answers_html, attention_html
from selfkd.data.example import SAMPLE_RATE_HZ
from selfkd.errors import InputError
from selfkd.evaluation.backends.local import predict_modalities
from selfkd.evaluation.backends.transcriber import Transcriber
from selfkd.model.lora import adapter_parameters
from selfkd.model.modeling_omni import OmniModel
from selfkd.model.processing_omni import OmniProcessor
from selfkd.model.tiny import load_tiny_model
from selfkd.synthesis.tts.base import EspeakEngine
from selfkd.training.align import AlignConfig, assemble
from selfkd.training.data import MODALITIES, PairedCollator, modality_prompts, paired_item

TOKENS = 12
HUM = 0.01 * np.sin(2 * np.pi * 50 * np.arange(16_000) / 16_000)  # of the mains: no speech
VOICE = next(iter(VOICES.values()))


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Models this small are slower with two, where others are at work on the same cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def spoken():
    """A ready example with its speech."""
    tts_engine, example = EspeakEngine(), ready_examples()[3]
    clip = say(tts_engine, example.question, VOICE)
    return parse_query(example.image, example.question, clip.wav, AppConfig(), [])


@pytest.fixture(scope="module")
def session(parts):
    return Session(AppConfig(max_new_tokens=TOKENS), {"one": parts}, Transcriber.from_pretrained())


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    """A model whose adapters have learnt something."""
    model, processor = assemble(AlignConfig([], tmp_path_factory.mktemp("adapted"), projector="stack"))
    model.add_llm_adapters(r=4, lora_alpha=8)
    torch.manual_seed(0)
    for parameter in adapter_parameters(model.vlm):
        parameter.data.normal_(std=0.2)
    return model.eval(), processor


def test_probabilities_are_those_of_a_plain_forward(parts, spoken):
    model, processor = parts
    found = answer(model, processor, spoken, MODALITIES, TOKENS)
    for modality, prompt in zip(
        MODALITIES,
        modality_prompts(processor, spoken, MODALITIES, processor.encode_image(spoken.load_image())),
        strict=True,
    ):
        prediction, tokens = (
            predict_modalities(model, processor, [spoken], [modality], TOKENS)[modality][0].text,
            found[modality].tokens,
        )
        assert found[modality].text == prediction, "evaluation scores the same answer"
        ids = _ids(processor, found[modality])
        whole = torch.tensor([[*prompt.prefix_ids, *prompt.suffix_ids, *ids[:-1]]])
        with torch.no_grad():
            given = {"audio_inputs": prompt.audio_inputs} if modality == "audio" else {}
            logits = model(whole, torch.ones_like(whole), **given, **prompt.image_inputs).logits[0, -len(ids) :]
        probabilities = logits.softmax(-1)
        assert probabilities.argmax(-1).tolist() == ids, "greedy is the likeliest"
        for token, id_, row in zip(tokens, ids, probabilities, strict=True):
            assert token.probability == pytest.approx(float(row[id_]), abs=1e-4)
            best = row.topk(len(token.others) + 1).values[1:].tolist()
            assert [p for _, p in token.others] == pytest.approx(best, abs=1e-4)


def _ids(processor, found):
    """The ids of an answer, by its text and its end."""
    ids = [processor.ids(token.text) for token in found.tokens]
    assert all(len(one) == 1 for one in ids)
    return [one[0] for one in ids]


def test_the_written_view_is_the_models_own(parts, adapted, spoken):
    plain, ours = (answer(*both, spoken, MODALITIES, TOKENS) for both in (parts, adapted))
    assert [t.text for t in plain["text"].tokens] == [t.text for t in ours["text"].tokens]
    for a, b in zip(plain["text"].tokens, ours["text"].tokens, strict=True):
        assert a.probability == pytest.approx(b.probability, abs=1e-5)
    assert torch.allclose(plain["text"].looks.by_rows["response"], ours["text"].looks.by_rows["response"], atol=1e-5)
    assert not torch.allclose(plain["audio"].looks.by_rows["query"], ours["audio"].looks.by_rows["query"], atol=1e-3)


def test_looks_are_those_of_the_analysis(parts, spoken):
    model, processor = parts
    for modality, found in answer(model, processor, spoken, MODALITIES, TOKENS).items():
        item = paired_item(processor, replace(spoken, answer=found.text))
        assert item.response_ids == _ids(processor, found)
        batch = send_to_device(PairedCollator(processor)([item]), model.device)
        question, layers = text_query(processor, spoken, item), range(found.looks.layers)
        expected = attention_of_batch(model, batch, [question], layers)[modality][0]
        assert found.looks.by_rows["query"].flatten(1).tolist() == [
            pytest.approx(expected.maps[layer], abs=1e-6) for layer in layers
        ]
        for at, rows in enumerate(ROWS):
            share_L = expected.share_LHGK.mean(1)[:, at, KEYS.index("image")]
            assert torch.allclose(found.looks.by_rows[rows].sum((1, 2)), share_L, atol=1e-5)


@pytest.mark.parametrize("name", NATIVE)
def test_native_models_are_asked_as_well(name, spoken):
    vlm, vlm_processor = NATIVE[name]()
    found = answer(OmniModel.from_native(vlm).eval(), OmniProcessor(vlm_processor), spoken, MODALITIES, 4)
    for one in found.values():
        assert all(token.probability >= p - 1e-4 for token in one.tokens for _, p in token.others), "greedy"
        if name == "Gemma 4":  # it gives patches one by one
            assert "no one grid" in one.looks
        else:
            assert isinstance(one.looks, AttentionMaps) and one.looks.layers == len(vlm.get_decoder().layers)
            assert one.looks.by_rows["response"].min() >= 0


def test_a_picture_of_several_tiles_is_answered_and_not_drawn(session):
    answered, _ = session.ask(png(256, 128), "What color is it?", None, None, VOICE)
    found = answered.answers["one"]["text"]
    assert found.text and "tiles" in found.looks and answered.layers == 0
    assert "tiles" in attention_html(answered, "query", 1)


def test_sound_without_speech_is_answered_with_whatever_comes(session):
    """Ears that hear tokens hear none; there is no question whose attention could be drawn. Silence is refused."""
    with pytest.raises(InputError, match="Speech: silent"):
        session.ask(png(64, 64), "", encoded(np.zeros(16_000), 16_000), None, VOICE)
    bundled = Session(session.config, {"bundled": load_tiny_model()}, session.transcriber)
    answered, _ = bundled.ask(png(64, 64), "", encoded(HUM, 16_000), None, VOICE)
    assert answered.answers["bundled"]["audio"].tokens and answered.transcript == ""
    assert "no token" in attention_html(answered, "query", 1) and "nothing" in answers_html(answered)


def test_an_answer_that_is_cut_off_says_so(parts, spoken):
    found = answer(*parts, spoken, ["text"], 1)["text"]
    assert len(found.tokens) == 1 and not found.has_ended


# what is spoken for whom


def test_the_speech_follows_the_words(session):
    image = ready_examples()[0].image
    answered, said = session.ask(image, "What color is the star?", None, None, VOICE)
    assert answered.transcript and set(answered.answers["one"]) == set(MODALITIES)
    assert session.ask(image, "What color is the star?", said.wav, said, VOICE)[1] is said, "nothing new to say"
    again = session.ask(image, "What color is the circle?", said.wav, said, VOICE)[1]
    assert again.text == "What color is the circle?" and again.wav != said.wav
    assert session.ask(image, "What color is the star?", said.wav, said, "en-US+f2")[1].voice == "en-US+f2"


def test_ones_own_recording_is_left_alone(session):
    own = encoded(tone(1.0), 48_000)
    answered, said = session.ask(ready_examples()[0].image, "", own, None, VOICE)
    assert said is None and list(answered.answers["one"]) == ["audio"] and answered.question == ""
    assert "Type the question as well" in answers_html(answered)


def test_right_and_wrong_where_it_is_known(session):
    ready = ready_examples()[1]
    answered, _ = session.ask(ready.image, ready.question, None, None, VOICE)
    assert answered.is_right(answered.answers["one"]["text"]) is True
    assert ">right<" in answers_html(answered) and ready.target in answers_html(answered)
    # one question is no gap: too few, and of one that is not answered in writing there is none
    assert "One question says nothing of the gap: too few images (1, a verdict takes 10)." in answers_html(answered)
    wrong = replace(answered, ready=replace(ready, target="no such colour"))
    assert "The text modality is at chance: there is no gap to measure." in answers_html(wrong)
    other, _ = session.ask(ready.image, "Is there a star?", None, None, VOICE)
    assert other.is_right(other.answers["one"]["text"]) is None


def test_ready_examples_are_of_the_test_split_and_differ():
    ready = ready_examples()
    assert all(e.id.startswith("world-test") and e.target for e in ready)
    assert len({e.question_type for e in ready}) == len(ready) >= 5


# what is refused


WAV = encoded(tone(0.5), SAMPLE_RATE_HZ)
REFUSED = {
    "nothing at all": (None, "", None, "Picture: choose"),
    "no picture": (None, "What?", WAV, "Picture: choose"),
    "no question": (png(8, 8), "  ", None, "Question: type it, or speak it"),
    "no picture in it": (b"GIF89a nonsense", "What?", None, "Picture: not a readable picture"),
    "a picture cut short": (png(64, 64)[:80], "What?", None, "Picture: not a readable picture"),
    "an SVG": (b"<svg/>", "What?", None, "Picture: not a readable picture"),
    "a giant picture": (png(4000, 5001), "What?", None, "Picture: 4000 x 5001 pixels are too many"),
    "no sound in it": (png(8, 8), "What?", b"RIFF....WAVEnonsense", "Speech: not readable sound"),
    "an empty file": (png(8, 8), "What?", b"", "Speech: not a WAV, FLAC, MP3, Ogg"),
    "another format": (png(8, 8), "What?", b"%PDF", "Speech: not a WAV, FLAC, MP3, Ogg"),
    "silence of no length": (png(8, 8), "", encoded(np.zeros(0), 16_000), "Speech: 0.000 s of sound is too short"),
    "31 seconds": (png(8, 8), "", encoded(tone(31), 16_000), "Speech: over the limit of 30 s"),
    "20,000 letters": (png(8, 8), "x" * 20_000, None, "Question: 20000 letters are too many"),
    "nothing of it can be spoken": (png(8, 8), "\N{ZERO WIDTH SPACE}", None, "nothing of it can be spoken"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(session, name):
    image, question, audio, words = REFUSED[name]
    with pytest.raises(InputError, match=words.replace("|", r"\|")) as error:
        session.ask(image, question, audio, None, VOICE)
    assert len(str(error.value)) < 200


def test_a_question_beyond_the_context(session, monkeypatch):
    monkeypatch.setattr(session.models["one"][0].config.get_text_config(), "max_position_embeddings", 40)
    with pytest.raises(InputError, match="do not fit the model's context"):
        session.ask(png(8, 8), "Is there a star? " * 8, None, None, VOICE)


def test_speaking_needs_words():
    tts_engine = EspeakEngine()
    with pytest.raises(InputError, match="Question: type one first"):
        say(tts_engine, " ", VOICE)
    with pytest.raises(InputError, match="too many"):
        say(tts_engine, "a " * MAX_CHARACTERS, VOICE)
    with pytest.raises(InputError, match="no voice"):
        say(tts_engine, "a", "nobody")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"host": "0.0.0.0"}, "host: 0.0.0.0: the page has no login"),
        ({"port": 70_000}, "port: 70000"),
        ({"models": ["a", "b", "c"]}, "models: 3 do not fit"),
        ({"max_new_tokens": 0}, "max_new_tokens: 0"),
        ({"max_audio_seconds": 31.0}, "max_audio_seconds: 31.0"),
    ],
)
def test_settings_that_cannot_be(fields, words):
    with pytest.raises(InputError, match=words):
        AppConfig(**fields)


def test_a_page_from_elsewhere_is_refused(tmp_path, monkeypatch):
    """Uploads are forms, which a browser sends anywhere without asking; `null` is what a page from a file sends."""
    from starlette.testclient import TestClient

    from selfkd.app.app import PageServer

    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    server = PageServer(Session(AppConfig(), {}, None), tmp_path)
    here = "http://127.0.0.1:7860"
    codes = {"http://evil.example": 403, "http://127.0.0.1:8888": 403, "null": 403, here: 200, None: 200}
    with TestClient(server.config.app, base_url=here) as client:
        for origin, code in codes.items():
            headers = {} if origin is None else {"Origin": origin}
            found = client.post("/gradio_api/upload", files={"files": ("x.png", b"x")}, headers=headers)
            assert found.status_code == code, origin
        assert client.get("/").status_code == 200
        assert client.get("/", headers={"Host": "evil.example"}).status_code == 400


def test_without_gradio_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "selfkd.app.app", raising=False)
    monkeypatch.delitem(sys.modules, "selfkd.app.ui", raising=False)
    with pytest.raises(InputError, match=r"gradio.*pip install 'selfkd\[app\]'"):
        app(AppConfig())


def test_a_model_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="no checkpoint there"):
        Session.load(AppConfig(models=[str(tmp_path / "none")]))


# what is shown


def test_what_was_typed_is_escaped(session):
    answered, _ = session.ask(png(8, 8), '<b>What</b> & "why"?', None, None, VOICE)
    page = answers_html(replace(answered, transcript="<i>"))
    assert "<b>What" not in page and "&lt;b&gt;What&lt;/b&gt;" in page and "<i>" not in page.replace("<i>end</i>", "")
    assert "no recogniser" in answers_html(replace(answered, transcript=None))


def test_a_photograph_is_turned_as_it_says():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    buffer = io.BytesIO()
    Image.new("RGB", (40, 20), "red").save(buffer, format="JPEG", exif=exif)
    example = parse_query(buffer.getvalue(), "What?", None, AppConfig(), [])
    assert example.load_image().size == (20, 40)


def test_the_shade_is_darkest_where_there_is_no_attention():
    mask = np.asarray(shade(torch.tensor([[0.0, 0.1], [0.2, 0.4]]), 0.2))
    assert mask[..., 0].max() == 0
    assert mask[..., 1].tolist() == [[round(255 * DARKEST), round(255 * DARKEST / 2)], [0, 0]]


def test_the_bundled_recogniser_is_for_bundled_ears(parts, monkeypatch):
    assert hears_as_bundled(parts[0])
    monkeypatch.setattr(parts[0].config.audio_config, "d_model", 384)
    assert not hears_as_bundled(parts[0])
    monkeypatch.setattr(parts[0].config, "audio_config", None)
    assert not hears_as_bundled(parts[0])
