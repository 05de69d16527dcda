"""From a specification to a place in a queue: the checks that need the database.

What can be refused is refused here, in the order of the reasons' tiers, before ``storing.py`` stores anything.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import bindparam, select
from sqlalchemy.ext.asyncio import AsyncSession

from tessera_hub.quota.tenants import DEFAULT_QUEUE
from tessera_hub.schemas.resources import CardRequest, ResourceVector
from tessera_hub.schemas.tasks import TaskDraft, TaskSpec
from tessera_hub.store.tables import Blob, Queue, TaskRow


class SubmissionError(Exception):
    """A specification that cannot be accepted; ``code`` is a reason code or ``idempotency.mismatch``. Nothing was stored."""

    def __init__(self, code: str, **detail: Any) -> None:
        super().__init__(f"{code} {detail}")
        self.code = code
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a task goes."""

    tenant_id: int
    tenant: str
    queue_id: int
    queue: str


def card_key(cards: CardRequest) -> str:
    """Return the class a request names in a vector before placement: the model, ``any-<vendor>`` or ``any``."""
    return cards.model or (f"any-{cards.vendor}" if cards.vendor else "any")


def requested(spec: TaskDraft) -> ResourceVector:
    """Return what the whole task asks for, over all roles and replicas; card memory only where it was named."""
    total: ResourceVector = {}

    def add(dimension: str, amount: int) -> None:
        total[dimension] = total.get(dimension, 0) + amount

    for role in spec.roles:
        add("cpu", role.resources.cpu_millicores * role.replicas)
        add("memory", role.resources.memory_mib * role.replicas)
        if cards := role.resources.cards:
            add(f"cards/{card_key(cards)}", cards.centi_cards * role.replicas)
            if cards.memory_mib:
                add(f"card_memory/{card_key(cards)}", cards.memory_mib * role.replicas)
    return total


def specification_hash(body: Mapping[str, Any]) -> str:
    """Return the hash of a specification's JSON form by which a repeat of an idempotency key is compared."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


# Built once: a submit is a few statements, and building them cost as much as sending them.
_QUEUE = select(Queue.id, Queue.path, Queue.state).where(Queue.path == bindparam("path"), Queue.tenant_id == bindparam("tenant"))
_BLOBS = select(Blob.sha256, Blob.size).where(
    Blob.tenant_id == bindparam("tenant"), Blob.complete.is_(True), Blob.sha256.in_(bindparam("hashes", expanding=True))
)


async def destination(session: AsyncSession, spec: TaskDraft, tenants: dict[str, int]) -> Destination:
    """Resolve tenant and queue of *spec* for a caller who belongs to *tenants*.

    Raises:
        SubmissionError: ``tenant.none``, ``tenant.choose``, ``tenant.unknown``, ``queue.unknown`` or ``policy.queue_closed``.
    """
    if spec.tenant is None and len(tenants) != 1:
        raise SubmissionError("tenant.choose" if tenants else "tenant.none", tenants=sorted(tenants))
    tenant = spec.tenant or next(iter(tenants))
    if tenant not in tenants:
        raise SubmissionError("tenant.unknown", tenant=tenant, tenants=sorted(tenants))
    name = spec.queue or DEFAULT_QUEUE
    path = name if name == tenant or name.startswith(f"{tenant}/") else f"{tenant}/{name}"
    queue = (await session.execute(_QUEUE, {"path": path, "tenant": tenants[tenant]})).first()
    if queue is None:
        known = (await session.scalars(select(Queue.path).where(Queue.tenant_id == tenants[tenant]).order_by(Queue.path))).all()
        raise SubmissionError("queue.unknown", queue=path, queues=list(known))
    if queue.state != "open":
        raise SubmissionError("policy.queue_closed", queue=path)
    return Destination(tenants[tenant], tenant, queue.id, queue.path)


async def blob_sizes(session: AsyncSession, tenant_id: int, hashes: Iterable[str]) -> dict[str, int]:
    """Return sha256 → bytes of those complete files of the tenant's store that are among *hashes*."""
    found: dict[str, int] = {}
    for some in _pieces(sorted(set(hashes)), 500):
        rows = await session.execute(_BLOBS, {"tenant": tenant_id, "hashes": some})
        found.update({row.sha256: row.size for row in rows})
    return found


def check_inputs(spec: TaskSpec, sizes: Mapping[str, int], limit_bytes: int) -> None:
    """Check that the snapshot's files are in the tenant's store (*sizes* of :func:`blob_sizes`) and not too large together.

    Raises:
        SubmissionError: ``inputs.too_large`` or ``inputs.not_uploaded``.
    """
    files = spec.inputs.files
    total = sum(f.size for f in files)
    if total > limit_bytes:
        raise SubmissionError("inputs.too_large", bytes=total, limit=limit_bytes)
    missing = [f.path for f in files if sizes.get(f.sha256) != f.size]
    if missing:
        raise SubmissionError("inputs.not_uploaded", files=missing[:20], count=len(missing))


def _pieces(items: list[str], size: int) -> Iterable[list[str]]:
    return (items[i : i + size] for i in range(0, len(items), size))


async def made_by_keys(session: AsyncSession, principal_id: int, keys: Iterable[str | None]) -> dict[str, TaskRow]:
    """Return idempotency key → task for those *keys* of a principal that have made one."""
    found: dict[str, TaskRow] = {}
    for some in _pieces(sorted({key for key in keys if key is not None}), 500):
        query = select(TaskRow).where(TaskRow.principal_id == principal_id, TaskRow.idempotency_key.in_(some))
        for task in (await session.scalars(query)).all():
            found[task.idempotency_key or ""] = task
    return found


def check_repeat(task: TaskRow, digest: str) -> None:
    """Refuse an idempotency key that has made *task* from another specification.

    Raises:
        SubmissionError: ``idempotency.mismatch``.
    """
    if task.idempotency_hash != digest:
        raise SubmissionError("idempotency.mismatch", task_id=str(task.id))
