"""TTS engines behind one interface: their audio, and what happens when one hangs, dies or is not installed."""

import gzip
import importlib.util
import io
import json
import os
import shutil
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar
from urllib.error import HTTPError

import numpy as np
import pytest
import soundfile
from examples import tone, toy_examples
from faulty_engine import FaultyEngine

from selfkd.check_data import CheckConfig, check
from selfkd.data.dataset import ExampleFolder
from selfkd.errors import EngineError, InputError
from selfkd.synthesis.quality_filter import ASRFilter, check_audio, token_limit, word_error_rate
from selfkd.synthesis.synthesize import SynthesizeConfig, synthesize
from selfkd.synthesis.tts.base import EspeakEngine, Utterance
from selfkd.synthesis.tts.registry import RecordedEngine, open_engine, weighted_voices
from selfkd.synthesis.workers import IsolatedEngine

MODELS = Path(os.environ.get("SELFKD_MODELS", "/nowhere"))


def needs(name):
    return pytest.mark.skipif(
        not (MODELS / name / "DONE").is_file(), reason=f"SELFKD_MODELS names no folder with {name}"
    )


def test_an_engine_that_hangs_dies_or_fails_costs_one_row():
    tts_engine = IsolatedEngine(FaultyEngine, (), time_limit_seconds=1.0)
    for text, reason in (
        ("hang", "no audio in 1 s"),
        ("die", r"died on this row \(exit code 7\)"),
        ("fail", "KeyError"),
    ):
        with pytest.raises(InputError, match=f"engine: {reason}"):
            tts_engine.synthesize_audio(Utterance(text, "v"))
        assert len(tts_engine.synthesize_audio(Utterance("well", "v"))) == 8_000
    tts_engine.close()
    with pytest.raises(EngineError, match="nothing there"):
        IsolatedEngine(FaultyEngine, (False,), 1.0).synthesize_audio(Utterance("well", "v"))


def test_the_result_of_an_interrupted_row_is_not_that_of_the_next(monkeypatch):
    tts_engine = IsolatedEngine(EspeakEngine, (), 60)
    first, second = Utterance("What is it?", "en-US+m1"), Utterance("Is it red or blue?", "en-US+m1")
    expected = tts_engine.synthesize_audio(second)
    poll = Connection.poll

    def stopped(pipe, seconds):
        poll(pipe, seconds)
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(Connection, "poll", stopped)
    with pytest.raises(KeyboardInterrupt):
        tts_engine.synthesize_audio(first)
    assert np.array_equal(tts_engine.synthesize_audio(second), expected)
    tts_engine.close()


def test_voices_have_weights_and_a_language():
    tts_engine = EspeakEngine()
    assert weighted_voices("en-US+m1:3, en-GB-scotland+f3", tts_engine, "en") == {
        "en-US+m1": 3.0,
        "en-GB-scotland+f3": 1.0,
    }
    assert weighted_voices("de+m1", tts_engine, "de-DE") == {"de+m1": 1.0}
    with pytest.raises(InputError, match=r"'de\+m1' speaks de, the questions are in en"):
        weighted_voices("de+m1", tts_engine, "en")
    with pytest.raises(
        InputError, match=r"unknown voice 'en-us\+andi'; did you mean 'en-US\+Andy'\? there are 'training'"
    ):
        weighted_voices("en-us+andi", tts_engine, "en")
    with pytest.raises(InputError, match=r"accents en, en-029, .*; variants Alex, .* and \d+ more$") as caught:
        weighted_voices("x", tts_engine, "en")
    assert "did you mean" not in str(caught.value)
    with pytest.raises(InputError, match="voices: all weigh 0"):
        weighted_voices("en-US+m1:0", tts_engine, "en")
    german = tts_engine.synthesize_audio(Utterance("Wie viele Kreise sind rot?", "de+m1"))
    assert len(german) > 16_000 and not np.array_equal(
        german, tts_engine.synthesize_audio(Utterance("Wie viele Kreise sind rot?", "en-US+m1"))
    )


