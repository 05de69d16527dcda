"""Seeing to one run after another: jobs are submitted once, orders are enforced, ends are written down."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import structlog

from tessera_hub.proxy.drivers.aws_batch.cloud import Cloud, CloudError, in_thread
from tessera_hub.proxy.drivers.aws_batch.jobs import Job, job_name, submission
from tessera_hub.proxy.drivers.aws_batch.options import AwsBatchOptions
from tessera_hub.proxy.drivers.aws_batch.record import Record, now
from tessera_hub.proxy.drivers.aws_batch.standing import Seen, ended, living
from tessera_hub.proxy.drivers.aws_batch.store import Store
from tessera_hub.proxy.drivers.base import DriverError, NativeRun
from tessera_hub.proxy.drivers.runrecords import End
from tessera_hub.schemas.reasons import Reason
from tessera_hub.schemas.tasks import Phase

log = structlog.get_logger(__name__)

KILL_SLACK_SECONDS: Final = 20
"""After the grace, before Batch is told to end a run that does not end itself."""
RENEW_SECONDS: Final = 900
"""Addresses that a run holds are signed anew this often, since credentials of a role end earlier than a signature may."""
GONE_LOOKS: Final = 3
"""Looks in a row that a job must be missing in to be believed gone."""
FIRST_PAUSE: Final = 2.0
LONGEST_PAUSE: Final = 60.0


@dataclass(slots=True)
class Entry:
    """One run in mind; all of it follows from the account."""

    record: Record
    shown: NativeRun
    told: Mapping[str, Any] = field(default_factory=dict)
    told_tag: str | None = None
    gone: int = 0
    signed_at: float | None = None
    """When the addresses were signed that the run holds, by the loop's clock; None: by a Proxy before us."""
    retry_at: float = 0.0
    pause: float = FIRST_PAUSE
    terminated: set[str] = field(default_factory=set)
    trouble: Reason | None = None
    busy: asyncio.Lock = field(default_factory=asyncio.Lock)


