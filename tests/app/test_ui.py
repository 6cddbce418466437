"""The page in a real browser: Chromium with a fake microphone, and a server in a thread of this process."""

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
from browser import chromium_page, expect, screenshot
from recordings import config_of, write_questions
from scipy.signal import resample_poly
from serving import png_bytes

from selfkd.app.config import AppConfig
from selfkd.app.server import PageServer
from selfkd.app.session import Session, builtin_examples
from selfkd.data.example import SAMPLE_RATE_HZ
from selfkd.evaluation.backends.transcriber import Transcriber
from selfkd.recording.folder import opened as opened_recordings
from selfkd.synthesis.tts.base import EspeakEngine, Utterance

pytestmark = [
    pytest.mark.browser,
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:gradio"),  # of pandas
]
QUESTION = "What color is the circle?"
MAX_BYTES = 1_000_000
# of Gradio: on every recording, and when a player is removed while it loads its clip
_WARNINGS = ("Method not implemented.", "https://svelte.dev/e/derived_inert")


@pytest.fixture(scope="module")
def url(parts, tmp_path_factory):
    """Address of the app with the same model under two names."""
    session = Session(
        AppConfig(port=0, max_new_tokens=8, max_upload_bytes=MAX_BYTES),
        {"one": parts, "<b>two</b>": parts},
        Transcriber.from_pretrained(),
    )
    table = write_questions(tmp_path_factory.mktemp("source"), [builtin_examples()[1]])
    with opened_recordings(config_of(table, tmp_path_factory.mktemp("recordings") / "mine")) as recordings:
        server = PageServer(session, tmp_path_factory.mktemp("page"), recordings)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        assert server.started
        yield server.url
        server.should_exit = True
        thread.join()
        session.close()


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """An audio question at 48 kHz with silence around it, like a microphone recording."""
    samples = EspeakEngine().synthesize_audio(Utterance(QUESTION, "en-US+m3"))
    silence = np.zeros(SAMPLE_RATE_HZ // 2, np.float32)
    path = tmp_path_factory.mktemp("microphone") / "question.wav"
    soundfile.write(path, resample_poly(np.concatenate([silence, samples, silence]), 3, 1), 48_000, subtype="PCM_16")
    return path


@pytest.fixture(scope="module")
def browser_page(clip):
    microphone = [
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={clip}%noloop",
    ]
    with chromium_page(1280, flags=microphone) as page:
        page.route(re.compile(r"https?://(?!127\.0\.0\.1)"), lambda route: route.abort())  # as without a network
        yield page


@pytest.fixture
def page(browser_page, url):
    with opened(browser_page, url):
        yield browser_page


@contextmanager
def opened(page, url):
    """Opens the page; afterwards checks that no console error and no request to another server occurred."""
    page.goto("about:blank")  # cancels pending requests of the previous test
    page.messages.clear()
    page.requests.clear()
    page.goto(url)
    expect(page.locator("#run")).to_be_visible()
    yield
    assert [line for line in page.messages if line not in _WARNINGS] == []
    assert {urlsplit(address).netloc for address in page.requests if not address.startswith("blob:")} == {
        urlsplit(url).netloc
    }


def expect_results(page, question):
    expect(page.locator("#responses .kd-query")).to_contain_text(question)
    expect(page.locator("#attention .kd-model")).to_have_count(2)


def take_screenshot(page, name):
    if os.environ.get("SELFKD_SCREENSHOTS"):
        page.wait_for_timeout(800)  # for the audio player to draw the waveform
        screenshot(page, f"app-{name}", full_page=True)


def test_example_with_the_keyboard_only(page):
    example = builtin_examples()[1]
    take_screenshot(page, "start")
    page.focus("#example-1")
    page.keyboard.press("Enter")
    expect_results(page, example.question)
    titles = page.locator("#responses .kd-modality h4").all_text_contents()
    assert [re.sub(r"(correct|wrong)$", "", title) for title in titles] == ["Text", "Audio"] * 2
    assert all(page.locator("#responses .kd-response").all_text_contents())
    expect(page.locator("#responses .kd-query")).to_contain_text(example.target)
    expect(page.locator("#responses .kd-model h3").nth(1)).to_have_text("<b>two</b>")
    expect(page.locator("#attention .kd-overlay")).to_have_count(4)
    expect(page.locator("#audio audio, #audio .waveform-container").first).to_be_attached()
    take_screenshot(page, "example")

    before = page.locator("#attention .kd-overlay").first.get_attribute("src")
    page.focus("#layer input[type=range]")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#attention figcaption").first).to_contain_text("layer 4 of 6")
    expect(page.locator("#attention .kd-overlay").first).not_to_have_attribute("src", before)
    page.locator("#responses summary").first.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#responses table").first).to_be_visible()


def test_typed_question_is_synthesized_and_escaped(page):
    page.set_input_files(
        "#image input[type=file]", {"name": "a.png", "mimeType": "image/png", "buffer": png_bytes(64, 64)}
    )
    expect(page.locator("#image img")).to_be_visible()
    question = '<img src=x onerror="window.hit=1"> ${window.hit=2} {{window.hit=3}}'
    page.fill("#question textarea, #question input", question)
    page.click("#synthesize")
    expect(page.locator("#audio .record-button")).to_be_hidden()
    page.click("#run")
    expect_results(page, question)
    assert page.evaluate("window.hit") is None
    expect(page.locator("#responses .kd-modality")).to_have_count(4)


def test_responses_are_read_aloud(page):
    page.check("#aloud input")
    page.click("#example-1")
    expect_results(page, builtin_examples()[1].question)
    clips = page.locator("#responses .kd-clip")
    expect(clips).to_have_count(4)
    page.wait_for_function("document.querySelector('.kd-clip').duration > 0.2")  # the browser can decode it
    take_screenshot(page, "aloud")


def test_microphone(page):
    page.set_input_files(
        "#image input[type=file]", {"name": "a.png", "mimeType": "image/png", "buffer": png_bytes(64, 64)}
    )
    page.click("#audio .record-button")
    expect(page.locator("#audio .stop-button")).to_be_visible()
    page.wait_for_timeout(3000)  # longer than the clip
    with page.expect_response(lambda response: "/upload" in response.url):
        page.click("#audio .stop-button")
    expect(page.locator("#audio .record-button")).to_be_hidden()
    expect(page.locator("#image img")).to_be_visible()
    page.click("#run")
    expect_results(page, "(audio only)")
    expect(page.locator("#responses .kd-query")).to_contain_text("circle")
    expect(page.locator("#responses")).to_contain_text("type the question to compare")
    take_screenshot(page, "microphone")


def test_uploaded_audio(page, clip):
    page.click("#example-0")
    expect_results(page, builtin_examples()[0].question)
    page.click("#audio button[aria-label=Clear]")
    page.click("#audio button[aria-label='Upload file']")
    with page.expect_response(lambda response: "/upload" in response.url):
        page.set_input_files("#audio input[type=file]", clip)
    expect(page.locator("#audio .waveform-container").first).to_be_attached()
    page.fill("#question textarea, #question input", QUESTION)
    page.click("#run")
    expect_results(page, QUESTION)
    expect(page.locator("#responses .kd-query div").nth(1)).to_contain_text("circle")


def test_a_further_question_continues_the_conversation(page):
    example = builtin_examples()[1]
    turns = page.locator("#responses .kd-turns li")
    page.click("#example-1")
    expect_results(page, example.question)
    expect(turns).to_have_count(0)
    page.fill("#question textarea, #question input", QUESTION)
    page.click("#run")
    expect_results(page, QUESTION)
    expect(turns).to_have_count(1)
    expect(turns.first).to_contain_text(example.question)
    expect(page.locator("#attention .kd-overlay")).to_have_count(4)
    take_screenshot(page, "conversation-1280")
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    take_screenshot(page, "conversation-390")
    page.set_viewport_size({"width": 1280, "height": 900})

    page.click("#audio button[aria-label=Clear]")
    page.fill("#question textarea, #question input", "")
    page.click("#audio .record-button")
    expect(page.locator("#audio .stop-button")).to_be_visible()
    page.wait_for_timeout(3000)
    with page.expect_response(lambda response: "/upload" in response.url):
        page.click("#audio .stop-button")
    expect(page.locator("#audio .record-button")).to_be_hidden()
    page.click("#run")
    expect(turns).to_have_count(2)
    expect_results(page, "(audio only)")
    expect(page.locator("#audio .record-button")).to_be_visible()  # a recording is sent once

    page.click("#restart")
    expect(page.locator("#responses")).to_contain_text("No results yet")
    expect(page.locator("#restart")).to_be_hidden()
    page.click("#example-1")
    expect_results(page, example.question)
    expect(turns).to_have_count(0)


def test_the_tab_that_records(page):
    page.get_by_role("tab", name="Record").click()
    frame = page.frame_locator("iframe.kd-record")
    frame.locator("#speaker").fill("ben")
    frame.locator("#agree").check()
    frame.locator("#consent button").click()
    expect(frame.locator("#sentence")).to_have_text(builtin_examples()[1].question)
    frame.locator("#record").click()
    expect(frame.locator("#record")).to_have_text("Stop")
    page.wait_for_timeout(3500)
    frame.locator("#record").click()
    expect(frame.locator("#message")).to_contain_text("Recorded (")
    take_screenshot(page, "record-1280")
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    take_screenshot(page, "record-390")
    page.set_viewport_size({"width": 1280, "height": 900})


def test_invalid_queries_are_reported_on_the_page(page):
    toast = page.locator(".toast-body").last
    page.fill("#question textarea, #question input", QUESTION)
    page.click("#run")
    expect(toast).to_contain_text("choose one of the examples, or upload one")
    broken = {"name": "a.png", "mimeType": "image/png", "buffer": b"\x89PNG nonsense"}
    page.set_input_files("#image input[type=file]", broken)
    expect(page.locator("#image img")).to_be_attached()
    page.click("#run")
    expect(toast).to_contain_text("not a readable")
    page.click("#example-0")
    expect_results(page, builtin_examples()[0].question)
    page.fill("#question textarea, #question input", "What does 你好 mean?")
    page.click("#run")
    expect(toast).to_contain_text("is not of the voice's language")
    take_screenshot(page, "refused")


def test_dark_scheme_and_narrow_screen(browser_page, url):
    page = browser_page
    page.emulate_media(color_scheme="dark")
    with opened(page, url):
        page.click("#example-3")
        expect_results(page, builtin_examples()[3].question)
        for scheme, width in (("dark", 1280), ("dark", 390), ("light", 390)):
            page.emulate_media(color_scheme=scheme)
            page.set_viewport_size({"width": width, "height": 844})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            page.wait_for_function(f"document.body.classList.contains('dark') === {str(scheme == 'dark').lower()}")
            page.wait_for_function(f"({_CONTRAST})() >= 4.5")  # colours change with a transition
            take_screenshot(page, f"{scheme}-{width}")
    page.set_viewport_size({"width": 1280, "height": 900})


# the lowest WCAG contrast between text of the results and its background
_CONTRAST = """() => {
  const luminance = c => {
    const n = c.match(/[\\d.]+/g).map(Number);
    const v = n.slice(0, 3).map(x => (x /= 255) <= .04045 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4);
    return [.2126 * v[0] + .7152 * v[1] + .0722 * v[2], n[3] ?? 1];
  };
  const background = e => {
    for (; e; e = e.parentElement) {
      const [l, alpha] = luminance(getComputedStyle(e).backgroundColor);
      if (alpha > .99) return l;
    }
    return 1;
  };
  const texts = document.querySelectorAll('.kd-head p, .kd-query dt, .kd-query dd, .kd-token span, .kd-token small, '
    + '.kd-results summary, .kd-response, .kd-badge, .kd-correct, .kd-wrong, figcaption, #examples button, #run, '
    + '#synthesize');
  return Math.min(...[...texts].map(e => {
    const a = luminance(getComputedStyle(e).color)[0], b = background(e);
    return (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
  }));
}"""


@pytest.mark.slow
def test_other_hosts_files_and_large_uploads_are_refused(url):
    address = url.removeprefix("http://")
    for path, headers in (("/", {"Host": "other.example"}), ("/gradio_api/file=/etc/passwd", {}), ("/docs", {})):
        connection = http.client.HTTPConnection(address, timeout=60)
        connection.request("GET", path, headers=headers)
        assert connection.getresponse().status in (400, 403, 404), path
        connection.close()
    form = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    connection = http.client.HTTPConnection(address, timeout=60)
    connection.request(
        "POST",
        "/gradio_api/upload",
        form + bytes(MAX_BYTES + 1) + b"\r\n--x--\r\n",
        {"Content-Type": "multipart/form-data; boundary=x"},
    )
    assert connection.getresponse().status == 413
    connection.close()
