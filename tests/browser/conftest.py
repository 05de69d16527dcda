"""Fixtures of the browser tests.

- ``hub``: ``tessera up --simulate-cards 2xA100-80G``, shared by a module, removed afterwards
- ``browser``: Chromium, shared by a module
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.browser.running import RunningHub


# Of one module: Playwright keeps an event loop of its own in this thread, and asynchronous tests need theirs.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium of the system."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def hub() -> Iterator[RunningHub]:
    """The product, with two simulated cards."""
    running = RunningHub("--simulate-cards", "2xA100-80G")
    try:
        yield running.start().joined()
    finally:
        running.remove()
