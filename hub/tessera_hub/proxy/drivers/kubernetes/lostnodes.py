"""Pods of nodes that are gone: Kubernetes deletes them, and nobody is left who could say that they ended. Pure.

A node that does not answer is tainted by Kubernetes, and after the pod's toleration (five minutes, unless the API server is set
up otherwise) the pod is deleted, with its grace. The deletion stays open, since only the kubelet closes it. When its time
is over the pod is believed lost: until then, and for a shorter silence, the run goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from tessera_hub.proxy.drivers.kubernetes.standing import NODE_LOST, Document
from tessera_hub.proxy.drivers.runrecords import moment


def as_it_stands(pod: Document, node: Document | None, now: datetime) -> Document:
    """Return the pod, as one that has failed where its node is lost; it ended when the node was last heard of."""
    name = (pod.get("spec") or {}).get("nodeName")
    status = pod.get("status") or {}
    deleted = pod["metadata"].get("deletionTimestamp")
    if not name or not deleted or moment(deleted) > now or status.get("phase") in ("Succeeded", "Failed"):
        return pod
    ready = _ready(node)
    if ready.get("status") == "True":
        return pod
    since = str(ready.get("lastTransitionTime") or deleted)
    message = f"node {name} is gone" if node is None else f"node {name} does not answer since {since}"
    containers = [_ended(container, since) for container in status.get("containerStatuses") or ()]
    lost = {"phase": "Failed", "reason": NODE_LOST, "message": message, "containerStatuses": containers}
    return {**pod, "status": {**status, **lost}}


def _ready(node: Document | None) -> Mapping[str, Any]:
    conditions = ((node or {}).get("status") or {}).get("conditions") or ()
    return next((condition for condition in conditions if condition.get("type") == "Ready"), {})


def _ended(container: Mapping[str, Any], at: str) -> dict[str, Any]:
    running = (container.get("state") or {}).get("running")
    if not running:
        return dict(container)
    finished = max(at, str(running["startedAt"]), key=moment)
    return {**container, "state": {"terminated": {**running, "finishedAt": finished, "reason": NODE_LOST}}}
