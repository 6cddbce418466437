"""Chromium, without a window and without a word to anybody but this machine."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from playwright.sync_api import Page, Route, sync_playwright

CHROMIUM = shutil.which("chromium")
_QUIET = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
_OWN = ("127.0.0.1", "localhost", "")


@contextmanager
def chromium_page(*extra_arguments: str) -> Iterator[Page]:
    """A page whose `complaints` are what its console and scripts complained about, and whose `strangers` are the
    addresses elsewhere that it asked for, in vain."""
    assert CHROMIUM is not None, "skip the test where there is no chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*_QUIET, *extra_arguments])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.complaints, page.strangers = [], []
        page.on("console", lambda m: page.complaints.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: page.complaints.append(str(error)))

        def stay_here(route: Route) -> None:
            parts = urlsplit(route.request.url)
            if parts.scheme in ("data", "blob") or parts.hostname in _OWN:
                route.continue_()
            else:
                page.strangers.append(route.request.url)
                route.abort()

        page.route("**/*", stay_here)
        yield page
        browser.close()
