"""Tasks of kind ``service``: a Deployment of one pod and a Service in front of it, and how they stand. Pure.

The Deployment brings a pod back that is lost, the kubelet a program that has ended; only an order ends the run. Each pod is a
subject of metering of its own, from when it was prepared to its last moment. Facts are written down in the run's record as they
are seen, before Kubernetes may forget the pod, and are only ever added to.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from tessera_hub.proxy.drivers.base import Evidence, MeterFact, NativeRun
from tessera_hub.proxy.drivers.couriers import vector_of
from tessera_hub.proxy.drivers.kubernetes import standing
from tessera_hub.proxy.drivers.kubernetes.objects import KILL_SLACK_SECONDS, SERVICES, owner_of, run_labels, run_name
from tessera_hub.proxy.drivers.kubernetes.options import RUN, KubernetesOptions
from tessera_hub.proxy.drivers.kubernetes.record import Record, Served
from tessera_hub.proxy.drivers.kubernetes.standing import Document, Seen
from tessera_hub.proxy.drivers.outcome import ORDERED, STATES, reason_of
from tessera_hub.proxy.drivers.runrecords import End, moment
from tessera_hub.schemas.protocol import Lease
from tessera_hub.schemas.reasons import Reason
from tessera_hub.schemas.tasks import DEFAULT_PORT, Phase, Progress
from volcano_client.kinds import Kind
from volcano_client.objects import Named

DEPLOYMENTS: Final = Kind("apps/v1", "Deployment", "deployments")
LOG_SECONDS: Final = 30
"""For the last lines of the log, after the program's own grace."""


# --- what it is -------------------------------------------------------------------------------------------------------


def port_of(lease: Lease) -> int:
    """Return where the program listens."""
    return lease.spec.port or DEFAULT_PORT


def address(record: Record) -> str:
    """Return the name and port by which the tenant's pods reach the service."""
    return f"{record.name}.{record.namespace}.svc:{port_of(record.lease)}"


def deployment(lease: Lease, options: KubernetesOptions, secret: Document, template: Document) -> dict[str, Any]:
    """Return the Deployment.

    Args:
        secret: metadata of the run's record.
        template: that of the pod of a task of one pod.
    """
    pod = deepcopy(dict(template))
    spec = pod["spec"]
    spec.pop("activeDeadlineSeconds", None)  # no Deployment takes it; the Proxy sees to the limit
    spec["restartPolicy"] = "Always"
    spec["terminationGracePeriodSeconds"] = lease.spec.lifecycle.grace_seconds + KILL_SLACK_SECONDS + LOG_SECONDS
    # All pods claim as one, the run's record: they come one after the other.
    spec["initContainers"][0]["env"] = [{"name": "TESSERA_CLAIMANT", "value": secret["metadata"]["uid"]}]
    main = spec["containers"][0]
    main["command"] = ["serve" if word == "launch" else word for word in main["command"]]
    main["env"] = [*main["env"], {"name": "TESSERA_PORT", "value": str(port_of(lease))}]
    main["ports"] = [{"name": "service", "containerPort": port_of(lease)}]
    main["readinessProbe"] = {"tcpSocket": {"port": port_of(lease)}, "periodSeconds": 2}
    named = Named(run_name(lease.run_id), secret["metadata"]["namespace"], run_labels(lease, options), owner=owner_of(secret))
    return {
        "apiVersion": DEPLOYMENTS.api_version,
        "kind": DEPLOYMENTS.kind,
        "metadata": named.metadata(),
        "spec": {
            "replicas": 1,
            "revisionHistoryLimit": 0,
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": {RUN: str(lease.run_id)}},
            "template": pod,
        },
    }


def front(lease: Lease, options: KubernetesOptions, secret: Document) -> dict[str, Any]:
    """Return the Service. The tenant's network policy lets the tenant's own pods in, and nobody else."""
    named = Named(run_name(lease.run_id), secret["metadata"]["namespace"], run_labels(lease, options), owner=owner_of(secret))
    port = {"name": "service", "port": port_of(lease), "targetPort": port_of(lease)}
    spec = {"type": "ClusterIP", "selector": {RUN: str(lease.run_id)}, "ports": [port]}
    return {"apiVersion": SERVICES.api_version, "kind": SERVICES.kind, "metadata": named.metadata(), "spec": spec}


# --- what is billed ---------------------------------------------------------------------------------------------------


def served_now(record: Record, pods: Iterable[Document], now: datetime) -> tuple[Served, ...]:
    """Return what is known of the pods' times, with what is new of it at the end.

    A pod that is not there any more although its end was not written down has ended now, at the latest.
    """
    found = list(record.served)
    there = {str(pod["metadata"]["uid"]): pod for pod in pods}
    for uid, pod in sorted(there.items(), key=lambda item: str(item[1]["metadata"]["creationTimestamp"])):
        last = _last(found, uid)
        if last is None and (began := began_at(pod)) is not None:
            found.append(Served("START", uid, began, "engine"))
        last = _last(found, uid)
        if last is None or last.action == "STOP":
            continue
        if (ended := _ended_at(pod, now)) is not None:
            found.append(Served("STOP", uid, max(ended[0], last.at), ended[1]))
        elif record.is_suspended and last.action != "PAUSE":
            found.append(Served("PAUSE", uid, max(record.suspends[-1][1], last.at), "observed"))
        elif not record.is_suspended and last.action == "PAUSE":
            found.append(Served("RESUME", uid, max(record.suspends[-1][1], last.at), "observed"))
    for uid in {one.pod for one in found} - set(there):
        last = _last(found, uid)
        if last is not None and last.action != "STOP":
            found.append(Served("STOP", uid, max(now, last.at), "observed"))
    return tuple(found)


