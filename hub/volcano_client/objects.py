"""Builders of Volcano's objects: pure functions from arguments to plain dictionaries, without a field that was not asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from volcano_client.kinds import COMMANDS, JOBS, POD_GROUPS, QUEUES, Kind

SCHEDULER: Final = "volcano"
PREEMPTABLE: Final = "volcano.sh/preemptable"
"""Annotation of a pod: whether it may be evicted to make room; without it Volcano takes it that it may."""
Action = Literal[
    "AbortJob", "RestartJob", "RestartTask", "RestartPod", "TerminateJob", "CompleteJob", "ResumeJob", "OpenQueue", "CloseQueue"
]
Event = Literal["*", "PodPending", "PodRunning", "PodFailed", "PodEvicted", "Unknown", "TaskCompleted", "TaskFailed"]
QueueState = Literal["Open", "Closed"]


@dataclass(frozen=True, slots=True)
class Task:
    """Equal pods of a Job.

    Attributes:
        template: pod template, ``{"metadata": …, "spec": …}``.
        minimum: fewest pods that must start together; None: all.
        policies: (event, action) pairs of this task.
    """

    name: str
    replicas: int
    template: Mapping[str, Any]
    minimum: int | None = None
    policies: Sequence[tuple[Event, Action]] = ()
    depends_on: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Owner:
    """The object that owns another: when it goes, the other is collected."""

    api_version: str
    kind: str
    name: str
    uid: str

    def reference(self) -> dict[str, Any]:
        """Return the owner reference."""
        return {"apiVersion": self.api_version, "kind": self.kind, "name": self.name, "uid": self.uid}


@dataclass(frozen=True, slots=True)
class Named:
    """Name and marks of an object."""

    name: str
    namespace: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    owner: Owner | None = None

    def metadata(self) -> dict[str, Any]:
        """Return the object's ``metadata``."""
        found: dict[str, Any] = {"name": self.name}
        found |= {"namespace": self.namespace} if self.namespace else {}
        found |= {"labels": dict(self.labels)} if self.labels else {}
        found |= {"annotations": dict(self.annotations)} if self.annotations else {}
        found |= {"ownerReferences": [self.owner.reference()]} if self.owner else {}
        return found


def job(
    named: Named,
    tasks: Sequence[Task],
    *,
    queue: str = "default",
    minimum: int | None = None,
    max_retry: int = 3,
    plugins: Mapping[str, Sequence[str]] | None = None,
    policies: Sequence[tuple[Event, Action]] = (),
    priority_class: str | None = None,
    finished_seconds: int | None = None,
    scheduler: str = SCHEDULER,
) -> dict[str, Any]:
    """Return a Job.

    Args:
        minimum: fewest pods of all tasks together; None: the sum of the tasks' minima.
        max_retry: restarts after which the job fails; a resume counts as one.
        finished_seconds: after which an ended job is removed; None: never.
    """
    floor = sum(task.replicas if task.minimum is None else task.minimum for task in tasks)
    spec: dict[str, Any] = {
        "schedulerName": scheduler,
        "queue": queue,
        "minAvailable": floor if minimum is None else minimum,
        "maxRetry": max_retry,
        "tasks": [_task(task) for task in tasks],
    }
    spec |= {"plugins": {name: list(arguments) for name, arguments in plugins.items()}} if plugins else {}
    spec |= {"policies": [_policy(pair) for pair in policies]} if policies else {}
    spec |= {"priorityClassName": priority_class} if priority_class else {}
    spec |= {} if finished_seconds is None else {"ttlSecondsAfterFinished": finished_seconds}
    return _object(JOBS, named, spec)


def _task(task: Task) -> dict[str, Any]:
    found: dict[str, Any] = {"name": task.name, "replicas": task.replicas, "template": dict(task.template)}
    found["minAvailable"] = task.replicas if task.minimum is None else task.minimum
    found |= {"policies": [_policy(pair) for pair in task.policies]} if task.policies else {}
    found |= {"dependsOn": {"name": list(task.depends_on)}} if task.depends_on else {}
    return found


def _policy(pair: tuple[Event, Action]) -> dict[str, Any]:
    event, action = pair
    return {"event": event, "action": action}


def pod_group(
    named: Named,
    *,
    minimum: int,
    queue: str = "default",
    resources: Mapping[str, str] | None = None,
    priority_class: str | None = None,
) -> dict[str, Any]:
    """Return a PodGroup for pods that are made otherwise (they name it by the annotation ``scheduling.k8s.io/group-name``).

    Args:
        resources: what the *minimum* pods need together, as Kubernetes quantities.
    """
    spec: dict[str, Any] = {"minMember": minimum, "queue": queue}
    spec |= {"minResources": dict(resources)} if resources else {}
    spec |= {"priorityClassName": priority_class} if priority_class else {}
    return _object(POD_GROUPS, named, spec)


def queue(
    named: Named,
    *,
    weight: int = 1,
    capability: Mapping[str, str] | None = None,
    deserved: Mapping[str, str] | None = None,
    guarantee: Mapping[str, str] | None = None,
    reclaimable: bool = True,
    parent: str | None = None,
    priority: int | None = None,
) -> dict[str, Any]:
    """Return a Queue.

    Args:
        capability: hard maximum, as Kubernetes quantities.
        deserved: above it others may reclaim; the sum of the children's may not pass the parent's.
        guarantee: kept for it.
    """
    spec: dict[str, Any] = {"weight": weight, "reclaimable": reclaimable}
    spec |= {"capability": dict(capability)} if capability else {}
    spec |= {"deserved": dict(deserved)} if deserved else {}
    spec |= {"guarantee": {"resource": dict(guarantee)}} if guarantee else {}
    spec |= {"parent": parent} if parent else {}
    spec |= {} if priority is None else {"priority": priority}
    return _object(QUEUES, named, spec)


def command(named: Named, action: Action, target: Owner, *, reason: str = "", message: str = "") -> dict[str, Any]:
    """Return a Command: an order to a job or queue.

    The controller deletes it before it obeys, so it is obeyed at most once and may be lost: look at the target's phase.
    """
    found: dict[str, Any] = {"apiVersion": COMMANDS.api_version, "kind": COMMANDS.kind, "metadata": named.metadata()}
    found |= {"action": action, "target": target.reference() | {"controller": True}}
    found |= {"reason": reason} if reason else {}
    found |= {"message": message} if message else {}
    return found


def _object(kind: Kind, named: Named, spec: Mapping[str, Any]) -> dict[str, Any]:
    return {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": named.metadata(), "spec": dict(spec)}
