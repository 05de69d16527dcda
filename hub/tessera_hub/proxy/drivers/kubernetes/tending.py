"""Seeing to one run after another: orders are enforced, what the engine says is read, ends are written down."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final

import structlog

from tessera_hub.proxy.drivers.base import NativeRun
from tessera_hub.proxy.drivers.kubernetes import lostnodes, objects, ranks, standing
from tessera_hub.proxy.drivers.kubernetes.calls import in_thread
from tessera_hub.proxy.drivers.kubernetes.listening import Listener
from tessera_hub.proxy.drivers.kubernetes.objects import KILL_SLACK_SECONDS
from tessera_hub.proxy.drivers.kubernetes.options import COMPANY, END, ORDER, RECORD
from tessera_hub.proxy.drivers.kubernetes.picture import Picture
from tessera_hub.proxy.drivers.kubernetes.record import GAVE_BACK, GAVE_UP, Record
from tessera_hub.proxy.drivers.kubernetes.serving import look_at_service
from tessera_hub.proxy.drivers.kubernetes.standing import Seen
from tessera_hub.proxy.drivers.runrecords import End, Order, end_document
from tessera_hub.schemas.tasks import Phase, Progress, TaskKind
from volcano_client.collection import Collection
from volcano_client.errors import ClusterApiError
from volcano_client.pending import Cause, causes_of_event, causes_of_pod, causes_of_pod_group
from volcano_client.phases import PodGroupPhase
from volcano_client.transport import Transport

log = structlog.get_logger(__name__)

EVENTS_SECONDS: Final = 2.0
"""How long a run waits before events are asked why, and the pause between two such looks."""
EVENTS_REST: Final = 20
"""How many times as long as a look at events took passes before the next: the API server goes through all of a namespace."""
LOST_SECONDS: Final = 5.0
"""A job that is not in the watch's picture this long after it was made is gone."""
CHECKPOINT_SECONDS: Final = 20
"""For what a program saved that was ended in its first moments."""


@dataclass(slots=True)
class Entry:
    """One run in mind; all of it follows from the cluster."""

    record: Record
    shown: NativeRun
    causes: tuple[Cause, ...] = ()
    causes_at: float = field(default_factory=time.monotonic)
    progress: Progress | None = None
    suspended: bool | None = None
    told_at: float = 0.0
    listens: bool = False
    """What its courier told is being read."""
    missing_since: float | None = None
    told_orders: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Uid of a pod → the order that it was shown."""
    is_late: bool = False
    deployment_at: float = 0.0
    """When the Deployment of a service was looked at last."""
    is_settled: bool = False
    """It runs, and nothing is to be done about it before something changes."""
    looked_at: float = 0.0
    """When it was looked at last; 0: it is to be looked at now."""
    making: bool = False
    """Its job is being made: nothing is looked at before that is written down."""
    make_at: float = 0.0
    """Not before this its job is tried again, if it could not be made."""
    busy: asyncio.Lock = field(default_factory=asyncio.Lock)
    name: str = ""
    """The run's id as its pods have it."""

    def __post_init__(self) -> None:
        self.name = str(self.record.lease.run_id)

    @property
    def lacks_job(self) -> bool:
        """Whether its job is still to be made."""
        record = self.record
        is_over = record.end is not None or record.order is not None or record.gave_up is not None or record.gave_back is not None
        return record.job_uid is None and record.lease.managed_by == "proxy" and not is_over

    def look_soon(self) -> None:
        """Have it looked at in the next round."""
        self.is_settled, self.looked_at = False, 0.0

    def is_due(self, now: float, seconds: float) -> bool:
        """Whether it is to be looked at although nothing of it has changed in Kubernetes, since its last look is so old."""
        return not self.is_settled and now - self.looked_at >= seconds


def pods_of(seen: Seen) -> list[Mapping[str, Any]]:
    """Return the pods of a run, one or several."""
    return list(seen.ranks.values()) or ([] if seen.pod is None else [seen.pod])


def grace_of_unbegun(order: Order | None) -> int:
    """Return the grace in seconds with which a pod is deleted that has not begun by what is seen.

    Process 1 of a container misses a SIGTERM that comes before it listens, and then has all of the grace: so it is as short as
    can be. It may have begun unseen, and then user code keeps the order's grace and some time to bring its checkpoint away.
    Without an order the Proxy itself gave the run back, and user code waits for a word that it never had.
    """
    if order is None or order.grace_seconds <= 0:
        return KILL_SLACK_SECONDS
    return order.grace_seconds + KILL_SLACK_SECONDS + CHECKPOINT_SECONDS


