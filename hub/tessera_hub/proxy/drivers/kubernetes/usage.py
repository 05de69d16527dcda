"""What runs use of processors and memory: by the metrics API where the cluster has it, else by the kubelets, where they are open.

Only the container of user code counts. The metrics API tells rates of its own window and is asked for tenants' namespaces only; a
kubelet tells how much processor time a container has had, from which averages are made here.

Sources: ``metrics.k8s.io/v1beta1`` (PodMetrics), the kubelet's Summary API (``k8s.io/kubelet/pkg/apis/stats/v1alpha1``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final
from uuid import UUID

import structlog

from tessera_hub.proxy.drivers.base import Usage
from tessera_hub.proxy.drivers.kubernetes.kubelets import Kubelets
from tessera_hub.proxy.drivers.kubernetes.options import RUN, SITE
from tessera_hub.proxy.drivers.kubernetes.quantities import mebibytes, quantity
from tessera_hub.proxy.drivers.kubernetes.standing import Document, state_of
from tessera_hub.proxy.drivers.runrecords import moment
from volcano_client.collection import Collection
from volcano_client.errors import ClusterApiError
from volcano_client.kinds import Kind
from volcano_client.transport import Transport

log = structlog.get_logger(__name__)

POD_METRICS: Final = Kind("metrics.k8s.io/v1beta1", "PodMetrics", "pods")
CALLS_AT_ONCE: Final = 8
MEAN_SECONDS: Final = 10
"""Shortest time that an average is made of, since a kubelet's times are whole seconds."""

PodKey = tuple[str, str]
"""Namespace and name."""


@dataclass(frozen=True, slots=True)
class Running:
    """A pod whose user code runs, and since when."""

    key: PodKey
    node: str
    since: datetime


@dataclass(frozen=True, slots=True)
class Told:
    """What a source tells of a pod's user code.

    Attributes:
        millicores: average of the source's own window; None: see ``cpu_nanoseconds``.
        cpu_nanoseconds: processor time from the container's start to ``at``.
    """

    memory_mib: int
    at: datetime
    millicores: int | None = None
    cpu_nanoseconds: int = 0


def running(pods: Iterable[Document]) -> list[Running]:
    """Return those of a run's pods whose user code runs."""
    found: list[Running] = []
    for pod in pods:
        main, metadata = state_of(pod, "containerStatuses", "main"), pod["metadata"]
        if main.get("startedAt") and not main.get("finishedAt"):
            node = str((pod.get("spec") or {}).get("nodeName"))
            found.append(Running((metadata["namespace"], metadata["name"]), node, moment(main["startedAt"])))
    return found


def told_by_metrics(items: Iterable[Document]) -> dict[PodKey, Told]:
    """Read objects of the metrics API; what cannot be read is left out."""
    found: dict[PodKey, Told] = {}
    for item in items:
        for container in item.get("containers") or ():
            usage = container.get("usage") or {}
            if container.get("name") == "main" and {"cpu", "memory"} <= usage.keys() and item.get("timestamp"):
                key = item["metadata"]["namespace"], item["metadata"]["name"]
                cpu = int(quantity(usage["cpu"]) * 1000)
                found[key] = Told(mebibytes(usage["memory"]), moment(item["timestamp"]), millicores=cpu)
    return found


def told_by_kubelet(summary: Document) -> dict[PodKey, Told]:
    """Read a kubelet's summary; what it does not know of a container yet is left out."""
    found: dict[PodKey, Told] = {}
    for pod in summary.get("pods") or ():
        for container in pod.get("containers") or ():
            cpu, memory = container.get("cpu") or {}, container.get("memory") or {}
            time, had, held = cpu.get("time"), cpu.get("usageCoreNanoSeconds"), memory.get("workingSetBytes")
            if container.get("name") == "main" and time and type(had) is int and type(held) is int:
                reference = pod.get("podRef") or {}
                key = str(reference.get("namespace")), str(reference.get("name"))
                found[key] = Told(held >> 20, moment(time), cpu_nanoseconds=had)
    return found


