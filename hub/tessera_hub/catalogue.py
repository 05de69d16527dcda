"""What is connected: clusters with their cards, free room and prices, and the environments they offer.

Free is the cluster's own report minus what the hub has promised since: runs placed there that the report cannot know yet.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Set
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from tessera_billing.prices import PriceList, price_list
from tessera_hub.schemas.capacity import CardCapacity, ClusterCapacity, DatasetPlace, DatasetView, Environment
from tessera_hub.schemas.protocol import Inventory, Pool
from tessera_hub.schemas.resources import CENTI_CARDS_PER_CARD, CardMode
from tessera_hub.schemas.tasks import Phase
from tessera_hub.store.tables import Cluster, RunRow, TaskRow

SHARED = ("cpu", "memory")
"""Dimensions that pools of one node group have in common."""
PARTITION = "partition/"
PROMISED = (Phase.RESERVED.value, Phase.DISPATCHED.value)


async def open_clusters(session: AsyncSession, tenants: set[str] | None) -> list[Cluster]:
    """Return the clusters that any of *tenants* may use (None: all), by name."""
    rows = (await session.scalars(select(Cluster).order_by(Cluster.name), execution_options={"populate_existing": True})).all()
    return [c for c in rows if tenants is None or c.tenants is None or tenants & set(c.tenants)]


async def promised(session: AsyncSession) -> dict[int, dict[str, int]]:
    """Return cluster id → what runs hold there that have not begun, partitions by their own names."""
    query = (
        select(RunRow.cluster_id, RunRow.charge, RunRow.card_class, TaskRow.spec["roles"].label("roles"))
        .join(TaskRow, TaskRow.id == RunRow.task_id)
        .where(RunRow.phase.in_(PROMISED))
    )
    total: dict[int, dict[str, int]] = {}
    for row in (await session.execute(query)).all():
        if row.cluster_id is None:
            continue
        held = total.setdefault(row.cluster_id, {})
        for dimension, amount in by_partition(row.charge or {}, row.card_class, row.roles).items():
            held[dimension] = held.get(dimension, 0) + amount
    return total


def by_partition(charge: Mapping[str, int], card_class: str | None, roles: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Return what a run holds, its hardware partitions not as parts of cards but by number: ``partition/<class>:<share>:<MiB>``.

    A partition is free or taken as one piece; as a sum it would seem to be taken of every pool of its class.
    """
    found = {dimension: int(amount) for dimension, amount in charge.items()}
    for role in roles:
        cards = role["resources"].get("cards") or {}
        if cards.get("mode") != CardMode.MIG.value:
            continue
        count, each = int(role["replicas"]), (int(cards["centi_cards"]), int(cards["memory_mib"]))
        for dimension, amount in zip((f"cards/{card_class}", f"card_memory/{card_class}"), each, strict=True):
            found[dimension] = found.get(dimension, 0) - amount * count
        key = f"{PARTITION}{card_class}:{each[0]}:{each[1]}"
        found[key] = found.get(key, 0) + count
    return {dimension: amount for dimension, amount in found.items() if amount}


def held_of(pool: Pool, left: dict[str, int]) -> dict[str, int]:
    """Take from what is promised (*left*) what falls on the cards of *pool*, and return it by dimension."""
    dimensions = (f"cards/{pool.card_class}", f"card_memory/{pool.card_class}") if pool.card_class else ()
    if (part := pool.partition) is not None:
        count = left.pop(f"{PARTITION}{pool.card_class}:{part.centi_cards}:{part.memory_mib}", 0)
        return dict(zip(dimensions, (count * part.centi_cards, count * part.memory_mib), strict=True)) if count else {}
    here = {d: min(left[d], pool.free[d]) for d in dimensions if left.get(d) and d in pool.free}
    for dimension, amount in here.items():
        left[dimension] -= amount
    return here


async def prices(session: AsyncSession) -> PriceList:
    """Return the price book in force."""
    return await session.run_sync(lambda s: price_list(s.connection()))


def _price(book: PriceList, cluster: str, dimension: str, units: int) -> int | None:
    version = book.at(int(time.time()), tenant="", cluster=cluster, dimension=dimension, mode="on-demand")
    return None if version is None else version.nano_per_unit_hour * units // version.unit_size


async def capacities(session: AsyncSession, tenants: set[str] | None) -> list[ClusterCapacity]:
    """Return the clusters open to *tenants* as a submitter sees them."""
    held = await promised(session)
    book = await prices(session)
    waiting = int(await session.scalar(select(func.count()).where(RunRow.phase == Phase.QUEUED.value)) or 0)
    found = []
    for cluster in await open_clusters(session, tenants):
        inventory = Inventory.model_validate(cluster.inventory) if cluster.inventory else Inventory(pools=[])
        found.append(_capacity(cluster, inventory, held.get(cluster.id, {}), book, waiting))
    return found