class Endpoint(BaseHTTPRequestHandler):
    """`/v1/audio/speech` as OpenAI's: a tone at 24 kHz, and errors by the name of the model or voice."""

    requests: ClassVar[list] = []

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.requests.append(body)
        if len(self.requests) == 1:
            self.send_response(500)
            self.end_headers()
            return
        if body["model"] == "locked":
            self.send_response(401)
            self.end_headers()
            return
        if body["model"] == "slow":
            time.sleep(4)
            return
        if body["model"] in ("429", "500", "503"):
            self.send_response(int(body["model"]))
            self.send_header("retry-after-ms", "1")
            self.end_headers()
            return
        if body["model"] == "huge":
            self.send_response(200)
            self.send_header("content-encoding", "gzip")
            self.end_headers()
            self.wfile.write(gzip.compress(bytes(64_000_000)))
            return
        if body["voice"] == "nobody":
            self.send_response(400)
            self.end_headers()
            self.wfile.write(b'{"error": {"message": "no such voice"}}')
            return
        buffer = io.BytesIO()
        soundfile.write(buffer, np.resize(tone(2.0), 48_000), 24_000, format="WAV")
        self.send_response(200)
        self.end_headers()
        self.wfile.write(buffer.getvalue())

    def log_message(self, *_):
        pass


