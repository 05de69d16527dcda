"""What the pod of a workspace and its events say about a start: notices for the person, and whether it can still come up. Pure.

Pods and events are the API's objects as plain dictionaries. Sources: kubernetes ``pkg/kubelet/events/event.go`` and
``pkg/kubelet/images/image_manager.go`` (the messages of a pull).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from kubernetes_asyncio.client.exceptions import ApiException

from tessera_hub.proxy.drivers.kubernetes.reasons import reason_for
from tessera_hub.proxy.drivers.outcome import reason_of
from tessera_hub.schemas.reasons import Reason
from tessera_spawner.progress import Notice
from volcano_client.pending import Cause, causes_of_event, causes_of_pod

Document = Mapping[str, Any]
CONTAINER: Final = "notebook"
HOPELESS: Final = frozenset({"InvalidImageName", "ErrImageNeverPull"})
"""Why a container waits that waiting does not change."""
PATIENT: Final = frozenset({"image", "config"})
"""Kinds of causes that may pass within a while: a registry that is away, a secret that comes late."""
RAW_LIMIT: Final = 300
_PULLED: Final = re.compile(r"Successfully pulled image .* in ([\d.]+)(m?s|m[\d.]+s)\b.*?(?:Image size: (\d+) bytes)?\.?$")


def _(message: str) -> str:
    """Mark *message* for the catalogue; it is translated when it is shown."""
    return message


def notice_of(event: Document) -> Notice | None:
    """Return what an event of the pod tells a person; None if it tells nothing of use."""
    reason, message = str(event.get("reason") or ""), str(event.get("message") or "")
    match reason:
        case "Scheduled":
            return Notice(45, _("A node was found."))
        case "Pulling":
            return Notice(50, _("The image of the environment is being fetched; the first time on a node this takes a while."))
        case "Pulled":
            return _pulled(message)
        case "Started" if f"Started container {CONTAINER}" in message or "{" + CONTAINER + "}" in _path(event):
            return Notice(65, _("The container runs; JupyterLab is loading."))
    causes = causes_of_event(event)
    found = reason_for(causes)
    return None if found is None else Notice(45, reason=found, raw=found.message[:RAW_LIMIT])


def _path(event: Document) -> str:
    return str((event.get("involvedObject") or {}).get("fieldPath") or "")


def _pulled(message: str) -> Notice:
    if found := _PULLED.search(message):
        size = int(found[3]) >> 20 if found[3] else 0
        seconds = _seconds(found[1], found[2])
        if size:
            return Notice(60, _("The image is there: {size} MiB in {seconds} s."), {"size": size, "seconds": seconds})
        return Notice(60, _("The image is there after {seconds} s."), {"seconds": seconds})
    return Notice(60, _("The image is there already."))


def _seconds(number: str, unit: str) -> int:
    """Return Go's ``850ms``, ``12.3s`` or ``1m2.5s`` in whole seconds."""
    if unit == "ms":
        return round(float(number) / 1000)
    if unit == "s":
        return round(float(number))
    return round(float(number) * 60 + float(unit.removeprefix("m").removesuffix("s")))


def waits_for(pod: Document | None) -> Reason | None:
    """Return why the pod does not run yet; None if nothing holds it but its start itself."""
    causes = [] if pod is None else [cause for cause in causes_of_pod(pod) if cause.kind != "starting"]
    return reason_for(causes)


def is_hopeless(pod: Document) -> bool:
    """Whether the pod will not come up however long one waits."""
    return any(cause.detail.get("reason") in HOPELESS for cause in causes_of_pod(pod)) or end_of(pod) is not None


def is_stuck(pod: Document) -> bool:
    """Whether something is wrong that may pass, for which one waits a while only."""
    causes: list[Cause] = causes_of_pod(pod)
    return bool(causes) and causes[0].kind in PATIENT


def notebook_state(pod: Document) -> dict[str, Any]:
    """Return the terminated or running state of the notebook container, empty before."""
    for status in (pod.get("status") or {}).get("containerStatuses") or ():
        if status.get("name") == CONTAINER:
            state = status.get("state") or {}
            found: dict[str, Any] = state.get("terminated") or state.get("running") or {}
            return found
    return {}


def started_at(pod: Document | None) -> datetime | None:
    """Return when the notebook container started, by the engine's clock."""
    return None if pod is None else _moment(notebook_state(pod).get("startedAt"))


def ended_at(pod: Document | None) -> datetime | None:
    """Return when it ended, by the engine's clock."""
    return None if pod is None else _moment(notebook_state(pod).get("finishedAt"))


def _moment(text: Any) -> datetime | None:
    return datetime.fromisoformat(str(text)).astimezone(UTC) if text else None


def end_of(pod: Document | None) -> Reason | None:
    """Return why the pod of a workspace is over; None while it is not. A pod that is not there was taken away."""
    if pod is None:
        return reason_of("cluster.cancelled", "the pod was deleted in the cluster itself")
    status = pod.get("status") or {}
    state = notebook_state(pod)
    native, message = str(status.get("reason") or ""), str(status.get("message") or "")[:1000]
    if native in ("Evicted", "Preempting") or native.startswith(("OutOf", "UnexpectedAdmissionError", "NodeShutdown")):
        return reason_of("cluster.evicted", message, {"reason": native})
    if native == "NodeLost":
        return reason_of("cluster.lost", message, {"reason": native})
    if state.get("reason") == "OOMKilled":
        return reason_of("limit.memory", "", {"exit_code": int(state["exitCode"])})
    if pod["metadata"].get("deletionTimestamp"):
        # JupyterLab ends well when it is told to; that it was told is what counts.
        return _taken(status)
    if "exitCode" in state:
        code = int(state["exitCode"])
        return reason_of("workspace.stopped" if code == 0 else "workspace.ended", "", {"exit_code": code})
    if status.get("phase") == "Failed":
        return reason_of("workspace.ended", message, {"reason": native})
    return None


def _taken(status: Document) -> Reason:
    for condition in status.get("conditions") or ():
        if condition.get("type") == "DisruptionTarget" and condition.get("status") == "True":
            return reason_of("cluster.evicted", str(condition.get("message", ""))[:1000], {"reason": condition.get("reason", "")})
    return reason_of("cluster.cancelled", "the pod is being deleted in the cluster itself")


def of_api_error(error: ApiException) -> Reason:
    """Return what a refusal of the API server means; its words name no secret."""
    try:
        words = str(json.loads(error.body or "{}").get("message", ""))[:500]
    except ValueError:
        words = ""
    if error.status == 403:
        return reason_of("quota.native" if "exceeded quota" in words else "cluster.refused", words)
    if error.status in (400, 404, 422):
        return reason_of("cluster.start_failed", words)
    return reason_of("cluster.unreachable", words or f"status {error.status}")
