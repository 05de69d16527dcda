"""A leader as a process of its own: ``python tests/hub/scheduling/leader.py URL``; small cycles, a lease of one second."""

from __future__ import annotations

import asyncio
import sys
from datetime import timedelta

from tessera_hub.scheduling.cycle import Limits
from tessera_hub.scheduling.loop import LoopSettings, SchedulerLoop
from tessera_hub.store import Store

SETTINGS = LoopSettings(
    lease=timedelta(seconds=1),
    poll=timedelta(milliseconds=200),
    gather=timedelta(0),
    limits=Limits(max_placements=10),
)


async def lead(url: str) -> None:
    """Run the scheduler's loop until killed."""
    store = Store(url, pool_size=2)
    await store.notifier.start()
    await SchedulerLoop(store, SETTINGS).run()


if __name__ == "__main__":
    asyncio.run(lead(sys.argv[1]))
