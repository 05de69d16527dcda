"""The AWS Batch driver. All it knows lies in the account: an object per run is the record, jobs are asked for.

What is to be done about a run is done by one task, which looks every few seconds; :meth:`AwsBatchDriver.list_runs` only shows
what it found. An account that throttles or refuses ends nothing: runs wait, and say why.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, ClassVar, Final, TypeVar
from uuid import UUID

import structlog

from tessera_hub.proxy.courier.archive import build_archive
from tessera_hub.proxy.drivers.aws_batch.capacity import Capacity
from tessera_hub.proxy.drivers.aws_batch.cloud import Cloud, CloudError, in_thread
from tessera_hub.proxy.drivers.aws_batch.jobs import Job, fault_of, queue_of, requirements
from tessera_hub.proxy.drivers.aws_batch.options import AwsBatchOptions
from tessera_hub.proxy.drivers.aws_batch.record import Record, now, parsed
from tessera_hub.proxy.drivers.aws_batch.standing import Seen, living
from tessera_hub.proxy.drivers.aws_batch.store import Store
from tessera_hub.proxy.drivers.aws_batch.tending import Entry, Tender
from tessera_hub.proxy.drivers.base import CancelReason, Driver, DriverError, InputSource, NativeRun, Results, Stream
from tessera_hub.proxy.drivers.couriers import courier_document, runner_bytes, stored_lease
from tessera_hub.proxy.drivers.datasets import wanted
from tessera_hub.proxy.drivers.outcome import reason_of
from tessera_hub.proxy.drivers.runrecords import Order
from tessera_hub.schemas.protocol import DesiredQueue, Inventory, Lease
from tessera_hub.schemas.tasks import SCRIPT_KINDS, Phase, TaskKind

log = structlog.get_logger(__name__)

LOOKS_AT_ONCE: Final = 8
START_SECONDS: Final = 60.0
HOLDING: Final = (Phase.STARTING, Phase.RUNNING, Phase.SUSPENDED)
T = TypeVar("T")


class AwsBatchDriver(Driver):
    """One job queue (or two) of an AWS account.

    Args:
        options: how it is set up.
    """

    name: ClassVar[str] = "aws_batch"

    def __init__(self, options: AwsBatchOptions) -> None:
        self.options = options
        try:
            self.cloud = Cloud(options)
        except CloudError as error:
            raise error.of_driver from error
        self.store = Store(self.cloud, options)
        self.tender = Tender(self.cloud, self.store, options)
        self.capacity = Capacity(self.cloud, options)
        self.trouble: CloudError | None = None
        self._entries: dict[UUID, Entry] = {}
        self._code: list[dict[str, str]] = []
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    # --- life -----------------------------------------------------------------------------------------------------

    @property
    def capabilities(self) -> frozenset[str]:
        """What the account can do now."""
        found = {"suspend", "preempt", "logs"}
        return frozenset(found | ({"cards"} if any(pool.card_class for pool in self.capacity.pools) else set()))

    async def start(self, source_of: Callable[[Lease], InputSource]) -> None:
        """Look at queues, job definitions and the bucket, take in all runs, and go on with interrupted submits.

        Raises:
            DriverError: ``cluster.refused``: the credentials are rejected, or a job definition is not fit;
                ``cluster.unreachable``: no answer within a minute.
        """
        from tessera_lab.runner import build_zipapp

        programs = {"runner.pyz": await asyncio.to_thread(runner_bytes, build_zipapp), "courier.pyz": build_archive()}
        await self._patiently(self.capacity.look)
        self.tender.fargate = self.capacity.fargate
        await self._patiently(self._check_environments)
        self._code = await self._patiently(lambda: [self.store.keep_code(name, data) for name, data in programs.items()])
        for document in await self._patiently(lambda: list(self.store.records())):
            try:
                record = parsed(document)
            except ValueError as error:
                log.warning("record_unreadable", error=str(error))
                continue
            self._enter(record)
            log.info("run_adopted", run=str(record.lease.run_id), phase=self._entries[record.lease.run_id].shown.phase.value)
        await self._look_once()
        self._tasks = [asyncio.create_task(self._tend_for_ever()), asyncio.create_task(self._measure_for_ever())]

    async def _patiently(self, call: Callable[[], T]) -> T:
        deadline = asyncio.get_running_loop().time() + START_SECONDS
        while True:
            try:
                return await in_thread(call)
            except CloudError as error:
                if error.trouble in ("refused", "invalid") or asyncio.get_running_loop().time() > deadline:
                    raise error.of_driver from error
                self._tell(error)
            await asyncio.sleep(1.0)

    def _check_environments(self) -> None:
        for name, definition in self.options.environments.items():
            fault = self._fault(definition)
            if fault is not None:
                raise DriverError("cluster.refused", f"job definition {definition} of environment {name}: {fault}")

    def _fault(self, definition: str) -> str | None:
        by_revision = ":" in definition
        asked: dict[str, Any] = {"jobDefinitions": [definition]} if by_revision else {"jobDefinitionName": definition}
        found = self.cloud.batch.describe_job_definitions(status="ACTIVE", **asked)["jobDefinitions"]
        if not found:
            return "there is no active one of this name"
        return fault_of(max(found, key=lambda each: int(each["revision"])))

    def _enter(self, record: Record) -> Entry:
        shown = record.end.run if record.end is not None else living(record, Seen())
        entry = self._entries[record.lease.run_id] = Entry(record, shown)
        return entry

    async def close(self) -> None:
        """Stop looking; runs go on."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- inventory ------------------------------------------------------------------------------------------------

    async def inventory(self) -> Inventory:
        """What the queues' compute environments may have, less what jobs hold, as it was at the last look."""
        environments = {name: {"kind": "job definition", "image": value} for name, value in self.options.environments.items()}
        return Inventory(pools=self.capacity.pools, environments=environments, prices=self.capacity.prices)

    async def _measure_for_ever(self) -> None:
        while True:
            await asyncio.to_thread(self.capacity.look_at_prices)
            await asyncio.sleep(self.options.inventory_seconds)
            held = [entry.record.lease for entry in self._entries.values() if entry.shown.phase in HOLDING]
            try:
                await in_thread(lambda held=held: self.capacity.look(held))  # type: ignore[misc]
            except CloudError as error:
                self._tell(error)
            except DriverError as error:
                log.warning("inventory_not_read", error=error.message)

    # --- starting -------------------------------------------------------------------------------------------------

    async def submit(self, lease: Lease, source: InputSource) -> None:
        """Write the record; the looking task submits the job."""
        known = self._entries.get(lease.run_id)
        if known is not None:
            if known.record.lease.lease_token == lease.lease_token:
                return
            if known.record.end is None:
                raise DriverError("cluster.back_pressure", "an older lease of this run is still being ended", give_back=True)
            await self.forget(lease.run_id)
        self._check(lease)
        record = Record(stored_lease(lease), queue_of(lease, self.options), now())

        def write() -> dict[str, Any]:
            self.store.put("settings", lease.run_id, self._settings(lease))
            self.store.put("orders", lease.run_id, self.tender.words(record))
            return self.store.create_or_get("records", lease.run_id, record.document())

        try:
            kept = parsed(await in_thread(write))
        except CloudError as error:
            raise error.of_driver from error
        except ValueError as error:
            raise DriverError("cluster.start_failed", str(error)[:1000]) from error
        if kept.lease.lease_token != lease.lease_token:
            raise DriverError("cluster.back_pressure", "an older lease of this run is still here", give_back=True)
        self._enter(kept).signed_at = asyncio.get_running_loop().time()
        self._changed.set()

    def _check(self, lease: Lease) -> None:
        """See whether this driver can ever run the lease.

        Raises:
            DriverError: it cannot.
        """
        spec = lease.spec
        if lease.managed_by != "proxy":
            raise DriverError("cluster.no_workspaces", "workspaces do not start at AWS Batch")
        if spec.kind is not TaskKind.NOTEBOOK and spec.kind not in SCRIPT_KINDS:
            raise DriverError("never.no_cluster", f"the AWS Batch driver does not run kind {spec.kind.value}")
        if len(spec.roles) != 1 or spec.roles[0].replicas != 1:
            raise DriverError("never.gang_too_large", "a run at AWS Batch is one container")
        if spec.inputs.kind == "live":
            raise DriverError("inputs.live_refused", "containers at AWS share no storage with workspaces")
        if not spec.entry:
            raise DriverError("script.missing", "the task names no notebook or script")
        if spec.environment not in self.options.environments:
            detail = {"environment": spec.environment, "known": sorted(self.options.environments)}
            raise DriverError("environment.unknown", f"no environment {spec.environment}", detail)
        wanted(lease, {})  # a bucket is no folder: programs read it by its own API
        for reference in spec.secrets.values():
            raise DriverError("secret.unknown", "this cluster keeps no secrets", {"reference": reference[:200]})
        requirements(lease, fargate=queue_of(lease, self.options) in self.capacity.fargate)

    def _settings(self, lease: Lease) -> dict[str, Any]:
        """Return what the courier is told; the person's variables are in it, and nowhere at Batch."""
        ours = {
            "USER": lease.owner,
            "LOGNAME": lease.owner,
            "LANG": "C.UTF-8",
            "TESSERA_URL": self.options.service_url,
            "TESSERA_RUN_ID": str(lease.run_id),
            "TESSERA_TASK_ID": str(lease.task_id),
            "TESSERA_TENANT": lease.tenant,
        }
        if lease.card_class and lease.spec.roles[0].resources.cards is not None:
            ours["TESSERA_CARD_CLASS"] = lease.card_class
        return {
            **courier_document(lease, self.options.service_url, self.options.output_bytes),
            "order_url": self.store.signed("orders", lease.run_id),
            "told_url": self.store.signed("told", lease.run_id, "put"),
            "poll_seconds": self.options.poll_seconds,
            "user": self.options.user,
            "variables": ours | lease.spec.variables,
            "code": {kept["name"]: self.store.code(kept) for kept in self._code},
        }

    # --- orders ---------------------------------------------------------------------------------------------------

    async def cancel(self, run_id: UUID, why: CancelReason, grace_seconds: int) -> None:
        """Write the order down and tell the run; the looking task sees to it, also after a crash."""
        entry = self._entries.get(run_id)
        if entry is None or entry.record.end is not None:
            return
        known = entry.record.order
        if known is not None and known.grace_seconds <= grace_seconds:
            return
        await self._noted(entry, order=Order(why, grace_seconds, datetime.now(UTC)))

    async def suspend(self, run_id: UUID) -> None:
        """Stop the run's processes; the container keeps memory and cards."""
        entry = self._entries.get(run_id)
        if entry is not None and entry.shown.phase is Phase.RUNNING:
            await self._suspends(entry, "suspended")

    async def resume(self, run_id: UUID) -> None:
        """Let them go on."""
        entry = self._entries.get(run_id)
        if entry is not None and entry.shown.phase is Phase.SUSPENDED:
            await self._suspends(entry, "resumed")

    async def _suspends(self, entry: Entry, state: str) -> None:
        if entry.record.order is None and entry.record.is_suspended is not (state == "suspended"):
            await self._noted(entry, suspends=(*entry.record.suspends, (state, now())))

    async def _noted(self, entry: Entry, **changed: Any) -> None:
        async with entry.busy:
            if entry.record.end is not None:
                return
            try:
                await self.tender.note(entry, **changed)
                await self.tender.give_orders(entry.record)
            except CloudError as error:  # the service repeats an order that was not obeyed
                log.warning("order_not_noted", run=str(entry.record.lease.run_id), error=str(error))
                return
        self._changed.set()

    # --- looking --------------------------------------------------------------------------------------------------

    async def _tend_for_ever(self) -> None:
        while True:
            self._changed.clear()
            await self._look_once()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.options.look_seconds):
                    await self._changed.wait()

    async def _look_once(self) -> None:
        try:
            await self.tender.look_round(list(self._entries.values()), asyncio.Semaphore(LOOKS_AT_ONCE))
            self._tell(None)
        except CloudError as error:
            self._tell(error)
        except Exception:
            log.exception("look_failed")

    def _tell(self, trouble: CloudError | None) -> None:
        """Keep how the account stands, and say it where it changes."""
        before = None if self.trouble is None else self.trouble.trouble
        self.trouble = trouble
        if trouble is not None and trouble.trouble != before:
            log.warning("cluster_state", state=trouble.trouble, error=str(trouble))
        elif trouble is None and before is not None:
            log.info("cluster_state", state="ready")

    # --- what the agent asks for ----------------------------------------------------------------------------------

    async def list_runs(self) -> list[NativeRun]:
        """All runs, as they were at the last look."""
        return [self._shown(entry) for entry in self._entries.values()]

    def _shown(self, entry: Entry) -> NativeRun:
        if self.trouble is None or entry.record.end is not None:
            return entry.shown
        return replace(entry.shown, reason=self.trouble.reason)

    async def logs(self, run_id: UUID, stream: Stream, offset: int, limit: int) -> bytes:
        """Nothing where the run's courier delivers; else what CloudWatch kept of the output, as long as Batch knows the job."""
        entry = self._entries.get(run_id)
        end = None if entry is None else entry.record.end
        if end is None or end.delivered or stream != "output" or not end.run.meter or end.run.native_id is None:
            return b""
        job_id = end.run.native_id
        try:
            found = await in_thread(lambda: self.cloud.describe([job_id]))
            kept = Job.of(found[job_id]).log_stream if job_id in found else None
            if kept is None:
                return b""
            return (await in_thread(lambda: self.cloud.output(kept, offset + limit)))[offset:]
        except CloudError as error:
            log.warning("output_not_read", run=str(run_id), error=str(error))
            return b""

    async def notebook(self, run_id: UUID, known: str | None) -> tuple[str, bytes] | None:
        """The courier brings it."""
        return None

    async def results(self, run_id: UUID) -> Results:
        """What the courier has to tell besides; it has brought the files."""
        entry = self._entries.get(run_id)
        end = None if entry is None else entry.record.end
        if end is None:
            return Results()
        notes = tuple(reason_of(code, "", dict(detail)) for code, detail in end.notes.items())
        return Results(notes=notes, checkpoint_delivered=end.checkpoint)

    async def forget(self, run_id: UUID) -> None:
        """Remove all objects of an ended run; Batch forgets its job by itself."""
        entry = self._entries.get(run_id)
        if entry is None or entry.record.end is None:
            return
        try:
            await in_thread(lambda: self.store.remove(run_id))
        except CloudError as error:  # the service repeats it
            log.warning("run_not_forgotten", run=str(run_id), error=str(error))
            return
        self._entries.pop(run_id, None)

    async def apply_queues(self, desired: Sequence[DesiredQueue]) -> None:
        """Queues are not mirrored: a job queue's size is that of its compute environments, which belong to their operators."""
