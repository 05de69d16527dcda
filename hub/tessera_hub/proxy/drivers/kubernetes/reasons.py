"""The engine's causes as our codes. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tessera_hub.proxy.drivers.outcome import reason_of
from tessera_hub.schemas.reasons import Reason
from volcano_client.pending import Cause

CODES: Final = {
    "image": "cluster.image",
    "config": "cluster.start_failed",
    "quota": "quota.native",
    "queue": "quota.native",
    "overused": "capacity.no_free_node",
    "gang": "capacity.gang",
    "cpu": "capacity.no_free_node",
    "memory": "capacity.no_free_node",
    "pods": "capacity.no_free_node",
    "cards": "capacity.no_free_cards",
    "taint": "cluster.taint",
    "cordoned": "cluster.nodes_down",
    "affinity": "cluster.affinity",
    "volume": "cluster.volume",
    "admission": "cluster.refused",
    "starting": "cluster.starting",
    "other": "cluster.waiting",
}
"""Kind of a cause → code of docs/reference/reasons.md."""
TEXT_LIMIT: Final = 1000
_NO_FOLDER: Final = 'failed to create subPath directory for volumeMount "dataset-'
"""What a kubelet says of a folder that a read-only volume has not. Source: ``pkg/kubelet/kubelet_pods.go``."""
MISSING: Final = frozenset({"secret.unknown", "dataset.missing"})
"""What a container cannot be made without, and no waiting brings: a person names another, or an operator makes it."""
_QUEUE_NOT_OPEN: Final = ("unable to find job queue", "can only submit job to queue with state")


def waits_for_queue(refusal: str) -> bool:
    """Whether Volcano's admission refused a job for a queue that it does not know yet, or that is not open (yet, or any more).

    Source: Volcano ``pkg/webhooks/admission/jobs/validate/admit_job.go``.
    """
    return any(words in refusal for words in _QUEUE_NOT_OPEN)


def reason_for(causes: Sequence[Cause]) -> Reason | None:
    """Return the reason that is shown: the first cause's, the others in its detail."""
    if not causes:
        return None
    first = causes[0]
    code = CODES[first.kind]
    if first.kind == "config" and "secret" in first.message and "not found" in first.message:
        code = "secret.unknown"
    elif first.kind == "config" and _NO_FOLDER in first.message:
        code = "dataset.missing"
    detail = {key: value for key, value in first.detail.items() if isinstance(value, str | int)}
    others = list(dict.fromkeys(CODES[cause.kind] for cause in causes[1:] if CODES[cause.kind] != code))
    return reason_of(code, first.message[:TEXT_LIMIT], detail | ({"also": others} if others else {}))
