"""`selfkd serve` and `selfkd app` as processes, without arguments: the bundled model, and a clean stop on Ctrl-C."""

import re
import signal
import time
import urllib.request
from contextlib import contextmanager

import pytest
from examples import toy_examples
from processes import Command
from serving import TIMEOUT_SECONDS, post, wait_for_health

from selfkd.evaluation.backends.endpoint import user_message
from selfkd.evaluation.backends.local import predict_modality
from selfkd.model.tiny import load_tiny_model
from selfkd.training.data import MODALITIES

pytestmark = pytest.mark.slow


@contextmanager
def running(command, stop=signal.SIGINT):
    """Yields (the address that it prints, the process); afterwards sends the signal and checks the exit."""
    with Command([command, "--port", "0"]) as process:
        deadline = time.monotonic() + 2 * TIMEOUT_SECONDS
        while not (address := re.search(r"http://127\.0\.0\.1:\d+", process.stdout + process.stderr)):
            assert process.poll() is None and time.monotonic() < deadline, process.stderr
            time.sleep(0.05)
        yield address[0], process
        process.send_signal(stop)
        code = 0 if stop == signal.SIGINT else -stop
        assert process.wait(TIMEOUT_SECONDS) == code and "Traceback" not in process.stderr, process.stderr


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_app_shows_its_page(stop):
    with running("app", stop) as (address, _), urllib.request.urlopen(address, timeout=TIMEOUT_SECONDS) as page:
        assert page.status == 200 and "selfkd: text query or audio query?" in page.read().decode()


def test_endpoint_gives_the_responses_of_evaluation():
    (example,) = toy_examples(1)
    parts = load_tiny_model()
    with running("serve") as (address, process):
        wait_for_health(address, process)
        for modality in MODALITIES:
            status, _, body = post(address, {"model": "selfkd", "messages": [user_message(example, modality)]})
            expected = predict_modality(*parts, [example], modality)[0].text
            assert status == 200 and body["choices"][0]["message"]["content"] == expected != ""
