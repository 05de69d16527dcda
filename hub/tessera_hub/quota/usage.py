"""Taking from and giving back to quotas, so that no race passes a limit.

One row per (queue node, dimension). Taking is a conditional update that the database evaluates on the row's current
value while holding the row's lock, on the node and its ancestors in a fixed order (no dead-lock), all in the caller's
transaction: a refusal raises, and the caller's savepoint or transaction undoes what was taken before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sqlalchemy import select, text, update
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.ext.asyncio import AsyncSession

from tessera_hub.store.tables import Queue, QueueDimension
from tessera_hub.store.types import UNLIMITED

Deltas = dict[tuple[int, str], int]
"""(queue id, dimension) → amount."""


class QuotaExceeded(Exception):
    """A limit on the way to the root would be passed; nothing must be kept of the transaction's takings."""

    def __init__(self, queue_id: int, dimension: str, used: int, limit: int, asked: int) -> None:
        super().__init__(f"queue {queue_id}: {dimension}: used {used} of {limit}, asked {asked}")
        self.queue_id = queue_id
        self.dimension = dimension
        self.used = used
        self.limit = limit
        self.asked = asked


def deltas_for(path: Iterable[int], charge: Mapping[str, int]) -> Deltas:
    """Return what *charge* takes from every node of *path* (a queue and its ancestors)."""
    return {(node, dimension): amount for node in path for dimension, amount in charge.items() if amount}


async def take(session: AsyncSession, deltas: Deltas) -> None:
    """Take all of *deltas* or raise.

    Raises:
        QuotaExceeded: the first row (in key order) whose limit does not allow it.
    """
    insert = sqlite_insert if session.get_bind().dialect.name == "sqlite" else postgresql_insert
    for (queue_id, dimension), amount in sorted(deltas.items()):
        if amount <= 0:
            raise ValueError("amounts to take are positive")
        statement = insert(QueueDimension).values(
            queue_id=queue_id, dimension=dimension, guarantee=0, deserved=0, limit=UNLIMITED, used=amount
        )
        conditional = statement.on_conflict_do_update(
            index_elements=[QueueDimension.queue_id, QueueDimension.dimension],
            set_={"used": QueueDimension.used + amount},
            where=QueueDimension.used + amount <= QueueDimension.limit,
        ).returning(QueueDimension.used)
        taken = await session.execute(conditional, execution_options={"synchronize_session": False, "populate_existing": True})
        if taken.first() is None:
            row = (
                await session.execute(
                    select(QueueDimension.used, QueueDimension.limit).where(
                        QueueDimension.queue_id == queue_id, QueueDimension.dimension == dimension
                    )
                )
            ).one()
            raise QuotaExceeded(queue_id, dimension, row.used, row.limit, amount)


async def take_all(session: AsyncSession, deltas: Deltas) -> None:
    """Take all of *deltas* or raise, as :func:`take` does, with a fixed number of statements on PostgreSQL.

    The rows are locked in key order before they are looked at, so that what is checked is what is changed.

    Raises:
        QuotaExceeded: the first row (in key order) whose limit does not allow it.
    """
    if session.get_bind().dialect.name == "sqlite":
        await take(session, deltas)
        return
    if any(amount <= 0 for amount in deltas.values()):
        raise ValueError("amounts to take are positive")
    keys = sorted(deltas)
    rows = {"queues": [key[0] for key in keys], "dimensions": [key[1] for key in keys], "amounts": [deltas[key] for key in keys]}
    which = {"queues": rows["queues"], "dimensions": rows["dimensions"]}
    await session.execute(_ADD_MISSING, which | {"unlimited": UNLIMITED})
    for queue_id, dimension, used, limit in (await session.execute(_LOCK, which)).all():
        if used + deltas[queue_id, dimension] > limit:
            raise QuotaExceeded(queue_id, dimension, used, limit, deltas[queue_id, dimension])
    await session.execute(_TAKE, rows)


# One constant per statement: what is wanted arrives as three arrays.
_ADD_MISSING = text(
    'INSERT INTO queue_dimension (queue_id, dimension, guarantee, deserved, "limit", used)'
    " SELECT queue_id, dimension, 0, 0, :unlimited, 0"
    " FROM unnest(CAST(:queues AS bigint[]), CAST(:dimensions AS text[])) AS w(queue_id, dimension)"
    ' ORDER BY w.queue_id, w.dimension COLLATE "C" ON CONFLICT DO NOTHING'
)
_LOCK = text(
    'SELECT q.queue_id, q.dimension, q.used, q."limit" FROM queue_dimension q'
    " JOIN unnest(CAST(:queues AS bigint[]), CAST(:dimensions AS text[])) AS w(queue_id, dimension)"
    ' USING (queue_id, dimension) ORDER BY q.queue_id, q.dimension COLLATE "C" FOR UPDATE OF q'
)
_TAKE = text(
    "UPDATE queue_dimension q SET used = q.used + w.amount"
    " FROM unnest(CAST(:queues AS bigint[]), CAST(:dimensions AS text[]), CAST(:amounts AS bigint[]))"
    " AS w(queue_id, dimension, amount) WHERE q.queue_id = w.queue_id AND q.dimension = w.dimension"
)


async def give_back(session: AsyncSession, deltas: Deltas) -> None:
    """Return *deltas*; the table's ``used >= 0`` check refuses a double return."""
    for (queue_id, dimension), amount in sorted(deltas.items()):
        await session.execute(
            update(QueueDimension)
            .where(QueueDimension.queue_id == queue_id, QueueDimension.dimension == dimension)
            .values(used=QueueDimension.used - amount)
            .execution_options(synchronize_session=False)
        )


async def path_to_root(session: AsyncSession, queue_id: int) -> list[int]:
    """Return the ids from *queue_id* to its root, by one recursive query."""
    base = select(Queue.id, Queue.parent_id).where(Queue.id == queue_id).cte("ancestry", recursive=True)
    walk = base.union_all(select(Queue.id, Queue.parent_id).join(base, Queue.id == base.c.parent_id))
    return list((await session.scalars(select(walk.c.id))).all())