def _capacity(cluster: Cluster, inventory: Inventory, held: Mapping[str, int], book: PriceList, waiting: int) -> ClusterCapacity:
    total: dict[str, int] = {}
    free: dict[str, int] = {}
    cards = []
    groups: set[str] = set()
    left = dict(held)
    for pool in inventory.pools:
        here = held_of(pool, left)
        # Nodes that several pools show, once for each class of card, count once.
        shown = SHARED if pool.node_group in groups else ()
        if pool.node_group is not None:
            groups.add(pool.node_group)
        for sums, amounts in ((total, pool.total), (free, pool.free)):
            for dimension, amount in amounts.items():
                if dimension not in shown:
                    sums[dimension] = sums.get(dimension, 0) + amount
        for dimension, amount in here.items():
            free[dimension] = free.get(dimension, 0) - amount
        if pool.card_class:
            dimension = f"cards/{pool.card_class}"
            each = [card for shape in pool.shapes for _n in range(shape.count) for card in shape.cards]
            cards.append(
                CardCapacity(
                    card_class=pool.card_class,
                    vendor=pool.vendor or "",
                    memory_mib=pool.card_memory_mib or 0,
                    total_centi_cards=pool.total.get(dimension, 0),
                    free_centi_cards=max(0, pool.free.get(dimension, 0) - here.get(dimension, 0)),
                    whole_cards_free=sum(1 for share, _memory in each if share >= CENTI_CARDS_PER_CARD),
                    largest_share_centi_cards=max((share for share, _memory in each), default=0),
                    modes=pool.card_modes,
                    partition=pool.partition,
                    nano_per_card_hour=_price(book, cluster.name, dimension, CENTI_CARDS_PER_CARD),
                    nano_per_mib_hour=_price(book, cluster.name, f"card_memory/{pool.card_class}", 1),
                )
            )
    state = "draining" if cluster.draining and cluster.state == "ok" else cluster.state
    return ClusterCapacity.model_validate(
        {
            "name": cluster.name,
            "kind": cluster.driver,
            "state": state,
            "workspaces": cluster.workspaces,
            "gang": "gang" in cluster.capabilities,
            "services": "services" in cluster.capabilities,
            "last_contact": cluster.last_contact_at,
            "cards": cards,
            "free": {d: max(0, a - held.get(d, 0) if d in SHARED else a) for d, a in free.items()},
            "total": total,
            "waiting_tasks": waiting,
        }
    )


async def datasets(session: AsyncSession, tenants: set[str] | None, own: Set[str]) -> list[DatasetView]:
    """Return the data sets that *tenants* (None: all) may read at the clusters open to them, merged by name.

    Args:
        own: the tenants of whoever asks, for which it is told where they may read each.
    """
    merged: dict[str, DatasetView] = {}
    for cluster in await open_clusters(session, tenants):
        entered = tenants if tenants is None or cluster.tenants is None else tenants & set(cluster.tenants)
        mine = own if cluster.tenants is None else own & set(cluster.tenants)
        found = Inventory.model_validate(cluster.inventory).datasets if cluster.inventory else {}
        for name, dataset in found.items():
            if entered is not None and not any(map(dataset.is_open, entered)):
                continue
            known = merged.setdefault(name, DatasetView(name=name, description="", clusters=[]))
            known.description = known.description or dataset.description
            known.clusters.append(cluster.name)
            readers = sorted(filter(dataset.is_open, mine))
            in_workspaces = dataset.workspaces and cluster.workspaces
            known.places.append(DatasetPlace(cluster=cluster.name, tenants=readers, workspaces=in_workspaces))
    return [merged[name] for name in sorted(merged)]


async def environments(
    session: AsyncSession, tenants: set[str] | None, is_open: Callable[[str], bool], *, workspaces: bool = False
) -> list[Environment]:
    """Return the environments of the clusters open to *tenants* (None: all), merged by name.

    Args:
        is_open: whether an environment may be shown.
        workspaces: only those of clusters that run workspaces.
    """
    merged: dict[str, Environment] = {}
    for cluster in await open_clusters(session, tenants):
        if not cluster.inventory or (workspaces and not cluster.workspaces):
            continue
        for name, how in Inventory.model_validate(cluster.inventory).environments.items():
            if not is_open(name):
                continue
            known = merged.get(name)
            if known is None:
                merged[name] = Environment(
                    name=name,
                    title=str(how.get("title") or name),
                    description=str(how.get("description") or ""),
                    digest=str(how.get("digest") or ""),
                    clusters=[cluster.name],
                    kernels=[str(k) for k in how.get("kernels") or ()],
                )
            else:
                known.clusters.append(cluster.name)
                known.kernels = sorted({*known.kernels, *(str(k) for k in how.get("kernels") or ())})
    return sorted(merged.values(), key=lambda e: (e.name != "default", e.name))
