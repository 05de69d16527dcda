"""What Kubernetes shows now: nodes, pods, jobs and pod groups, each kept by a watch; reading it costs no call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from tessera_hub.proxy.drivers.base import DriverError
from tessera_hub.proxy.drivers.kubernetes import objects
from tessera_hub.proxy.drivers.kubernetes.inventory import PodUse, free_slots, pools_of, use_of
from tessera_hub.proxy.drivers.kubernetes.options import RUN, SITE, KubernetesOptions
from tessera_hub.proxy.drivers.kubernetes.ranks import by_rank
from tessera_hub.proxy.drivers.kubernetes.record import Record
from tessera_hub.proxy.drivers.kubernetes.standing import has_begun
from tessera_hub.proxy.drivers.runrecords import moment
from tessera_hub.schemas.protocol import Pool
from volcano_client.kinds import POD_GROUPS, Kind
from volcano_client.transport import Transport
from volcano_client.watching import Change, Key, Mirror, key_of

Document = dict[str, Any]
POOLS_REST: Final = 10
"""How many times as long as it took to compute what nodes have, the answer is kept: seconds at a thousand nodes."""


class Picture:
    """The cluster's present state.

    Args:
        woken: called from a watch's thread after each change.
    """

    def __init__(self, transport: Transport, options: KubernetesOptions, woken: Callable[[], None]) -> None:
        self._options = options
        self._woken = woken
        self._use: dict[Key, PodUse] = {}
        self._pods_of: dict[str, dict[Key, Document]] = {}
        self._groups_of: dict[str, Document] = {}
        self._touched: set[str] = set()
        self._pools: list[Pool] = []
        self._slots = 0
        self._pools_until = 0.0
        ours = f"{SITE}={options.prefix},{RUN}"
        self._nodes = Mirror(transport, objects.NODES, keep=without_bulk, changed=self._wake)
        self._pods = Mirror(transport, objects.PODS, keep=self._kept_pod, changed=self._take_pod)
        self._jobs = Mirror(transport, objects.PLAIN_JOBS, labels=ours, keep=without_bulk, changed=self._wake)
        self._volcano = Mirror(transport, objects.VOLCANO_JOBS, labels=ours, keep=without_bulk, changed=self._wake)
        self._groups = Mirror(transport, POD_GROUPS, keep=without_bulk, changed=self._take_group)
        self._mirrors = [self._nodes, self._pods, self._jobs]

    async def start(self, *, volcano: bool, seconds: float) -> None:
        """Begin to watch and wait for the first lists.

        Raises:
            DriverError: ``cluster.unreachable``.
        """
        self._mirrors += [self._volcano, self._groups] if volcano else []
        for mirror in self._mirrors:
            mirror.start()
        for mirror in self._mirrors:
            if not await asyncio.to_thread(mirror.wait_synced, seconds):
                words = "no answer" if mirror.trouble is None else str(mirror.trouble)
                raise DriverError("cluster.unreachable", f"{mirror.kind.plural} cannot be listed: {words}")

    def stop(self) -> None:
        """End the watches; the transport's close() ends streams that are open."""
        for mirror in self._mirrors:
            mirror.stop()

    async def join(self, seconds: float) -> None:
        """Wait for their threads."""
        for mirror in self._mirrors:
            await asyncio.to_thread(mirror.join, seconds)

    @property
    def is_behind(self) -> bool:
        """Whether a watch is cut, so that what is missing here may be there."""
        return any(mirror.trouble is not None for mirror in self._mirrors)

    def nodes(self) -> list[Document]:
        """All nodes."""
        return self._nodes.all()

    def node(self, name: str) -> Document | None:
        """One node."""
        return self._nodes.get("", name)

    def pools(self) -> list[Pool]:
        """The nodes that take runs, less what pods hold; so old at most that computing it takes a small part of the time."""
        began = time.monotonic()
        if began >= self._pools_until:
            nodes, use = self._nodes.all(), list(self._use.values())
            self._pools, self._slots = pools_of(nodes, use), free_slots(nodes, use)
            ended = time.monotonic()
            self._pools_until = ended + POOLS_REST * (ended - began)
        return self._pools

    def pod_slots(self) -> int:
        """How many more pods these nodes take, as of the same moment."""
        self.pools()
        return self._slots

    def job(self, record: Record) -> tuple[Kind, Document] | None:
        """The job of a run."""
        for kind, mirror in ((objects.PLAIN_JOBS, self._jobs), (objects.VOLCANO_JOBS, self._volcano)):
            if (found := mirror.get(record.namespace, record.name)) is not None:
                return kind, found
        return None

    def put_job(self, kind: Kind, document: Document) -> None:
        """Take in a job that was just made."""
        (self._jobs if kind is objects.PLAIN_JOBS else self._volcano).put(document)

    def pods(self, record: Record) -> list[Document]:
        """The pods of a run."""
        found = list(self._pods_of.get(str(record.lease.run_id), {}).values())
        return [pod for pod in found if pod["metadata"].get("namespace") == record.namespace and _belongs(pod, record)]

    def pod(self, record: Record) -> Document | None:
        """The pod of a run; one that has begun counts before any other, since a second one lost the claim."""
        return max(self.pods(record), key=lambda pod: (has_begun(pod), pod["metadata"]["creationTimestamp"]), default=None)

    def ranks(self, record: Record) -> Mapping[int, Mapping[str, Any]]:
        """The pods of a run that has several, by rank."""
        return by_rank(self.pods(record)) if record.size > 1 else {}

    def pod_group(self, job: Document) -> Document | None:
        """The pod group of a Volcano job."""
        return self._groups_of.get(job["metadata"]["uid"])

    def changed_runs(self) -> set[str]:
        """Return the runs whose pods or jobs have changed since the last call."""
        # Taken one by one: the watches' threads add to it meanwhile.
        return {self._touched.pop() for _ in range(len(self._touched))}

    def wake(self) -> None:
        """Have the runs looked at."""
        self._woken()

    # --- called from the watches' threads -------------------------------------------------------------------------

    def _wake(self, change: Change) -> None:
        if (run := (change.document.get("metadata", {}).get("labels") or {}).get(RUN)) is not None:
            self._touched.add(run)
        self._woken()

    def _kept_pod(self, pod: Document) -> Document:
        """Of others' pods only what they hold is remembered."""
        if self._run_of(pod) is not None:
            return without_bulk(pod)
        names = ("namespace", "name", "uid", "resourceVersion")
        return {"metadata": {name: pod["metadata"][name] for name in names if name in pod["metadata"]}}

    def _run_of(self, pod: Mapping[str, Any]) -> str | None:
        labels = pod["metadata"].get("labels") or {}
        return labels.get(RUN) if labels.get(SITE) == self._options.prefix else None

    def _take_pod(self, change: Change) -> None:
        if change.what != "SYNCED":
            key, run = key_of(change.document), self._run_of(change.document)
            use = use_of(change.document) if change.what == "SET" else None
            if use is None:
                self._use.pop(key, None)
            else:
                self._use[key] = use
            if run is not None and change.what == "SET":
                self._pods_of[run] = {**self._pods_of.get(run, {}), key: without_bulk(change.document)}
            elif run is not None:
                left = {other: pod for other, pod in self._pods_of.get(run, {}).items() if other != key}
                if left:
                    self._pods_of[run] = left
                else:
                    self._pods_of.pop(run, None)
            if run is not None:  # last, so that who is told of it finds it
                self._touched.add(run)
        self._woken()

    def _take_group(self, change: Change) -> None:
        for owner in change.document.get("metadata", {}).get("ownerReferences") or ():
            if change.what == "SET":
                self._groups_of[owner["uid"]] = change.document
            else:
                self._groups_of.pop(owner["uid"], None)
        self._woken()


def _belongs(pod: Document, record: Record) -> bool:
    """Whether a pod with the name of a run is of this lease: of one that was given back a pod may still be there."""
    if record.is_service or record.lease.managed_by == "spawner":
        return True
    if record.job_uid is None:
        return moment(pod["metadata"]["creationTimestamp"]) >= record.received_at
    return any(record.job_uid.endswith(str(owner["uid"])) for owner in pod["metadata"].get("ownerReferences") or ())


def without_bulk(document: Document) -> Document:
    """Return an object without the history of its fields, which is most of it."""
    metadata = {key: value for key, value in document["metadata"].items() if key != "managedFields"}
    return {**document, "metadata": metadata}
