"""The agent: keeps what runs at a cluster in step with what the service wants.

No database: runs are rebuilt from the cluster by its driver, everything sent may be sent again. *Sync* exchanges the full
state (desired minus reported is the answer); :mod:`~tessera_hub.proxy.following` carries logs, files, events and metering.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID, uuid4

import httpx
import structlog

from tessera_hub import __version__
from tessera_hub.proxy.connection import CallError, Connection, ServiceInputs
from tessera_hub.proxy.drivers.base import Driver, DriverError, NativeRun
from tessera_hub.proxy.errors import ProxyError
from tessera_hub.proxy.following import Follower, has_ended
from tessera_hub.schemas.protocol import (
    Cancel,
    EventsRequest,
    Inventory,
    Lease,
    RunEvent,
    RunReport,
    SessionRequest,
    SyncAnswer,
    SyncRequest,
    Timers,
    UsageRequest,
    UsageSample,
)
from tessera_hub.schemas.tasks import Phase

log = structlog.get_logger(__name__)

FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 15.0
SYNC_REST: Final = 10
"""How many times as long as it took to put a report together passes before the next: a large cluster's takes a while."""
LONGEST_REST: Final = 1.0
GIVEN_BACK_KEPT: Final = 10_000
"""Runs whose last pause is remembered."""
SAMPLES_KEPT: Final = 5000
"""Samples of use that wait for the service; older ones are dropped."""