class Tender:
    """Looks at runs and does what is to be done.

    Attributes:
        fargate: queues whose jobs run on Fargate.
    """

    def __init__(self, cloud: Cloud, store: Store, options: AwsBatchOptions) -> None:
        self.cloud = cloud
        self.store = store
        self.options = options
        self.fargate: frozenset[str] = frozenset()

    async def look_round(self, entries: Iterable[Entry], gate: asyncio.Semaphore) -> None:
        """Look at all runs that have not ended: Batch is asked for many at once, the bucket for those that have said something.

        Raises:
            CloudError: AWS does not answer, or refuses.
        """
        waiting = [entry for entry in entries if entry.record.end is None]
        if not waiting:
            return
        ids = [entry.record.job_id for entry in waiting if entry.record.job_id is not None]
        jobs = await in_thread(lambda: self.cloud.describe(ids))
        # Asked for after the jobs: a container says its last words before Batch knows of its end.
        tags = await in_thread(self.store.told_tags)
        async with asyncio.TaskGroup() as group:
            for entry in waiting:
                group.create_task(self._tend(entry, jobs, tags, gate))

    async def _tend(
        self, entry: Entry, jobs: Mapping[str, dict[str, Any]], tags: Mapping[UUID, str], gate: asyncio.Semaphore
    ) -> None:
        async with gate, entry.busy:
            run_id = entry.record.lease.run_id
            try:
                tag = tags.get(run_id)
                if tag is not None and tag != entry.told_tag:
                    entry.told, entry.told_tag = await in_thread(lambda: self.store.told(run_id)), tag
                found = jobs.get(entry.record.job_id or "")
                await self._look(entry, None if found is None else Job.of(found))
                entry.trouble = None
            except CloudError as error:
                entry.trouble = error.reason
                entry.shown = self._living(entry, None)
                log.warning("look_failed", run=str(run_id), trouble=error.trouble, error=str(error))
            except Exception:
                log.exception("look_failed", run=str(run_id))

    async def _look(self, entry: Entry, job: Job | None) -> None:
        if entry.record.end is not None:
            return
        if entry.record.job_id is None:
            await self._submit(entry)
            return
        seen = Seen(job, entry.told, entry.trouble)
        if seen.has_begun and entry.record.started_at is None and job is not None and job.started_at is not None:
            await self.note(entry, started_at=job.started_at)
        entry.gone = entry.gone + 1 if job is None else 0
        if (job is not None and job.is_over) or (entry.gone and (seen.has_last_words or entry.gone >= GONE_LOOKS)):
            await self.conclude(entry, ended(entry.record, seen, now()))
            return
        if entry.record.order is not None and job is not None:
            await self._enforce(entry, seen, job)
        await self._renew(entry)
        entry.shown = self._living(entry, job)

    def _living(self, entry: Entry, job: Job | None) -> NativeRun:
        seen = Seen(job, entry.told, entry.trouble)
        if job is None and entry.shown.phase in (Phase.PENDING, Phase.STARTING) and not seen.has_begun:
            # Batch did not say just now; what it said before still is the best there is.
            return replace(entry.shown, reason=entry.trouble or entry.shown.reason)
        return living(entry.record, seen)

    # --- starting -------------------------------------------------------------------------------------------------

    async def _submit(self, entry: Entry) -> None:
        """Submit the job of a run that has none; one that an unanswered submit has made is found by its name first."""
        record, clock = entry.record, asyncio.get_running_loop().time()
        if record.asked_at is not None:
            name = job_name(record, self.options)
            found = await in_thread(lambda: self.cloud.find(record.queue, name))
            if found:
                await self._submitted(entry, found[0])
                return
            if datetime.now(UTC) - record.asked_at < timedelta(seconds=self.options.settle_seconds):
                entry.shown = self._living(entry, None)
                return
        if record.order is not None:
            await self.conclude(entry, ended(record, Seen(None, {}), now()))
            return
        if clock < entry.retry_at:
            return
        try:
            url = await in_thread(lambda: self.store.signed("settings", record.lease.run_id))
            request = submission(record, self.options, url, fargate=record.queue in self.fargate)
            await self.note(entry, asked_at=datetime.now(UTC))
            job_id = await asyncio.to_thread(self.cloud.submit, request)
        except DriverError as error:
            await self.conclude(entry, never_started(record, error))
        except CloudError as error:
            await self._not_submitted(entry, error, clock)
        else:
            await self._submitted(entry, job_id)

    async def _not_submitted(self, entry: Entry, error: CloudError, clock: float) -> None:
        if error.trouble == "invalid":
            await self.conclude(entry, never_started(entry.record, error.of_driver))
            return
        if error.trouble != "unreachable":  # certainly not submitted, so there is nothing to look for
            await self.note(entry, asked_at=None)
        entry.retry_at, entry.pause = clock + entry.pause, min(entry.pause * 2, LONGEST_PAUSE)
        raise error

    async def _submitted(self, entry: Entry, job_id: str) -> None:
        await self.note(entry, job_id=job_id)
        entry.shown = living(entry.record, Seen(None, entry.told))
        log.info("run_submitted", run=str(entry.record.lease.run_id), job=job_id)

    # --- orders ---------------------------------------------------------------------------------------------------

    async def _enforce(self, entry: Entry, seen: Seen, job: Job) -> None:
        """Bring the end about: by the launcher, which leaves a record; before user code began, and behind it, by Batch."""
        order = entry.record.order
        assert order is not None
        if seen.has_begun:
            late = datetime.now(UTC) - order.at - timedelta(seconds=order.grace_seconds + KILL_SLACK_SECONDS)
            if late < timedelta(0):
                return
        stage = "late" if seen.has_begun else "early"
        if stage not in entry.terminated:
            await in_thread(lambda: self.cloud.terminate(job.job_id, f"tessera: {order.why}"))
            entry.terminated.add(stage)

    async def _renew(self, entry: Entry) -> None:
        clock = asyncio.get_running_loop().time()
        if entry.signed_at is None or clock - entry.signed_at >= RENEW_SECONDS:
            await self.give_orders(entry.record)
            entry.signed_at = clock

    async def give_orders(self, record: Record) -> None:
        """Write the Proxy's words to a run, with addresses that are good for a time.

        Raises:
            CloudError: they are not written.
        """
        await in_thread(lambda: self.store.put("orders", record.lease.run_id, self.words(record)))

    def words(self, record: Record) -> dict[str, Any]:
        """Return the Proxy's words to a run."""
        order: dict[str, Any] = {}
        if record.order is not None:
            order = {"why": record.order.why, "grace_seconds": record.order.grace_seconds}
        elif record.suspends:
            order = {"suspended": record.is_suspended}
        run_id = record.lease.run_id
        urls = {"order": self.store.signed("orders", run_id), "told": self.store.signed("told", run_id, "put")}
        return {"order": order, "urls": urls}

    # --- the record -----------------------------------------------------------------------------------------------

    async def note(self, entry: Entry, **changed: Any) -> None:
        """Write something into a run's record.

        Raises:
            CloudError: it is not written.
        """
        record = replace(entry.record, **changed)
        await in_thread(lambda: self.store.put("records", record.lease.run_id, record.document()))
        entry.record = record

    async def conclude(self, entry: Entry, end: End) -> None:
        """Write the end down."""
        await self.note(entry, end=end)
        entry.shown = end.run
        log.info("run_ended", run=str(end.run.run_id), phase=end.run.phase.value)


def never_started(record: Record, error: DriverError) -> End:
    """Return the end of a run that was never submitted."""
    phase = Phase.QUEUED if error.give_back else Phase.FAILED
    return End(NativeRun(record.lease.run_id, record.lease, phase, record.uid, now(), reason=error.reason), delivered=False)
