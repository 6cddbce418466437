"""The app as somebody at a browser meets it: a real server, Chromium, a microphone that plays a file."""

import http.client
import os
import re
import threading
import time
from contextlib import contextmanager
from urllib.parse import urlsplit

import numpy as np
import pytest
import soundfile
import torch
from browser import chromium_page, expect, screenshot
from scipy.signal import resample_poly
from serving import png

from selfkd.app.app import PageServer
from selfkd.app.config import AppConfig
from selfkd.app.session import Session, ready_examples
from selfkd.data.example import SAMPLE_RATE_HZ
from selfkd.evaluation.backends.transcriber import Transcriber
from selfkd.synthesis.tts.base import EspeakEngine, Utterance

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:gradio")  # its own affair with pandas
ASKED = "What color is the circle?"
MAX_BYTES = 1_000_000
_OF_THE_RECORDER = "Method not implemented."  # a warning of Gradio's whenever one records


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Models this small are slower with two, where others are at work on the same cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def url(parts, tmp_path_factory):
    """The app, with two models that are one, in a thread of this process."""
    session = Session(
        AppConfig(port=0, max_new_tokens=12, max_upload_bytes=MAX_BYTES),
        {"one": parts, "<b>two</b>": parts},
        Transcriber.from_pretrained(),
    )
    server = PageServer(session, tmp_path_factory.mktemp("page"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    assert server.started
    yield server.url
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A spoken question at 48 kHz, with silence around it, as a microphone takes it."""
    samples = EspeakEngine().synthesize_audio(Utterance(ASKED, "en-US+m3"))
    quiet = np.zeros(SAMPLE_RATE_HZ // 2, np.float32)
    path = tmp_path_factory.mktemp("microphone") / "question.wav"
    soundfile.write(path, resample_poly(np.concatenate([quiet, samples, quiet]), 3, 1), 48_000, subtype="PCM_16")
    return path


@pytest.fixture(scope="module")
def browser_page(clip):
    microphone = [
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={clip}%noloop",
    ]
    with chromium_page(1280, flags=microphone) as page:
        page.route(
            re.compile(r"https?://(?!127\.0\.0\.1)"), lambda route: route.abort()
        )  # as where there is no network
        yield page


@pytest.fixture
def page(browser_page, url):
    with opened(browser_page, url):
        yield browser_page


@contextmanager
def opened(page, url):
    """A page that was just opened; in the end nothing was missing and nobody elsewhere was asked."""
    page.goto("about:blank")  # whatever is still under way for an earlier page is broken off
    page.spoken_text.clear()
    page.asked.clear()
    page.goto(url)
    expect(page.locator("#ask")).to_be_visible()
    yield
    assert [line for line in page.spoken_text if line != _OF_THE_RECORDER] == []
    assert {urlsplit(address).netloc for address in page.asked if not address.startswith("blob:")} == {
        urlsplit(url).netloc
    }


def answered(page, question):
    expect(page.locator("#answers .kd-asked")).to_contain_text(question)
    expect(page.locator("#looks .kd-model")).to_have_count(2)


def shot(page, name):
    if os.environ.get("SELFKD_SCREENSHOTS"):
        page.wait_for_timeout(800)  # the player draws its waves
        screenshot(page, f"app-{name}", full_page=True)


def test_an_example_is_answered_in_both_views_by_the_keyboard_alone(page):
    ready = ready_examples()[1]
    shot(page, "start")
    page.focus("#ready-1")
    page.keyboard.press("Enter")
    answered(page, ready.question)
    modalities = page.locator("#answers .kd-view h4")
    assert [re.sub(r"(right|wrong)$", "", t) for t in modalities.all_text_contents()] == ["Written", "Spoken"] * 2
    assert all(page.locator("#answers .kd-answer").all_text_contents())
    expect(page.locator("#answers .kd-asked")).to_contain_text(ready.target)
    expect(page.locator("#answers .kd-model h3").nth(1)).to_have_text("<b>two</b>")
    expect(page.locator("#looks .kd-shade")).to_have_count(4)
    expect(page.locator("#speech audio, #speech .waveform-container").first).to_be_attached()
    shot(page, "example")

    before = page.locator("#looks .kd-shade").first.get_attribute("src")
    page.focus("#layer input[type=range]")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#looks figcaption").first).to_contain_text("layer 4 of 6")
    expect(page.locator("#looks .kd-shade").first).not_to_have_attribute("src", before)
    page.locator("#answers summary").first.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#answers table").first).to_be_visible()


def test_what_is_typed_is_spoken_too(page):
    page.set_input_files("#picture input[type=file]", {"name": "a.png", "mimeType": "image/png", "buffer": png(64, 64)})
    expect(page.locator("#picture img")).to_be_visible()
    question = '<img src=x onerror="window.hit=1"> ${window.hit=2} {{window.hit=3}}'
    page.fill("#question textarea, #question input", question)
    page.click("#speak")
    expect(page.locator("#speech .record-button")).to_be_hidden()
    page.click("#ask")
    answered(page, question)
    assert page.evaluate("window.hit") is None
    expect(page.locator("#answers .kd-view")).to_have_count(4)


def test_the_microphone(page):
    page.set_input_files("#picture input[type=file]", {"name": "a.png", "mimeType": "image/png", "buffer": png(64, 64)})
    page.click("#speech .record-button")
    expect(page.locator("#speech .stop-button")).to_be_visible()
    page.wait_for_timeout(4000)  # as long as somebody speaks, and time to spare
    with page.expect_response(lambda response: "/upload" in response.url):
        page.click("#speech .stop-button")
    expect(page.locator("#speech .record-button")).to_be_hidden()
    expect(page.locator("#picture img")).to_be_visible()
    page.click("#ask")
    answered(page, "(not written)")
    expect(page.locator("#answers .kd-asked")).to_contain_text("circle")
    expect(page.locator("#answers")).to_contain_text("Type the question as well")
    shot(page, "microphone")


def test_an_uploaded_question(page, clip):
    page.click("#ready-0")
    answered(page, ready_examples()[0].question)
    page.click("#speech button[aria-label=Clear]")
    page.click("#speech button[aria-label='Upload file']")
    with page.expect_response(lambda response: "/upload" in response.url):
        page.set_input_files("#speech input[type=file]", clip)
    expect(page.locator("#speech .waveform-container").first).to_be_attached()
    page.fill("#question textarea, #question input", ASKED)
    page.click("#ask")
    answered(page, ASKED)
    expect(page.locator("#answers .kd-asked div").nth(1)).to_contain_text("circle")


def test_what_cannot_be_asked_is_said_in_words(page):
    toast = page.locator(".toast-body").last
    page.fill("#question textarea, #question input", ASKED)
    page.click("#ask")
    expect(toast).to_contain_text("choose one of the examples, or upload one")
    broken = {"name": "a.png", "mimeType": "image/png", "buffer": b"\x89PNG nonsense"}
    page.set_input_files("#picture input[type=file]", broken)
    expect(page.locator("#picture img")).to_be_attached()
    page.click("#ask")
    expect(toast).to_contain_text("not a readable picture")
    page.click("#ready-0")
    answered(page, ready_examples()[0].question)
    page.fill("#question textarea, #question input", "What does 你好 mean?")
    page.click("#ask")
    expect(toast).to_contain_text("is not of the voice's language")
    shot(page, "refused")


@pytest.mark.parametrize(("scheme", "width"), [("dark", 1280), ("light", 390), ("dark", 390)])
def test_in_the_dark_and_on_a_phone(browser_page, url, scheme, width):
    page = browser_page
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 844})
    with opened(page, url):
        page.click("#ready-3")
        answered(page, ready_examples()[3].question)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.wait_for_function(f"document.body.classList.contains('dark') === {str(scheme == 'dark').lower()}")
        page.wait_for_function(f"({_CONTRAST})() >= 4.5")  # waited for: colours change over a moment
        shot(page, f"{scheme}-{width}")
    page.emulate_media(color_scheme="light")
    page.set_viewport_size({"width": 1280, "height": 900})


# the least contrast between the small print of the answers and what is behind it, as WCAG has it
_CONTRAST = """() => {
  const lights = c => { const n = c.match(/[\\d.]+/g).map(Number); const v = n.slice(0, 3).map(x => (x /= 255) <= .04045
    ? x / 12.92 : ((x + .055) / 1.055) ** 2.4); return [.2126 * v[0] + .7152 * v[1] + .0722 * v[2], n[3] ?? 1]; };
  const behind = e => { for (; e; e = e.parentElement) { const [l, a] = lights(getComputedStyle(e).backgroundColor);
    if (a > .99) return l; } return 1; };
  const all = document.querySelectorAll('.kd-head p, .kd-asked dt, .kd-asked dd, .kd-token span, .kd-token small, '
    + '.kd-results summary, .kd-answer, .kd-badge, .kd-right, .kd-wrong, figcaption, #ready button, #ask, #speak');
  return Math.min(...[...all].map(e => { const a = lights(getComputedStyle(e).color)[0], b = behind(e);
    return (Math.max(a, b) + .05) / (Math.min(a, b) + .05); })); }"""


def test_other_names_files_and_lengths_are_refused(url):
    where = url.removeprefix("http://")
    for path, headers in (("/", {"Host": "elsewhere.example"}), ("/gradio_api/file=/etc/passwd", {}), ("/docs", {})):
        connection = http.client.HTTPConnection(where, timeout=60)
        connection.request("GET", path, headers=headers)
        assert connection.getresponse().status in (400, 403, 404), path
        connection.close()
    form = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    connection = http.client.HTTPConnection(where, timeout=60)
    connection.request(
        "POST",
        "/gradio_api/upload",
        form + bytes(MAX_BYTES + 1) + b"\r\n--x--\r\n",
        {"Content-Type": "multipart/form-data; boundary=x"},
    )
    assert connection.getresponse().status == 413
    connection.close()
