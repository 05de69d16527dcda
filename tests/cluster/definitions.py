"""Schemas of Volcano's objects, of our own writing, for the fields that we use: the API server checks our objects with them.

They are written after the API's documented types (Volcano 1.10 and newer) and catch regressions of ours only; nothing is verified
on Volcano by them.
"""

from __future__ import annotations

from typing import Any, Final

from tessera_hub.proxy.drivers.kubernetes.usage import POD_METRICS
from volcano_client.kinds import COMMANDS, JOBS, POD_GROUPS, QUEUES, Kind

TEXT: Final = {"type": "string"}
NUMBER: Final = {"type": "integer", "format": "int32"}
YES: Final = {"type": "boolean"}
QUANTITY: Final = {"anyOf": [{"type": "integer"}, {"type": "string"}], "x-kubernetes-int-or-string": True}
RESOURCES: Final = {"type": "object", "additionalProperties": QUANTITY}
FREE: Final = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
TEXTS: Final = {"type": "array", "items": TEXT}
ACTIONS: Final = {
    **TEXT,
    "enum": ["AbortJob", "RestartJob", "RestartTask", "RestartPod", "TerminateJob", "CompleteJob", "ResumeJob"],
}
EVENTS: Final = {
    **TEXT,
    "enum": ["*", "PodPending", "PodRunning", "PodFailed", "PodEvicted", "Unknown", "TaskCompleted", "TaskFailed"],
}


def _object(required: list[str] | None = None, **properties: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "object", "properties": properties}
    return found | ({"required": required} if required else {})


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


_POLICY: Final = _object(event=EVENTS, events=_list(EVENTS), exitCode=NUMBER, action=ACTIONS, timeout=TEXT)
_TASK: Final = _object(
    name=TEXT,
    replicas={**NUMBER, "minimum": 0},
    minAvailable=NUMBER,
    maxRetry=NUMBER,
    template=FREE,
    policies=_list(_POLICY),
    dependsOn=_object(name=TEXTS, iteration=TEXT),
)
_JOB: Final = _object(
    schedulerName=TEXT,
    queue=TEXT,
    minAvailable={**NUMBER, "minimum": 0},
    maxRetry={**NUMBER, "minimum": 0},
    tasks=_list(_TASK),
    plugins={"type": "object", "additionalProperties": TEXTS},
    policies=_list(_POLICY),
    priorityClassName=TEXT,
    ttlSecondsAfterFinished={**NUMBER, "minimum": 0},
)
_GROUP: Final = _object(minMember=NUMBER, queue=TEXT, minResources=RESOURCES, priorityClassName=TEXT)
_QUEUE: Final = _object(
    weight={**NUMBER, "minimum": 1, "maximum": 65535},
    reclaimable=YES,
    capability=RESOURCES,
    deserved=RESOURCES,
    guarantee=_object(resource=RESOURCES),
    parent=TEXT,
    priority={**NUMBER, "minimum": 0},
)
_TARGET: Final = _object(["apiVersion", "kind", "name", "uid"], apiVersion=TEXT, kind=TEXT, name=TEXT, uid=TEXT, controller=YES)


def _definition(kind: Kind, schema: dict[str, Any], *, status: bool) -> dict[str, Any]:
    group, _slash, version = kind.api_version.partition("/")
    served: dict[str, Any] = {"name": version, "served": True, "storage": True}
    served["schema"] = {"openAPIV3Schema": schema}
    served |= {"subresources": {"status": {}}} if status else {}
    names = {"plural": kind.plural, "singular": kind.kind.lower(), "kind": kind.kind}
    scope = "Namespaced" if kind.namespaced else "Cluster"
    spec = {"group": group, "names": names, "scope": scope, "versions": [served]}
    # The API server wants to know why a name of somebody's protected group is used; ours are stand-ins.
    metadata = {"name": f"{kind.plural}.{group}"}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": metadata,
        "spec": spec,
    }


def definitions() -> list[dict[str, Any]]:
    """Return the resource definitions."""
    top: dict[str, Any] = {"apiVersion": TEXT, "kind": TEXT, "metadata": {"type": "object"}}
    with_status = [(JOBS, _JOB), (POD_GROUPS, _GROUP), (QUEUES, _QUEUE)]
    found = [_definition(kind, _object(**top, spec=spec, status=FREE), status=True) for kind, spec in with_status]
    command = _object(**top, action=TEXT, target=_TARGET, reason=TEXT, message=TEXT)
    return [*found, _definition(COMMANDS, command, status=False)]


def pod_metrics_definition() -> dict[str, Any]:
    """Return PodMetrics as a kind that the API server keeps itself: a stand-in for the server of ``metrics.k8s.io``."""
    usage = _object(name=TEXT, usage=RESOURCES)
    top: dict[str, Any] = {"apiVersion": TEXT, "kind": TEXT, "metadata": {"type": "object"}}
    found = _definition(POD_METRICS, _object(**top, timestamp=TEXT, window=TEXT, containers=_list(usage)), status=False)
    # The API server asks why a name of a protected group is used.
    found["metadata"]["annotations"] = {"api-approved.kubernetes.io": "unapproved, a stand-in for tests"}
    return found
