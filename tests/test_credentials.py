"""Credentials are used where they are needed, and are in nothing that a run writes or prints."""

import base64
import json
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlsplit

import pytest
from chat_server import chat_server
from examples import training_data
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from selfkd.cli import main
from selfkd.credentials import MASK, masked, masked_command, masked_text, masked_url, read_endpoint, secrets_in, without
from selfkd.errors import InputError
from selfkd.evaluation.backends.openai_client import EndpointSettings, OpenAIClient
from selfkd.synthesis.tts.registry import EndpointEngine

pytest.importorskip("openai")
NAMES = ["api_key", "Authorization", "apiKey", "x-api-key", "HF_TOKEN", "password", "client_secret"]
few = settings(deadline=None, max_examples=80, derandomize=True)
secret = st.text(st.sampled_from("QXZJ0189-_.~!$*@/:?#[]%+&= éß"), min_size=8, max_size=14).map(lambda s: f"Zq{s}9x")


@few
@given(user=secret, password=secret, key=secret, port=st.integers(1, 65_535))
def test_a_url_is_used_whole_and_shown_masked(user, password, key, port):
    sent = {name: quote(value, safe="") for name, value in (("user", user), ("password", password), ("key", key))}
    url = f"http://{sent['user']}:{sent['password']}@host.org:{port}/v1?api-version=2&code={sent['key']}"
    endpoint = read_endpoint(url)
    assert endpoint.base == f"http://host.org:{port}/v1" and endpoint.query == {"api-version": "2", "code": key}
    scheme, _, pair = endpoint.headers["Authorization"].partition(" ")
    assert scheme == "Basic" and base64.b64decode(pair).decode() == f"{user}:{password}"
    assert endpoint.shown == f"http://{MASK}@host.org:{port}/v1?api-version=2&code={MASK}"
    assert not [s for s in (user, password, key, *sent.values()) if s in repr(endpoint)]
    text = without(f"it said {password} and {sent['key']} and {json.dumps(key)} and {pair}", endpoint.secrets)
    assert not [s for s in (password, sent["password"], key, sent["key"], pair) if s in text]


@few
@given(
    user=st.sampled_from(["", "me"]),
    password=secret,
    scheme=st.sampled_from(["http://", "https://", "ftp://", "", "HTTP://"]),
)
def test_an_invalid_url_is_refused_without_its_password(user, password, scheme):
    """Characters that end a host, a missing scheme: no part of it is shown."""
    url = f"{scheme}{user}:{password}@host.org/v1"
    assert password not in masked_url(url)
    assert password not in str(masked({"url": url})["url"])
    try:
        read_endpoint(url)
    except InputError as error:
        assert password not in str(error) and str(error).startswith("url: ")


@few
@given(value=secret, name=st.sampled_from(NAMES))
def test_fields_and_headers_that_hold_secrets(value, name):
    held = {
        "extra": {name: value, "top_k": 5, "stop_token_ids": [5]},
        "extra_headers": {"X-Any": value},
        "max_tokens": 7,
    }
    shown = masked(held)
    assert value not in json.dumps(shown, ensure_ascii=False) and value in set(secrets_in(held))
    assert shown["extra"] == {name: MASK, "top_k": 5, "stop_token_ids": [5]} and shown["max_tokens"] == 7
    assert masked(shown) == shown
    texts = [json.dumps(held), json.dumps(held, ensure_ascii=False)]
    flag = f"--endpoint.extra.{name}"
    for arguments in ([flag, value], [f"{flag}={value}"], *(["--endpoint", text] for text in texts)):
        shown = " ".join(masked_command(arguments))
        assert value not in shown and json.dumps(value)[1:-1] not in shown


def test_other_text_is_kept():
    for text in (
        "openai/whisper-base.en",
        "mme@af_heart",
        "http://127.0.0.1:8000/v1",
        "https://x.org/a?v=2",
        "a: b",
        "",
    ):
        assert masked_text(text) == text and not [s for s in secrets_in(text) if s]
    config = {"model": "m", "data": ["runs/a=0.5"], "max_new_tokens": 128, "keep_failures": True, "keyword": "x"}
    assert masked(config) == config
    assert masked_command(["evaluate", "--url", "http://a@b/v1"]) == ["evaluate", "--url", f"http://{MASK}@b/v1"]
    assert masked_text("it said: Bearer abcdef123 at http://u:p@h/x") == f"it said: Bearer {MASK} at http://{MASK}@h/x"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("credentials")
    training_data(folder)
    return folder / "data"


