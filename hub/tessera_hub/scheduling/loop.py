"""The leader's loop: refresh the snapshot, run the pure cycle, store its decisions.

Three short transactions, each fenced by the leader's epoch (``lease.py``); nothing is held while the cycle computes. If the
process dies anywhere, what was committed stands and the rest never happened: the next leader loads everything afresh.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import structlog
from prometheus_client import Counter, Gauge, Histogram

from tessera_hub.quota.usage import QuotaExceeded
from tessera_hub.scheduling.cycle import Limits, schedule
from tessera_hub.scheduling.decision import Action, Decision
from tessera_hub.scheduling.estimates import CARDS, cpu_of
from tessera_hub.scheduling.garbage import Retention
from tessera_hub.scheduling.lease import DeposedError, Lease, acquire, holder_name
from tessera_hub.scheduling.loader import SnapshotLoader
from tessera_hub.scheduling.policies import installed
from tessera_hub.scheduling.recorder import Recorder
from tessera_hub.scheduling.snapshot import CPU, Reservation
from tessera_hub.store import Store
from tessera_hub.store.notify import SCHEDULE

if TYPE_CHECKING:
    from tessera_hub.api.context import Context

log = structlog.get_logger(__name__)

CYCLE_SECONDS = Histogram(
    "tessera_scheduling_cycle_seconds",
    "A scheduling cycle, from reading the changes to the last commit.",
    buckets=(0.01, 0.03, 0.1, 0.3, 1, 2, 5, 10),
)
PLACEMENTS = Counter("tessera_scheduling_placements_total", "Runs placed.")
WAITING = Gauge("tessera_scheduling_waiting_runs", "Runs that wait in the queue of the leader.")
LEADING = Gauge("tessera_scheduling_leader", "1 while this process leads.")


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """Timers of the loop.

    Attributes:
        lease: how long a leader is believed without a sign of life.
        poll: the longest time between two looks at the database, if no wake-up comes.
        tidy: explanations that nobody refers to any more are looked for so often.
        gather: after a wake-up, this long more changes are gathered into one cycle; three times as long as the last cycle took
            when that is longer (at most *gather_most*), so that a stream of submits does not keep the process at scheduling.
        pace: how long a cycle should take: one that took longer makes the next ones place fewer runs, down to *fewest*.
        fewest: placements that a cycle may always make.
        drain_window: over which starts per hour are counted for estimates.
        limits: bounds of one cycle.
    """

    lease: timedelta = timedelta(seconds=15)
    poll: timedelta = timedelta(seconds=2)
    tidy: timedelta = timedelta(minutes=1)
    gather: timedelta = timedelta(milliseconds=20)
    gather_most: timedelta = timedelta(milliseconds=500)
    pace: timedelta = timedelta(seconds=1.25)
    fewest: int = 100
    drain_window: timedelta = timedelta(minutes=10)
    limits: Limits = field(default_factory=lambda: Limits(policies=installed()))


@dataclass(frozen=True, slots=True)
class CycleReport:
    """What one cycle did, and the seconds that reading, computing and storing took."""

    placed: int
    waiting: int
    explained: int
    linked: int
    read_s: float
    compute_s: float
    store_s: float
    complete: bool

    @property
    def seconds(self) -> float:
        """From reading the changes to the last commit."""
        return self.read_s + self.compute_s + self.store_s


class Drain:
    """What each queue lately started per hour, in centi-cards and millicores."""

    def __init__(self, window: timedelta) -> None:
        self._window = window
        self._since: datetime | None = None
        self._starts: deque[tuple[datetime, str, int, int]] = deque()

    def note(self, at: datetime, queue_id: str, centi_cards: int, cpu: int) -> None:
        """Count a start."""
        self._starts.append((at, queue_id, centi_cards, cpu))

    def per_hour(self, now: datetime) -> dict[tuple[str, str], int]:
        """Return (queue, ``cards`` or ``cpu``) → amount per hour; empty until a minute was seen."""
        self._since = self._since or now
        while self._starts and self._starts[0][0] < now - self._window:
            self._starts.popleft()
        seconds = int(min(now - self._since, self._window).total_seconds())
        if seconds < 60:
            return {}
        total: dict[tuple[str, str], int] = {}
        for _at, queue_id, centi_cards, cpu in self._starts:
            total[queue_id, CARDS] = total.get((queue_id, CARDS), 0) + centi_cards
            total[queue_id, CPU] = total.get((queue_id, CPU), 0) + cpu
        return {key: amount * 3600 // seconds for key, amount in total.items()}


class Pace:
    """How many runs the next cycle may place, so that a cycle takes about as long as it should on a busy machine, too."""

    def __init__(self, settings: LoopSettings) -> None:
        self._pace = settings.pace.total_seconds()
        self._most = settings.limits.max_placements
        self._fewest = min(settings.fewest, self._most)
        self.placements = self._most

    def took(self, seconds: float, placed: int) -> None:
        """Learn from a cycle."""
        if seconds > self._pace:
            self.placements = max(self._fewest, int(self.placements * max(0.5, self._pace / seconds)))
        elif placed >= self.placements:
            self.placements = min(self._most, self.placements + self.placements // 2 + 1)


class Scheduler:
    """One reign of a leader: its picture of the world and what it remembers between cycles."""

    def __init__(self, store: Store, lease: Lease, settings: LoopSettings) -> None:
        self.store = store
        self.lease = lease
        self.settings = settings
        self.loader = SnapshotLoader()
        self.recorder = Recorder(lease.epoch)
        self.reservations: tuple[Reservation, ...] = ()
        self.drain = Drain(settings.drain_window)
        self.retention = Retention()
        self.pace = Pace(settings)
        self._loaded = False
        self._unfinished = True
        self._tidied: datetime | None = None

    async def cycle(self) -> CycleReport:
        """Run one cycle.

        Raises:
            DeposedError: another process leads by now; this one stored nothing since.
        """
        with self.retention.quiet():
            report, came = await self._cycle()
            self.retention.came(came)
        return report

    async def _cycle(self) -> tuple[CycleReport, int]:
        started = time.perf_counter()
        now = datetime.now(UTC)
        async with self.store.write() as session:
            await self.lease.fence(session)
            refresh = await self.loader.read(session, everything=not self._loaded)
            if not self._loaded:
                await self.recorder.recall(session, (row.decision_id for row in refresh.rows))
        if self._loaded:
            changed = self.loader.apply(refresh, now)
        else:  # a hundred thousand at once take seconds, and the process has other work
            changed = await asyncio.to_thread(self.loader.apply, refresh, now)
            self._loaded = True
        read = time.perf_counter()
        decisions: list[Decision] = []
        if changed or self._unfinished:
            snapshot = self.loader.snapshot(self.reservations, self.drain.per_hour(now))
            limits = replace(self.settings.limits, max_placements=self.pace.placements)
            decisions = await asyncio.to_thread(schedule, snapshot, now, limits)
        computed = time.perf_counter()
        try:
            placed, explained, linked = await self._store(decisions, now, self.pace.placements)
        except QuotaExceeded as refused:
            # A limit was lowered between snapshot and commit. The next refresh reads it.
            log.info("quota_changed_in_cycle", queue=refused.queue_id, dimension=refused.dimension)
            placed, explained, linked = 0, 0, 0
            self._unfinished = True
        stored = time.perf_counter()
        WAITING.set(len(self.loader.pending))
        PLACEMENTS.inc(placed)
        report = CycleReport(
            placed,
            len(self.loader.pending),
            explained,
            linked,
            read - started,
            computed - read,
            stored - computed,
            not self._unfinished,
        )
        if decisions:
            CYCLE_SECONDS.observe(report.seconds)
        if not refresh.everything:
            self.pace.took(report.seconds, placed)
        return report, len(refresh.rows)

    async def _store(self, decisions: list[Decision], now: datetime, most: int) -> tuple[int, int, int]:
        if not decisions:
            self._unfinished = False
            return 0, 0, 0
        names = self.loader.names
        places = [decision for decision in decisions if decision.action is Action.PLACE]
        rejects = [decision for decision in decisions if decision.action is Action.REJECT]
        waits = [decision for decision in decisions if decision.action is Action.WAIT]
        reserved: set[str] = set()
        ended: list[str] = []
        if places or rejects:
            async with self.store.write() as session:
                await self.lease.fence(session)
                reserved = await self.recorder.place(session, places, self.loader.paths(), names, now)
                ended = await self.recorder.reject(session, self.loader, rejects)
        for decision in places:
            run = self.loader.pending.get(decision.run_id)
            if run is not None and decision.run_id in reserved:
                self.drain.note(now, decision.queue_id, run.shape.centi_cards, cpu_of(run.shape))
        # Who was not reserved was cancelled in between and waits no more either.
        self.loader.forget([*(decision.run_id for decision in places), *ended])
        self.reservations = tuple(decision.reservation for decision in decisions if decision.reservation is not None)
        news = self.recorder.news(waits, now)
        links: dict[str, int] = {}
        if news or any(decision.group not in self.loader.settled for decision in waits):
            async with self.store.write() as session:
                await self.lease.fence(session)
                verdicts = await self.recorder.explain(session, news, names, now)
                links = self.recorder.unlinked(self.loader, waits, verdicts)
                await self.recorder.link(session, links)
            self.recorder.remember(verdicts)
            self.loader.linked.update(links)
        rest = any(decision.group not in self.loader.settled for decision in waits)
        full = len(places) >= most
        self._unfinished = full or rest or len(reserved) < len(places) or bool(rejects)
        return len(reserved), len(news), len(links)

    async def tidy(self) -> int:
        """Delete explanations that nobody refers to any more, if it is time, and return how many went.

        A leader's first look takes those of its predecessors, too.

        Raises:
            DeposedError: another process leads by now.
        """
        now = datetime.now(UTC)
        if not self._loaded or (self._tidied is not None and now - self._tidied < self.settings.tidy):
            return 0
        old = self.recorder.outlived(self.loader, now)
        gone: list[int] = []
        if old or self._tidied is None:
            async with self.store.write() as session:
                await self.lease.fence(session)
                gone = await self.recorder.prune(session, None if self._tidied is None else old, now)
            self.recorder.forget([*old, *gone])
        self._tidied = now
        return len(gone)


class SchedulerLoop:
    """Waits to lead, leads, and wakes up when there is something to do."""

    def __init__(
        self, store: Store, settings: LoopSettings | None = None, observe: Callable[[CycleReport], None] | None = None
    ) -> None:
        self.store = store
        self.settings = settings or LoopSettings()
        self.holder = holder_name()
        self.lease: Lease | None = None
        self._observe = observe or (lambda _report: None)

    async def run(self) -> None:
        """Lead whenever nobody else does, until cancelled; then give the lease up."""
        try:
            while True:
                async with self.store.write() as session:
                    self.lease = await acquire(session, "scheduler", self.holder, self.settings.lease)
                if self.lease is None:
                    await asyncio.sleep(self.settings.lease.total_seconds() / 3)
                    continue
                log.info("scheduler_leads", holder=self.holder, epoch=self.lease.epoch)
                LEADING.set(1)
                try:
                    await self._lead(self.lease)
                except DeposedError:
                    log.warning("scheduler_deposed", holder=self.holder, epoch=self.lease.epoch)
                finally:
                    LEADING.set(0)
        finally:
            await self._give_up()

    async def _lead(self, lease: Lease) -> None:
        scheduler = Scheduler(self.store, lease, self.settings)
        longest = min(self.settings.poll, self.settings.lease / 3).total_seconds()
        try:
            await self._rule(scheduler, longest)
        finally:
            scheduler.retention.end()

    async def _rule(self, scheduler: Scheduler, longest: float) -> None:
        with self.store.notifier.subscribe(SCHEDULE, "*") as wake_ups:
            while True:
                report = await scheduler.cycle()
                self._observe(report)
                if not report.complete:
                    continue
                await scheduler.tidy()
                due = scheduler.loader.next_due()
                wait = longest if due is None else min(longest, max((due - datetime.now(UTC)).total_seconds(), 0.0))
                if await wake_ups.wait(wait):
                    longest_gather = max(self.settings.gather, self.settings.gather_most).total_seconds()
                    gather = min(max(self.settings.gather.total_seconds(), 3 * report.seconds), longest_gather)
                    await asyncio.sleep(gather)

    async def _give_up(self) -> None:
        if self.lease is None:
            return
        with contextlib.suppress(Exception):
            async with self.store.write() as session:
                await self.lease.give_up(session)


async def run(context: Context) -> None:
    """Run the scheduler of a service; one of its replicas leads at a time."""
    await SchedulerLoop(context.store).run()
