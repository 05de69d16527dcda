"""Fixtures of the walk.

world    module    the real service on SQLite with a hub double and a real local Proxy, and real things of one tenant
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tenancy.world import World


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    # Not below pytest's own directory: people's runs have their own uids and must get through.
    directory = Path(tempfile.mkdtemp(prefix="tessera-tenancy-"))
    directory.chmod(0o711)
    made = World(directory)
    try:
        yield made.start()
    finally:
        made.close()
        shutil.rmtree(directory, ignore_errors=True)
