"""A real browser for tests of pages: `with chromium_page() as page:`, a Playwright page that records its messages and
requests, and `expect`, its assertions, which wait until they hold: on a busy machine a page is slow, not wrong.

Several pages of one module share a browser: `with chromium() as browser:`, then `with open_page(browser) as page:`.
Tests are skipped where Playwright or chromium is not installed. Screenshots are written to the folder
SELFKD_SCREENSHOTS, if it is set.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
expect = playwright.expect
TIMEOUT_MS = 60_000  # of every assertion and action
expect.set_options(timeout=TIMEOUT_MS)

_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
)  # fmt: skip


@contextmanager
def chromium(flags: Sequence[str] = ()) -> Iterator:
    """A running browser; `flags` are additional ones of Chromium."""
    executable = shutil.which("chromium")
    if executable is None:
        pytest.skip("no chromium is installed")
    with playwright.sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=executable, args=[*_FLAGS, *flags])
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def open_page(browser, width: int = 1200, height: int = 900, **settings) -> Iterator:
    """An empty page in a context of its own. `page.messages` are the warnings and errors of its console,
    `page.requests` the addresses that it requested, except files and data URIs. `settings` are those of a browser
    context: color_scheme, has_touch, ..."""
    context = browser.new_context(viewport={"width": width, "height": height}, **settings)
    try:
        page = context.new_page()
        page.set_default_timeout(TIMEOUT_MS)
        page.messages, page.requests = [], []
        page.on("console", lambda m: page.messages.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: page.messages.append(str(error)))
        page.on("request", lambda r: page.requests.append(r.url) if not r.url.startswith(("file:", "data:")) else None)
        yield page
    finally:
        context.close()


@contextmanager
def chromium_page(width: int = 1200, height: int = 900, flags: Sequence[str] = (), **settings) -> Iterator:
    """A page in a browser of its own."""
    with chromium(flags) as browser, open_page(browser, width, height, **settings) as page:
        yield page


def screenshot(page, name: str, full_page: bool = False) -> None:
    folder = os.environ.get("SELFKD_SCREENSHOTS")
    if folder:
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=full_page)
