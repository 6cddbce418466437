"""Calls in a child process: limits of time and memory, errors, and the end of a call whose request has ended."""

import json
import threading
import time

import hanging
import numpy as np
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving import BODY, assert_refused, post_concurrently, served, wait_until

from selfkd.serving.isolated import IsolatedProcess, TooCostlyError
from selfkd.serving.schema import MAX_TOKENS, RefusedError, check_structure, read_request


@pytest.fixture(scope="module")
def process():
    process = IsolatedProcess(200_000_000)
    yield process
    process.close()


def child(process):
    return psutil.Process(process._process.pid)


def test_arguments_and_results_are_the_same(process):
    array = np.arange(12, dtype=np.uint8).reshape(3, 4)
    found = process.call(np.flip, array, seconds=60)
    assert np.array_equal(found, np.flip(array)) and found.dtype == np.uint8


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [(hanging.hang, (), "not decoded within 1 s"), (hanging.end, (), "its decoder ended"),
     (hanging.allocate, (2_000_000_000,), "over 200 MB")],
)  # fmt: skip
def test_a_call_that_costs_too_much_ends(process, function, arguments, message):
    process.call(np.abs, 1, seconds=60)
    running = child(process)
    with pytest.raises(TooCostlyError, match=message):
        process.call(function, *arguments, seconds=1)
    assert function is hanging.allocate or not running.is_running()
    assert process.call(np.abs, -3, seconds=60) == 3  # the next call is served


def test_memory_within_the_limit_is_given_each_time(process):
    assert [process.call(hanging.allocate, 150_000_000, seconds=60) for _ in range(4)] == [150_000_000] * 4


def test_errors_come_back(process):
    with pytest.raises(RefusedError) as raised:
        process.call(hanging.raise_refused, seconds=60)
    error = raised.value
    assert (error.status, error.message, error.param, error.code) == (418, "a teapot", "pot", "short_and_stout")
    with pytest.raises(RuntimeError, match="of this call only"):
        process.call(hanging.raise_unpicklable, seconds=60)


@pytest.mark.parametrize("function", [hanging.answer_with_a_call, hanging.answer_with_a_class])
def test_an_answer_runs_no_code_here(process, function, tmp_path):
    process.call(np.abs, 1, seconds=60)
    with pytest.raises(TooCostlyError):
        process.call(function, str(tmp_path / "made"), seconds=60)
    assert not (tmp_path / "made").exists()
    assert process.call(np.abs, -3, seconds=60) == 3


def test_libraries_write_no_log(process, capfd):
    assert process.call(hanging.write_to_stderr, "noise\n" * 1000, seconds=60) == 6000
    assert "noise" not in capfd.readouterr().err


def test_kill_ends_a_call_of_another_thread(process):
    errors = []

    def call():
        try:
            process.call(hanging.hang, seconds=600)
        except TooCostlyError as error:
            errors.append(error)

    process.call(np.abs, 1, seconds=60)
    running, thread = child(process), threading.Thread(target=call)
    thread.start()
    time.sleep(0.2)
    process.kill()
    thread.join(60)
    assert len(errors) == 1 and not running.is_running()


def test_work_of_a_request_ends_with_it(parts, monkeypatch):
    """A timed-out request, one whose client has gone, and a server that stops leave no process at work."""
    monkeypatch.setattr("selfkd.serving.state.read_query", hanging.hang)
    with served(parts, timeout_seconds=5.0, decoding_processes=1) as running:
        (decoder,) = running.state._decoders
        busy = child(decoder)
        assert_refused(running.post(BODY), 504, "no complete response within 5 s")
        wait_until(lambda: not busy.is_running())
        monkeypatch.undo()
        decoder.start()
        assert running.post(BODY)[0] == 200
        monkeypatch.setattr("selfkd.serving.state.read_query", hanging.hang)
        busy = child(decoder)
        threads, _ = post_concurrently(running, [BODY] * 3)
        wait_until(lambda: running.state.num_active == 3)
        started = time.monotonic()
        running.state.close()
        for thread in threads:
            thread.join()
        assert not busy.is_running() and time.monotonic() - started < 10


# bodies

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
fields = st.sampled_from(["model", "messages", "content", "role", "type", "text", "image_url", "url", "input_audio"])
near_requests = st.recursive(
    json_values | st.sampled_from(["selfkd", "user", "text", "wav", "data:image/png;base64,AAAA"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(fields, inner, max_size=5),
    max_leaves=15,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(near_requests.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=200))
def test_any_body_is_a_request_or_one_short_refusal(body):
    try:
        assert read_request(body).messages
    except RefusedError as error:
        assert error.status == 400 and error.message and len(error.message) < 500 and "\n" not in error.message[:100]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([b'"', b'\\"', b"\\", b"[", b"{", b",", b"7", b"x", b" "]), min_size=1, max_size=12))
def test_reading_the_structure_takes_linear_time(unit):
    """A million bytes of any repeated pattern: quadratic time would be hours."""
    body = b"".join(unit) * (1_000_000 // len(b"".join(unit)))
    started = time.process_time()
    try:
        check_structure(body)
    except RefusedError as error:
        assert str(MAX_TOKENS) in error.message or "digits" in error.message
    assert time.process_time() - started < 1


def test_values_are_counted_outside_strings_only():
    check_structure(b'{"text": "' + b"[,{" * 1_000_000 + b'9" , "more": "' + b"1" * 1_000_000 + b'"}')
    with pytest.raises(RefusedError, match=f"over {MAX_TOKENS} JSON tokens"):
        check_structure(b"[" + b"1," * MAX_TOKENS + b"1]")
    with pytest.raises(RefusedError, match="digits"):
        check_structure(b'{"seed": ' + b"1" * 1_000 + b"}")
