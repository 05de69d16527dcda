"""The queue tree with its quotas."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter
from pydantic import Field
from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from tessera_hub.api.auth import Ctx, Operator, Reader
from tessera_hub.api.errors import Problem, not_found
from tessera_hub.i18n import gettext as _
from tessera_hub.quota.tree import QueueTree, load_tree
from tessera_hub.scheduling.policies import BUILTIN
from tessera_hub.schemas.capacity import Queue as QueueView
from tessera_hub.schemas.capacity import QuotaLine
from tessera_hub.schemas.resources import Amount, Dimension, Strict
from tessera_hub.schemas.tasks import Phase
from tessera_hub.store.notify import SCHEDULE, note
from tessera_hub.store.tables import Queue, QueueDimension, RunRow, Tenant
from tessera_hub.store.types import UNLIMITED

router = APIRouter(tags=["queues"])


class Quota(Strict):
    """What an operator sets for one dimension; ``limit`` None is unlimited."""

    limit: Amount | None = None
    guarantee: Amount = 0
    deserved: Amount = 0


class QueueChange(Strict):
    """New settings of a queue; what is left out stays."""

    state: Literal["open", "closed", "draining"] | None = None
    policy: str | None = None
    priority: Annotated[int, Field(ge=0, le=100)] | None = None
    quota: dict[Dimension, Quota] | None = None


class NewQueue(Strict):
    """A queue below another one."""

    parent: int
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]


async def queue_views(session: AsyncSession, tenants: set[int] | None) -> list[QueueView]:
    """Return the queues of *tenants* (None: all) in path order."""
    tree = await load_tree(session)
    names = {t.id: t.name for t in (await session.scalars(select(Tenant))).all()}
    counts = await session.execute(
        select(RunRow.queue_id, RunRow.phase, func.count())
        .where(RunRow.phase.in_([p.value for p in Phase if not p.final]))
        .group_by(RunRow.queue_id, RunRow.phase)
    )
    waiting: dict[int, int] = {}
    running: dict[int, int] = {}
    for queue_id, phase, count in counts.all():
        target = waiting if phase == Phase.QUEUED.value else running
        target[queue_id] = target.get(queue_id, 0) + count
    return [
        _view(tree, node_id, names, waiting, running)
        for node_id in sorted(tree.nodes, key=lambda n: tree.nodes[n].path)
        if tenants is None or tree.nodes[node_id].tenant_id in tenants
    ]


def _view(tree: QueueTree, node_id: int, names: dict[int, str], waiting: dict[int, int], running: dict[int, int]) -> QueueView:
    node = tree.nodes[node_id]
    lines = [
        QuotaLine(
            dimension=dimension,
            used=state.used,
            limit=state.limit if state.limit < UNLIMITED else None,
            guarantee=state.guarantee,
            deserved=state.deserved,
        )
        for dimension, state in sorted(node.dimensions.items())
    ]
    return QueueView.model_validate(
        {
            "id": node.id,
            "path": node.path,
            "tenant": names[node.tenant_id],
            "parent": tree.nodes[node.parent_id].path if node.parent_id else None,
            "state": node.state,
            "policy": node.policy,
            "priority": node.priority,
            "quota": lines,
            "waiting_tasks": waiting.get(node.id, 0),
            "running_tasks": running.get(node.id, 0),
        }
    )


@router.get("/queues")
async def list_queues(caller: Reader, context: Ctx) -> list[QueueView]:
    """Return the queues of the caller's tenants with their quotas; all of them for an operator."""
    async with context.store.read() as session:
        return await queue_views(session, None if caller.operator else set(caller.tenants.values()))


@router.get("/queues/{queue_id}")
async def show_queue(queue_id: int, caller: Reader, context: Ctx) -> QueueView:
    """Return one queue."""
    async with context.store.read() as session:
        found = await queue_views(session, None if caller.operator else set(caller.tenants.values()))
    for queue in found:
        if queue.id == queue_id:
            return queue
    raise not_found("queue")


@router.post("/queues", status_code=201)
async def create_queue(new: NewQueue, _operator: Operator, context: Ctx) -> QueueView:
    """Create a queue below another one."""
    async with context.store.write() as session:
        parent = await session.get(Queue, new.parent)
        if parent is None:
            raise not_found("queue")
        made = Queue(tenant_id=parent.tenant_id, parent_id=parent.id, name=new.name, path=f"{parent.path}/{new.name}")
        session.add(made)
        try:
            await session.flush()
        except IntegrityError as error:
            raise Problem(409, "queue.exists", _("There is a queue of this name already.")) from error
        queue_id = made.id
    async with context.store.read() as session:
        return next(q for q in await queue_views(session, None) if q.id == queue_id)


@router.put("/queues/{queue_id}")
async def change_queue(queue_id: int, change: QueueChange, _operator: Operator, context: Ctx) -> QueueView:
    """Change limits, policy, priority or state of a queue. A limit below what is used stops new takings only."""
    if change.policy is not None and change.policy not in BUILTIN:
        raise Problem(422, "policy.unknown", _("There is no policy {name}.", name=change.policy), hint=", ".join(sorted(BUILTIN)))
    insert = sqlite_insert if context.store.sqlite else postgresql_insert
    async with context.store.write() as session:
        queue = await session.get(Queue, queue_id)
        if queue is None:
            raise not_found("queue")
        settings = change.model_dump(include={"state", "policy", "priority"}, exclude_none=True)
        if settings:
            await session.execute(update(Queue).where(Queue.id == queue_id).values(**settings, version=Queue.version + 1))
        for dimension, quota in sorted((change.quota or {}).items()):
            values = {
                "limit": UNLIMITED if quota.limit is None else quota.limit,
                "guarantee": quota.guarantee,
                "deserved": quota.deserved,
            }
            row = insert(QueueDimension).values(queue_id=queue_id, dimension=dimension, used=0, **values)
            key = [QueueDimension.queue_id, QueueDimension.dimension]
            await session.execute(row.on_conflict_do_update(index_elements=key, set_=values))
        note(session, SCHEDULE, f"tenant/{queue.tenant_id}/queue/{queue_id}")
    async with context.store.read() as session:
        return next(q for q in await queue_views(session, None) if q.id == queue_id)
