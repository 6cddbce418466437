"""The app without its page: exact probabilities, the attention maps of the analysis, messages for invalid input."""

import io
import sys
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from accelerate.utils import send_to_device
from examples import tone
from native_models import NATIVE
from PIL import Image
from serving import audio_file, png_bytes

from selfkd.analysis.attention import ROWS, attention_of_batch
from selfkd.analysis.forward import KEYS, text_query
from selfkd.app.app import app
from selfkd.app.config import AppConfig
from selfkd.app.inference import MAX_OPACITY, AttentionMaps, attention_overlay, generate_responses
from selfkd.app.results_html import attention_html, responses_html
from selfkd.app.session import (
    MAX_CHARACTERS,
    VOICES,
    Session,
    builtin_examples,
    parse_query,
    read_aloud,
    synthesize_query,
)
from selfkd.data.example import SAMPLE_RATE_HZ, Example
from selfkd.errors import InputError
from selfkd.evaluation.backends.local import predict_modalities
from selfkd.evaluation.backends.transcriber import Transcriber
from selfkd.model.lora import adapter_parameters
from selfkd.model.modeling_omni import OmniModel
from selfkd.model.processing_omni import OmniProcessor
from selfkd.model.tiny import has_tiny_llm, load_tiny_model
from selfkd.serving.isolated import IsolatedProcess
from selfkd.synthesis.tts.base import EspeakEngine
from selfkd.training.align import AlignConfig, assemble
from selfkd.training.data import MODALITIES, PairedCollator, modality_prompts, paired_item

TOKENS = 12
MAINS_HUM = 0.01 * np.sin(2 * np.pi * 50 * np.arange(16_000) / 16_000)  # no speech
VOICE = next(iter(VOICES.values()))

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def query():
    """A built-in example with synthesized audio."""
    tts_engine, example = EspeakEngine(), builtin_examples()[3]
    clip = synthesize_query(tts_engine, example.question, VOICE)
    return parse_query(example.image, example.question, clip.wav, AppConfig(), [], IsolatedProcess(600_000_000))


@pytest.fixture(scope="module")
def session(parts):
    return Session(AppConfig(max_new_tokens=TOKENS), {"one": parts}, Transcriber.from_pretrained())


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    """A model with non-zero adapters."""
    model, processor = assemble(AlignConfig([], tmp_path_factory.mktemp("adapted"), projector="stack"))
    model.add_llm_adapters(r=4, lora_alpha=8)
    torch.manual_seed(0)
    for parameter in adapter_parameters(model.vlm):
        parameter.data.normal_(std=0.2)
    return model.eval(), processor


def both(example):
    """A first query, in both modalities."""
    return dict.fromkeys(MODALITIES, example)


def test_probabilities_equal_those_of_a_plain_forward_pass(parts, query):
    model, processor = parts
    responses = generate_responses(model, processor, both(query), TOKENS)
    for modality, prompt in zip(
        MODALITIES,
        modality_prompts(processor, query, MODALITIES, processor.encode_image(query.load_image())),
        strict=True,
    ):
        prediction, tokens = (
            predict_modalities(model, processor, [query], [modality], TOKENS)[modality][0].text,
            responses[modality].tokens,
        )
        assert responses[modality].text == prediction, "evaluation grades the same response"
        ids = response_ids(processor, responses[modality])
        whole = torch.tensor([[*prompt.prefix_ids, *prompt.suffix_ids, *ids[:-1]]])
        with torch.no_grad():
            audio = prompt.audio_inputs if modality == "audio" else {}
            logits = model(whole, torch.ones_like(whole), **audio, **prompt.image_inputs).logits[0, -len(ids) :]
        probabilities = logits.softmax(-1)
        assert probabilities.argmax(-1).tolist() == ids, "greedy decoding takes the most likely token"
        for token, id_, row in zip(tokens, ids, probabilities, strict=True):
            assert token.probability == pytest.approx(float(row[id_]), abs=1e-4)
            best = row.topk(len(token.alternatives) + 1).values[1:].tolist()
            assert [p for _, p in token.alternatives] == pytest.approx(best, abs=1e-4)


def response_ids(processor, response):
    """Token ids of a response, from the texts of its tokens."""
    ids = [processor.ids(token.text) for token in response.tokens]
    assert all(len(one) == 1 for one in ids)
    return [one[0] for one in ids]


