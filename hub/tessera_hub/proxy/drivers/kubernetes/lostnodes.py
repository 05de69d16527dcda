"""Pods of nodes that are gone: Kubernetes deletes them, and nobody is left who could say that they ended. Pure.

A node that does not answer is tainted by Kubernetes, and after the pod's toleration (five minutes, unless the API server is set
up otherwise) the pod is deleted, with its grace. The deletion stays open, since only the kubelet closes it. When its time
is over the pod is believed lost: until then, and for a shorter silence, the run goes on.

A node that was itself deleted takes its pods with it: Kubernetes collects them, and writes that they failed, which nobody saw.
Neither is an eviction, which would start the run anew beside one that may still go on.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from tessera_hub.proxy.drivers.kubernetes.standing import NODE_LOST, Document
from tessera_hub.proxy.drivers.runrecords import moment

COLLECTED: Final = "DeletionByPodGC"


def as_it_stands(pod: Document, node: Document | None, now: datetime) -> Document:
    """Return the pod, as one that has failed where its node is lost; it ended when the node was last heard of."""
    name = (pod.get("spec") or {}).get("nodeName")
    status = pod.get("status") or {}
    deleted = pod["metadata"].get("deletionTimestamp")
    if not name:
        return pod
    if not is_collected(pod):
        given_up = deleted is not None and moment(deleted) <= now
        if not given_up or answers(node) or status.get("phase") in ("Succeeded", "Failed"):
            return pod
    # Of a node that is gone its pods still tell since when it was silent; one that is back says nothing of that time.
    silent = next((ready for ready in (_ready(node), _made_unready(pod)) if ready.get("status") in ("False", "Unknown")), {})
    since = str(silent.get("lastTransitionTime") or deleted or now.isoformat())
    message = f"node {name} is gone" if node is None else f"node {name} does not answer since {since}"
    containers = [_ended(container, since) for container in status.get("containerStatuses") or ()]
    lost = {"phase": "Failed", "reason": NODE_LOST, "message": message, "containerStatuses": containers}
    return {**pod, "status": {**status, **lost}}


def is_collected(pod: Document) -> bool:
    """Whether Kubernetes gave a pod up with its node, which comes before its deletion: source, ``pkg/controller/podgc``."""
    status = pod.get("status") or {}
    return status.get("phase") == "Failed" and any(
        (one.get("type"), one.get("status"), one.get("reason")) == ("DisruptionTarget", "True", COLLECTED)
        for one in status.get("conditions") or ()
    )


def answers(node: Document | None) -> bool:
    """Whether a node is there and ready."""
    return _ready(node).get("status") == "True"


def _made_unready(pod: Document) -> Mapping[str, Any]:
    """Return a pod's condition, empty if its kubelet made it false, as while a program does not listen, perhaps from birth.

    While a node is silent Kubernetes makes it false and gives no reason: source, ``MarkPodsNotReady`` in ``pkg/controller/util``.
    """
    ready = _ready(pod)
    return {} if ready.get("reason") else ready


def _ready(node: Document | None) -> Mapping[str, Any]:
    """Return the condition of a node or pod."""
    conditions = ((node or {}).get("status") or {}).get("conditions") or ()
    return next((condition for condition in conditions if condition.get("type") == "Ready"), {})


def _ended(container: Mapping[str, Any], at: str) -> dict[str, Any]:
    running = (container.get("state") or {}).get("running")
    if not running:
        return dict(container)
    finished = max(at, str(running["startedAt"]), key=moment)
    return {**container, "state": {"terminated": {**running, "finishedAt": finished, "reason": NODE_LOST}}}