def test_an_openai_compatible_endpoint(tmp_path):
    """The official client sends requests and retries failures of the server; its audio is resampled to 16 kHz."""
    pytest.importorskip("openai")
    Endpoint.requests = []
    server = HTTPServer(("127.0.0.1", 0), Endpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/v1"
    (tmp_path / "q.jsonl").write_text('{"id": "a", "question": "How many of the 3 are red?", "answer": "Two."}')
    config = SynthesizeConfig(
        tmp_path / "out", "jsonl", str(tmp_path / "q.jsonl"), count=0, processes=1,
        engine="openai", engine_path=url, engine_model="some-tts", voices="nova", rate_wpm=(175, 175),
    )  # fmt: skip
    manifest = synthesize(config)
    assert manifest["engine_name"] == f"some-tts at {url}" and manifest["rejected"] == []
    (example,) = ExampleFolder(config.output)
    assert (example.voice, example.duration_seconds) == ("nova", 2.0)
    assert (
        Endpoint.requests[-1]["input"] == "How many of the three are red?"
        and Endpoint.requests[-1]["model"] == "some-tts"
    )
    with pytest.raises(InputError, match="no such voice"):
        open_engine("openai", url).synthesize_audio(Utterance("well", "nobody"))
    with pytest.raises(InputError, match="more than 32 MB"):
        open_engine("openai", url, "huge").synthesize_audio(Utterance("well", "nova"))
    # no key, no server: an error of no row, so none is rejected for it and the same command resumes
    locked = replace(config, output=tmp_path / "locked", engine_model="locked")
    with pytest.raises(EngineError, match=r"engine: locked at http.*401"):
        synthesize(locked)
    assert not any(locked.output.iterdir())
    # the same data from another address, or with a longer time limit
    assert synthesize(replace(config, engine_path=f"{url}/", time_limit_seconds=90))["rows"] == 1
    with pytest.raises(InputError, match="holds other data"):
        synthesize(replace(config, engine_model="another"))
    # the server's own voices; without its address they are OpenAI's
    assert weighted_voices("af_heart, it's me:2", open_engine("openai", url), "de") == {"af_heart": 1, "it's me": 2}
    for model in ("", "espeak-ng"):
        assert "nova" in weighted_voices("training", open_engine("openai", url, model), "en")
    for names, where in (("af_heart", ""), ("nova,", url), ("", url)):
        with pytest.raises(InputError, match="voices: unknown voice"):
            weighted_voices(names, open_engine("openai", where), "en")
    server.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize("model", ["429", "500", "503", "slow"])
def test_a_server_without_a_response_stops_the_job_and_costs_no_row(tmp_path, model):
    pytest.importorskip("openai")
    Endpoint.requests = [{}]
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (tmp_path / "q.jsonl").write_text('{"id": "a", "question": "How many of the 3 are red?", "answer": "Two."}')
    config = SynthesizeConfig(
        tmp_path / "out", "jsonl", str(tmp_path / "q.jsonl"), count=0, processes=1, engine="openai",
        engine_path=f"http://127.0.0.1:{server.server_port}/v1", engine_model=model, voices="mine",
        time_limit_seconds=2 if model == "slow" else 60,
    )  # fmt: skip
    with pytest.raises(EngineError, match="no audio in 2 s" if model == "slow" else f"engine: {model} at .*{model}"):
        synthesize(config)
    assert not any(config.output.iterdir())
    server.shutdown()


def test_piper():
    """The real engine with a tiny voice that hums (see its folder)."""
    pytest.importorskip("piper")
    tts_engine = open_engine("piper", str(Path(__file__).parents[2] / "fixtures" / "piper"))
    assert weighted_voices("training", tts_engine, "en") == {"en_US-hum-low": 1.0}
    with pytest.raises(InputError, match="'en_US-hum-low' speaks en-us, the questions are in de"):
        weighted_voices("en_US-hum-low", tts_engine, "de")
    with pytest.raises(InputError, match="voices: Piper has none that speaks de"):
        weighted_voices("training", tts_engine, "de")
    with pytest.raises(InputError, match="voices: 'heldout' are voices of espeak-ng; name some of Piper's"):
        weighted_voices("heldout", tts_engine, "en")
    question = Utterance("Is there a red bus?", "en_US-hum-low")
    samples = tts_engine.synthesize_audio(question)
    assert np.array_equal(samples, tts_engine.synthesize_audio(question)) and 0.5 < np.abs(samples).max() <= 0.91
    assert not np.array_equal(samples, tts_engine.synthesize_audio(replace(question, text="Is there a bed, Russ?")))
    assert len(tts_engine.synthesize_audio(replace(question, rate_wpm=350))) == pytest.approx(
        len(samples) / 2, rel=0.02
    )
    with pytest.raises(InputError, match="Piper has no voice 'nobody'"):
        tts_engine.synthesize_audio(replace(question, voice="nobody"))
    with pytest.raises(InputError, match="Piper gives no audio"):
        tts_engine.synthesize_audio(replace(question, text="..."))


def test_piper_voices_are_downloaded_by_name_once(tmp_path, monkeypatch):
    """Piper's own downloader, from a copy of its repository's layout."""
    pytest.importorskip("piper")
    published = Path(__file__).parents[2] / "fixtures" / "piper"
    requested = []

    def urlopen(url):
        requested.append(url)
        folder, _, name = url.partition("?")[0].rpartition("/")
        if not folder.endswith("rhasspy/piper-voices/resolve/main/en/en_US/hum/low"):
            raise HTTPError(url, 404, "Not Found", None, None)
        return (published / name).open("rb")

    monkeypatch.setattr("piper.download_voices.urlopen", urlopen)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tts_engine = open_engine("piper", "")
    with pytest.raises(InputError, match="Piper has none that speaks en; name one, as en_US-lessac-medium"):
        weighted_voices("training", tts_engine, "en")
    with pytest.raises(InputError, match=r"voices: en_US-hun-low: cannot be downloaded \(.*404.*--engine_path FOLDER"):
        weighted_voices("en_US-hun-low", tts_engine, "en")
    assert not list((tmp_path / "selfkd" / "piper").iterdir())
    requested.clear()
    for _ in range(2):
        assert weighted_voices("en_US-hum-low", open_engine("piper", ""), "en") == {"en_US-hum-low": 1.0}
    assert len(requested) == 2 and sorted(p.name for p in (tmp_path / "selfkd" / "piper").iterdir()) == [
        "en_US-hum-low.onnx",
        "en_US-hum-low.onnx.json",
    ]
    assert len(open_engine("piper", "").synthesize_audio(Utterance("Is there a red bus?", "en_US-hum-low"))) > 8_000
    with pytest.raises(InputError, match="unknown voice 'hum'; Piper has en_US-hum-low"):
        weighted_voices("hum", open_engine("piper", str(published)), "en")
    assert len(requested) == 2, "a folder of the user's is not written to"


def test_an_engine_that_is_not_installed_is_an_error_at_once(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="holds no voice"):
        open_engine("piper", str(tmp_path))
    with pytest.raises(InputError, match=r"engine_path: .*model\.onnx: no such file"):
        open_engine("kokoro", str(tmp_path))
    (tmp_path / "en_US-x-low.onnx").touch()
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        "selfkd.synthesis.tts.base.find_spec", lambda name: None if name == "onnxruntime" else find_spec(name)
    )
    with pytest.raises(InputError, match=r"^engine: kokoro: onnxruntime is not installed; pip install 'selfkd\[ko"):
        open_engine("kokoro", str(tmp_path))
    monkeypatch.setattr("selfkd.synthesis.tts.base.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"piper: piper, onnxruntime are not installed; pip install 'selfkd\[piper"):
        open_engine("piper", str(tmp_path))
    for engine, package in (("pocket", "pocket_tts"), ("openai", "openai")):
        with pytest.raises(InputError, match=rf"{package} is not installed; pip install 'selfkd\[{engine}\]'"):
            open_engine(engine, "")
    assert open_engine("espeak", "")  # an engine that is there needs no other


def test_files_that_are_no_model_stop_the_job_and_cost_no_row(tmp_path):
    """Pointers, which git leaves in place of large files without git-lfs."""
    for package in ("kokoro_onnx", "onnxruntime", "piper"):
        pytest.importorskip(package)
    for name in ("model.onnx", "voices.bin"):
        (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(EngineError, match=r"voices.bin: not Kokoro's voices; .*git lfs pull"):
        open_engine("kokoro", str(tmp_path)).voices()
    with (tmp_path / "voices.bin").open("wb") as file:
        np.savez(file, af_heart=np.zeros(1))
    config = SynthesizeConfig(tmp_path / "out", count=1, processes=1, engine="kokoro", engine_path=str(tmp_path))
    with pytest.raises(EngineError, match=r"model.onnx: not a model that can be read"):
        synthesize(config)
    assert not any(config.output.iterdir())
    voice = tmp_path / "en_US-hum-low.onnx"
    voice.write_text("version")
    shutil.copy(Path(__file__).parents[2] / "fixtures" / "piper" / f"{voice.name}.json", tmp_path)
    with pytest.raises(EngineError, match=r"hum-low.onnx: not a model that can be read"):
        open_engine("piper", str(tmp_path)).synthesize_audio(Utterance("well", voice.stem))


def test_recordings_of_people(tmp_path):
    soundfile.write(tmp_path / "a.flac", np.resize(tone(1.0), 44_100), 44_100)
    tts_engine = RecordedEngine(tmp_path)
    assert len(tts_engine.synthesize_audio(Utterance("x", "recorded", id="a"))) == 16_000
    with pytest.raises(InputError, match=r"field audio: .*no recording"):
        tts_engine.synthesize_audio(Utterance("x", "recorded", id="b"))


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        (np.zeros(16_000, np.float32), "silent"),
        (np.zeros(0, np.float32), "silent"),
        (np.sign(tone(1.0)), "clipped"),
        (tone(0.1), "0.1 s for 21 characters is not a plausible length"),
        (tone(31), "31.0 s is over the encoder.s window of 30 s"),
        (tone(20), "20.0 s for 21 characters is not a plausible length"),
    ],
)
def test_implausible_audio_is_refused(samples, reason):
    check_audio(tone(2.0), "Is there a red circle in it?")
    with pytest.raises(InputError, match=f"field audio: .*{reason}"):
        check_audio(samples, "Is there a red circle here??" if len(samples) else "x")


