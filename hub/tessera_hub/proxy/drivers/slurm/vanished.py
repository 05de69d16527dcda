"""What becomes of a run whose job Slurm does not show any more: forgotten after its end, or lost by the controller.

Slurm forgets a job ``MinJobAge`` seconds after its end. What accounting then says of it counts first, else what the program on
the node wrote. A controller that was killed comes back with the state it had saved some seconds before and has never heard of
jobs that it took since; it even gives their numbers to others. Such a job is submitted again if it had not begun; should the
first turn up after all, say on a second controller, the program on the node lets only one of them begin.
"""

from __future__ import annotations

import time
from datetime import datetime
from typing import Final, Literal

import structlog

from tessera_hub.proxy.drivers.slurm.engine import Slurm
from tessera_hub.proxy.drivers.slurm.entries import Entry
from tessera_hub.proxy.drivers.slurm.files import Files
from tessera_hub.proxy.drivers.slurm.jobs import PastJob
from tessera_hub.proxy.drivers.slurm.records import Native, last_sign, record
from tessera_hub.proxy.drivers.slurm.transport import TransportError

log = structlog.get_logger(__name__)

ABSENT_LOOKS: Final = 2
"""How often a job must be absent from Slurm's answer before we believe that Slurm does not know it."""
SILENT_SECONDS: Final = 30
"""How long the program on the node must be silent before we believe that it is gone; it tells every ten seconds that it lives."""


Verdict = Literal["unclear", "ended", "lost"]
"""``unclear``: the next look tries again; ``ended``: as *native* says; ``lost``: it never began and is to be submitted again."""


async def judge_vanished(
    entry: Entry, native: Native, slurm: Slurm, files: Files, account: str | None, accounting_seconds: float
) -> Verdict:
    """Judge what has become of the job, and take its end into *native*.

    Args:
        account: whose jobs accounting is asked for.
        accounting_seconds: how long to wait for a database that does not answer, from when the job was first missing.

    Raises:
        TransportError: the centre cannot be reached, or the database within that time.
    """
    if entry.absent < ABSENT_LOOKS:
        return "unclear"
    run, now = entry.run, int(time.time())
    await files.refresh(run, ended=False)
    past = await _past(entry, native, slurm, account, accounting_seconds)
    begun, finished = record(run, "shim.pid.json") is not None, record(run, "shim.json") is not None
    if past is None and not begun and run.read("cancel.json") is None and _lost(entry, native, slurm, now):
        return "lost"
    if past is None and begun and not finished and now - last_sign(run, now) < SILENT_SECONDS:
        return "unclear"
    native.conclude_purged(run, past, now)
    return "ended"


async def _past(entry: Entry, native: Native, slurm: Slurm, account: str | None, patience: float) -> PastJob | None:
    """Return the job's end by accounting; None: there is no accounting, or it knows no end."""
    try:
        found = await slurm.past(str(entry.run.lease.run_id), account)
    except TransportError as error:
        if time.monotonic() < entry.vanished_at + patience:
            raise
        log.warning("slurm_accounting_silent", run=str(entry.run.lease.run_id), error=str(error))
        return None
    return next((job for job in found if job.job_id == native.job_id and job.end), None)


def _lost(entry: Entry, native: Native, slurm: Slurm, now: int) -> bool:
    """Whether a job that had not begun was shown too lately to have ended and been forgotten since."""
    submitted = (entry.run.read("submitting.json") or {}).get("at")
    shown = max(entry.seen, 0 if submitted is None else int(datetime.fromisoformat(submitted).timestamp()))
    return not native.facts and (slurm.min_job_age == 0 or now - shown < slurm.min_job_age)