@settings(deadline=None, max_examples=4, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(password=secret, key=secret, header=secret.map(lambda s: quote(s, safe="")), fails=st.booleans())
def test_a_run_writes_and_prints_no_secret(data, tmp_path_factory, monkeypatch, capfd, password, key, header, fails):
    """eval_15_password_in_url_is_written: run folder, report, stdout, stderr, whether the endpoint answers or fails."""
    folder = tmp_path_factory.mktemp("run")
    with chat_server() as server:
        server.always = "400" if fails else "ok"
        parts = urlsplit(server.url)
        url = f"http://me:{quote(password, safe='')}@{parts.netloc}/v1?code={quote(key, safe='')}"
        extra = json.dumps({"extra_headers": {"X-Api-Key": header}})
        arguments = ["evaluate", "m", "--url", url, "--data", str(data), "--output", str(folder / "run"),
                     "--endpoint", f'{{"max_retries": 0, "extra": {extra}}}', "--keep_failures", "true",
                     "--limit", "2"]  # fmt: skip
        monkeypatch.setattr(sys, "argv", ["selfkd", *arguments])
        assert main(arguments) == 0
        assert main(["report", str(folder / "run"), "--output", str(folder / "report.html")]) == 0
        pair = base64.b64encode(f"me:{password}".encode()).decode()
        for request in server.requests:
            assert request.headers["authorization"] == f"Basic {pair}" and request.headers["x-api-key"] == header
            assert dict(parse_qsl(urlsplit(request.path).query)) == {"code": key}
    assert main(arguments) == 2  # complete already
    assert main([*arguments[:-2], "--url", url.replace("//", "/"), "--output", str(folder / "x")]) == 2
    printed = "".join(capfd.readouterr())
    written = {p: p.read_bytes().decode(errors="replace") for p in folder.rglob("*") if p.is_file()}
    assert any(p.name == "provenance.json" for p in written)
    for one in (password, key, header, pair):
        for form in (one, quote(one, safe=""), json.dumps(one)[1:-1]):
            assert form not in printed and not [p for p, text in written.items() if form in text], (form, one)


class _Echo(BaseHTTPRequestHandler):
    """Refuses every request, and repeats all of it but the messages."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        request = [self.path, dict(self.headers), {k: v for k, v in body.items() if k != "messages"}]
        key = self.headers["Authorization"].rpartition(" ")[2]
        content = json.dumps({"error": {"message": f"no such key: {key}, in {json.dumps(request)}"}}).encode()
        self.server.seen.append(json.dumps(request))
        self.send_response(400)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@contextmanager
def echoing_endpoint() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Echo)
    server.seen = []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()


CANARIES = {
    where: f"canary{i}-Zq7{where}9x"
    for i, where in enumerate(("password", "query", "header", "field", "list", "nested", "cookie", "key", "hub"))
}


@pytest.fixture
def given_everywhere(monkeypatch):
    """(URL without host, endpoint settings): a secret wherever there may be one."""
    c = CANARIES
    monkeypatch.setenv("OPENAI_API_KEY", c["key"])
    monkeypatch.setenv("HF_TOKEN", c["hub"])
    extra = {
        "extra_headers": {"X-Any": c["header"], "Cookie": f"s={c['cookie']}"},
        "session": c["field"],
        "many": [c["list"]],
        "metadata": {"inner": {"api_key": c["nested"]}},
        "reasoning_effort": "low",
    }
    return f"http://me:{c['password']}@{{}}/v1?key={c['query']}", {"max_retries": 0, "extra": extra}


@pytest.mark.slow
def test_no_command_writes_or_prints_a_planted_secret(given_everywhere, data, tmp_path, monkeypatch, capfd):
    """sec_13: in the URL, headers, fields of the request and the environment; on the command line and in a recipe,
    with an endpoint that repeats them all; in every file, on stdout and on stderr."""
    url, endpoint = given_everywhere
    out, recipes = tmp_path / "out", tmp_path / "recipes"
    recipes.mkdir()

    def selfkd(*arguments, code=0):
        arguments = list(map(str, arguments))
        monkeypatch.setattr(sys, "argv", ["selfkd", *arguments])
        assert main(arguments) == code, (arguments, capfd.readouterr().err)

    with echoing_endpoint() as server:
        url = url.format(f"127.0.0.1:{server.server_port}")
        settings_flag = ["--endpoint", json.dumps(endpoint)]
        selfkd("evaluate", "selfkd-tiny", "--data", data, "--limit", 4, "--output", out / "tiny")
        remote = ["evaluate", "m", "--data", data, "--limit", 2, "--keep_failures", "true"]
        selfkd(*remote, "--url", url, *settings_flag, "--output", out / "flags")
        fields = [f"--endpoint.extra.{n}={json.dumps(v)}" for n, v in endpoint["extra"].items()]
        selfkd(*remote, "--url", url, *fields, "--endpoint.max_retries=0", "--output", out / "dotted")
        recipe = {"url": url, "endpoint": endpoint}
        without_password = f"{url.partition('//')[0]}//{url.partition('@')[2]}"  # then the key is sent
        selfkd(*remote, "--url", without_password, *settings_flag, "--output", out / "key")
        (recipes / "evaluate.yaml").write_text(json.dumps(recipe))
        selfkd(*remote, "--recipe", recipes / "evaluate.yaml", "--output", out / "recipe")
        (recipes / "wrong.yaml").write_text(json.dumps({**recipe, "endpoint": [endpoint["extra"]]}))
        selfkd(*remote, "--recipe", recipes / "wrong.yaml", "--output", out / "wrong", code=2)
        (recipes / "unknown.yaml").write_text(json.dumps({"url": url, "endpoint": {**endpoint, "no_such": "field"}}))
        selfkd(*remote, "--recipe", recipes / "unknown.yaml", "--output", out / "unknown", code=2)
        selfkd("judge", out / "tiny", "--model", "m", "--url", url, *settings_flag, code=2)
        engine = ["--source", "world", "--count", 2, "--engine", "openai", "--voices", "alloy", "--processes", 1]
        selfkd("synthesize", *engine, "--engine_path", url, "--output", out / "speech", code=2)
        synthesis = json.dumps({"engine": "openai", "engine_path": url, "asr_filter": f"{url}/x"})
        benchmark = ["--benchmarks", "mme", "--synthesis", synthesis, "--cache", out / "cache", "--output", out / "b"]
        selfkd("evaluate", "m", "--url", url, *benchmark, *settings_flag, code=2)
        assert not [c for where, c in CANARIES.items() if where != "hub" and c not in "".join(server.seen)
                    and where != "password"]  # fmt: skip
    selfkd("report", out / "tiny", out / "flags", out / "recipe", "--output", out / "report.html")
    selfkd("compare", out / "tiny", "--output", out / "compared")
    printed = "".join(capfd.readouterr())
    written = {p: p.read_bytes().decode(errors="replace") for p in out.rglob("*") if p.is_file()}
    basic = base64.b64encode(f"me:{CANARIES['password']}".encode()).decode()
    for secret_text in (*CANARIES.values(), basic):
        assert secret_text not in printed
        assert not [p for p, text in written.items() if secret_text in text], secret_text
    config = json.loads(written[out / "flags" / "config.json"])
    assert config["endpoint"]["extra"]["reasoning_effort"] == "low" and config["endpoint"]["extra"]["session"] == MASK
    for run in ("flags", "recipe", "dotted"):
        assert stat.S_IMODE((out / run / "config.json").stat().st_mode) == 0o600
    assert stat.S_IMODE((out / "flags" / "provenance.json").stat().st_mode) == 0o600
    assert stat.S_IMODE((out / "tiny" / "config.json").stat().st_mode) == 0o666 & ~_umask()


def _umask() -> int:
    return int(next(li for li in Path("/proc/self/status").read_text().splitlines() if "Umask" in li).split()[1], 8)


@few
@given(text=st.text(st.characters(codec="ascii", categories=["L", "N", "P"]), min_size=7, max_size=30))
def test_texts_of_a_request_that_may_be_secret_are_masked_in_every_field(text):
    held = {"endpoint": {"extra": {"no such field": f"{text}7", "of many": [{"a": f"{text}7"}], "effort": "very low"}}}
    shown = {"no such field": MASK, "of many": [{"a": MASK}], "effort": "very low"}
    assert masked(held) == {"endpoint": {"extra": shown}} and f"{text}7" in set(secrets_in(held))


def test_names_of_endpoints_are_masked():
    client = OpenAIClient("http://me:hunter2@127.0.0.1:9/v1", "m", EndpointSettings(max_retries=0, max_failures=1))
    assert client.name == f"m at http://{MASK}@127.0.0.1:9/v1"
    with pytest.raises(InputError, match="failed one after another") as caught:
        list(client.query_each([1], lambda _: [{"role": "user", "content": "x"}]))
    assert "hunter2" not in str(caught.value)
    tts_engine = EndpointEngine("http://me:hunter2@127.0.0.1:9/v1", "tts", 1.0)
    assert tts_engine.name == f"tts at http://{MASK}@127.0.0.1:9/v1"
    assert (
        tts_engine._client.base_url.host == "127.0.0.1"
        and "Basic" in tts_engine._client.default_headers["Authorization"]
    )
