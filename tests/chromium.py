"""Chromium of the system, for every suite that looks at pages: import ``browser`` and name it in ``__all__``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright


# Of one module: Playwright keeps an event loop of its own in this thread, and asynchronous tests need theirs.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, shared by a module."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        yield chromium
        chromium.close()