def _is_settled(entry: Entry, seen: Seen) -> bool:
    """Whether only a change of its pods or job can make a run worth a look; a notebook's courier is asked again and again."""
    record = entry.record
    asked = record.order is not None or record.suspends or record.lease.spec.kind not in (TaskKind.SCRIPT, TaskKind.TRAINING)
    leaves = any(pod["metadata"].get("deletionTimestamp") for pod in pods_of(seen))
    held = all(RECORD in (pod["metadata"].get("finalizers") or ()) for pod in pods_of(seen))
    return entry.shown.phase is Phase.RUNNING and held and not asked and not leaves and entry.missing_since is None


class Tender:
    """Looks at runs and does what is to be done."""

    def __init__(self, transport: Transport, picture: Picture, gang_seconds: int, missing_seconds: int) -> None:
        self.transport = transport
        self.gang_seconds = gang_seconds
        self.missing_seconds = missing_seconds
        self.picture = picture
        self._listener = Listener(transport, picture.wake)
        self._asking = asyncio.Lock()
        self._next_asking = 0.0

    def seen(self, record: Record, entry: Entry | None = None) -> Seen:
        """What Kubernetes shows of a run, and what was read of it."""
        job = self.picture.job(record)
        pod, several = self.picture.pod(record), self.picture.ranks(record)
        found = Seen(
            None if job is None else job[1],
            None if pod is None else self.as_it_stands(pod),
            ranks={rank: self.as_it_stands(each) for rank, each in several.items()},
        )
        if record.size > 1:
            found = replace(found, pod=ranks.held_up_by(record, found))
        if entry is None:
            return found
        return replace(found, causes=entry.causes, progress=entry.progress, suspended=entry.suspended)

    def as_it_stands(self, pod: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the pod, as one that has failed where its node is lost."""
        if self.picture.is_behind or (pod["metadata"].get("deletionTimestamp") is None and not lostnodes.is_collected(pod)):
            return pod
        node = self.picture.node(str((pod.get("spec") or {}).get("nodeName")))
        return lostnodes.as_it_stands(pod, node, datetime.now(UTC))

    async def tend(self, entry: Entry, gate: asyncio.Semaphore) -> None:
        """Look at one run; trouble is logged, and the next look tries again."""
        async with gate, entry.busy:
            try:
                await self._look(entry)
            except ClusterApiError as error:
                log.warning("look_failed", run=str(entry.record.lease.run_id), error=str(error))
            except Exception:
                log.exception("look_failed", run=str(entry.record.lease.run_id))

    async def _look(self, entry: Entry) -> None:
        if entry.record.lease.managed_by == "spawner" or entry.record.end is not None:
            return
        entry.is_settled, entry.looked_at = False, asyncio.get_running_loop().time()
        if entry.record.is_service:
            await look_at_service(self, entry)
            return
        record, seen = entry.record, self.seen(entry.record, entry)
        if record.order is not None:
            await self._enforce(entry, record.order, seen)
        elif not ranks.has_begun(record, seen):
            await self._give_up(entry, seen)
        if self._is_over(entry, seen):
            if not pods_of(seen):
                await self._look_at_events(entry, seen)
            await self.conclude(entry, ranks.ended(record, self.seen(record, entry), datetime.now(UTC).replace(microsecond=0)))
            return
        for pod in pods_of(seen):
            await self._hold(pod)
        if record.size > 1 and record.order is None:
            await self._lead(entry, seen)
        if ranks.has_begun(record, seen):
            await self._tell_suspension(entry, seen)
            notebook = record.lease.spec.kind is TaskKind.NOTEBOOK
            waits = bool(record.suspends) and entry.suspended is not record.is_suspended
            if notebook or waits:
                self.listen(entry, seen)
        else:
            await self.look_for_causes(entry, seen)
        seen = self.seen(entry.record, entry)
        entry.shown = ranks.living(entry.record, seen)
        entry.is_settled = _is_settled(entry, seen)

    def _is_over(self, entry: Entry, seen: Seen) -> bool:
        """Whether it is over; that objects are missing is believed after a while only, since the watches may be behind."""
        if not ranks.is_over(entry.record, seen):
            entry.missing_since = None
            return False
        if pods_of(seen):
            return True
        if self.picture.is_behind:
            entry.missing_since = None
            return False
        now = asyncio.get_running_loop().time()
        entry.missing_since = entry.missing_since or now
        return now - entry.missing_since >= self.patience(entry.record)

    @staticmethod
    def patience(record: Record) -> float:
        """Seconds after which a run whose objects are missing is believed to be gone."""
        return 1.0 if record.order is not None else LOST_SECONDS

    # --- orders ---------------------------------------------------------------------------------------------------

    async def _enforce(self, entry: Entry, order: Order, seen: Seen) -> None:
        """Bring the end about: by the launcher, which leaves a record; behind it by the kubelet."""
        record = entry.record
        if not ranks.has_begun(record, seen):
            await self._end_unbegun(entry, seen)
            return
        for pod in pods_of(seen):
            await self.tell_pod(entry, pod, {"why": order.why, "grace_seconds": order.grace_seconds})
        late = datetime.now(UTC) - order.at - timedelta(seconds=order.grace_seconds + 2 * KILL_SLACK_SECONDS)
        if late > timedelta(0) and not entry.is_late:
            log.warning("run_does_not_end", run=str(record.lease.run_id))
            for pod in pods_of(seen):
                await self._patch_pod(pod, {"spec": {"activeDeadlineSeconds": 1}})
            entry.is_late = True

    async def _end_unbegun(self, entry: Entry, seen: Seen) -> None:
        """Take away a run whose user code has not begun by what is seen, pods first: their own grace is made for a delivery.

        A kubelet takes the grace that is there when it begins to end a pod, and no shorter one later.
        """
        grace = grace_of_unbegun(entry.record.order)
        for pod in pods_of(seen):
            await self.delete_within(pod, grace)
        await self.delete_job(entry.record)

    async def _give_up(self, entry: Entry, seen: Seen) -> None:
        """End a run that waits in vain for something which is not there."""
        if entry.record.gave_up is None:
            now = datetime.now(UTC)
            missed = (standing.misses(pod, self.missing_seconds, now) for pod in pods_of(seen))
            if (why := next(filter(None, missed), None)) is None:
                return
            await self.note(entry, {GAVE_UP: why.model_dump_json()}, gave_up=why)
        await self._end_unbegun(entry, seen)

    async def delete_within(self, pod: Mapping[str, Any], grace_seconds: int) -> None:
        """Delete a pod with this grace, unless it is being deleted with no longer one."""
        metadata = pod["metadata"]
        known = metadata.get("deletionGracePeriodSeconds")
        if metadata.get("deletionTimestamp") is None or (known is not None and known > grace_seconds):
            await in_thread(partial(self._delete_pod, metadata, grace_seconds))

    def _delete_pod(self, metadata: Mapping[str, Any], grace_seconds: int) -> None:
        pods = Collection(self.transport, objects.PODS)
        pods.delete(metadata["name"], metadata["namespace"], grace_seconds=grace_seconds, uid=metadata["uid"])

    async def _lead(self, entry: Entry, seen: Seen) -> None:
        """Bring several pods together: all start, or none, and one that fails ends the others."""
        record = entry.record
        if record.gave_back is None and ranks.is_late(
            ranks.half_placed_since(record, seen), self.gang_seconds, datetime.now(UTC)
        ):
            why = f"only some of {record.size} parts found a place within {self.gang_seconds} s"
            await self.note(entry, {GAVE_BACK: why}, gave_back=why)
        if entry.record.gave_back is not None or ranks.cannot_meet(record, seen):
            await self._end_unbegun(entry, seen)
            return
        company = ranks.company_of(record, seen)
        for pod in seen.ranks.values() if company is not None else ():
            if ranks.lacks_company(pod):
                await self._patch_pod(pod, {"metadata": {"annotations": {COMPANY: company}, "uid": pod["metadata"]["uid"]}})
        if not ranks.has_begun(record, seen):
            return
        if ranks.failed_part(seen) is None:
            for pod in ranks.left_waiting(record, seen):
                await self.tell_pod(entry, pod, {"why": "done"})
        else:
            for pod in seen.ranks.values():
                await self.tell_pod(entry, pod, {"why": "peer", "grace_seconds": record.lease.spec.lifecycle.grace_seconds})

    async def _tell_suspension(self, entry: Entry, seen: Seen) -> None:
        if entry.record.order is None and entry.record.suspends and ranks.failed_part(seen) is None:
            for pod in pods_of(seen):
                await self.tell_pod(entry, pod, {"suspended": entry.record.is_suspended})

    async def tell_pod(self, entry: Entry, pod: Mapping[str, Any], order: dict[str, Any]) -> None:
        """Show an order to the launcher, once."""
        uid = str(pod["metadata"]["uid"])
        if entry.told_orders.get(uid) == order:
            return
        text = json.dumps(order)
        if (pod["metadata"].get("annotations") or {}).get(ORDER) != text:
            await self._patch_pod(pod, {"metadata": {"annotations": {ORDER: text}}})
        entry.told_orders[uid] = order

    async def _hold(self, pod: Mapping[str, Any]) -> None:
        """See that the pod stays until its end is written down; Volcano takes no finalizer from a template."""
        metadata = pod["metadata"]
        finalizers = metadata.get("finalizers") or []
        if RECORD not in finalizers and not metadata.get("deletionTimestamp"):
            await self._patch_pod(pod, {"metadata": {"finalizers": [*finalizers, RECORD], "uid": metadata["uid"]}})

    async def _patch_pod(self, pod: Mapping[str, Any], change: Mapping[str, Any]) -> None:
        name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
        await in_thread(lambda: Collection(self.transport, objects.PODS).patch(name, change, namespace))

    async def delete_job(self, record: Record) -> None:
        """Delete the job of a run, unless it is being deleted."""
        found = self.picture.job(record)
        if found is not None and found[1]["metadata"].get("deletionTimestamp") is None:
            kind, uid = found[0], found[1]["metadata"]["uid"]
            await in_thread(lambda: Collection(self.transport, kind).delete(record.name, record.namespace, uid=uid))

    # --- what the engine says -------------------------------------------------------------------------------------

    async def _look_at_events(self, entry: Entry, seen: Seen) -> None:
        """Read why it waits where the pod does not say it: a job that cannot make its pod says so only in events."""
        entry.causes_at = asyncio.get_running_loop().time()
        group = None if seen.job is None else self.picture.pod_group(dict(seen.job))
        # A group that was not let in has no pods yet, and only its events say why: its condition speaks of 0 of 0 tasks.
        let_in = group is not None and (group.get("status") or {}).get("phase") != PodGroupPhase.PENDING
        told = causes_of_pod_group(group) if group is not None and let_in else []
        for waits in (seen.pod, group, seen.job):
            if told or waits is None:
                continue
            found = await in_thread(lambda uid=waits["metadata"]["uid"]: self._events(entry.record.namespace, uid))  # type: ignore[misc]
            told = [cause for event in found[-5:] for cause in causes_of_event(event)][-1:]
        entry.causes = tuple(told)

    def _events(self, namespace: str, uid: str) -> list[dict[str, Any]]:
        found = list(Collection(self.transport, objects.EVENTS).list(namespace, fields=f"involvedObject.uid={uid}"))
        return sorted(found, key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or ""))

    async def look_for_causes(self, entry: Entry, seen: Seen) -> None:
        """Read why it waits, now and then; of many that wait, one after the other."""
        now = asyncio.get_running_loop().time()
        if any(cause.kind != "starting" for pod in pods_of(seen) for cause in causes_of_pod(pod)):
            return  # the pod says it itself
        if now - entry.causes_at > EVENTS_SECONDS and now >= self._next_asking and not self._asking.locked():
            async with self._asking:
                await self._look_at_events(entry, seen)
            ended = asyncio.get_running_loop().time()
            self._next_asking = ended + EVENTS_REST * (ended - now)

    def listen(self, entry: Entry, seen: Seen) -> None:
        """Have the last line of the courier read; a node that is down would not answer."""
        pod = seen.ranks.get(0, seen.pod)
        name = "" if pod is None else str((pod.get("spec") or {}).get("nodeName"))
        if lostnodes.answers(self.picture.node(name)):
            self._listener.listen(entry, pod)

    # --- the record -----------------------------------------------------------------------------------------------

    async def note(self, entry: Entry, annotations: Mapping[str, str], **changed: Any) -> None:
        """Write something into a run's record.

        Raises:
            ClusterApiError: it is not written.
        """
        record = entry.record
        change = {"metadata": {"annotations": dict(annotations)}}
        await in_thread(lambda: Collection(self.transport, objects.SECRETS).patch(record.name, change, record.namespace))
        entry.record = replace(entry.record, **changed)
        entry.look_soon()

    async def conclude(self, entry: Entry, end: End) -> None:
        """Write the end down, then let Kubernetes forget the pod."""
        await self.note(entry, {END: json.dumps(end_document(end))}, end=end)
        entry.shown = end.run
        log.info("run_ended", run=str(end.run.run_id), phase=end.run.phase.value)
        with contextlib.suppress(ClusterApiError):  # forgetting tries it again
            await self._release_pods(entry.record)

    async def remove(self, record: Record) -> None:
        """Remove a run's record, and with it all that it owns."""
        await self.delete_job(record)
        await self._release_pods(record)
        await in_thread(lambda: Collection(self.transport, objects.SECRETS).delete(record.name, record.namespace, uid=record.uid))

    async def _release_pods(self, record: Record) -> None:
        for pod in self.picture.pods(record):
            await self.release_pod(pod)

    async def release_pod(self, pod: Mapping[str, Any]) -> None:
        """Let Kubernetes forget a pod."""
        metadata = pod["metadata"]
        kept = [finalizer for finalizer in metadata.get("finalizers") or () if finalizer != RECORD]
        if len(kept) != len(metadata.get("finalizers") or ()):
            await self._patch_pod(pod, {"metadata": {"finalizers": kept, "uid": metadata["uid"]}})
