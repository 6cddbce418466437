"""Credentials are used where they are needed, and are in nothing that a run writes or prints."""

import base64
import json
import sys
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