class Averages:
    """Turns growing processor times into averages since the last look that is long enough ago, at first since the start."""

    def __init__(self) -> None:
        self._last: dict[PodKey, tuple[datetime, int]] = {}

    def millicores(self, pod: Running, told: Told) -> int | None:
        """Return what a pod used on average; None while that cannot be said."""
        if told.millicores is not None:
            return told.millicores
        at, had = self._last.get(pod.key, (pod.since, 0))
        seconds = int((told.at - at).total_seconds())
        if seconds <= 0:
            return None
        if seconds >= MEAN_SECONDS:
            self._last[pod.key] = told.at, told.cpu_nanoseconds
        return max(told.cpu_nanoseconds - had, 0) // (seconds * 10**6)

    def keep_only(self, pods: Iterable[Running]) -> None:
        """Forget the others."""
        keys = {pod.key for pod in pods}
        self._last = {key: value for key, value in self._last.items() if key in keys}


def usage_of(
    run_id: UUID, pods: Sequence[Running], told: Mapping[PodKey, Told], averages: Averages, now: datetime
) -> Usage | None:
    """Return what a run uses with all its pods; None where one of them is not told of: half a sum is no sum."""
    if not pods or any(pod.key not in told for pod in pods):
        return None
    found = [averages.millicores(pod, told[pod.key]) for pod in pods]
    cpu = [millicores for millicores in found if millicores is not None]
    if len(cpu) < len(pods):
        return None
    return Usage(run_id, now, sum(cpu), sum(told[pod.key].memory_mib for pod in pods))


class UsageReader:
    """Asks the sources.

    Args:
        kubelets: None: they are not asked.
    """

    def __init__(self, transport: Transport, prefix: str, kubelets: Kubelets | None) -> None:
        self._transport = transport
        self._labels = f"{SITE}={prefix},{RUN}"
        self._kubelets = kubelets
        self._averages = Averages()
        self._silent: set[str] = set()

    async def look(self, runs: Mapping[UUID, Iterable[Document]], node: Callable[[str], Mapping[str, Any] | None]) -> list[Usage]:
        """Return what the runs use, given their pods; a run that no source tells of is left out.

        Args:
            node: looks a node up.
        """
        pods = {run_id: running(documents) for run_id, documents in runs.items()}
        everything = [pod for found in pods.values() for pod in found]
        self._averages.keep_only(everything)
        namespaces = {pod.key[0] for pod in everything}
        told = await self._ask({f"metrics of {name}": partial(self._metrics, name) for name in namespaces})
        if self._kubelets is not None:
            keys: dict[str, set[PodKey]] = {}
            for pod in everything:
                keys.setdefault(pod.node, set()).add(pod.key)
            asked = {name: document for name in keys if not keys[name] <= told.keys() and (document := node(name)) is not None}
            calls = {f"kubelet of {n}": partial(_summary, self._kubelets, found, keys[n]) for n, found in asked.items()}
            told = await self._ask(calls) | told
        now = datetime.now(UTC)
        samples = [usage_of(run_id, found, told, self._averages, now) for run_id, found in pods.items()]
        return [sample for sample in samples if sample is not None]

    def _metrics(self, namespace: str) -> dict[PodKey, Told]:
        return told_by_metrics(Collection(self._transport, POD_METRICS).list(namespace, labels=self._labels))

    async def _ask(self, sources: Mapping[str, Callable[[], dict[PodKey, Told]]]) -> dict[PodKey, Told]:
        gate = asyncio.Semaphore(CALLS_AT_ONCE)

        async def ask(name: str, call: Callable[[], dict[PodKey, Told]]) -> dict[PodKey, Told]:
            async with gate:
                try:
                    found = await asyncio.to_thread(call)
                except (ClusterApiError, ValueError, KeyError, TypeError) as error:
                    if name not in self._silent:  # said once, not every minute
                        self._silent.add(name)
                        log.info("usage_not_told", source=name, error=str(error)[:300])
                    return {}
            self._silent.discard(name)
            return found

        answers = await asyncio.gather(*(ask(name, call) for name, call in sources.items()))
        return {key: told for answer in answers for key, told in answer.items()}


def _summary(kubelets: Kubelets, node: Mapping[str, Any], keys: Set[PodKey]) -> dict[PodKey, Told]:
    """What a kubelet tells of the pods on its node; of others it has nothing to say."""
    return {key: told for key, told in told_by_kubelet(kubelets.summary(node)).items() if key in keys}