class Agent:
    """One Proxy.

    Args:
        connection: how to reach the service.
        driver: the cluster.
        bootstrap: the cluster's bootstrap token.

    Attributes:
        left_running: how many runs went on when the Proxy stopped.
    """

    def __init__(self, connection: Connection, driver: Driver, bootstrap: str) -> None:
        self.connection = connection
        self.driver = driver
        self._bootstrap = bootstrap
        self._epoch = 0
        self._seq = 0
        self._timers = Timers()
        self._changed = asyncio.Event()
        self._follower = Follower(connection, driver, self._changed)
        self._known_inventory: str | None = None
        self._taking: dict[UUID, Lease] = {}
        """Leases that are being taken up; until the driver lists their runs they are reported as what they are, RESERVED."""
        self._withdrawn: set[UUID] = set()
        """Of these the lease is void before it was taken up."""
        self._pauses: dict[UUID, float] = {}
        """Of a run that cannot be taken up at the moment: seconds until it may be tried again."""
        self._gate = asyncio.Semaphore(driver.leases_at_once)
        self._group = asyncio.TaskGroup()
        self._next_report = 0.0
        self._queues_hash: str | None = None
        self.left_running = 0

    def inputs(self, lease: Lease) -> ServiceInputs:
        """Return the source of a lease's inputs and claim."""
        return ServiceInputs(self.connection, lease, self._patiently)

    async def run(self) -> None:
        """Serve until cancelled or fenced.

        Raises:
            ProxyError: ``proxy.fenced``, ``proxy.refused`` or ``proxy.data_dir_in_use``.
        """
        await self.driver.start(self.inputs)
        try:
            await self._begin_session()
            async with self._group as group:
                group.create_task(self._sync_for_ever())
                group.create_task(self._follower.run())
                group.create_task(self._measure_for_ever())
        except BaseExceptionGroup as group:
            stopping = [error for error in group.exceptions if isinstance(error, ProxyError)]
            if not stopping:
                raise
            raise stopping[0] from None
        finally:
            self.left_running = sum(not has_ended(run) for run in await self.driver.list_runs())
            log.info("proxy_stops", runs_going_on=self.left_running)
            await self.driver.close()
            await self.connection.close()

    async def _patiently(self, call: Callable[[], Awaitable[None]]) -> None:
        """Repeat *call* while the service cannot be reached: its outage ends nothing."""
        pause = FIRST_PAUSE
        while True:
            try:
                return await call()
            except httpx.HTTPError as error:
                log.warning("service_unreachable", error=repr(error))
                await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - jitter
                pause = min(pause * 2, LONGEST_PAUSE, max(self._timers.sync_wait, 0.2))

    async def _begin_session(self) -> None:
        instance = uuid4().hex

        async def once() -> None:
            request = SessionRequest(
                agent_version=__version__,
                instance=instance,
                driver=self.driver.name,
                capabilities=sorted(self.driver.capabilities),
            )
            answer = await self.connection.session(self._bootstrap, request)
            self._epoch, self._timers, self._seq = answer.epoch, answer.timers, 0
            self._known_inventory = self._queues_hash = None
            self._follower.begin(answer.epoch, answer.timers)
            log.info("session", epoch=answer.epoch, cluster=answer.cluster)

        await self._patiently(once)

    # --- sync -----------------------------------------------------------------------------------------------------

    async def _sync_for_ever(self) -> None:
        pause, wait = FIRST_PAUSE, 0.0
        while True:
            try:
                answer = await self._sync(wait)
                await self._obey(answer)
                pause, wait = FIRST_PAUSE, answer.next_wait
            except CallError as error:
                if error.status == 401:
                    await self._begin_session()
                else:
                    log.error("sync_refused", error=str(error), detail=error.detail)
                    await asyncio.sleep(1.0)
                wait = 0.0
            except httpx.HTTPError as error:
                log.warning("sync_failed", error=repr(error))
                await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - jitter
                pause, wait = min(pause * 2, LONGEST_PAUSE, max(self._timers.sync_wait, 0.2)), 0.0

    async def _sync(self, wait: float) -> SyncAnswer:
        clock = asyncio.get_running_loop().time
        await asyncio.sleep(max(self._next_report - clock(), 0))
        began = clock()
        # First, so that one which is done meanwhile is in either.
        taken = [lease for lease in self._taking.values() if lease.run_id not in self._withdrawn]
        runs = await self.driver.list_runs()
        listed = {run.run_id for run in runs}
        taking = [lease for lease in taken if lease.run_id not in listed]
        inventory = await self.driver.inventory()
        digest = _digest(inventory)
        self._seq += 1
        request = SyncRequest(
            epoch=self._epoch,
            seq=self._seq,
            inventory_hash=digest,
            inventory=None if digest == self._known_inventory else inventory,
            runs=[*(self._report(run) for run in runs), *(_reserved(lease) for lease in taking)],
            queues_hash=self._queues_hash,
            accept_max=max(self.driver.room(runs) - len(taking), 0),
        )
        ended = clock()
        self._next_report = ended + min(SYNC_REST * (ended - began), LONGEST_REST)
        # What changes here while the service waits is told at once, so that its picture never ages by a whole wait.
        call = asyncio.create_task(self.connection.sync(request, wait))
        self._changed.clear()
        woken = asyncio.create_task(self._changed.wait())
        try:
            await asyncio.wait({call, woken}, return_when=asyncio.FIRST_COMPLETED)
            answer = await asyncio.wait_for(call, 0.5)
        except TimeoutError:
            return SyncAnswer(ack_seq=self._seq, inventory_hash=self._known_inventory, next_wait=0.0)
        finally:
            for task in (call, woken):
                task.cancel()
            await asyncio.gather(call, woken, return_exceptions=True)
        self._known_inventory = answer.inventory_hash
        return answer

    def _report(self, run: NativeRun) -> RunReport:
        """The run as the service may see it: its end only after logs, files and bill have arrived."""
        held = has_ended(run) and not self._follower.end_is_known(run.run_id)
        phase = Phase.DISPATCHED if run.managed_by_spawner else run.phase
        if held:
            phase = Phase.RUNNING if run.meter else Phase.STARTING
        return RunReport(
            run_id=run.run_id,
            lease_token=run.lease.lease_token,
            phase=phase,
            native_id=run.native_id,
            reason=None if held else run.reason,
            claimed_by=run.uid,
            progress=run.progress,
            at=datetime.fromtimestamp(run.meter[0].effective_at, UTC) if held and run.meter else run.at,
        )

    async def _obey(self, answer: SyncAnswer) -> None:
        if answer.queues is not None:  # before the leases, which name queues
            await self.driver.apply_queues(answer.queues.queues)
            self._queues_hash = answer.queues.hash
        await self._each(self._cancel(cancel) for cancel in answer.cancels)
        if stale := {cancel.run_id for cancel in answer.cancels if cancel.why == "stale"}:
            self._withdrawn |= stale & self._taking.keys()
            for run in await self.driver.list_runs():
                if run.run_id in stale:
                    self._follower.fence(run.run_id)
        await self._each(self.driver.suspend(run_id) for run_id in answer.suspends)
        await self._each(self.driver.resume(run_id) for run_id in answer.resumes)
        await self._each(self._forget(run_id) for run_id in answer.forget)
        for lease in answer.leases:  # beside the next syncs: they take a while, and what is done is told meanwhile
            if lease.run_id not in self._taking:
                self._taking[lease.run_id] = lease
                self._follower.forget(lease.run_id)  # what was known is of an older lease
                self._group.create_task(self._take(lease))
        if answer.leases or answer.cancels or answer.forget or answer.suspends or answer.resumes:
            self._changed.set()

    async def _each(self, calls: Iterable[Coroutine[Any, Any, None]]) -> None:
        """Await all, as many side by side as the driver makes calls: no report is sent meanwhile."""
        gate = asyncio.Semaphore(self.driver.leases_at_once)

        async def one(call: Coroutine[Any, Any, None]) -> None:
            async with gate:
                await call

        await asyncio.gather(*(one(call) for call in calls))

    async def _cancel(self, cancel: Cancel) -> None:
        await self.driver.cancel(cancel.run_id, cancel.why, 0 if cancel.why == "stale" else cancel.grace_seconds)

    async def _forget(self, run_id: UUID) -> None:
        await self.driver.forget(run_id)
        self._follower.forget(run_id)

    async def _take(self, lease: Lease) -> None:
        try:
            async with self._gate:
                if lease.run_id in self._withdrawn:
                    return
                await self.driver.submit(lease, self.inputs(lease))
            self._pauses.pop(lease.run_id, None)
        except DriverError as error:
            log.warning("lease_not_taken", run=str(lease.run_id), code=error.code, error=error.message)
            if error.give_back:
                await self._rest(lease)
            else:
                with suppress(httpx.HTTPError, CallError):  # the service gives the lease again
                    await self._refuse(lease, error)
        except ProxyError:
            raise
        except Exception:  # one run's trouble is not the others'
            log.exception("lease_not_taken", run=str(lease.run_id))
            await self._rest(lease)
        finally:
            self._taking.pop(lease.run_id, None)
            self._withdrawn.discard(lease.run_id)
            self._changed.set()

    async def _rest(self, lease: Lease) -> None:
        """Keep a lease for a while before it is given back, longer each time: the service gives it again at once."""
        if len(self._pauses) >= GIVEN_BACK_KEPT:
            self._pauses.clear()  # of runs that went elsewhere
        pause = self._pauses.get(lease.run_id, FIRST_PAUSE)
        self._pauses[lease.run_id] = min(pause * 2, LONGEST_PAUSE)
        ends = asyncio.get_running_loop().time() + pause
        while lease.run_id not in self._withdrawn and asyncio.get_running_loop().time() < ends:
            await asyncio.sleep(FIRST_PAUSE)

    async def _refuse(self, lease: Lease, error: DriverError) -> None:
        """Tell that a run cannot even be taken up; nothing of it is here that could be followed."""
        event = RunEvent(
            event_id=uuid4(),
            run_id=lease.run_id,
            lease_token=lease.lease_token,
            kind="phase",
            phase=Phase.FAILED,
            reason=error.reason,
            at=datetime.now(UTC),
        )
        await self.connection.events(EventsRequest(epoch=self._epoch, events=[event]))

    # --- use ------------------------------------------------------------------------------------------------------

    async def _measure_for_ever(self) -> None:
        """Send what the runs use; what could not be sent is sent with the next."""
        waiting: list[UsageSample] = []
        while True:
            await asyncio.sleep(self._timers.usage_interval)
            waiting += [
                UsageSample(run_id=u.run_id, at=u.at, cpu_millicores=u.cpu_millicores, memory_mib=u.memory_mib)
                for u in await self.driver.usage()
            ]
            waiting = waiting[-SAMPLES_KEPT:]
            if not waiting:
                continue
            try:
                await self.connection.usage(UsageRequest(epoch=self._epoch, samples=waiting))
            except (httpx.HTTPError, CallError) as error:
                log.debug("usage_not_sent", error=repr(error))
            else:
                waiting = []


def _reserved(lease: Lease) -> RunReport:
    """A run that is being taken up, so that its lease is not given once more meanwhile."""
    return RunReport(run_id=lease.run_id, lease_token=lease.lease_token, phase=Phase.RESERVED, at=datetime.now(UTC))


def _digest(inventory: Inventory) -> str:
    return hashlib.sha256(inventory.model_dump_json().encode()).hexdigest()
