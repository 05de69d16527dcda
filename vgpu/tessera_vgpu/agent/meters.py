"""Counters of what containers use, which never fall and never run faster than time does, whatever their pages say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tessera_vgpu.layout import MOST_PROCESSES
from tessera_vgpu.pages import Ledger

_SLACK_NS: Final = 1_000_000_000
"""A kernel is counted when it ends, so that a second of it may come with the next reading."""


@dataclass(frozen=True, slots=True)
class Times:
    """Nanoseconds of a card that a container used, waited for while others had it, and waited for because of its own limit."""

    device_ns: int = 0
    waiting_ns: int = 0
    throttled_ns: int = 0


class Meter:
    """Times of one container on one card, from readings of its page.

    The first reading may not exceed the age of the container; a later one grows at most by what has passed since, for each of its
    processes where they wait.

    Args:
        age_ns: how long the container's slice has been there.
        now_ns: of a clock that never goes back.
    """

    def __init__(self, age_ns: int, now_ns: int) -> None:
        self.times = Times()
        self._seen = (0, 0, 0)
        self._last_ns = now_ns - max(age_ns, 0)

    def read(self, page: Ledger, processes: int, now_ns: int) -> Times:
        """Take a reading, and return the times so far."""
        passed = max(now_ns - self._last_ns, 0) + _SLACK_NS
        waiters = min(max(processes, 1), MOST_PROCESSES)
        seen = (page.device_time_ns, page.waiting_ns, page.throttled_ns)
        most = (passed, passed * waiters, passed * waiters)
        grown = [
            total + min(max(new - old, 0), bound)
            for total, new, old, bound in zip(
                (self.times.device_ns, self.times.waiting_ns, self.times.throttled_ns), seen, self._seen, most, strict=True
            )
        ]
        self._seen, self._last_ns = seen, now_ns
        self.times = Times(*grown)
        return self.times
