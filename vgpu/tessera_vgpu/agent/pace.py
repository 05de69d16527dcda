"""Which containers use more of a card's time than they book: the driver's word over some seconds beside their pages.

The driver samples a process's share of time over up to a second, whole percents, and shows it a little later (``nvml.h``,
``nvmlDeviceGetProcessUtilization``). So what it says of a window is compared with what was booked in that window *and in the time
before that its samples may cover*: a program that stops, or works now and then, is never found for that. What was booked and
not used yet counts, too: a kernel whose time is known is booked when it is launched, and may run for a minute.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tessera_vgpu.agent.evidence import Evidence
from tessera_vgpu.agent.processes import Process
from tessera_vgpu.agent.view import Bypass, Finding

WINDOW_NS: Final = 3_000_000_000
BEFORE_NS: Final = 1_500_000_000
"""How far back a sample that is read now may reach."""
MOST_AHEAD_NS: Final = 600_000_000_000
TOLERANCE: Final = 0.25
"""Of the card's time. Not all copies are booked, and costs of launches are estimates."""


@dataclass(frozen=True, slots=True)
class _Look:
    at_ns: int
    busy: float
    """Share of the card's time that the driver says, 1 is all of it."""
    booked_ns: int
    ahead_ns: float = 0.0
    """By so much more was booked than used before: a long kernel is booked when it is launched."""


class Pace:
    """Remembers the looks of the last seconds, for each container and card."""

    def __init__(self) -> None:
        self._looks: dict[tuple[str, str], deque[_Look]] = {}

    def judge(self, evidence: Evidence, now_ns: int) -> Mapping[Finding, tuple[Process, ...]]:
        """Take a look in, and return who has hidden time of late, with its processes on that card.

        Args:
            now_ns: of a clock that never goes back.
        """
        found: dict[Finding, tuple[Process, ...]] = {}
        living: dict[tuple[str, str], deque[_Look]] = {}
        for holding in evidence.holdings:
            for index, share in enumerate(holding.binding.shares):
                key = holding.nonce, share.uuid
                mine = evidence.processes(*key)
                looks = living[key] = self._looks.get(key, deque())
                looks.append(_following(looks, now_ns, evidence.used(*key), holding.after.totals[index].device_time_ns))
                while len(looks) > 1 and looks[1].at_ns <= now_ns - WINDOW_NS - BEFORE_NS:
                    looks.popleft()
                if mine and _hides(looks, now_ns):
                    found[Finding(Bypass.HIDDEN_TIME, holding.nonce, share.uuid)] = mine
        self._looks = living
        return found


def _following(looks: deque[_Look], now_ns: int, busy: float, booked_ns: int) -> _Look:
    if not looks:
        return _Look(now_ns, busy, booked_ns)
    last = looks[-1]
    ahead_ns = last.ahead_ns + max(booked_ns - last.booked_ns, 0) - busy * (now_ns - last.at_ns)
    return _Look(now_ns, busy, booked_ns, min(max(ahead_ns, 0.0), MOST_AHEAD_NS))


def _hides(looks: deque[_Look], now_ns: int) -> bool:
    began = now_ns - WINDOW_NS
    if looks[0].at_ns > began:
        return False
    used, last = 0.0, began
    for look in looks:
        if look.at_ns > began:
            used += look.busy * (look.at_ns - last)
            last = look.at_ns
    booked = max(look.booked_ns for look in looks) - min(look.booked_ns for look in looks)
    return used > booked + looks[0].ahead_ns + TOLERANCE * WINDOW_NS
