"""The page in a real browser with Chromium's fake microphone: three sentences are recorded, synthesized and evaluated
by the commands that `selfkd record` prints."""

import os
import shlex
from urllib.parse import urlsplit

import numpy as np
import pytest
import soundfile
from browser import chromium, expect, open_page, screenshot
from recordings import SPEAKER, config_of, same_question, served, speech, write_questions

from selfkd.cli import main
from selfkd.json_files import read_json, read_json_lines
from selfkd.recording.folder import RecordingFolder
from selfkd.recording.record import record
from selfkd.run_dir import RESULT

pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("one_thread")]
QUESTION = "What color is the circle?"
CLIP_MS = 3500  # longer than the clip of the microphone


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_questions(tmp_path_factory.mktemp("source"), same_question(QUESTION, 3))


def microphone(path, samples):
    soundfile.write(path, samples, 48_000, subtype="PCM_16")
    return [
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={path}%noloop",
    ]


def agree(page, url, speaker=SPEAKER):
    page.goto(url)
    expect(page.locator("#consent")).to_be_visible()
    page.fill("#speaker", speaker)
    page.check("#agree")
    page.click("#consent button")
    expect(page.locator("#session")).to_be_visible()


def record_once(page):
    page.click("#record")
    expect(page.locator("#record")).to_have_text("Stop")
    page.wait_for_timeout(CLIP_MS)
    page.click("#record")


def take_screenshots(page, name):
    if os.environ.get("SELFKD_SCREENSHOTS"):
        for width in (1280, 390):
            page.set_viewport_size({"width": width, "height": 844})
            page.wait_for_timeout(300)
            screenshot(page, f"record-{name}-{width}", full_page=True)
        page.set_viewport_size({"width": 1200, "height": 900})


def test_three_sentences_are_recorded_and_evaluated(table, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config = config_of(table, tmp_path / "mine", port=0, license="CC-BY-4.0")
    flags = microphone(tmp_path / "voice.wav", speech(QUESTION, 48_000))
    with served(config) as url, chromium(flags) as browser, open_page(browser) as page:
        page.goto(url)
        expect(page.locator("#consent-text")).to_contain_text("published under the license CC-BY-4.0")
        take_screenshots(page, "consent")
        page.fill("#speaker", SPEAKER)
        page.click("#consent button")  # without the check mark
        expect(page.locator("#session")).to_be_hidden()
        assert not (config.output / "consents.json").exists()
        page.check("#agree")
        page.click("#consent button")
        expect(page.locator("#sentence")).to_have_text(QUESTION)
        expect(page.locator("#image")).to_be_visible()
        expect(page.locator("#back")).to_be_disabled()
        page.click("#record")
        expect(page.locator("#record")).to_have_text("Stop")
        page.wait_for_timeout(CLIP_MS // 3)
        take_screenshots(page, "recording")
        page.wait_for_timeout(CLIP_MS)
        page.click("#record")
        expect(page.locator("#message")).to_contain_text("Recorded (")
        expect(page.locator("#player")).to_be_visible()
        expect(page.locator("#progress-text")).to_have_text("1 of 3 recorded")
        take_screenshots(page, "recorded")
        first = sorted((config.output / "audio" / SPEAKER).iterdir())
        record_once(page)  # a repeat
        expect(page.locator("#message")).to_contain_text("Recorded (")
        assert sorted((config.output / "audio" / SPEAKER).iterdir()) == first
        page.keyboard.press("ArrowRight")
        page.click("#next")  # skips the second
        expect(page.locator("#number")).to_have_text("Sentence 3 of 3")
        record_once(page)
        expect(page.locator("#progress-text")).to_have_text("2 of 3 recorded")

        page.goto(url)  # as a person who comes back another day
        page.fill("#speaker", SPEAKER)
        page.check("#agree")
        page.click("#consent button")
        expect(page.locator("#number")).to_have_text("Sentence 2 of 3")
        expect(page.locator("#progress-text")).to_have_text("2 of 3 recorded")
        record_once(page)
        expect(page.locator("#progress-text")).to_have_text("3 of 3 recorded")
        page.click("#next")
        page.click("#next")
        expect(page.locator("#done")).to_be_visible()
        take_screenshots(page, "done")
        shown = page.locator("#commands pre").all_text_contents()
        assert page.messages == []
        assert {urlsplit(address).netloc for address in page.requests} == {urlsplit(url).netloc}

    rows = list(read_json_lines(config.output / "questions.jsonl"))
    assert [row["id"] for row in rows] == [f"q/{n}-{SPEAKER}" for n in range(3)]
    capsys.readouterr()
    result = record(output=config.output, microphone=False)
    assert result["speakers"] == {SPEAKER: 3}
    commands = [line.strip() for line in capsys.readouterr().out.partition("Next:\n")[2].splitlines()]
    assert commands == shown and len(commands) == 2
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "selfkd" and main(arguments) == 0
    scores = read_json(tmp_path / "runs" / "mine" / RESULT)["questions"]
    assert scores["audio"]["n"] == scores["text"]["n"] == 3
    assert scores["audio"]["accuracy"] == scores["text"]["accuracy"] == 1.0, "the model has understood each recording"


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("silent", lambda s: 0 * s, "silent: is this the right microphone"),
        ("quiet", lambda s: 0.035 * s, "too quiet: "),
        ("clipped", lambda s: np.clip(20 * s, -1, 1), "of the samples are clipped"),
    ],
)
def test_a_refused_recording_leaves_the_earlier_one(table, tmp_path, name, change, reason):
    config = config_of(table, tmp_path / "mine", port=0)
    flags = microphone(tmp_path / "voice.wav", change(speech(QUESTION, 48_000)))
    with served(config) as url, chromium(flags) as browser, open_page(browser) as page:
        agree(page, url)
        folder = RecordingFolder(config.output)
        kept = 0.3 * speech(QUESTION)
        folder.add(SPEAKER, folder.sentences[0], kept, 16_000)
        path = folder.path(SPEAKER, folder.sentences[0])
        before = path.read_bytes()
        page.reload()
        page.click("#back")
        record_once(page)
        expect(page.locator("#message")).to_contain_text(reason)
        expect(page.locator("#message")).to_contain_text("The earlier recording is kept.")
        if name == "clipped":
            take_screenshots(page, "refused")
        assert path.read_bytes() == before
        assert all("status of 422" in line for line in page.messages), page.messages


def test_narrow_and_dark_pages_fit(table, tmp_path):
    config = config_of(table, tmp_path / "mine", port=0)
    with served(config) as url, chromium() as browser:
        for scheme in ("light", "dark"):
            with open_page(browser, 390, 844, color_scheme=scheme) as page:
                agree(page, url)
                assert page.evaluate("document.documentElement.scrollWidth") <= 390
                if os.environ.get("SELFKD_SCREENSHOTS"):
                    screenshot(page, f"record-{scheme}-390", full_page=True)
                page.click("#record")  # without a microphone
                expect(page.locator("#message")).to_contain_text("No microphone")