@pytest.mark.slow
@needs("kokoro")
def test_kokoro_is_deterministic_and_intelligible(tmp_path):
    """The real Kokoro-82M, transcribed by the real whisper-tiny.en."""
    (tmp_path / "q.jsonl").write_text(
        '{"id": "a", "question": "How many of the 12 dogs are brown?", "answer": "Two."}\n'
        '{"id": "b", "question": "What is the man holding in his left hand?", "answer": "A cup."}\n'
    )
    digests = []
    for name in ("one", "two"):
        config = SynthesizeConfig(
            tmp_path / name, "jsonl", str(tmp_path / "q.jsonl"), count=0, processes=1, engine="kokoro",
            engine_path=str(MODELS / "kokoro"), voices="af_heart,bm_george", asr_filter=str(MODELS / "whisper-tiny.en"),
        )  # fmt: skip
        manifest = synthesize(config)
        digests.append([s["sha256"] for s in manifest["shards"]])
        assert manifest["rejected"] == [] and manifest["engine_name"].startswith("Kokoro-82M")
    assert digests[0] == digests[1]
    examples = list(ExampleFolder(tmp_path / "one"))
    assert [e.word_error_rate for e in examples] == [0.0, 0.0] and "brown" in examples[0].transcript.lower()
    assert sum(manifest["word_error_rates"].values()) == 0


