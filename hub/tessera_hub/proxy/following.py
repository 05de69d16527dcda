"""Telling the service what becomes of each run: log, notebook, progress, bill, files, notes and, last of all, its end.

The end is told last because the run's token dies with it. Everything may be sent again; what was told already is kept in
memory only, and losing it costs a repeat.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal
from uuid import UUID, uuid4, uuid5

import httpx
import structlog

from tessera_hub.proxy.connection import CallError, Connection
from tessera_hub.proxy.drivers.base import Driver, NativeRun, OutputPath
from tessera_hub.proxy.drivers.outcome import reason_of
from tessera_hub.schemas.protocol import EventsRequest, MeteringRequest, MeterReport, RunEvent, Timers
from tessera_hub.schemas.reasons import Reason
from tessera_hub.schemas.tasks import Phase, Progress

log = structlog.get_logger(__name__)

NAMESPACE: Final = UUID("5b0c9c0e-6a54-5a1c-8f0b-7e55e2a00001")
LOG_PIECE: Final = 1 << 20
FACTS_AT_ONCE: Final = 1000
"""Facts of metering in one call."""
MAX_OUTPUT_BYTES: Final = 10 << 30
"""Of all files of a run together."""
NAMED: Final = 20
"""Files that a note names; the others are counted."""


class StoreFullError(Exception):
    """The service's disk is full and we still wait for room."""


