"""Takes the screenshots of the docs: `python docs/screenshots.py DEMO`, where DEMO is the folder of `selfkd demo`.

Writes images/report.png and gallery/report-phone.png (the first screen of DEMO/report.html, which it makes again from
the runs), images/app.png (the app with SFT and the CTC projector, which this script starts and stops), and
gallery/manifest.json: of each image the hash of its file and of what it shows (`shown`). tests/test_gallery.py fails
where the code of today shows something else, so that no image goes stale. Pixels are not compared: fonts differ between
machines. Needs Playwright and chromium.
"""

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from selfkd.demo import DemoConfig, checkpoints, write_report

DOCS = Path(__file__).parent
GALLERY, IMAGES, ROOT = DOCS / "gallery", DOCS / "images", DOCS.parent
MANIFEST = GALLERY / "manifest.json"
REPORT, PHONE, APP = IMAGES / "report.png", GALLERY / "report-phone.png", IMAGES / "app.png"
MAX_COLORS = 128
_FOLDED = re.compile(r"(</summary>).*?(</details>)", re.DOTALL)  # what is not on the image
_APP_FILES = ("ui.py", "results_html.py", "page.css")  # of selfkd/app, what the app's page is made of


def shown(report_page: str) -> dict[str, str]:
    """{image: hash of what it shows}. Of the report that is the first screen's HTML, sentences included, as a report of
    known runs (`report_page`) has it, and its style; of the app the files that make its page."""
    style = report_page[report_page.index("<style>") : report_page.index("</style>")]
    body = report_page[report_page.index("<body>") : report_page.index('<section id="findings"')]
    report = hashlib.sha256((style + _FOLDED.sub(r"\1\2", body)).encode()).hexdigest()
    files = [(ROOT / "selfkd" / "app" / name).read_bytes() for name in _APP_FILES]
    app = hashlib.sha256(b"\0".join(files)).hexdigest()
    return {_name(REPORT): report, _name(PHONE): report, _name(APP): app}


def reference_report() -> str:
    """The page of a report of small runs with known scores, by the code of today."""
    sys.path.insert(0, str(ROOT / "tests" / "support"))
    from report_runs import one_run_of_each_stage, rendered

    with tempfile.TemporaryDirectory() as folder:
        return rendered(one_run_of_each_stage(Path(folder)), Path(folder))


def hash_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def take_report(page: Page, report: Path, image: Path, width: int, height: int) -> None:
    page.set_viewport_size({"width": width, "height": height})
    page.goto(report.resolve().as_uri())
    page.wait_for_timeout(500)
    page.screenshot(path=image)


def take_app(page: Page, demo: Path) -> None:
    page.set_viewport_size({"width": 1200, "height": 800})
    models = [f"{name}={checkpoints(demo)[name]}" for name in ("sft", "ctc")]
    command = [sys.executable, "-m", "selfkd.cli", "app", *models, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as app:
        try:
            page.goto(next(line.split()[0] for line in app.stdout or () if line.startswith("http")))
            page.click("#example-1")
            page.wait_for_selector("#attention .kd-model")
            page.evaluate("scrollTo({top: document.getElementById('responses').offsetTop - 48, behavior: 'instant'})")
            page.wait_for_timeout(1000)  # for images and layout
            page.screenshot(path=APP)
        finally:
            app.terminate()


def main(demo: Path) -> None:
    report = write_report(DemoConfig(demo))
    with sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(color_scheme="light")
        page.set_default_timeout(120_000)
        take_app(page, demo)
        take_report(page, report, REPORT, 1200, 720)
        take_report(page, report, PHONE, 390, 844)
        browser.close()
    about = {}
    for name, shows in shown(reference_report()).items():
        image = Image.open(DOCS / name).convert("RGB").quantize(MAX_COLORS)
        image.save(DOCS / name, optimize=True)
        about[name] = {"file": hash_of(DOCS / name), "shows": shows}
    MANIFEST.write_text(json.dumps(about, indent=1) + "\n")


def _name(path: Path) -> str:
    return path.relative_to(DOCS).as_posix()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
