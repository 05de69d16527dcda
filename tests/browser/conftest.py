"""Fixtures of the browser tests.

- ``hub``: ``tessera up --simulate-cards 2xA100-80G``, shared by a module, removed afterwards
- ``browser``: Chromium, shared by a module
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.browser.running import RunningHub
from tests.chromium import browser

__all__ = ["browser"]


@pytest.fixture(scope="module")
def hub() -> Iterator[RunningHub]:
    """The product, with two simulated cards."""
    running = RunningHub("--simulate-cards", "2xA100-80G")
    try:
        yield running.start().joined()
    finally:
        running.remove()
