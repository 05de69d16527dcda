"""A wall clock that tests move, for whole processes and their children."""

from __future__ import annotations

import atexit
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("clock.c")
DAY = 86400


class WallClock:
    """The wall clock of every process started with ``environment``; it moves in all of them at once, at the next look.

    *path* must be readable by whom the processes run as.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.move(0)
        self.environment = {"LD_PRELOAD": str(_library()), "TESSERA_TEST_CLOCK": str(path)}

    def move(self, seconds: int) -> None:
        """Set the clock so many *seconds* ahead of the true time, or behind it if negative."""
        fresh = self._path.with_suffix(".new")
        fresh.write_text(str(seconds))
        fresh.chmod(0o644)
        fresh.replace(self._path)


@cache
def _library() -> Path:
    """Build the library once per run of the tests, where other users can read it."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.fail("no C compiler: install Debian's package gcc")
    folder = Path(tempfile.mkdtemp(prefix="tessera-clock-"))
    atexit.register(shutil.rmtree, folder)
    folder.chmod(0o755)
    built = folder / "clock.so"
    command = [compiler, "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", str(built), str(SOURCE)]
    subprocess.run(command, check=True, timeout=60)
    built.chmod(0o755)
    return built
