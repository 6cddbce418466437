"""A real browser for tests of pages: `with chromium_page() as page:`, Playwright's page that keeps what went wrong, and
`expect`, its assertions, which wait for what they ask for: two cores that are busy with others are slow, not wrong.

Tests are skipped where Playwright or chromium is not installed. Screenshots go where SELFKD_SCREENSHOTS points, if it
is set.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
expect = playwright.expect
SOON = 60_000  # ms, of whatever is waited for
expect.set_options(timeout=SOON)

_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
)  # fmt: skip


@contextmanager
def chromium_page(width: int = 1200, height: int = 900, flags: Sequence[str] = (), **settings) -> Iterator:
    """A page with lists of its own: `page.spoken_text`, the warnings and errors of its console, and `page.asked`, the
    addresses that it asked for, files and data of its own not counted. `flags` are further ones of Chromium, `settings`
    those of a browser context: color_scheme, has_touch, ..."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium is installed")
    with playwright.sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=chromium, args=[*_FLAGS, *flags])
        try:
            page = browser.new_context(viewport={"width": width, "height": height}, **settings).new_page()
            page.set_default_timeout(SOON)
            page.spoken_text, page.asked = [], []
            page.on("console", lambda m: page.spoken_text.append(m.text) if m.type in ("error", "warning") else None)
            page.on("pageerror", lambda error: page.spoken_text.append(str(error)))
            page.on("request", lambda r: page.asked.append(r.url) if not r.url.startswith(("file:", "data:")) else None)
            yield page
        finally:
            browser.close()


def screenshot(page, name: str, full_page: bool = False) -> None:
    folder = os.environ.get("SELFKD_SCREENSHOTS")
    if folder:
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=full_page)