def test_adapters_do_not_change_the_text_query(parts, adapted, query):
    base, with_adapters = (generate_responses(*of, both(query), TOKENS) for of in (parts, adapted))
    assert [t.text for t in base["text"].tokens] == [t.text for t in with_adapters["text"].tokens]
    for a, b in zip(base["text"].tokens, with_adapters["text"].tokens, strict=True):
        assert a.probability == pytest.approx(b.probability, abs=1e-5)
    maps = [both["text"].attention.by_rows["response"] for both in (base, with_adapters)]
    assert torch.allclose(*maps, atol=1e-5)
    maps = [both["audio"].attention.by_rows["query"] for both in (base, with_adapters)]
    assert not torch.allclose(*maps, atol=1e-3)


def test_attention_maps_equal_those_of_the_analysis(parts, query):
    model, processor = parts
    for modality, response in generate_responses(model, processor, both(query), TOKENS).items():
        item = paired_item(processor, replace(query, answer=response.text))
        assert item.response_ids == response_ids(processor, response)
        batch = send_to_device(PairedCollator(processor)([item]), model.device)
        question, layers = text_query(processor, query, item), range(response.attention.layers)
        expected = attention_of_batch(model, batch, [question], layers)[modality][0]
        assert response.attention.by_rows["query"].flatten(1).tolist() == [
            pytest.approx(expected.maps[layer], abs=1e-6) for layer in layers
        ]
        for at, rows in enumerate(ROWS):
            share_L = expected.share_LHGK.mean(1)[:, at, KEYS.index("image")]
            assert torch.allclose(response.attention.by_rows[rows].sum((1, 2)), share_L, atol=1e-5)


@pytest.mark.parametrize("name", NATIVE)
def test_native_models(name, query):
    vlm, vlm_processor = NATIVE[name]()
    model, processor = OmniModel.from_native(vlm).eval(), OmniProcessor(vlm_processor)
    responses = generate_responses(model, processor, both(query), 4)
    for response in responses.values():
        assert all(token.probability >= p - 1e-4 for token in response.tokens for _, p in token.alternatives), "greedy"
        if name == "Gemma 4":  # its patches have no grid
            assert "no single grid" in response.attention
        else:
            assert isinstance(response.attention, AttentionMaps)
            assert response.attention.layers == len(vlm.get_decoder().layers)
            assert response.attention.by_rows["response"].min() >= 0


def test_tiled_image_has_a_response_but_no_attention_map(session):
    result, _ = session.run(png_bytes(256, 128), "What color is it?", None, None, VOICE)
    response = result.responses["one"]["text"]
    assert response.text and "tiles" in response.attention and result.layers == 0
    assert "tiles" in attention_html(result, "query", 1)


def test_audio_without_speech(session):
    """A CTC projector finds no token, so there is no question whose attention could be shown. Silence is refused."""
    with pytest.raises(InputError, match="Audio: silent"):
        session.run(png_bytes(64, 64), "", audio_file(np.zeros(16_000), 16_000), None, VOICE)
    bundled = Session(session.config, {"bundled": load_tiny_model()}, session.transcriber)
    result, _ = bundled.run(png_bytes(64, 64), "", audio_file(MAINS_HUM, 16_000), None, VOICE)
    assert result.responses["bundled"]["audio"].tokens and result.transcript == ""
    assert "no token" in attention_html(result, "query", 1) and "(empty)" in responses_html(result)


def test_response_at_the_token_limit_is_incomplete(parts, query):
    response = generate_responses(*parts, {"text": query}, 1)["text"]
    assert len(response.tokens) == 1 and not response.is_complete


# synthesized audio


def test_audio_is_synthesized_again_when_text_or_voice_changes(session):
    image = builtin_examples()[0].image
    result, clip = session.run(image, "What color is the star?", None, None, VOICE)
    assert result.transcript and set(result.responses["one"]) == set(MODALITIES)
    assert session.run(image, "What color is the star?", clip.wav, clip, VOICE)[1] is clip, "same text and voice"
    again = session.run(image, "What color is the circle?", clip.wav, clip, VOICE)[1]
    assert again.text == "What color is the circle?" and again.wav != clip.wav
    assert session.run(image, "What color is the star?", clip.wav, clip, "en-US+f2")[1].voice == "en-US+f2"


def test_own_recording_is_not_replaced(session):
    recording = audio_file(tone(1.0), 48_000)
    result, clip = session.run(builtin_examples()[0].image, "", recording, None, VOICE)
    assert clip is None and list(result.responses["one"]) == ["audio"] and result.question == ""
    assert "type the question to compare" in responses_html(result)


