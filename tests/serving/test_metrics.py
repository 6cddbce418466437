"""/metrics: its format, and that it counts what happened."""

import json
import re
import urllib.request

import pytest
from serving import BODY, PNG, get, raw_connection, request, request_head, served, wait_until

LINE = re.compile(r'selfkd_[a-z_]+(\{[a-z]+="[a-zA-Z0-9_.+]+"\})? (\d+(\.\d+)?(e-\d+)?)')
COMMENT = re.compile(r"# (HELP selfkd_[a-z_]+ .+|TYPE selfkd_[a-z_]+ (counter|gauge|histogram))")


def metrics(running) -> dict[str, float]:
    with urllib.request.urlopen(running.url.removesuffix("/v1") + "/metrics") as response:
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        text = response.read().decode()
    assert text.endswith("\n")
    for line in text.splitlines():
        assert LINE.fullmatch(line) or COMMENT.fullmatch(line), line
    return {name: float(value) for name, value in (line.split() for line in text.splitlines() if line[0] != "#")}


def test_counters_and_gauges(parts):
    with served(parts) as running:
        assert metrics(running)['selfkd_requests_total{outcome="answered"}'] == 0
        tokens = 0
        for body in (BODY, BODY, request(PNG, "What?", max_tokens=2)):
            status, _, answer = running.post(body)
            assert status == 200
            tokens += answer["usage"]["completion_tokens"]
        with urllib.request.urlopen(_stream_request(running)) as response:
            assert b"[DONE]" in response.read()
        running.post(b"{")
        running.post(BODY | {"n": 2})
        running.post(BODY | {"model": "another"})
        running.post(b"x" * 30_000_000)
        get(running.url, "/nowhere")
        raw_connection(running.url, request_head(BODY)).close()
        wait_until(lambda: metrics(running)['selfkd_requests_total{outcome="disconnected"}'] == 1)
        found = metrics(running)
    assert found['selfkd_requests_total{outcome="answered"}'] == 4
    assert found['selfkd_requests_total{outcome="refused"}'] == 5
    reasons = ("invalid_request", "unsupported_parameter", "model_not_found", "body_too_long", "status_404")
    assert [found[f'selfkd_refusals_total{{reason="{reason}"}}'] for reason in reasons] == [1] * 5
    assert tokens < found['selfkd_tokens_total{kind="completion"}'] <= tokens + 4
    assert found['selfkd_tokens_total{kind="prompt"}'] > 4
    assert found["selfkd_requests_active"] == found["selfkd_requests_waiting"] == 0
    buckets = [value for name, value in found.items() if "_bucket" in name]
    assert buckets == sorted(buckets) and buckets[-1] == found["selfkd_request_seconds_count"] == 4
    assert found["selfkd_request_seconds_sum"] > 0


def _stream_request(running) -> urllib.request.Request:
    content = json.dumps(BODY | {"stream": True}).encode()
    return urllib.request.Request(f"{running.url}/chat/completions", content, {"Content-Type": "application/json"})


@pytest.mark.parametrize("path", ["/v1/chat/completions/", "/v1/models/", "/health/", "//evil.example/v1/models", "/"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_no_redirect_to_the_host_that_a_client_names(server, path, method):
    """sec_21_redirect_by_host."""
    head = f"{method} {path} HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    connection = raw_connection(server.url, head.encode())
    answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert re.match(rb"HTTP/1.1 (403|404|405|415) ", answer) and b"location" not in answer.lower()
