"""Fixtures of the browser tests.

- ``hub``: ``tessera up --simulate-cards 2xA100-80G`` with a data set, shared by a module, removed afterwards
- ``browser``: Chromium, shared by a module
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser.running import RunningHub
from tests.chromium import browser

__all__ = ["browser"]


@pytest.fixture(scope="module")
def hub() -> Iterator[RunningHub]:
    """The product, with two simulated cards and a data set, ``birds``."""
    running = RunningHub("--simulate-cards", "2xA100-80G")
    # Beside the data directory, through which people cannot look.
    birds = Path(tempfile.mkdtemp(prefix="tessera-birds-", dir="/var/tmp"))
    birds.chmod(0o755)
    (running.data_dir / "datasets.toml").write_text(f'[datasets.birds]\npath = "{birds}"\nworkspaces = true\n')
    try:
        yield running.start().joined()
    finally:
        running.remove()
        birds.rmdir()
