"""Keeps Python's search for cyclic garbage away from what waits.

A full search looks at every object of the process. With 100,000 waiting runs it stopped everything for 0.3 to 1 s, and it came
in the middle of a cycle. Waiting runs form no rings: they are freed by their counts when they leave. So they are set aside,
and nothing is searched while a cycle runs. What is a ring at the moment of setting aside is searched again after the reign.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

STEP: Final = 20_000
"""So many new runs are set aside at once."""


class Retention:
    """Sets aside what one reign of a leader holds for long."""

    def __init__(self) -> None:
        self._new = 0

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """No search while the block runs."""
        was_enabled = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            if was_enabled:
                gc.enable()

    def came(self, runs: int) -> None:
        """Note that so many runs were taken in, and set them aside when they are many."""
        self._new += runs
        if self._new >= STEP:
            self._new = 0
            gc.freeze()

    def end(self) -> None:
        """Let everything be searched again."""
        gc.unfreeze()