def _last(served: Sequence[Served], uid: str) -> Served | None:
    return next((one for one in reversed(served) if one.pod == uid), None)


def began_at(pod: Document) -> datetime | None:
    """Return when a pod's preparation had ended, once its program was started; None before.

    The time of the program's own start would change whenever it is started again.
    """
    for container in (pod.get("status") or {}).get("containerStatuses") or ():
        if container.get("name") == "main":
            states = [container.get("state") or {}, container.get("lastState") or {}]
            started = [str(one["startedAt"]) for state in states for one in state.values() if one.get("startedAt")]
            started = [at for at in started if not at.startswith(standing.NEVER)]
            if not started:
                return None
            conditions = (pod.get("status") or {}).get("conditions") or ()
            since = (c["lastTransitionTime"] for c in conditions if c.get("type") == "Initialized" and c.get("status") == "True")
            return min(moment(str(at)) for at in (next(since, started[-1]), *started))
    return None


def is_over(pod: Document) -> bool:
    """Whether nothing of a pod runs any more, or will."""
    if (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
        return True
    return pod["metadata"].get("deletionTimestamp") is not None and not (pod.get("spec") or {}).get("nodeName")


def _ended_at(pod: Document, now: datetime) -> tuple[datetime, Evidence] | None:
    if not is_over(pod):
        return None
    main = standing.state_of(pod, "containerStatuses", "main")
    # Whether a service's pod is ready tells whether its program listens, and not whether it runs.
    if not main.get("finishedAt") or main.get("reason") == standing.UNKNOWN_END:
        return now, "observed"
    return moment(main["finishedAt"]), "estimated" if standing.is_estimated(main) else "engine"


def meter_of(record: Record) -> tuple[MeterFact, ...]:
    """Return the facts of all pods so far; a stopped one holds memory and cards."""
    held = vector_of(record.lease)
    resting = {dimension: amount for dimension, amount in held.items() if dimension != "cpu"}
    specs = {"START": held, "PAUSE": resting, "RESUME": held, "STOP": {}}
    return tuple(
        MeterFact(one.action, int(one.at.timestamp()), int(one.at.timestamp()), specs[one.action], one.evidence, subject)
        for one in record.served
        for subject in (f"{record.uid}/{one.pod}",)
    )


# --- how it stands ----------------------------------------------------------------------------------------------------


def current(pods: Sequence[Document]) -> Document | None:
    """Return the pod that serves, or is to serve next."""
    return max(pods, key=lambda p: (not is_over(p), began_at(p) is not None, p["metadata"]["creationTimestamp"]), default=None)


def living(record: Record, seen: Seen) -> NativeRun:
    """Return the run as it goes on: once it has begun it runs, whatever becomes of single pods."""
    if not record.served:
        found = standing.living(record, seen)
        return replace(_as_service(record, found), phase=found.phase if found.phase is not Phase.RUNNING else Phase.STARTING)
    first = record.served[0].at
    found = _run(record, Phase.RUNNING, record.suspends[-1][1] if record.suspends else first)
    if record.suspends and (record.is_suspended if seen.suspended is None else seen.suspended):
        found = replace(found, phase=Phase.SUSPENDED)
    return found


def _run(record: Record, phase: Phase, at: datetime, reason: Reason | None = None) -> NativeRun:
    found = NativeRun(record.lease.run_id, record.lease, phase, record.uid, at, f"{record.namespace}/{record.name}", reason)
    return _as_service(record, found)


def _as_service(record: Record, run: NativeRun) -> NativeRun:
    return replace(run, uid=record.uid, meter=meter_of(record), progress=Progress(address=address(record)))


def spoiled(record: Record, pods: Sequence[Document]) -> NativeRun | None:
    """Return the end of a run whose preparation says that it cannot be; None while it may be."""
    if record.served or record.order is not None:
        return None
    for pod in pods:
        for container in (pod.get("status") or {}).get("initContainerStatuses") or ():
            for state in (container.get("state") or {}, container.get("lastState") or {}):
                if (state.get("terminated") or {}).get("message"):
                    told = {**pod, "status": {"initContainerStatuses": [{**container, "state": state}]}}
                    at = moment(state["terminated"]["finishedAt"])
                    return _as_service(record, standing.unstarted(record, Seen(None, told), at))
    return None


def ended(record: Record, now: datetime) -> End:
    """Return the end of a run of which nothing lives any more."""
    stops = [one.at for one in record.served if one.action == "STOP"]
    at = max(stops, default=now)
    if record.order is None and record.gave_up is not None:
        return End(_run(record, Phase.FAILED, at, record.gave_up))
    if record.order is None:
        return End(_run(record, Phase.FAILED, at, reason_of("cluster.cancelled")))
    state, code = ORDERED[record.order.why]
    return End(_run(record, STATES[state], at, reason_of(code)))


def is_late(record: Record, now: datetime) -> bool:
    """Whether the service has run as long as it may."""
    longest = record.lease.spec.lifecycle.max_run_seconds
    return longest is not None and bool(record.served) and (now - record.served[0].at).total_seconds() > longest
