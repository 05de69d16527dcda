"""How fast a card's time moves to who can use it, and back; what of it nobody gets; and whether all get their part.

One container has work all the time, its neighbour on and off. Given back: from the neighbour's last kernel until the other has
the whole card. Taken back: from the neighbour's first launch until it has the seven tenths that it requested. A share is reached
at a time when, over the next 50 ms, it is at least nine tenths of what it should be; the truth is looked at every simulated
millisecond.

For the rest four containers have work all the time, with requests of 10, 20, 30 and 40: Jain's index is of share ÷ request, and
the card is idle when neither a kernel nor a change of context is on it. What changes of context take is told beside it.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from benchmarks.rows import Row
from benchmarks.vgpu.controls import EVERYONE, OTHERS, OURS, rivals
from benchmarks.vgpu.machines import FULL, MS, Container, Control, Integers, Outcome, Setting, programs
from benchmarks.vgpu.plots import run_and_draw

BENCH = "idle"
SETTING = Setting(dilation=8.0, warm_up_s=1.0, window_s=5.0, sample_ns=1 * MS)
REQUESTS = (10, 20, 30, 40)
_AHEAD_NS = 50 * MS
_ENOUGH = 0.9
_NEVER_MS = 400.0
"""What is told where it was not reached before the phase's end."""
_QUIET_NS = 100 * MS
BUSY = Container("busy", "async", {"kernel_ns": MS}, request=30)
CHANGING = Container("on and off", "phases", {"kernel_ns": MS, "on_ns": 500 * MS, "off_ns": 500 * MS}, request=70)
FOUR = [Container(f"request {request}", "async", {"kernel_ns": MS}, request=request, weight=request) for request in REQUESTS]


def reached_ms(now: Integers, used: Integers, since: int, share: float) -> float:
    """Return after how many ms from *since* the container that used that much by those times has *share* (0 to 1) of the card."""
    starts = now[(now >= since) & (now < since + round(_NEVER_MS * MS)) & (now < now[-1] - _AHEAD_NS)]
    starts = np.concatenate(([since], starts))
    gained = np.interp(starts + _AHEAD_NS, now, used) - np.interp(starts, now, used)
    there = np.nonzero(gained >= _ENOUGH * share * _AHEAD_NS)[0]
    return float(starts[there[0]] - since) / MS if len(there) else _NEVER_MS


def ends(now: Integers, used: Integers) -> list[int]:
    """Return the times after which a container had no kernel for a while: of its last ones before."""
    moving = np.nonzero(np.diff(used))[0] + 1
    gaps = np.nonzero(np.diff(now[moving]) > _QUIET_NS)[0]
    return [int(time) for time in now[moving][gaps]]


def changes(outcome: Outcome) -> tuple[list[float], list[float]]:
    """Return how long each giving back and each taking back took, in ms."""
    now, busy, other = outcome.now_ns, outcome.each_ns[:, 0], outcome.each_ns[:, 1]
    began = outcome.simulated(outcome.said[1][0]["began_ns"])
    within = [int(time) for time in began if now[0] < time < now[-1] - 2 * _AHEAD_NS]
    given = [reached_ms(now, busy, time, 1.0) for time in ends(now, other) if time < now[-1] - 2 * _AHEAD_NS]
    return given, [reached_ms(now, other, time, CHANGING.request / 100) for time in within]


def jain(shares: Iterable[float]) -> float:
    """Return Jain's index of fairness: 1 if all are alike, 1/n if one has all."""
    x = np.asarray(list(shares))
    return float(x.sum() ** 2 / (len(x) * (x**2).sum()))


def measure(control: Control, containers: list[Container]) -> Outcome:
    """Run one."""
    return run_and_draw(f"idle {control.name}: {len(containers)} containers", control, containers, SETTING)


def rows() -> Iterable[Row]:
    """Run both for each method."""
    programs()
    rivals()
    controls = EVERYONE if FULL else (OURS, OTHERS[0])
    every = [(control, containers) for containers in ([BUSY, CHANGING], FOUR) for control in controls]
    # One by one: what is measured are milliseconds of several processes, each of which needs a processor to itself.
    found = [measure(*job) for job in every]
    for control, changing, four in zip(controls, found[: len(controls)], found[len(controls) :], strict=True):
        name, ours = control.name, control is OURS
        given, taken = changes(changing)
        fairness = jain(share / request for share, request in zip(four.shares(), REQUESTS, strict=True))
        idle = max(changing.idle_percent(), four.idle_percent())
        yield Row(BENCH, name, "give_back_ms", max(given), "ms", "< 50" if ours else None)
        yield Row(BENCH, name, "take_back_ms", max(taken), "ms", "< 50" if ours else None)
        yield Row(BENCH, name, "give_back_median_ms", float(np.median(given)), "ms")
        yield Row(BENCH, name, "take_back_median_ms", float(np.median(taken)), "ms")
        yield Row(BENCH, name, "device_idle_percent", idle, "%", "< 2" if ours else None)
        yield Row(BENCH, name, "switching_percent", four.switching_percent(), "%")
        yield Row(BENCH, name, "jain", fairness, "index", ">= 0.99" if ours else None)
