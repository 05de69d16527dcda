"""The queue tree as plain data."""

from __future__ import annotations

from dataclasses import dataclass, field

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from tessera_hub.store.tables import Queue, QueueDimension
from tessera_hub.store.types import UNLIMITED


@dataclass(slots=True)
class DimensionState:
    """One quota row."""

    guarantee: int = 0
    deserved: int = 0
    limit: int = UNLIMITED
    used: int = 0


@dataclass(slots=True)
class QueueNode:
    """A queue and its quota."""

    id: int
    tenant_id: int
    parent_id: int | None
    path: str
    state: str
    policy: str
    priority: int
    dimensions: dict[str, DimensionState] = field(default_factory=dict)


@dataclass(slots=True)
class QueueTree:
    """All queues by id."""

    nodes: dict[int, QueueNode]

    def path_to_root(self, queue_id: int) -> list[int]:
        """Return the ids from *queue_id* up to its tenant's root.

        Raises:
            KeyError: no such queue.
        """
        path: list[int] = []
        current: int | None = queue_id
        while current is not None:
            path.append(current)
            current = self.nodes[current].parent_id
        return path

    def limit(self, queue_id: int, dimension: str) -> int:
        """Return the tightest limit of *dimension* on the way to the root, :data:`UNLIMITED` if none."""
        found = UNLIMITED
        for node in self.path_to_root(queue_id):
            state = self.nodes[node].dimensions.get(dimension)
            if state is not None:
                found = min(found, state.limit)
        return found


async def load_tree(session: AsyncSession) -> QueueTree:
    """Read the whole tree in two queries."""
    of_queues = select(Queue.id, Queue.tenant_id, Queue.parent_id, Queue.path, Queue.state, Queue.policy, Queue.priority)
    d = QueueDimension
    of_dimensions = select(d.queue_id, d.dimension, d.guarantee, d.deserved, d.limit, d.used)
    nodes = {row[0]: QueueNode(*row) for row in (await session.execute(of_queues)).all()}
    for queue_id, dimension, *amounts in (await session.execute(of_dimensions)).all():
        nodes[queue_id].dimensions[dimension] = DimensionState(*amounts)
    return QueueTree(nodes)
