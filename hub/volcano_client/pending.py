"""Why a pod waits, from everything the cluster tells: pod conditions, container states, events, pod group conditions.

Schedulers tell their reasons as text only; the patterns here are their formats. Sources: kubernetes
``pkg/scheduler/framework/types.go`` (FitError), ``pkg/kubelet/images``; volcano ``docs/design/scheduling-reason.md``,
``pkg/scheduler/plugins/{capacity,proportion,overcommit,gang}``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

Kind = Literal[
    "image",
    "config",
    "quota",
    "queue",
    "overused",
    "gang",
    "cpu",
    "memory",
    "cards",
    "pods",
    "taint",
    "cordoned",
    "affinity",
    "volume",
    "admission",
    "starting",
    "other",
]


@dataclass(frozen=True, slots=True)
class Cause:
    """One cause.

    Attributes:
        kind: ``quota``: a ResourceQuota of the namespace; ``queue``: a Volcano queue's; ``overused``: the cluster is full;
            ``config``: a secret is missing.
        message: the engine's own words.
        detail: what could be read out of them: ``resource``, ``nodes``, ``image``, ``reason``,
            ``possible_node``: where it could be placed.
    """

    kind: Kind
    message: str
    detail: Mapping[str, Any] = field(default_factory=dict)


_IMAGE: Final = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "ImageInspectError", "RegistryUnavailable"}
)
_CONFIG: Final = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError", "PostStartHookError"})
_PART: Final = re.compile(r"(\d+) (?!Preemption|No preemption)([A-Za-z(][^,.]*(?:\{[^}]*\}[^,.]*)*)")
_GANG: Final = re.compile(r"(\d+)/(\d+) tasks in gang unschedulable")
_INSUFFICIENT: Final = re.compile(r"Insufficient ([A-Za-z0-9./_-]+)")
_POSSIBLE: Final = re.compile(r"can possibly be assigned to (\S+), once (resource is released)?")
_OVERUSED: Final = re.compile(r"overused ([A-Za-z0-9./_-]+)")
_VOLCANO_SHORT: Final = re.compile(r"insufficient:? \[?(?:insufficient )?([A-Za-z0-9./_, -]+)", re.IGNORECASE)


def causes_of_pod(pod: Mapping[str, Any]) -> list[Cause]:
    """Return why a pod does not run, from its own status; empty when nothing holds it."""
    status = pod.get("status") or {}
    found: list[Cause] = []
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            if condition.get("reason") == "SchedulingGated":
                found.append(Cause("admission", str(condition.get("message", ""))))
            else:
                found += causes_of_scheduling(str(condition.get("message") or condition.get("reason") or ""))
    for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        waiting = (container.get("state") or {}).get("waiting")
        if not waiting:
            continue
        reason, message = str(waiting.get("reason") or ""), str(waiting.get("message") or "")
        if reason in _IMAGE:
            found.append(Cause("image", message or reason, {"image": container.get("image", ""), "reason": reason}))
        elif reason in _CONFIG:
            found.append(Cause("config", message or reason, {"reason": reason}))
        elif reason in ("ContainerCreating", "PodInitializing") and not found:
            found.append(Cause("starting", message or reason, {"reason": reason}))
    return _distinct(found)


def causes_of_scheduling(message: str) -> list[Cause]:
    """Return the causes in a scheduler's message, ``0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had …``."""
    if "quota" in message.lower() and "node" not in message:
        return [Cause("queue", message)]
    if gang := _GANG.match(message):
        # Of a group that was not let in Volcano says 0 of 0, and the true cause in another event.
        return [Cause("gang", message, {"unschedulable": int(gang[1]), "tasks": int(gang[2])})] if int(gang[2]) else []
    if possible := _POSSIBLE.search(message):
        # It has a place in mind, but not before others are gone, or before the rest of its group has one, too.
        return [Cause("overused" if possible[2] else "gang", message, {"possible_node": possible[1]})]
    head = message.partition("preemption:")[0]
    causes: list[Cause] = []
    for nodes, words in _PART.findall(head.partition(":")[2] or head):
        kind, detail = _of_words(words.strip())
        if kind is not None:
            causes.append(Cause(kind, message, {"nodes": int(nodes), **detail}))
    if not causes:
        kind, detail = _of_words(message)
        causes.append(Cause(kind or "other", message, detail))
    return _distinct(causes)