def test_correct_and_wrong_responses_of_a_builtin_example(session):
    example = builtin_examples()[1]
    result, _ = session.run(example.image, example.question, None, None, VOICE)
    assert result.is_correct(result.responses["one"]["text"]) is True
    assert ">correct<" in responses_html(result) and example.target in responses_html(result)
    assert "One question does not measure the gap: too few images (1, a verdict takes 10)." in responses_html(result)
    wrong = replace(result, example=replace(example, target="no such colour"))
    assert "The text modality is at chance: there is no gap to measure." in responses_html(wrong)
    other, _ = session.run(example.image, "Is there a star?", None, None, VOICE)
    assert other.is_correct(other.responses["one"]["text"]) is None


def test_builtin_examples_are_of_the_test_split_and_differ():
    examples = builtin_examples()
    assert all(e.id.startswith("world-test") and e.target for e in examples)
    assert len({e.question_type for e in examples}) == len(examples) >= 5


# invalid input


WAV = audio_file(tone(0.5), SAMPLE_RATE_HZ)
REFUSED = {
    "no input": (None, "", None, "Image: choose"),
    "no image": (None, "What?", WAV, "Image: choose"),
    "no question": (png_bytes(8, 8), "  ", None, "Question: type it, or record it"),
    "not an image": (b"GIF89a nonsense", "What?", None, "Image: not a readable"),
    "a truncated image": (png_bytes(64, 64)[:80], "What?", None, "Image: not a readable"),
    "an SVG": (b"<svg/>", "What?", None, "Image: not a readable"),
    "a large image": (png_bytes(4000, 5001), "What?", None, "Image: 4000 x 5001 pixels are too many"),
    "not audio": (png_bytes(8, 8), "What?", b"RIFF....WAVEnonsense", "Audio: not readable"),
    "an empty file": (png_bytes(8, 8), "What?", b"", "Audio: not a WAV, FLAC, MP3, Ogg"),
    "another format": (png_bytes(8, 8), "What?", b"%PDF", "Audio: not a WAV, FLAC, MP3, Ogg"),
    "audio of no length": (png_bytes(8, 8), "", audio_file(np.zeros(0), 16_000), "Audio: 0.000 s of .* is too short"),
    "31 seconds": (png_bytes(8, 8), "", audio_file(tone(31), 16_000), "Audio: over the limit of 30 s"),
    "20,000 characters": (png_bytes(8, 8), "x" * 20_000, None, "Question: 20000 characters exceed the limit of 600"),
    "not pronounceable": (png_bytes(8, 8), "\N{ZERO WIDTH SPACE}", None, "no words to synthesize"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_invalid_query_is_refused(session, name):
    image, question, audio, message = REFUSED[name]
    with pytest.raises(InputError, match=message.replace("|", r"\|")) as error:
        session.run(image, question, audio, None, VOICE)
    assert len(str(error.value)) < 200


def test_question_beyond_the_context(session, monkeypatch):
    monkeypatch.setattr(session.models["one"][0].config.get_text_config(), "max_position_embeddings", 40)
    with pytest.raises(InputError, match="do not fit the model's context"):
        session.run(png_bytes(8, 8), "Is there a star? " * 8, None, None, VOICE)


def test_synthesis_needs_valid_text_and_voice():
    tts_engine = EspeakEngine()
    with pytest.raises(InputError, match="Question: type one first"):
        synthesize_query(tts_engine, " ", VOICE)
    with pytest.raises(InputError, match="exceed the limit"):
        synthesize_query(tts_engine, "a " * MAX_CHARACTERS, VOICE)
    with pytest.raises(InputError, match="no voice"):
        synthesize_query(tts_engine, "a", "nobody")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"host": "0.0.0.0"}, "host: 0.0.0.0: the page has no login"),
        ({"port": 70_000}, "port: 70000"),
        ({"models": ["a", "b", "c"]}, "models: 3 are too many"),
        ({"max_new_tokens": 0}, "max_new_tokens: 0"),
        ({"max_audio_seconds": 31.0}, "max_audio_seconds: 31.0"),
    ],
)
def test_invalid_settings(fields, message):
    with pytest.raises(InputError, match=message):
        AppConfig(**fields)


