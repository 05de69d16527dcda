"""The Kubernetes driver: each run is a pod or several of a Job, or of a Volcano Job where Volcano is.

All it knows lies in the cluster: a Secret per run is the record, jobs and pods are watched. What is to be done about a run is
done by one task, which looks whenever something changes; :meth:`KubernetesDriver.list_runs` only shows what it found.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar, Final, TypeVar
from uuid import UUID

import structlog

from tessera_hub.proxy.courier.archive import build_archive
from tessera_hub.proxy.drivers.base import CancelReason, Driver, DriverError, InputSource, NativeRun, Results, Stream, Usage
from tessera_hub.proxy.drivers.couriers import runner_bytes
from tessera_hub.proxy.drivers.datasets import told
from tessera_hub.proxy.drivers.kubernetes import objects
from tessera_hub.proxy.drivers.kubernetes.calls import LEASES_AT_ONCE, in_thread
from tessera_hub.proxy.drivers.kubernetes.cards import Device, node_selection, resources_of
from tessera_hub.proxy.drivers.kubernetes.checking import check_lease, never_started, of_api_error
from tessera_hub.proxy.drivers.kubernetes.inventory import devices_of_node, has_shares
from tessera_hub.proxy.drivers.kubernetes.kubelets import Kubelets
from tessera_hub.proxy.drivers.kubernetes.making import claimant_of, kind_of, make_job
from tessera_hub.proxy.drivers.kubernetes.mirror import QueueMirror
from tessera_hub.proxy.drivers.kubernetes.options import ORDER, KubernetesOptions
from tessera_hub.proxy.drivers.kubernetes.permissions import system_namespace
from tessera_hub.proxy.drivers.kubernetes.picture import Picture
from tessera_hub.proxy.drivers.kubernetes.ranks import living
from tessera_hub.proxy.drivers.kubernetes.record import JOB, SUSPENDS, Record, all_records, parsed
from tessera_hub.proxy.drivers.kubernetes.tenants import make_namespace, own_subject
from tessera_hub.proxy.drivers.kubernetes.tending import Entry, Tender, pods_of
from tessera_hub.proxy.drivers.kubernetes.usage import UsageReader
from tessera_hub.proxy.drivers.outcome import reason_of
from tessera_hub.proxy.drivers.runrecords import Order
from tessera_hub.schemas.protocol import DesiredQueue, Inventory, Lease
from tessera_hub.schemas.tasks import Phase, TaskKind
from volcano_client.collection import Collection
from volcano_client.errors import ClusterApiError
from volcano_client.features import Features, detect
from volcano_client.transport import Transport

log = structlog.get_logger(__name__)

LOOK_SECONDS: Final = 1.0
"""Longest pause between two looks at the runs."""
LOOK_REST_SECONDS: Final = 0.05
"""Shortest one: what changes at once is looked at at once."""
LOOKS_AT_ONCE: Final = 8
LOOK_AT_ALL_SECONDS: Final = 10.0
"""Pause between two looks at runs of which nothing has changed."""
SYNC_SECONDS: Final = 60.0
LEASES_MAX: Final = 200
"""Leases that are taken at once: more would not be taken up before the service gives up waiting for them."""
UNPLACED_MAX: Final = 2000
"""Runs that wait for a node, whatever the nodes could take: the service's order counts, not the engine's."""
MAKE_SECONDS: Final = 2.0
"""Pause before a job is tried again that could not be made since the API server was away."""
T = TypeVar("T")


class KubernetesDriver(Driver):
    """A Kubernetes cluster.

    Args:
        options: how it is set up.
        transport: the way to the API server.
    """

    name: ClassVar[str] = "kubernetes"
    leases_at_once: ClassVar[int] = LEASES_AT_ONCE
    carries: ClassVar[bool] = False

    def __init__(self, options: KubernetesOptions, transport: Transport) -> None:
        self.options = options
        self.transport = transport
        self.me: Mapping[str, str] | None = None
        self.features = Features()
        self._entries: dict[UUID, Entry] = {}
        self._namespaces: dict[int, str] = {}
        self._making = asyncio.Lock()
        self._code = b"", b""
        self._code_name = ""
        self._changed = asyncio.Event()
        self._tending: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self.picture = Picture(transport, options, self._woken)
        self.tender = Tender(transport, self.picture, options.gang_seconds, options.missing_seconds)
        own = Kubelets(transport, options.namespace or system_namespace(options.prefix)) if options.kubelets else None
        self.use = UsageReader(transport, options.prefix, own)
        self.mirror = QueueMirror(transport, options.prefix, self._devices, options.namespace)

    # --- life -----------------------------------------------------------------------------------------------------

    @property
    def capabilities(self) -> frozenset[str]:
        """What the cluster can do now."""
        found = {"suspend", "preempt", "logs", "services"}
        pools = self.picture.pools()
        if any(pool.card_class for pool in pools):
            found.add("cards")
        if has_shares(pools):
            found.add("fraction")
        if self.uses_volcano or self.options.plain_gangs:
            found.add("gang")
        if self.uses_volcano and self.options.mirror_queues:
            found.add("queues")
        if self.options.homes is not None:
            found.add("shared_storage")
        return frozenset(found)

    @property
    def uses_volcano(self) -> bool:
        """Whether runs are Volcano's jobs."""
        return self.options.volcano and self.features.jobs and self.features.floor

    async def start(self, source_of: Callable[[Lease], InputSource]) -> None:
        """Look at the whole cluster and take in all runs.

        Raises:
            DriverError: ``cluster.unreachable``: refused, or no answer within a minute.
        """
        from tessera_lab.runner import build_zipapp

        self._loop = asyncio.get_running_loop()
        self._code = await asyncio.to_thread(runner_bytes, build_zipapp), build_archive()
        self._code_name = f"tessera-code-{hashlib.sha256(b''.join(self._code)).hexdigest()[:16]}"
        self.features = await self._patiently(lambda: detect(self.transport))
        self.me = await self._patiently(lambda: own_subject(self.transport))
        await self.picture.start(volcano=self.features.jobs, seconds=SYNC_SECONDS)
        for record in await self._patiently(lambda: all_records(self.transport, self.options.prefix)):
            self._adopt(record)
        self._tending = asyncio.create_task(self._tend_for_ever())
        self.mirror.start()

    async def _patiently(self, call: Callable[[], T]) -> T:
        deadline = asyncio.get_running_loop().time() + SYNC_SECONDS
        while True:
            try:
                return await asyncio.to_thread(call)
            except ClusterApiError as error:
                if not error.unreachable or asyncio.get_running_loop().time() > deadline:
                    raise DriverError("cluster.unreachable", f"the API server does not serve us: {error}") from error
            await asyncio.sleep(0.5)

    def _adopt(self, record: Record) -> Entry:
        entry = self._enter(record)
        log.info("run_adopted", run=str(record.lease.run_id), phase=entry.shown.phase.value)
        return entry

    def _enter(self, record: Record) -> Entry:
        shown = record.end.run if record.end is not None else living(record, self.tender.seen(record))
        entry = self._entries[record.lease.run_id] = Entry(record, shown)
        return entry

    async def close(self) -> None:
        """Stop looking; runs go on."""
        if self._tending is not None:
            self._tending.cancel()
            await asyncio.gather(self._tending, return_exceptions=True)
        await self.mirror.stop()
        self.picture.stop()
        self.transport.close()
        await self.picture.join(5.0)

    def _woken(self) -> None:
        """A watch saw a change; called from its thread."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is to be woken
                self._loop.call_soon_threadsafe(self._changed.set)

    # --- inventory ------------------------------------------------------------------------------------------------

    async def inventory(self) -> Inventory:
        """All nodes that take runs, less what pods hold, ours and others'."""
        environments = {name: {"kind": "image", "image": image} for name, image in self.options.environments.items()}
        shared = None if self.options.homes is None else self.options.homes.path
        datasets = told(self.options.datasets)
        return Inventory(pools=self.picture.pools(), environments=environments, datasets=datasets, shared_storage=shared)

    def room(self, runs: Sequence[NativeRun]) -> int:
        """So many as its nodes take pods, less those that have no node yet."""
        parts = {run_id: entry.record.size for run_id, entry in self._entries.items()}
        # The pod of a workspace takes its slot, and its run stays DISPATCHED for as long as it lives.
        waiting = [run for run in runs if run.phase in (Phase.DISPATCHED, Phase.PENDING) and not run.managed_by_spawner]
        unplaced = sum(parts.get(run.run_id, 1) for run in waiting)
        return max(min(min(self.picture.pod_slots(), UNPLACED_MAX) - unplaced, LEASES_MAX), 0)

    # --- starting -------------------------------------------------------------------------------------------------

    async def submit(self, lease: Lease, source: InputSource) -> None:
        """Write the record, then make the job; what comes in between is made good by the looking task, also after a crash."""
        known = self._entries.get(lease.run_id)
        if known is not None:
            if known.record.lease.lease_token == lease.lease_token:
                return
            if known.record.end is None:
                raise DriverError("cluster.back_pressure", "an older lease of this run is still being ended", give_back=True)
            await self.forget(lease.run_id)
        if lease.managed_by == "proxy":
            check_lease(lease, self.options)
        try:
            namespace = await self._namespace(lease)
            secret, _made = await in_thread(
                lambda: Collection(self.transport, objects.SECRETS).create_or_get(
                    objects.lease_secret(lease, self.options, namespace)
                )
            )
            record = parsed(secret)
        except (ClusterApiError, ValueError) as error:
            raise of_api_error(error) from error
        if record.lease.lease_token != lease.lease_token:
            await self._end_unheard(record)
            raise DriverError("cluster.back_pressure", "an older lease of this run is still here", give_back=True)
        entry = self._enter(record)
        if lease.managed_by == "proxy" and record.end is None:
            await self._make_at_once(entry)

    async def _end_unheard(self, record: Record) -> None:
        """See that the record of an older lease goes, of which this Proxy never heard that it was written."""
        if record.job_uid is not None:
            self._adopt(record)
            return
        with contextlib.suppress(ClusterApiError):
            await self.tender.remove(record)

    async def _make_at_once(self, entry: Entry) -> None:
        async def give_back(error: DriverError) -> None:
            await self.tender.remove(entry.record)
            self._entries.pop(entry.record.lease.run_id, None)
            raise error

        await self._make_or_later(entry, give_back)

    async def _make_good(self, entry: Entry, gate: asyncio.Semaphore) -> None:
        """Make the job of a run that lacks it, since a submit was interrupted."""

        async def conclude(error: DriverError) -> None:
            await self.tender.conclude(entry, never_started(entry.record, error))

        async with gate:
            try:
                await self._make_or_later(entry, conclude, again=True)
            except Exception as error:  # one run's trouble is not the others'
                log.exception("job_not_made", run=entry.name)
                self._make_later(entry, error)

    async def _make_or_later(
        self, entry: Entry, refused: Callable[[DriverError], Awaitable[None]], *, again: bool = False
    ) -> None:
        """Make the job; without an answer nobody knows whether it is there, so the record stays, and it is tried again."""
        try:
            await self._make_job(entry, again=again)
        except DriverError as error:
            if error.code == "cluster.unreachable":
                self._make_later(entry, error)
                return
            try:
                await refused(error)
            except ClusterApiError as away:
                self._make_later(entry, away)

    @staticmethod
    def _make_later(entry: Entry, error: Exception) -> None:
        entry.make_at = asyncio.get_running_loop().time() + MAKE_SECONDS
        log.warning("job_not_made", run=entry.name, error=str(error))

    def _template(self, lease: Lease) -> dict[str, Any]:
        request = lease.spec.roles[0].resources.cards
        cards: dict[str, str] = {}
        affinity = None
        if request is not None:
            cards = resources_of(request, lease.card_class, self._devices())
            affinity = node_selection(lease.card_class or request.model, self.picture.nodes())
        image = self.options.environments.get(lease.spec.environment)
        if image is None:
            raise DriverError("environment.unknown", f"no environment {lease.spec.environment}")
        scheduler = "volcano" if self.uses_volcano and lease.spec.kind is not TaskKind.SERVICE else None
        return objects.pod_template(lease, self.options, image, self._code_name, cards, affinity, scheduler=scheduler)

    def _devices(self) -> list[Device]:
        return [device for node in self.picture.nodes() for device in devices_of_node(node)]

    async def _namespace(self, lease: Lease) -> str:
        def make() -> str:
            name = make_namespace(self.transport, lease.tenant_id, lease.tenant, self.options, self.me)
            document = objects.code_map(name, self._code_name, *self._code, self.options)
            Collection(self.transport, objects.CONFIG_MAPS).create_or_get(document)
            return name

        if lease.tenant_id not in self._namespaces:
            async with self._making:
                if lease.tenant_id not in self._namespaces:
                    self._namespaces[lease.tenant_id] = await in_thread(make)
        return self._namespaces[lease.tenant_id]

    async def _make_job(self, entry: Entry, *, again: bool = False) -> None:
        """Make the job of a run that has none; a repeat finds it.

        Args:
            again: it may be there already; then nothing that was taken out of the settings since ends it.
        """
        record, entry.making = entry.record, True
        kind = kind_of(record, volcano=self.uses_volcano)
        jobs = Collection(self.transport, kind)
        try:
            await self._namespace(record.lease)
            known = await in_thread(lambda: jobs.get(record.name, record.namespace)) if again else None
            made = known or await self._new_job(record)
            if not record.is_service:
                self.picture.put_job(kind, made)
            claimant = claimant_of(kind, made, record.size)
            await self.tender.note(entry, {JOB: claimant}, job_uid=claimant)
        except (ClusterApiError, ValueError) as error:
            raise of_api_error(error) from error
        finally:
            entry.making = False
        self._changed.set()

    async def _new_job(self, record: Record) -> dict[str, Any]:
        template, volcano = self._template(record.lease), self.uses_volcano
        queue = self.mirror.name_of(record.lease.queue) if volcano else None
        return await in_thread(lambda: make_job(self.transport, record, self.options, template, queue, volcano=volcano))

    # --- orders ---------------------------------------------------------------------------------------------------

    async def cancel(self, run_id: UUID, why: CancelReason, grace_seconds: int) -> None:
        """Write the order down; the looking task sees to it, also after a crash."""
        entry = self._entries.get(run_id)
        if entry is None or entry.record.end is not None or entry.record.lease.managed_by == "spawner":
            return
        known = entry.record.order
        if known is not None and known.grace_seconds <= grace_seconds:
            return
        order = Order(why, grace_seconds, datetime.now(UTC))
        await self._noted(entry, {ORDER: json.dumps(order.document())}, order=order)

    async def suspend(self, run_id: UUID) -> None:
        """Stop the run's processes; the pod keeps memory and cards."""
        entry = self._entries.get(run_id)
        if entry is not None and entry.shown.phase is Phase.RUNNING:
            await self._suspends(entry, "suspended")

    async def resume(self, run_id: UUID) -> None:
        """Let them go on."""
        entry = self._entries.get(run_id)
        if entry is not None and entry.shown.phase is Phase.SUSPENDED:
            await self._suspends(entry, "resumed")

    async def _suspends(self, entry: Entry, state: str) -> None:
        if entry.record.order is not None or entry.record.is_suspended is (state == "suspended"):
            return
        if entry.suspended is None:  # until its courier tells that it obeyed
            entry.suspended = state != "suspended"
        suspends = (*entry.record.suspends, (state, datetime.now(UTC).replace(microsecond=0)))
        text = json.dumps([[what, at.isoformat()] for what, at in suspends])
        await self._noted(entry, {SUSPENDS: text}, suspends=suspends)

    async def _noted(self, entry: Entry, annotations: Mapping[str, str], **changed: Any) -> None:
        try:
            await self.tender.note(entry, annotations, **changed)
        except ClusterApiError as error:  # the service repeats an order that was not obeyed
            log.warning("order_not_noted", run=str(entry.record.lease.run_id), error=str(error))
            return
        self._changed.set()

    # --- looking --------------------------------------------------------------------------------------------------

    async def _tend_for_ever(self) -> None:
        at_all = 0.0
        while True:
            self._changed.clear()
            gate = asyncio.Semaphore(LOOKS_AT_ONCE)
            changed, now = self.picture.changed_runs(), asyncio.get_running_loop().time()
            if every := now - at_all >= LOOK_AT_ALL_SECONDS:
                at_all = now
            living = [entry for entry in self._entries.values() if entry.record.end is None and not entry.making]
            waiting = [entry for entry in living if every or entry.name in changed or entry.is_due(now, LOOK_SECONDS)]
            waiting.sort(key=lambda entry: entry.causes_at)  # who was not asked about for longest comes first
            unmade = [entry for entry in living if entry.lacks_job and now >= entry.make_at]
            await asyncio.gather(*(self._make_good(entry, gate) for entry in unmade))
            await asyncio.gather(*(self.tender.tend(entry, gate) for entry in waiting))
            await asyncio.sleep(LOOK_REST_SECONDS)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._changed.wait()

    # --- what the agent asks for ----------------------------------------------------------------------------------

    async def list_runs(self) -> list[NativeRun]:
        """All runs, as they were at the last look."""
        return [entry.shown for entry in self._entries.values()]

    async def logs(self, run_id: UUID, stream: Stream, offset: int, limit: int) -> bytes:
        """Nothing where the run's courier delivers; else what the engine kept of the output."""
        entry = self._entries.get(run_id)
        end = None if entry is None else entry.record.end
        if entry is None or end is None or end.delivered or stream != "output" or not end.run.meter or end.run.native_id is None:
            return b""
        namespace, _slash, name = end.run.native_id.partition("/")
        path = objects.PODS.path(namespace, f"{name}/log")
        try:
            found = await in_thread(lambda: self.transport.raw("GET", path, query={"container": "main"}))
        except ClusterApiError:
            return b""
        return found[offset : offset + limit]

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
        """Remove the record of an ended run, and with it all that it owns."""
        entry = self._entries.get(run_id)
        if entry is None or (entry.record.end is None and entry.record.lease.managed_by == "proxy"):
            return
        try:
            await self.tender.remove(entry.record)
        except ClusterApiError as error:  # the service repeats it
            log.warning("run_not_forgotten", run=str(run_id), error=str(error))
            return
        self._entries.pop(run_id, None)

    async def usage(self) -> Sequence[Usage]:
        """What user code in the pods used, on average over the last look's time or the source's own window."""
        records = [entry.record for entry in self._entries.values() if entry.record.end is None]
        pods = {record.lease.run_id: pods_of(self.tender.seen(record)) for record in records}
        return await self.use.look(pods, self.picture.node)

    async def apply_queues(self, desired: Sequence[DesiredQueue]) -> None:
        """Mirror them as Volcano's queues."""
        await self.mirror.apply(desired)