def _of_words(words: str) -> tuple[Kind | None, dict[str, Any]]:
    if match := _INSUFFICIENT.search(words):
        return _of_resource(match[1]), {"resource": match[1]}
    lower = words.lower()
    if "unschedulable" in lower and "taint" not in lower and "tasks in gang" not in lower:
        return "cordoned", {}
    if "taint" in lower:
        return ("cordoned" if "node.kubernetes.io/unschedulable" in lower else "taint"), {"taint": words[:200]}
    if "persistentvolumeclaim" in lower or "volume" in lower:
        return "volume", {}
    if "too many pods" in lower:
        return "pods", {}
    if "affinity" in lower or "selector" in lower or "topology spread" in lower:
        return "affinity", {}
    if "gang" in lower or "pod group is not ready" in lower:
        return "gang", {}
    return None, {}


def _of_resource(name: str) -> Kind:
    if name in ("cpu", "memory", "pods"):
        return name  # type: ignore[return-value]
    if name == "ephemeral-storage":
        return "volume"
    return "cards"


def causes_of_event(event: Mapping[str, Any]) -> list[Cause]:
    """Return the causes that an event of a Job, pod or pod group tells; most events tell none."""
    reason, message = str(event.get("reason") or ""), str(event.get("message") or event.get("note") or "")
    lower = message.lower()
    if reason == "FailedCreate":
        if "exceeded quota" in lower or "failed quota" in lower:
            return [Cause("quota", message)]
        return [Cause("admission", message)]
    if reason in ("Failed", "BackOff") and "image" in lower:
        return [Cause("image", message, {"reason": reason})]
    if reason in ("FailedMount", "FailedAttachVolume", "ProvisioningFailed", "FailedBinding"):
        return [Cause("config" if "not found" in lower and "secret" in lower else "volume", message)]
    if reason == "UnexpectedAdmissionError" or reason.startswith("OutOf"):
        return [Cause("cards" if "gpu" in lower or "/" in reason else "other", message, {"reason": reason})]
    if reason in ("Unschedulable", "FailedScheduling"):
        if "queue resource quota insufficient" in lower:
            match = _VOLCANO_SHORT.search(message)
            return [Cause("queue", message, {"resource": match[1].strip()} if match else {})]
        if "overused" in lower:
            names = _OVERUSED.findall(message.partition(":")[2])
            return _distinct(Cause(_of_resource(name), message, {"resource": name}) for name in names) or [
                Cause("overused", message)
            ]
        return causes_of_scheduling(message)
    return []


def causes_of_pod_group(group: Mapping[str, Any]) -> list[Cause]:
    """Return why a pod group waits, from its conditions; the last one counts, and one that says Scheduled clears it."""
    conditions = [c for c in (group.get("status") or {}).get("conditions") or () if c.get("status") == "True"]
    if not conditions:
        return []
    last = max(conditions, key=lambda c: str(c.get("lastTransitionTime") or ""))
    if last.get("type") != "Unschedulable":
        return []
    reason, message = str(last.get("reason") or ""), str(last.get("message") or "")
    if _GANG.match(message) is None and reason in ("NotEnoughResources", "NotEnoughTasks", "NotEnoughPodsOfTask"):
        return [Cause("gang", message, {"reason": reason})]
    return causes_of_scheduling(message)


_ORDER: Final[tuple[Kind, ...]] = (
    "image", "config", "admission", "quota", "queue", "overused", "volume", "cards", "memory", "cpu", "gang",
    "pods", "affinity", "taint", "cordoned", "other", "starting",
)  # fmt: skip


def _distinct(causes: Iterable[Cause]) -> list[Cause]:
    """The causes, each kind once, the one first that a person can do most about."""
    found: dict[Kind, Cause] = {}
    for cause in causes:
        known = found.get(cause.kind)
        if known is None or cause.detail.get("nodes", 0) > known.detail.get("nodes", 0):
            found[cause.kind] = cause
    return sorted(found.values(), key=lambda c: _ORDER.index(c.kind))
