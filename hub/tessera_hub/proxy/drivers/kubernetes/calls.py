"""Calls of the API server block: they have threads of their own, beside the few that serve everything else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

CALLS_AT_ONCE: Final = 64
"""Calls of the API server side by side."""
LEASES_AT_ONCE: Final = 48
"""Of them those that make runs: an API server checks the quota of those together that come together."""

T = TypeVar("T")

_CALLS: Final = ThreadPoolExecutor(CALLS_AT_ONCE, "api")


async def in_thread(call: Callable[[], T]) -> T:
    """Run a blocking call."""
    return await asyncio.get_running_loop().run_in_executor(_CALLS, call)
