"""A real browser, headless, for the page of the report and that of the explorer."""

import os
import shutil

import pytest


@pytest.fixture(scope="session")
def browser():
    """Chromium: the one that $VAEKIT_BROWSER names, or the one on PATH."""
    from playwright.sync_api import sync_playwright

    installed = filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome")))
    path = os.environ.get("VAEKIT_BROWSER") or next(installed, None)
    assert path, "no chromium on PATH: install it, or say with VAEKIT_BROWSER where it is"
    with sync_playwright() as playwright:
        # Root has no sandbox; the other flags keep Chromium's own errands from being taken for the page's.
        flags = ["--no-sandbox", "--disable-background-networking", "--disable-component-update"]
        browser = playwright.chromium.launch(executable_path=path, args=flags)
        yield browser
        browser.close()
