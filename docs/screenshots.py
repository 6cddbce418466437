"""Takes the docs' two screenshots: `python docs/screenshots.py DEMO`, where DEMO is the folder of `selfkd demo`.

Writes images/report.png (the findings in DEMO/report.html) and images/app.png (the app with the bundled model, which
this script starts and stops). Needs Playwright and chromium.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

IMAGES = Path(__file__).parent / "images"
SIZE = {"width": 1200, "height": 800}


def show(page: Page, section: str) -> None:
    page.evaluate("id => scrollTo({top: document.getElementById(id).offsetTop - 48, behavior: 'instant'})", section)
    page.wait_for_timeout(1000)  # for images and layout


def take_report(page: Page, report: Path) -> None:
    page.goto(report.resolve().as_uri())
    show(page, "findings")
    page.screenshot(path=IMAGES / "report.png")


def take_app(page: Page) -> None:
    command = [sys.executable, "-m", "selfkd.cli", "app", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as app:
        try:
            page.goto(next(line.split()[0] for line in app.stdout or () if line.startswith("http")))
            page.click("#example-1")
            page.wait_for_selector("#attention .kd-model")
            show(page, "responses")
            page.screenshot(path=IMAGES / "app.png")
        finally:
            app.terminate()


def main(demo: Path) -> None:
    with sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE)  # type: ignore[arg-type]
        page.set_default_timeout(120_000)
        take_app(page)
        take_report(page, demo / "report.html")
        browser.close()
    for name in ("report.png", "app.png"):
        image = Image.open(IMAGES / name).convert("RGB").quantize(128)
        image.save(IMAGES / name, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
