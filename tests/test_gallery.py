"""The images of docs/gallery show what the code of today shows, and the recording what the demo prints."""

import importlib.util
import json
import re
import sys
from itertools import pairwise

import pytest
from documentation import DOCS
from report_runs import one_run_of_each_stage, rendered

from selfkd.demo import NUM_STAGES

GALLERY = DOCS / "gallery"
MAX_BYTES, MAX_SECONDS = 1_500_000, 120
STYLES = re.compile(r"\x1b\[[?\d;]*[A-Za-z]")


@pytest.fixture(scope="module")
def screenshots():
    pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    spec = importlib.util.spec_from_file_location("screenshots", DOCS / "screenshots.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gallery")
    return rendered(one_run_of_each_stage(folder), folder)


def recording():
    """(header, [(seconds, what was printed)])."""
    header, *events = map(json.loads, (GALLERY / "demo.cast").read_text().splitlines())
    return header, [(at, text) for at, kind, text in events if kind == "o"]


def printed_lines():
    """Lines as the terminal shows them: of a bar, what was there last."""
    text = STYLES.sub("", "".join(text for _, text in recording()[1]))
    return [line.rpartition("\r")[2].rstrip() for line in text.replace("\r\n", "\n").split("\n")]


def test_images_show_the_pages_of_today(screenshots, page):
    manifest = json.loads(screenshots.MANIFEST.read_text())
    shows = screenshots.shown(page)
    stale = [name for name in shows if manifest.get(name, {}).get("shows") != shows[name]]
    assert not stale, f"{stale}: make gallery takes them again"
    assert all(screenshots.hash_of(DOCS / name) == manifest[name]["file"] for name in shows)


def test_a_change_of_sentence_style_or_app_makes_images_stale(screenshots, page, tmp_path, monkeypatch):
    before = screenshots.shown(page)
    report, app = {"images/report.png", "gallery/report-phone.png"}, {"images/app.png"}

    def changed(text):
        after = screenshots.shown(text)
        return {name for name in before if after[name] != before[name]}

    assert changed(page.replace("Audio loses", "Audio gains")) == report
    assert changed(page.replace("--ink: ", "--ink:  ")) == report
    assert changed(page.replace("Reasons", "Other") + " ") == set(), "what is folded is on no image"
    monkeypatch.setattr(screenshots, "_APP_FILES", ("ui.py",))
    assert changed(page) == app


def test_recording_plays_in_two_minutes_in_80_columns():
    header, events = recording()
    assert (header["version"], header["width"], header["height"]) == (2, 80, 24)
    times = [at for at, _ in events]
    assert times == sorted(times) and 20 < times[-1] < MAX_SECONDS
    assert max(map(len, printed_lines())) <= 80
    assert sum(path.stat().st_size for path in GALLERY.iterdir()) < MAX_BYTES


@pytest.mark.slow
def test_recording_shows_the_stages_of_the_demo(demo):
    """And its last lines, apart from numbers and the folder."""
    recorded = [line for line in printed_lines() if line.startswith("stage ")]
    today = [line for line in demo.stdout.splitlines() if line.startswith("stage ")]
    assert recorded == today and len(recorded) == NUM_STAGES, "make gallery records the demo again"

    def ending(lines, folder):
        text = " ".join(" ".join(lines).replace(folder, "OUT").split())
        return re.sub(r"[\d,.]+", "0", text[text.rindex("OUT/report.html: ") :])

    assert ending(printed_lines(), "runs/demo") == ending(demo.stdout.splitlines(), str(demo.folder))


def test_gif_is_as_long_as_the_recording():
    from PIL import Image

    image = Image.open(GALLERY / "demo.gif")
    milliseconds = 0
    for frame in range(image.n_frames):
        image.seek(frame)
        milliseconds += image.info["duration"]
    assert 0 <= milliseconds / 1000 - recording()[1][-1][0] < 10, "it stays at its end for a while"


def test_shortening_leaves_the_last_state_of_each_line(monkeypatch):
    pytest.importorskip("pyte")
    sys.modules.pop("record_demo", None)
    monkeypatch.syspath_prepend(str(DOCS))
    from record_demo import BAR_SECONDS, MAX_PAUSE, shortened

    bars = [(float(at), f"\r\x1b[2Kbar {at}") for at in range(1, 90)]
    played = shortened([(0.0, "start\r\n"), *bars, (90.0, "\r\x1b[2Kbar 90\r\ndone\r\n")])
    assert played[0][1] == "start\r\n" and played[-1][1].endswith("bar 90\r\ndone\r\n")
    assert len(played) == 2 + 90 // BAR_SECONDS
    assert all(b - a <= MAX_PAUSE + 1e-9 for (a, _), (b, _) in pairwise(played))