def test_requests_of_other_origins_are_refused(tmp_path, monkeypatch):
    """Uploads are forms, which a browser sends without a CORS preflight; a page from a file has the origin `null`."""
    from starlette.testclient import TestClient

    from selfkd.app.server import PageServer

    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    server = PageServer(Session(AppConfig(), {}, None), tmp_path)
    here = "http://127.0.0.1:7860"
    codes = {"http://evil.example": 403, "http://127.0.0.1:8888": 403, "null": 403, here: 200, None: 200}
    with TestClient(server.config.app, base_url=here) as client:
        for origin, code in codes.items():
            headers = {} if origin is None else {"Origin": origin}
            response = client.post("/gradio_api/upload", files={"files": ("x.png", b"x")}, headers=headers)
            assert response.status_code == code, origin
        assert client.get("/").status_code == 200
        assert client.get("/", headers={"Host": "evil.example"}).status_code == 400


def test_missing_gradio_is_reported_with_the_extra_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "selfkd.app.server", raising=False)
    monkeypatch.delitem(sys.modules, "selfkd.app.ui", raising=False)
    with pytest.raises(InputError, match=r"gradio.*pip install 'selfkd\[app\]'"):
        app(AppConfig())


def test_missing_model(tmp_path):
    with pytest.raises(InputError, match="no checkpoint there"):
        Session.load(AppConfig(models=[str(tmp_path / "none")]))


# the page


def test_user_text_is_escaped(session):
    result, _ = session.run(png_bytes(8, 8), '<b>What</b> & "why"?', None, None, VOICE)
    page = responses_html(replace(result, transcript="<i>"))
    assert "<b>What" not in page and "&lt;b&gt;What&lt;/b&gt;" in page and "<i>" not in page.replace("<i>end</i>", "")
    assert "no ASR model" in responses_html(replace(result, transcript=None))


def test_words_that_the_transcript_has_otherwise_are_marked(session):
    result, _ = session.run(png_bytes(8, 8), "Is <b>it</b> teal?", None, None, VOICE)
    page = responses_html(replace(result, transcript="is <b>it</b> feel"))
    assert "<del>teal?</del>" in page and "<ins>feel</ins>" in page and "1 word error<" in page
    assert "<b>it</b>" not in page
    assert "the same words" in responses_html(replace(result, transcript="is <b>it</b> teal"))
    for unpaired in (replace(result, transcript=""), replace(result, question="", transcript="feel")):
        assert "<del>" not in responses_html(unpaired) and "word error" not in responses_html(unpaired)


def test_responses_are_read_aloud_if_wanted(session):
    example = builtin_examples()[1]
    plain, _ = session.run(example.image, example.question, None, None, VOICE)
    assert plain.clips == {} and "<audio" not in responses_html(plain)
    read, _ = session.run(example.image, example.question, None, None, VOICE, reads_aloud=True)
    assert set(read.clips) == {("one", "text"), ("one", "audio")}
    samples, rate_hz = soundfile.read(io.BytesIO(read.clips["one", "text"]))
    read_back = Example("x", "", "", "", "", "").with_audio(samples.astype(np.float32), "")
    assert rate_hz == SAMPLE_RATE_HZ
    transcript = session.transcriber.transcribe([read_back])[0].strip().lower()
    assert transcript == read.responses["one"]["text"].text.strip().lower().rstrip(".")
    assert responses_html(read).count("<audio") == 2
    # a response that no voice can say
    assert read_aloud(session.tts_engine, "", VOICE) and read_aloud(session.tts_engine, "☃☃", VOICE)
    page = responses_html(replace(read, clips={("one", "text"): read_aloud(session.tts_engine, "<b>☃", VOICE)}))
    assert "Not read aloud: " in page and "<audio" not in page


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    buffer = io.BytesIO()
    Image.new("RGB", (40, 20), "red").save(buffer, format="JPEG", exif=exif)
    example = parse_query(buffer.getvalue(), "What?", None, AppConfig(), [], IsolatedProcess(600_000_000))
    assert example.load_image().size == (20, 40)


def test_overlay_is_opaque_without_attention():
    mask = np.asarray(attention_overlay(torch.tensor([[0.0, 0.1], [0.2, 0.4]]), 0.2))
    assert mask[..., 0].max() == 0
    assert mask[..., 1].tolist() == [[round(255 * MAX_OPACITY), round(255 * MAX_OPACITY / 2)], [0, 0]]


def test_has_tiny_llm(parts, monkeypatch):
    assert has_tiny_llm(parts[0].config)
    monkeypatch.setattr(parts[0].config.get_text_config(), "vocab_size", 49152)
    assert not has_tiny_llm(parts[0].config)
