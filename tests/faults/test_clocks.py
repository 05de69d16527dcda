"""Clocks that are wrong or jump: nothing is lost, nothing is billed for time that has not passed."""

from __future__ import annotations

import asyncio
import sys

import pytest
from sqlalchemy import text

from tests.clock import WallClock
from tests.faults.centre import Centre
from tests.faults.conftest import Check

pytestmark = [pytest.mark.faults, pytest.mark.timeout(240)]

LAUNCHER = """import sys
sys.executable = {python!r}
from tessera_hub.cli import main
main(sys.argv[sys.argv.index("proxy"):])
"""


def wrong_clock(centre: Centre) -> tuple[WallClock, tuple[str, ...]]:
    """Return a clock and the words that start a Proxy under it; its shims and runners get the same one."""
    folder = centre.directory / "clock"
    folder.mkdir(mode=0o755)
    clock = WallClock(folder / "seconds")
    python, launcher = folder / "python", folder / "launcher.py"
    # Runs get none of the Proxy's environment.
    assignments = " ".join(f"{name}={value}" for name, value in clock.environment.items())
    python.write_text(f'#!/bin/sh\nexec env {assignments} {sys.executable} "$@"\n')
    python.chmod(0o755)
    launcher.write_text(LAUNCHER.format(python=str(python)))
    return clock, (sys.executable, str(launcher))


async def billed_seconds(centre: Centre) -> list[int]:
    """Return for each run how many seconds the ledger counts."""
    async with centre.store.read() as session:
        query = "SELECT MAX(effective_at) - MIN(effective_at) FROM meter_event WHERE action IN ('START', 'STOP') GROUP BY subject"
        return sorted(int(seconds) for seconds in (await session.scalars(text(query))).all())


@pytest.mark.parametrize("minutes", [7, -7])
async def test_a_machine_whose_clock_is_minutes_off(centre: Centre, check: Check, minutes: int) -> None:
    """Proxy, shim and runner are minutes ahead or behind, the service is right."""
    await centre.start_service()
    clock, words = wrong_clock(centre)
    clock.move(minutes * 60)
    centre.start_proxy(python=words, **clock.environment)
    await centre.submit(seconds=2.0)
    await centre.submit(seconds=2.0, notebook=True)
    await centre.wait("SUCCEEDED", seconds=90)
    assert all(2 <= seconds < 60 for seconds in await billed_seconds(centre))
    await check(centre, f"clock {minutes:+}m")


async def test_a_clock_that_jumps_while_a_run_works(centre: Centre, check: Check) -> None:
    """Ten minutes forward and back again within the run."""
    await centre.start_service()
    clock, words = wrong_clock(centre)
    centre.start_proxy(python=words, **clock.environment)
    await centre.submit(seconds=6.0)
    await centre.wait("RUNNING", seconds=90)
    for seconds in (600, -600, 0):
        await asyncio.sleep(1.2)
        clock.move(seconds)
    await centre.wait("SUCCEEDED", seconds=60)
    (billed,) = await billed_seconds(centre)
    assert 5 <= billed < 60
    await check(centre, "clock jumps")