@dataclass(slots=True)
class Followed:
    """What was already told about a run."""

    offsets: dict[str, int] = field(default_factory=dict)
    notebook: str | None = None
    notebook_at: float = 0.0
    metered: int = 0
    phase: Phase | None = None
    progress: Progress | None = None
    reason: Reason | None = None
    """Why the run waits, as the service was last told to hear it."""
    full_since: float | None = None
    """When the service's disk was first found full at the run's end."""
    notes: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Reason code → detail of what the person is to know besides the end."""
    checkpoint: int = 0
    """Files of the checkpoint that are at the service."""
    delivered: bool = False
    """Logs and files of the ended run are at the service."""
    told: bool = False
    """The end was told."""
    dead: bool = False
    """The service knows this run or lease no more."""
    shown: NativeRun | None = None
    """As which all of it was told."""


def has_ended(run: NativeRun) -> bool:
    """Whether the run is over here; one that was given back unstarted is, too."""
    return run.phase.final or run.phase is Phase.QUEUED


class Follower:
    """Follows all runs of a driver.

    Attributes:
        changed: set when the service should hear of a new state at once.
    """

    def __init__(self, connection: Connection, driver: Driver, changed: asyncio.Event) -> None:
        self.connection = connection
        self.driver = driver
        self.changed = changed
        self._epoch = 0
        self._timers = Timers()
        self._known: dict[UUID, Followed] = {}

    def begin(self, epoch: int, timers: Timers) -> None:
        """Go on in a new session. What was metered is told again: the last call of the old one may have been lost."""
        self._epoch, self._timers = epoch, timers
        for one in self._known.values():
            one.metered, one.shown = 0, None

    def end_is_known(self, run_id: UUID) -> bool:
        """Whether the service knows the end of the run, or the run no more."""
        followed = self._known.get(run_id)
        return followed is not None and (followed.told or followed.dead)

    def fence(self, run_id: UUID) -> None:
        """The service said that our lease of the run, which is here, is void."""
        self._known.setdefault(run_id, Followed()).dead = True

    def forget(self, run_id: UUID) -> None:
        """Drop what we know of a run."""
        self._known.pop(run_id, None)

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            runs = [run for run in await self.driver.list_runs() if not run.managed_by_spawner]
            if not self.driver.carries:
                runs = [run for run in runs if self._has_news(run)]
            await self._meter_all(runs)
            busy = asyncio.Semaphore(8)
            await asyncio.gather(*(self._follow(run, busy) for run in runs))
            await asyncio.sleep(self._timers.log_interval)

    def _has_news(self, run: NativeRun) -> bool:
        """Whether anything of a run that nobody carries for has not been told as it is shown now."""
        followed = self._known.get(run.run_id)
        return followed is None or (not followed.told and (followed.shown is not run or has_ended(run)))

    async def _follow(self, run: NativeRun, busy: asyncio.Semaphore) -> None:
        followed = self._known.setdefault(run.run_id, Followed())
        if followed.told:
            return
        if followed.dead:
            if has_ended(run):
                # Fenced: nothing of it may be told, only what it held of the machine is billed.
                with suppress(httpx.HTTPError, CallError):
                    await self._meter(run, followed)
                await self.driver.forget(run.run_id)
                self.forget(run.run_id)
                self.changed.set()
            return
        async with busy:
            try:
                await self._tell(run, followed)
                followed.shown = run
            except httpx.HTTPError as error:
                log.debug("follow_failed", run=str(run.run_id), error=repr(error))
            except StoreFullError:
                log.warning("service_disk_full", run=str(run.run_id))
            except (CallError, OSError) as error:
                log.warning("follow_refused", run=str(run.run_id), error=str(error))

    async def _tell(self, run: NativeRun, followed: Followed) -> None:
        ended = has_ended(run)
        if followed.phase is not run.phase and not ended:
            if self.driver.carries:
                await self._event(run, followed)
            else:  # the next report says it, of all runs at once
                followed.phase = run.phase
                self.changed.set()
        if followed.reason != run.reason and not ended:
            followed.reason = run.reason
            self.changed.set()  # the next report says it
        try:
            await self._send_logs(run, followed)
            await self._send_notebook(run, followed, ended)
        except CallError as error:  # the run ended at the service and its token with it, or the disk there is full
            if ended and error.code == "disk.full":
                self._wait_for_room(followed)
                followed.notes["output.truncated"] = {"where": "service", "why": "disk.full"}
        await self._meter(run, followed)
        if run.progress != followed.progress and not ended:
            await self._progress(run, followed)
        if not ended:
            return
        if not followed.delivered:
            await self._send_results(run, followed)
            followed.delivered = True
        if run.progress != followed.progress and run.progress is not None:
            await self._progress(run, followed)
        await self._event(run, followed)

    def _wait_for_room(self, followed: Followed) -> None:
        """Return when we have waited long enough for the service's disk.

        Raises:
            StoreFullError: not yet; try again later.
        """
        now = asyncio.get_running_loop().time()
        followed.full_since = now if followed.full_since is None else followed.full_since
        if now - followed.full_since < self._timers.unreachable:
            raise StoreFullError

    async def _event(self, run: NativeRun, followed: Followed) -> None:
        event = self._run_event(
            run,
            f"{run.phase}/{run.at.isoformat()}",
            kind="phase",
            phase=run.phase,
            reason=run.reason,
            exit_code=run.exit_code,
            native_id=run.native_id,
            detail={"checkpoint": followed.checkpoint} if followed.checkpoint else {},
            at=run.at,
        )
        notes = [self._note(run, reason_of(code, "", detail)) for code, detail in followed.notes.items()]
        events = [*self._begun(run), *notes, event] if has_ended(run) else [event]
        answer = await self.connection.events(EventsRequest(epoch=self._epoch, events=events))
        followed.phase = run.phase
        if has_ended(run):
            followed.told = True
        if answer.results.get(event.event_id) == "stale":
            followed.dead = True
            await self.driver.cancel(run.run_id, "stale", 0)
        self.changed.set()

    def _begun(self, run: NativeRun) -> list[RunEvent]:
        """That a run began, told once more with its end where only reports said it: they may have been too late for it."""
        if self.driver.carries or not run.meter:
            return []
        at = datetime.fromtimestamp(run.meter[0].effective_at, UTC)
        return [self._run_event(run, "begun", kind="phase", phase=Phase.RUNNING, native_id=run.native_id, at=at)]

    def _note(self, run: NativeRun, reason: Reason) -> RunEvent:
        return self._run_event(run, f"note/{reason.code}", kind="note", reason=reason, at=run.at)

    def _run_event(self, run: NativeRun, name: str, **fields: Any) -> RunEvent:
        """An event whose id follows from what it says, so that a repeat is seen as one."""
        lease = run.lease.lease_token
        event_id = uuid5(NAMESPACE, f"{run.run_id}/{lease}/{name}")
        return RunEvent(event_id=event_id, run_id=run.run_id, lease_token=lease, **fields)

    async def _progress(self, run: NativeRun, followed: Followed) -> None:
        event = RunEvent(
            event_id=uuid4(),
            run_id=run.run_id,
            lease_token=run.lease.lease_token,
            kind="progress",
            progress=run.progress,
            at=datetime.now(UTC),
        )
        await self.connection.events(EventsRequest(epoch=self._epoch, events=[event]))
        followed.progress = run.progress

    async def _send_logs(self, run: NativeRun, followed: Followed) -> None:
        for stream in self.driver.streams(run.lease):
            offset = followed.offsets.get(stream)
            if offset is None:  # after a restart the service says where to go on
                if not await self.driver.logs(run.run_id, stream, 0, 1):
                    continue
                offset = await self.connection.put_log(run.lease, stream, 0, b"")
            while data := await self.driver.logs(run.run_id, stream, offset, LOG_PIECE):
                end = await self.connection.put_log(run.lease, stream, offset, data)
                if end <= offset:
                    if stream != "progress":
                        followed.notes["output.truncated"] = {"where": "service", "limit_bytes": end}
                    break  # the service keeps no more of this stream
                offset = min(end, offset + len(data))
            followed.offsets[stream] = offset

    async def _send_notebook(self, run: NativeRun, followed: Followed, ended: bool) -> None:
        now = asyncio.get_running_loop().time()
        if not ended and now - followed.notebook_at < 1.0:
            return
        found = await self.driver.notebook(run.run_id, followed.notebook)
        if found is not None:
            await self.connection.put_notebook(run.lease, found[1])
            followed.notebook, followed.notebook_at = found[0], now

    async def _send_results(self, run: NativeRun, followed: Followed) -> None:
        results = await self.driver.results(run.run_id)
        for note in results.notes:
            followed.notes.setdefault(note.code, note.detail)
        cut: dict[str, str] = dict.fromkeys(results.left_out, "name or number of files")
        total = 0
        for output in results.outputs:
            why = (
                "size of all files"
                if total + output.size > MAX_OUTPUT_BYTES
                else await self._send(run, followed, output, "output")
            )
            if why is None:
                total += output.size
            else:
                cut[output.path] = why
        sent = 0
        if run.phase is not Phase.SUCCEEDED:
            for file in results.checkpoint:
                why = (
                    "size of all files"
                    if total + file.size > MAX_OUTPUT_BYTES
                    else await self._send(run, followed, file, "checkpoint")
                )
                if why is None:
                    total, sent = total + file.size, sent + 1
                else:
                    cut[file.path] = why
            # Half a checkpoint is none.
            followed.checkpoint = results.checkpoint_delivered + (sent if sent == len(results.checkpoint) else 0)
        if cut:
            log.warning("outputs_cut", run=str(run.run_id), count=len(cut))
            files = [{"path": path[:200], "why": why} for path, why in list(cut.items())[:NAMED]]
            followed.notes["outputs.cut"] = {"count": len(cut), "files": files}

    async def _send(
        self, run: NativeRun, followed: Followed, output: OutputPath, kind: Literal["output", "checkpoint"]
    ) -> str | None:
        """Send one file; return why it is not kept, None if it is.

        Raises:
            StoreFullError: the service's disk is full and we still wait.
        """
        try:
            descriptor = os.open(output.file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            return error.strerror or type(error).__name__
        try:
            if os.fstat(descriptor).st_uid != output.owner:
                return "exchanged for somebody else's file"
            await self.connection.put_output(run.lease, output, descriptor, kind)
        except CallError as error:
            if error.code == "disk.full":
                self._wait_for_room(followed)
            log.warning("output_refused", run=str(run.run_id), path=output.path, error=str(error))
            return error.code or f"status {error.status}"
        finally:
            os.close(descriptor)
        return None

    async def _meter_all(self, runs: Sequence[NativeRun]) -> None:
        """Tell the new facts of all runs together; what is refused together is told run by run."""
        new = []
        for run in runs:
            followed = self._known.setdefault(run.run_id, Followed())
            if not followed.told and not followed.dead and len(run.meter) > followed.metered:
                new.append((run, followed))
        with suppress(httpx.HTTPError, CallError):
            await self._send_facts([fact for run, followed in new for fact in self._facts(run, followed)])
            for run, followed in new:
                followed.metered = len(run.meter)

    async def _meter(self, run: NativeRun, followed: Followed) -> None:
        await self._send_facts(self._facts(run, followed))
        followed.metered = len(run.meter)

    async def _send_facts(self, facts: Sequence[MeterReport]) -> None:
        for start in range(0, len(facts), FACTS_AT_ONCE):
            some = list(facts[start : start + FACTS_AT_ONCE])
            checkpoint = datetime.now(UTC).isoformat()
            await self.connection.metering(MeteringRequest(epoch=self._epoch, checkpoint=checkpoint, events=some))

    def _facts(self, run: NativeRun, followed: Followed) -> list[MeterReport]:
        return [
            MeterReport(
                run_id=run.run_id,
                subject=fact.subject or run.uid,
                action=fact.action,
                effective_at=fact.effective_at,
                observed_at=fact.observed_at,
                spec=fact.spec,
                source=self.driver.name,
                evidence=fact.evidence,
            )
            for fact in run.meter[followed.metered :]
        ]
