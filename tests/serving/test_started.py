"""The app and the endpoint as somebody starts them, with no model named: the bundled one is there; ctrl-C ends them."""

import re
import signal
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from threading import Timer

import pytest
from examples import toy_examples
from serving import PATIENCE, get, post

from selfkd.evaluation.backends.endpoint import user_message
from selfkd.evaluation.backends.local import predict_modality
from selfkd.model.tiny import load_tiny_model
from selfkd.training.data import MODALITIES


@contextmanager
def started(command):
    """Yields the address that it prints; afterwards it is interrupted, and has to end in good order."""
    command = [sys.executable, "-m", "selfkd.cli", command, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        said, watch = "", Timer(2 * PATIENCE, process.kill)
        watch.start()
        try:
            for line in process.stdout:
                said += line
                if address := re.search(r"http://127\.0\.0\.1:\d+", line):
                    yield address[0]
                    break
            else:
                pytest.fail(f"it ended: {said}")
            process.send_signal(signal.SIGINT)
            rest, _ = process.communicate(timeout=PATIENCE)
            assert process.returncode == 0 and "Traceback" not in said + rest, said + rest
        finally:
            watch.cancel()
            process.kill()


def test_the_app_shows_its_page():
    with started("app") as address, urllib.request.urlopen(address, timeout=PATIENCE) as page:
        assert page.status == 200 and "selfkd: written or spoken?" in page.read().decode()


def test_the_endpoint_answers_as_evaluation_does():
    (example,) = toy_examples(1)
    parts = load_tiny_model()
    with started("serve") as address:
        assert get(address, "/health")[0] == 200
        for modality in MODALITIES:
            status, _, body = post(address, {"model": "selfkd", "messages": [user_message(example, modality)]})
            assert status == 200
            assert (
                body["choices"][0]["message"]["content"] == predict_modality(*parts, [example], modality)[0].text != ""
            )
