"""The queue tree as a cluster with queues of its own is to have it."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from tessera_hub.schemas.protocol import DesiredQueue, DesiredQueues
from tessera_hub.store.tables import Cluster, Queue, QueueDimension, Tenant
from tessera_hub.store.types import UNLIMITED


async def desired_queues(session: AsyncSession, cluster: Cluster) -> DesiredQueues:
    """Return the queues of all tenants that may use *cluster*, parents first. Reads only."""
    rows = select(Queue).join(Tenant, Tenant.id == Queue.tenant_id)
    if cluster.tenants is not None:
        rows = rows.where(Tenant.name.in_(cluster.tenants))
    queues = (await session.scalars(rows.order_by(Queue.path), execution_options={"populate_existing": True})).all()
    sizes: dict[int, list[QueueDimension]] = defaultdict(list)
    lines = select(QueueDimension).where(QueueDimension.queue_id.in_([queue.id for queue in queues]))
    for line in (await session.scalars(lines, execution_options={"populate_existing": True})).all():
        sizes[line.queue_id].append(line)
    paths = {queue.id: queue.path for queue in queues}
    found = [
        DesiredQueue.model_validate(
            {
                "path": queue.path,
                "parent": paths[queue.parent_id] if queue.parent_id else None,
                "state": queue.state,
                "priority": queue.priority,
                "limit": {line.dimension: line.limit for line in sizes[queue.id] if line.limit < UNLIMITED},
                "deserved": {line.dimension: line.deserved for line in sizes[queue.id] if line.deserved},
                "guarantee": {line.dimension: line.guarantee for line in sizes[queue.id] if line.guarantee},
            }
        )
        for queue in queues
    ]
    text = json.dumps([queue.model_dump() for queue in found], sort_keys=True)
    return DesiredQueues(hash=hashlib.sha256(text.encode()).hexdigest(), queues=found)