@pytest.mark.slow
@needs("whisper-tiny.en")
def test_unintelligible_audio_is_rejected_with_its_word_error_rate(tmp_path):
    """espeak at 450 words a minute is unintelligible: rows are rejected with their word error rate and transcript."""
    config = SynthesizeConfig(
        tmp_path / "out", "world", count=12, processes=1, asr_filter=str(MODELS / "whisper-tiny.en"), max_wer=0.2,
        rate_wpm=(150, 450), voices="en-US+m3",
    )  # fmt: skip
    manifest = synthesize(config)
    assert manifest["rows"] + len(manifest["rejected"]) == 12 and manifest["rows"] and manifest["rejected"]
    for reject in manifest["rejected"]:
        assert reject["word_error_rate"] > 0.2 and "transcript:" in reject["reason"]
    assert all(e.word_error_rate <= 0.2 for e in ExampleFolder(config.output))
    rejected = list(ExampleFolder(config.output, rejected=True))
    assert [e.rejected for e in rejected] == [r["reason"] for r in manifest["rejected"]]
    assert all(len(e.samples()) > 4_000 and e.image is None for e in rejected)
    assert check(CheckConfig([config.output]))[str(config.output)]["rejected"] == len(rejected)
    assert list(manifest["word_error_rates"]) == ["en-US+m3"]


def test_the_token_limit_suffices_for_any_script():
    """With a byte tokenizer a character of Devanagari takes three tokens."""

    def by_bytes(text, add_special_tokens):
        return SimpleNamespace(input_ids=list(text.encode()))

    def by_words(text, add_special_tokens):
        return SimpleNamespace(input_ids=text.split())

    hindi, english = "मेज पर कितने लाल सेब हैं?", "How many red apples are there on the table?"
    assert token_limit(by_bytes, ["Is it?", hindi]) == 16 + 2 * len(hindi.encode()) > 16 + 5 * len(hindi)
    assert token_limit(by_words, [english]) == 16 + len(english) // 2 and token_limit(by_words, []) == 16


def test_word_error_rate_is_computed_on_normalized_text():
    asr_filter = ASRFilter("none", 0.3)
    assert word_error_rate("How many of the twelve dogs?", "how many of the 12 dogs") == 0
    assert word_error_rate("Is it red?", "Is it a bed?") == pytest.approx(2 / 3)
    with pytest.raises(InputError, match="asr_filter: none: "):
        asr_filter.transcribe([])
    assert word_error_rate("Wie viele?", "wie VIELE", "de") == 0
    assert word_error_rate("赤い丸", "赤い角", "ja") == pytest.approx(1 / 3)


@needs("whisper-tiny.en")
def test_an_asr_model_without_the_language_is_refused():
    with pytest.raises(InputError, match=r"tiny.en: transcribes English only, the questions are in 'de'"):
        ASRFilter(str(MODELS / "whisper-tiny.en"), 0.3, "de").transcribe([])


@needs("whisper-base")
def test_a_multilingual_asr_model_gets_the_language():
    """It neither translates nor detects another language."""
    question = "Wie heißt der Mann mit dem Hut?"
    audio = EspeakEngine().synthesize_audio(Utterance(question, "de+m1", rate_wpm=130))
    (example,) = ASRFilter(str(MODELS / "whisper-base"), 0.3, "de").transcribe(
        [replace(toy_examples(1)[0], question=question).with_audio(audio, "de+m1")]
    )
    assert "Mann" in example.transcript and example.word_error_rate < 1
