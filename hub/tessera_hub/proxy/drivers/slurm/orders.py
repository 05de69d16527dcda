"""What an order to end a run still needs: taken back while it waits, a signal and its grace while it runs, then the end."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Final

from tessera_hub.proxy.drivers.slurm.engine import Slurm
from tessera_hub.proxy.drivers.slurm.entries import Entry
from tessera_hub.proxy.drivers.slurm.files import Files
from tessera_hub.proxy.drivers.slurm.jobs import SUSPENDED

KILL_SLACK_SECONDS: Final = 15


async def see_to_order(entry: Entry, slurm: Slurm, files: Files, account: str | None) -> None:
    """Do what an order of ``cancel`` still needs. May be repeated at each look.

    Raises:
        TransportError: the centre cannot be reached.
    """
    order, native = entry.run.read("cancel.json"), entry.native
    if order is None or native.ended or not native.job_id:
        return
    grace = int(order["grace_seconds"])
    waited = time.time() - datetime.fromisoformat(order["at"]).timestamp()
    running = entry.job is not None and entry.job.state in ("RUNNING", *SUSPENDED)
    if not running or grace <= 0 or waited > grace + KILL_SLACK_SECONDS:
        await slurm.cancel(native.job_id, str(entry.run.lease.run_id), account)
        return
    if entry.signalled:
        return
    await files.put(entry.run, "cancel.json", order)
    if order["why"] in ("cancel", "preempt"):
        await files.put(entry.run, "stop.json", {"why": order["why"], "grace_seconds": grace})
    if entry.job is not None and entry.job.state in SUSPENDED:
        await slurm.resume(native.job_id)
    await slurm.signal(native.job_id, "TERM", account, batch=entry.run.lease.spec.roles[0].replicas == 1)
    entry.signalled = True
